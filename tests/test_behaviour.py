"""What the three programs say and do is what was recorded, but for the words in `behaviour/renames.toml`.

`support/behaviour.py` says how a story is told and compared, `support/record_behaviour.py` records.
"""

from __future__ import annotations

import re
from pathlib import Path

import behaviour
import pytest

STORIES = behaviour.stories()
LONG = (
    "bench",
    "class-goodness",
    "evaluate",
    "explain",
    "export",
    "export-device",
    "export-errors",
    "export-state",
    "forget",
    "learn-known",
    "learn-new",
    "learn-on-device",
    "learn-refused",
    "recipes",
    "state",
    "sweep",
    "train",
    "train-explain",
)


@pytest.mark.parametrize(
    "story", [pytest.param(story, marks=pytest.mark.slow if story in LONG else ()) for story in STORIES]
)
def test_behaviour_is_as_recorded(story: str, tmp_path: Path) -> None:
    if reason := behaviour.reason_to_skip(story, STORIES[story]):
        pytest.skip(reason)
    reference = behaviour.masked(story, behaviour.renamed(story, behaviour.expected(story))).rstrip()
    now = behaviour.masked(story, behaviour.tell(STORIES[story], tmp_path)).rstrip()
    assert behaviour.in_numbers_of(reference, now).splitlines() == reference.splitlines()


def test_nothing_is_recorded_that_is_not_asked() -> None:
    recorded = {file.stem for file in behaviour.EXPECTED.glob("*.txt")}
    assert recorded == set(STORIES)


def test_no_traceback_was_recorded() -> None:
    for story in STORIES:
        assert "traceback" not in behaviour.expected(story).lower()
        assert "no exit" not in behaviour.expected(story)


def test_every_exit_code_occurs() -> None:
    found = {code for story in STORIES for code in re.findall(r"^\[exit (\d+)]", behaviour.expected(story), re.M)}
    assert found >= {"0", *"123456789", "10", "11", "12", "130"}


def test_every_command_is_asked() -> None:
    """Not for its help alone; of the commands that train on published data sets, one stands for all."""
    asked = "\n".join(step for story, steps in STORIES.items() if not story.startswith("help-") for step in steps)
    for program in behaviour.PROGRAMS:
        for step in STORIES[f"help-{program}"]:
            command = step.removesuffix(" --help")
            if command not in ("fftrain fashion-mnist", "fftrain cifar10", "fftrain cifar100"):
                assert re.search(rf"\b{command}\b", asked), command


def test_every_rename_is_of_use() -> None:
    for rule in behaviour.read_toml("renames.toml").get("rename", []):
        texts = [behaviour.expected(s) for s in STORIES if re.fullmatch(rule.get("stories", ".*"), s)]
        assert any(re.search(rule["old"], text, re.M) for text in texts), rule


def test_close_numbers_are_equal_and_others_are_not() -> None:
    reference = "cross.png: cross  score 3.071, margin 0.55\n7 of 8\nx 1.0e-03"
    assert (
        behaviour.in_numbers_of(reference, "cross.png: cross  score 3.070, margin 0.54\n7 of 8\nx 1.0e-03")
        == reference
    )
    assert (
        behaviour.in_numbers_of(reference, "cross.png: cross  score 3.271, margin 0.55\n7 of 8\nx 1.0e-03")
        != reference
    )
    assert (
        behaviour.in_numbers_of(reference, "cross.png: cross  score 3.071, margin 0.55\n6 of 8\nx 1.0e-03")
        != reference
    )
    assert (
        behaviour.in_numbers_of(reference, "cross.png: ring  score 3.071, margin 0.55\n7 of 8\nx 1.0e-03")
        != reference
    )
