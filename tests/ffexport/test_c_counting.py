"""Class statistics on a chip: counted and solved as ffruntime does, bit for bit where they are integers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chip import Chip, needs_compiler
from commands import in_process
from counting import HOW, NEW, halves, same, shown, with_statistics
from msgspec import structs
from shapes import CLASS_BUNDLE

from ffruntime.core import statistics
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.gaussians import Weight
from ffruntime.core.state import Weights, read_state, write_state
from ffruntime.core.statistics import Statistics
from ffruntime.model import Model
from ffruntime.session import Session

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = with_statistics(CLASS_BUNDLE, tmp_path_factory.mktemp("counting") / "model.ff")
    return Model(path, session=Session(threads=1), state=False)


@pytest.fixture
def chip(tmp_path: Path, model: Model) -> Iterator[Chip]:
    with Chip.of(tmp_path / "chip", model.bundle) as chip:
        yield chip


def lesson(model: Model) -> tuple[np.ndarray, list[int]]:
    """Six images that the network knows, and five of a new class."""
    examples = model.bundle.exemplars()
    images = np.concatenate([examples.pixels[:6], halves(5)])
    return images, [*examples.labels[:6].tolist(), *[6] * 5]


def teach(chip: Chip, model: Model) -> Statistics:
    """The lesson, in closed form; the statistics that ffruntime makes of it."""
    images, labels = lesson(model)
    assert chip.new_class(NEW) == ("OK", 6)
    for image, label in zip(images, labels, strict=True):
        assert chip.count(image, label) == "OK"
    return statistics.with_classes(shown(model, images, labels), 12)


def as_file(folder: Path, data: bytes) -> Path:
    path = folder / "some.state"
    path.write_bytes(data)
    return path


def assert_answers(chip: Chip, model: Model, images: np.ndarray) -> None:
    """The scores and the labels of a model in mode goodness."""
    scores = model.scores(images, "goodness")
    for image, expected in zip(images, scores, strict=True):
        label, goodness = chip.classify(image)
        np.testing.assert_allclose(goodness[: len(expected)], expected, atol=2e-4 * np.abs(scores).max())
        assert label == int(np.argmax(expected))


@pytest.mark.slow
def test_a_class_is_told_from_its_first_example(chip: Chip) -> None:
    """In all modes; before that nothing knows it."""
    assert chip.new_class(NEW) == ("OK", 6)
    assert chip.count(halves(1)[0], 6) == "OK"
    new = halves(10, seed=1)
    assert [chip.classify(image)[0] for image in new] == [6] * 10
    assert [chip.classify_exit(image)[0] for image in new] == [6] * 10
    assert chip.told()[:2] == (0, 0)  # nothing was learned by gradient


@pytest.mark.slow
@pytest.mark.parametrize("weight", [Weight(0.002, 0.05), Weight(0.0, 0.05)])
def test_what_is_counted_and_answered_is_what_ffruntime_counts_and_answers(
    tmp_path: Path, model: Model, weight: Weight
) -> None:
    how = structs.replace(HOW, weights={"goodness": weight})
    bundle = model.bundle
    other = write_bundle(tmp_path / "model.ff", structs.replace(bundle.manifest, statistics=how),
                         {name: bundle.read(name) for name in bundle.manifest.files})  # fmt: skip
    model = Model(other.path, session=Session(threads=1), state=False)
    new = np.concatenate([halves(6, seed=2), bundle.exemplars().pixels[20:30]])
    with Chip.of(tmp_path / "chip", other) as chip:
        assert_answers(chip, model, new)
        expected = teach(chip, model)
        error, data = chip.save()
        assert error == "OK"
        weights, state = read_state(as_file(tmp_path, data), model.manifest)
        assert same(weights.statistics, expected)
        assert (state.updates, state.origins) == (0, ())
        assert_answers(chip, model.with_weights(weights), new)


@pytest.mark.slow
def test_from_chip_to_ffruntime_to_another_chip_and_back(tmp_path: Path, chip: Chip, model: Model) -> None:
    """Equal at every stop: class statistics, whose they are, and what is answered."""
    teach(chip, model)
    image = halves(1, seed=4)[0]
    answer, (_, data) = chip.classify(image), chip.save()
    weights, state = read_state(as_file(tmp_path, data), model.manifest)
    path, origins = tmp_path / "pc.state", ("0123456789abcdef", "fedcba9876543210")
    write_state(path, model.manifest, weights, state.updates, state.examples, origins)
    with Chip.of(tmp_path / "other", model.bundle, "readouts") as other:
        teach(other, model)  # of which nothing must stay
        assert other.load(path.read_bytes()) == "OK"
        label, goodness = other.classify(image)
        assert label == answer[0]
        np.testing.assert_array_equal(goodness, answer[1])
        again, same_state = read_state(as_file(tmp_path, other.save()[1]), model.manifest)
        assert same(again.statistics, weights.statistics)
        assert same_state.origins == origins
        assert other.count(image, 6) == "OK"  # and goes on
        more, _ = read_state(as_file(tmp_path, other.save()[1]), model.manifest)
        assert weights.statistics
        assert same(more.statistics, statistics.added(weights.statistics, shown(model, image[None], [6])))
    _, nothing = Chip.save(chip)
    assert chip.begin(chip.arena.learn_bytes) == "OK"
    assert chip.load(nothing) == "OK"
    assert chip.classify(image)[0] == answer[0]


@pytest.mark.slow
def test_a_computer_goes_on_from_what_a_chip_counted_and_a_chip_from_that(
    tmp_path: Path, chip: Chip, model: Model
) -> None:
    """By the commands that people type: applied, exported, loaded and applied elsewhere, equal at every stop."""

    def run(*words: object, place: str) -> None:
        done = in_process("ffruntime", *words, "--model", model.path, "--state", tmp_path / place)
        assert done.returncode == 0, done.stderr

    expected, new = teach(chip, model), halves(4, seed=7)
    run("apply-state", "--force", as_file(tmp_path, chip.save()[1]), place="first")
    run("export-state", tmp_path / "first.state", place="first")
    weights, state = read_state(tmp_path / "first.state", model.manifest)
    assert same(weights.statistics, expected)
    assert len(state.origins) == 1
    assert chip.begin(chip.arena.learn_bytes) == "OK"
    assert chip.load((tmp_path / "first.state").read_bytes()) == "OK"
    assert chip.told()[2] == [*model.classes, NEW]
    assert_answers(chip, model.with_weights(weights), new)
    again, _ = read_state(as_file(tmp_path, chip.save()[1]), model.manifest)
    assert same(again.statistics, expected)
    run("apply-state", "--force", tmp_path / "some.state", place="second")
    run("export-state", tmp_path / "second.state", place="second")
    last, both = read_state(tmp_path / "second.state", model.manifest)
    assert same(last.statistics, expected)
    assert set(state.origins) < set(both.origins)


@pytest.mark.slow
def test_units_that_learn_end_it(tmp_path: Path, chip: Chip, model: Model) -> None:
    """What was counted stays, and is of the units as they were: no part in answers, until these come back."""
    expected, image = teach(chip, model), halves(1)[0]
    chip.settings(0.05, frozen=True)
    assert chip.learn(image, 0) == "OK"
    assert chip.count(image, 6) == "OK"
    chip.settings(0.05)
    assert chip.learn(image, 0) == "OK"
    assert chip.count(image, 6) == "COUNTS"
    assert chip.classify(image)[0] != 6
    weights, _ = read_state(as_file(tmp_path, chip.save()[1]), model.manifest)
    assert same(weights.statistics, statistics.added(expected, shown(model, image[None], [6])))
    data = chip.save()[1]
    assert chip.begin(chip.arena.learn_bytes) == "OK"
    assert chip.count(image, 0) == "OK"
    assert chip.load(data) == "OK"
    assert chip.count(image, 6) == "COUNTS"


@pytest.mark.slow
def test_a_readout_that_learns_leaves_it(tmp_path: Path, model: Model) -> None:
    with Chip.of(tmp_path, model.bundle, "readouts") as chip:
        teach(chip, model)
        assert chip.learn(halves(1)[0], 6) == "OK"
        assert chip.count(halves(1)[0], 6) == "OK"


@pytest.mark.slow
def test_errors_of_count(tmp_path: Path, chip: Chip) -> None:
    """None of the model's, no room, and no class."""
    image = halves(1)[0]
    assert [chip.count(image, label) for label in (-1, 6)] == ["LABEL", "LABEL"]
    assert chip.begin(chip.arena.classify_bytes) == "OK"
    assert chip.count(image, 0) == "ARENA"
    assert 0 <= chip.classify(image)[0] < 6
    with Chip.of(tmp_path / "without", Bundle(CLASS_BUNDLE)) as other:
        assert other.count(image, 0) == "COUNTS"


