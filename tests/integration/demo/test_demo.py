"""`ffruntime demo` as a user types it, quickly, on tiny bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from ffruntime.cli import cli
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.errors import BundleError, DataError, FFError, UsageError
from ffruntime.core.manifest import MODES
from ffruntime.demo import split_mnist, teach
from ffruntime.demo.digits import require_digits
from ffruntime.learning.step import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def demo(
    data: Path, nine: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """`ffruntime demo --quick`, with fewer steps than even that says."""
    steps = Settings(steps=2, head_steps=2)
    monkeypatch.setattr(
        teach, "QUICK_NEW_CLASS", structs.replace(teach.QUICK_NEW_CLASS, measured=60, settings=steps)
    )
    quick = structs.replace(teach.QUICK_CHANGED_WORLD, rehearsal=2, measured=40, settings=steps)
    monkeypatch.setattr(teach, "QUICK_CHANGED_WORLD", quick)
    split = structs.replace(split_mnist.QUICK, per_task=64, rehearsal=1, gdumb=2, goodness=20)
    monkeypatch.setattr(split_mnist, "QUICK", split)

    def run(*arguments: object) -> Result:
        bundles = {"--nine": nine, "--model": nine, "--untrained": untrained}
        words = ["demo", "--quick", "--threads", 1, "--data", data, "--out", tmp_path / "demo.html"]
        words += [word for option in bundles.items() if option[0] not in arguments for word in option]
        return CliRunner().invoke(cli, [str(word) for word in (*words, *arguments)])

    return run


def test_all_scenes_are_measured_shown_and_written(demo: Callable[..., Result], tmp_path: Path) -> None:
    done = demo("--state", tmp_path / "state", "--json")
    assert done.exit_code == 0, done.output
    new_class, changed, split, written = (json.loads(line) for line in done.stdout.splitlines())
    assert [row["scene"] for row in (new_class, changed, split)] == ["new-class", "changed-world", "split-mnist"]
    assert all(row["quick"] and row["split"] == "test" for row in (new_class, changed, split))
    assert new_class["digit"] == 9
    assert [point["examples"] for point in new_class["points"]] == [0, 5, 10]
    assert set(new_class["points"][0]["new"].values()) == {0.0}  # it has no name for it
    assert set(changed["worlds"]) == {"inverted", "blurred", "rotated", "thick", "speckled", "tilted"}
    assert set(split["seeds"]["0"]) == {"replay", "naive", "gdumb", "each", "shared", "neighbours", "mean", "waves"}
    html, svg = Path(written["page"]).read_text(), Path(written["picture"]).read_text()
    assert html.count("<h2>") == 4
    assert html.count("<svg ") == svg.count("<svg ") - 1 == 2 + 6 + 2
    assert "QUICK" in html
    assert "QUICK" in svg
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"new-class", "changed-world"}
    again = demo("--state", tmp_path / "state")
    assert isinstance(again.exception, UsageError)


def test_class_goodness_is_shown_beside_labels_in_the_input(
    demo: Callable[..., Result], nine: Path, nine_classes: Path, untrained_classes: Path, tmp_path: Path
) -> None:
    bundles = ("--nine", nine, "--nine", nine_classes, "--model", nine_classes, "--untrained", untrained_classes)
    done = demo(*bundles, "--state", tmp_path / "state", "--json")
    assert done.exit_code == 0, done.output
    *rows, written = (json.loads(line) for line in done.stdout.splitlines())
    assert [(row["scene"], row["bundle"]) for row in rows] == [
        ("new-class", str(nine)),
        ("new-class", str(nine_classes)),
        ("changed-world", str(nine_classes)),
        ("split-mnist", str(untrained_classes)),
    ]
    assert ["classifier" in row["points"][0]["new"] for row in rows[:2]] == [True, False]
    assert rows[3]["mode"] == "goodness"
    beside = {"class statistics", "nearest class mean", "nearest neighbours", "random Fourier features"}
    assert [set(row["points"][-1]["new"]) - set(MODES) for row in rows[:2]] == [set(), beside]
    *_, point = rows[2]["worlds"]["blurred"]
    assert set(point["new"]) == {"goodness", "normalisation statistics", *beside}
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"new-class", "new-class-2", "changed-world"}
    bundles_of = [fact.removeprefix("bundle of ") for fact in written["machine"] if fact.startswith("bundle of ")]
    assert bundles_of == ["new-class", "new-class-2", "changed-world", "split-mnist"]
    html = Path(written["page"]).read_text()
    # Scene 1 twice, scene 3 once, and of six worlds the new one.
    assert html.count(">nearest class mean</text>") == 3
    assert html.count(">random Fourier features</text>") == 3
    assert html.count(">blurred, normalisation statistics</text>") == 1
    assert html.count(">as it was, ") == 6
    assert "<h2>A class never seen: 9</h2>" in html
    assert "<h2>A class never seen: 9, by class goodness</h2>" in html
    assert "<h2>Split-MNIST: ten digits in five tasks, by class goodness</h2>" in html


def test_a_person_reads_tables(demo: Callable[..., Result], tmp_path: Path) -> None:
    done = demo("--scene", "split-mnist")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("QUICK: ")
    for word in ("ACC", "BWT", "forgetting", "GDumb", "naive", "78,400"):
        assert word in done.stdout
    assert f"{(tmp_path / 'demo.html').as_uri()}: the page" in done.stdout.splitlines()[-1]


NONE = ("--nine", "0.ff", "--model", "1.ff", "--untrained", "2.ff")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("--scene", "new-class", "--nine", "ALL"), BundleError, "all ten digits; .*--classes 0-8 --out nine.ff"),
        (("--scene", "split-mnist", "--untrained", "NINE"), BundleError, "an untrained network.*--epochs 0"),
        (("--scene", "new-class", "--nine", "no.ff"), BundleError, "no.ff is not there; make it: fftrain mnist"),
        (NONE, BundleError, "new-class: 0.ff .*changed-world: 1.ff .*split-mnist: 2.ff"),
        (("--data", "nowhere"), DataError, "nowhere/MNIST/raw: not there"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    demo: Callable[..., Result],
    untrained: Path,
    nine: Path,
    arguments: tuple[str, ...],
    error: type[FFError],
    said: str,
) -> None:
    bundles = {"ALL": str(untrained), "NINE": str(nine)}
    done = demo(*(bundles.get(word, word) for word in arguments))
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=said):
        raise done.exception
    assert "\n" not in str(done.exception)


def test_a_bundle_without_gradients_teaches_nothing(
    demo: Callable[..., Result], nine: Path, tmp_path: Path
) -> None:

    manifest = Bundle(nine).manifest
    kept = {name: (nine / name).read_bytes() for name in manifest.files if not name.startswith("gradient")}
    write_bundle(tmp_path / "bare.ff", structs.replace(manifest, files={}), kept)
    done = demo("--scene", "new-class", "--nine", tmp_path / "bare.ff")
    assert isinstance(done.exception, BundleError)
    assert "no gradient graphs" in str(done.exception)


def test_other_images_and_other_things_are_refused(nine: Path) -> None:
    bundle = Bundle(nine)
    manifest = bundle.manifest
    network = structs.replace(manifest.network, image=structs.replace(manifest.network.image, shape=(3, 32, 32)))
    bundle.manifest = structs.replace(manifest, network=network)
    with pytest.raises(BundleError, match=r"takes images of 3×32×32, MNIST's are 1×28×28; make one: fftrain mnist"):
        require_digits(bundle, "fftrain mnist")
    bundle.manifest = structs.replace(manifest, classes=("1", "2", "cat"))
    with pytest.raises(BundleError, match="knows cat, not only digits; make one: fftrain mnist"):
        require_digits(bundle, "fftrain mnist")
