"""What the benchmark of learning on is made of: what is stored, what is replayed, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import continual_digit
import continual_worlds
import numpy as np
import page_continual
import page_text
import pytest
from continual import untimed
from continual_backprop import Memory, batches
from continual_split import mean_of_tasks, row, seed_more

from ffruntime.core.data import Examples
from ffruntime.core.learning import Augment
from ffruntime.learning.step import Settings


def numbered(count: int) -> Examples:
    """Images whose every pixel is their label's, of ten classes in turn."""
    labels = np.arange(count, dtype=np.uint8) % 10
    return Examples(np.broadcast_to(labels[:, None, None, None], (count, 1, 28, 28)).copy(), labels)


def test_a_memory_is_even_whatever_comes() -> None:
    memory = Memory(20, 0, numbered(40))
    memory.add(numbered(300).take(slice(0, 300, 10)))  # thirty more of class 0
    assert np.bincount(memory.stored.labels).tolist() == [2] * 10
    assert (memory.stored.pixels[:, 0, 3, 4] == memory.stored.labels).all()
    drawn = memory.draw(400, np.random.default_rng(0))
    assert np.bincount(drawn.labels).min() > 20


def test_a_batch_has_its_share_of_new_images() -> None:
    memory, new = Memory(20, 0, numbered(40)), numbered(100).take(slice(7, 100, 10))
    settings = Settings(batch=32, fresh=0.25)
    pixels, labels = next(batches(memory, new, settings, Augment(), np.random.default_rng(0)))
    assert pixels.shape == (32, 1, 28, 28)
    assert (labels[:8] == 7).all()
    assert len(set(labels[8:].tolist())) > 5
    _, replayed = next(batches(memory, Examples.none((1, 28, 28)), settings, Augment(), np.random.default_rng(0)))
    assert len(replayed) == 32


def test_acc_is_a_mean_over_tasks() -> None:
    tested = numbered(10).take(np.array([0, 1, 2, 2, 2, 2, 4, 5, 6, 7, 8, 9]))
    assert mean_of_tasks(lambda pixels: np.eye(12)[pixels[:, 0, 0, 0]], tested) == 1.0
    wrong = mean_of_tasks(lambda pixels: np.eye(12)[np.where(pixels == 2, 3, pixels)[:, 0, 0, 0]], tested)
    assert wrong == pytest.approx(0.8)


def test_seeds_that_are_there_are_not_run_again() -> None:
    there = {"accuracy": [0.9, 0.8], "kept": 5, "seconds": 1.0, "learn_gmac": 2.0, "answer_mmac": 3.0}
    asked = []

    def way(seed: int) -> dict:
        asked.append(seed)
        return row(0.7, 5, 4.0, 2 * 10**9, 3 * 10**6)

    assert seed_more(way, 3, there) == {**there, "accuracy": [0.9, 0.8, 0.7], "seconds": 2.0}
    assert seed_more(way, 2, there) is None
    assert seed_more(way, 1, {}) == {**there, "accuracy": [0.7], "seconds": 4.0}
    assert asked == [2, 0]


def test_draws_and_worlds_are_added_one_by_one() -> None:
    none = numbered(1)
    scene = continual_digit.Scene(None, 9, [[none], [none], [none]], none, none, none)  # type: ignore[arg-type]
    cost = {"before": [0.9], "kept": 5, "learn_gmac": 2.0}

    def draw(_: object, number: int) -> dict:
        return {"new": {"80": [number / 10]}, "others": {"80": [0.5]}, **cost, "seconds": float(number)}

    row: dict = {}
    while more := continual_digit.draw_more(draw, [scene], row):
        row = more
    expected = {"new": {"80": [0.0, 0.1, 0.2]}, "others": {"80": [0.5] * 3}, **cost, "seconds": 1.0, "networks": 1}
    assert row == expected

    def worlds(seed: int) -> dict:
        shares = {what: [seed / 10] for what in ("mean", "worst", "old")}
        return {"accuracy": {"tilted": {"new": [0.5], "old": [0.9]}}, **shares, "kept": 3, "seconds": 2.0 * seed}

    first = continual_worlds.seed_more(worlds, 2, {})
    second = continual_worlds.seed_more(worlds, 2, first or {})
    assert second
    assert continual_worlds.seed_more(worlds, 2, second) is None
    assert (second["mean"], second["accuracy"]["tilted"]["old"], second["seconds"]) == ([0.0, 0.1], [0.9] * 2, 1.0)


def test_the_page_shows_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_text, "RESULTS", tmp_path)
    assert page_continual.section() == ""
    cost = {"kept": 378_160, "seconds": 1.5, "learn_gmac": 2.0, "answer_mmac": 0.4}
    methods = {"worse": {"accuracy": [0.95], **cost}, "better": {"accuracy": [0.98, 0.982], **cost}}
    machine = {"cpu": "one", "python": "3.11.7"}
    found = {"machine": machine, "split": {"bundles": {}, "methods": methods}}
    (tmp_path / "continual_class.json").write_text(json.dumps(found))
    page = page_continual.section()
    assert page.index("| better | 2 | 98.10 ± 0.14 | 378 kB | 1.5 | 2 | 0.4 |") < page.index(
        "| worse | 1 | 95.00 |"
    )
    assert "Changed worlds" not in page
    assert page_continual.sentence() == ""  # of rows that are not there
    methods[page_continual.ONE_PASS] = {"accuracy": [0.98], **cost}
    (tmp_path / "continual_class.json").write_text(json.dumps(found))
    assert page_continual.sentence().endswith("one pass without a picture stored, 378 kB kept, 98.00 %.")


def test_seconds_are_left_out_of_scenes() -> None:
    assert untimed({"points": [{"seconds": 1.0, "new": {"goodness": 0.5}}]}) == {
        "points": [{"new": {"goodness": 0.5}}]
    }