def of(counts: list[int], sums: int = 0, products: int = 0) -> Statistics:
    """Class statistics of such counts, with all sums and products alike."""
    d = HOW.dimension
    found = np.full((len(counts), d), sums, np.int64), np.full(d * (d + 1) // 2, products, np.int64)
    return Statistics(np.array(counts, np.int64), *found, np.empty((0, d), np.int8))


@pytest.mark.slow
def test_what_is_refused(tmp_path: Path, chip: Chip, model: Model) -> None:
    """What cannot be of examples, what is projected otherwise, and more than there is room for."""
    path, image = tmp_path / "some.state", halves(1)[0]

    def tried(some: Statistics, origins: tuple[str, ...] = ()) -> str:
        write_state(path, model.manifest, Weights({}, model.classes, statistics=some), 0, 0, origins)
        return chip.load(path.read_bytes())

    assert tried(of([3, 0, 0], -127 * 0)) == "OK"
    assert tried(of([3] * 6, 381)) == "OK"
    assert tried(of([3] * 6, 382)) == "FORMAT"
    assert tried(of([1 << 24] + [1] * 5)) == "OK"
    assert chip.count(image, 0) == "COUNTS"
    assert chip.count(image, 1) == "OK"
    assert tried(of([(1 << 24) + 1] + [1] * 5)) == "FORMAT"
    assert tried(of([1 << 33] + [1] * 5)) == "FORMAT"
    assert tried(of([200_000] * 6, products=(1 << 31) - 1)) == "OK"
    assert chip.count(image, 1) == "COUNTS"
    assert tried(of([200_000] * 6, products=1 << 31)) == "FORMAT"  # int64
    assert tried(of([2] * 6), ("a",) * 9) == "FORMAT"
    assert tried(of([2] * 6), ("a" * 17,)) == "FORMAT"
    write_state(path, structs.replace(model.manifest, statistics=structs.replace(HOW, seed=1)),
                Weights({}, model.classes, statistics=of([2] * 6)), 0, 0)  # fmt: skip
    assert chip.load(path.read_bytes()) == "FORMAT"
    assert chip.count(image, 1) == "COUNTS"  # still what was taken last


@pytest.mark.slow
def test_hostile_statistics(tmp_path: Path, chip: Chip, model: Model) -> None:
    """Moments that no examples have: answers are answers, and nothing leaves its place. The sanitizers watch."""
    path, rng = tmp_path / "some.state", np.random.default_rng(0)
    for scale in (1, 1 << 20, (1 << 31) - 1):
        some = of([5] * 6)
        bad = structs.replace(some, moment=rng.integers(-scale, scale, len(some.moment)))
        write_state(path, model.manifest, Weights({}, (*model.classes, NEW), statistics=bad), 0, 0)
        assert chip.load(path.read_bytes()) == "OK"
        assert 0 <= chip.classify(halves(1)[0])[0] < 7
        chip.count(halves(1)[0], 6)
        assert 0 <= chip.classify(halves(1)[0])[0] < 7
