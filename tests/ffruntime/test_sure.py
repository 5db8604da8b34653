"""How sure an answer is: probabilities in every mode, thresholds, and what `ffruntime classify` says of it."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process
from msgspec import structs
from shapes import drawn

from ffruntime import Model, Session
from ffruntime.answers import Scored, answers
from ffruntime.commands.classify import classify
from ffruntime.core import statistics
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.calibration import (
    MOST,
    SHARES,
    UNSURE,
    Calibration,
    Distances,
    OfScores,
    check,
    thresholds,
    typicality,
)
from ffruntime.core.closed_form import solve, tell
from ffruntime.core.cost import exit_shares
from ffruntime.core.errors import BundleError, UsageError
from ffruntime.core.gaussians import Shrinkage, Weight
from ffruntime.core.manifest import STATISTICS, ClassStatistics, EarlyExit, Manifest
from ffruntime.core.projection import project
from ffruntime.core.state import Weights
from ffruntime.core.statistics import Projected

ffruntime = partial(in_process, "ffruntime")
OF = OfScores(2.0, 0.2, 0.1, (0.5, 0.7))
TWO = Calibration(100, (0.01, 0.1), {"goodness": OF})


FAR = structs.replace(
    TWO,
    scores={"goodness": structs.replace(OF, alone=(0.006, 0.06)), "classifier": OF},
    distances=Distances(40.0, (30.0, 20.0)),
)


def threshold(calibration: Calibration, of: OfScores, rate: float) -> float:
    """Of the probability, where it alone counts."""
    least, typical = thresholds(calibration, of, rate, both=False)
    assert typical == 0
    return least


def softmax(rows: np.ndarray, temperature: float) -> np.ndarray:
    shares = np.exp(rows.astype(float) / temperature)
    return shares / shares.sum(1, keepdims=True)


def never_sure(manifest: Manifest) -> Manifest:
    """A manifest whose thresholds no answer reaches."""
    assert manifest.calibration
    scores = {
        name: structs.replace(of, probabilities=(1.0,) * len(of.probabilities))
        for name, of in manifest.calibration.scores.items()
    }
    return structs.replace(manifest, calibration=structs.replace(manifest.calibration, scores=scores))


@pytest.mark.parametrize(
    ("rate", "expected"), [(0, 0), (0.005, 0.25), (0.01, 0.5), (0.055, 0.6), (0.1, 0.7), (0.3, 0.7)]
)
def test_thresholds_lie_between_those_of_the_table(rate: float, expected: float) -> None:
    assert threshold(TWO, OF, rate) == pytest.approx(expected)


def test_typicality_is_the_share_of_validation_images_that_are_as_far() -> None:
    check(FAR)
    found = typicality(FAR, np.array([50.0, 40.0, 35.0, 30.0, 25.0, 20.0, 10.0]))
    assert found == pytest.approx([0, 0, 0.005, 0.01, 0.055, 0.1, 0.1])  # nothing is known of what is nearer
    assert typicality(TWO, np.array([1.0])) is None


def test_two_thresholds_share_a_rate() -> None:
    """Each turns away the same share by itself; where no distance is known, the probability has the whole rate."""
    of = FAR.scores["goodness"]
    assert thresholds(FAR, of, 0.1, both=True) == pytest.approx((0.5 + 0.2 * 0.05 / 0.09, 0.06))
    assert thresholds(FAR, of, 0.005, both=True) == pytest.approx((0.15, 0.003))
    assert thresholds(FAR, of, 0.1, both=False) == pytest.approx((0.7, 0))
    assert thresholds(FAR, FAR.scores["classifier"], 0.1, both=True) == pytest.approx((0.7, 0))


def test_an_improbable_answer_is_not_sure_nor_is_an_untypical_image(exported: Path) -> None:
    manifest = structs.replace(Bundle(exported).manifest, calibration=FAR)
    rows = np.array([[9.0, 0], [9, 0], [0.1, 0], [9, 0]])
    found = Scored("goodness", rows, np.ones(4), 1.0, distances=np.array([20.0, 31.0, 20.0, np.inf]))
    said = answers(manifest, ("a", "b"), found, "none", 0.1)
    assert [answer.sure for answer in said] == [True, False, False, False]
    assert [answer.typicality for answer in said] == pytest.approx([0.1, 0.009, 0.1, 0])
    assert {answer.label for answer in said} == {"a"}
    alone = answers(manifest, ("a", "b"), found._replace(distances=None), "none", 0.1)
    assert [answer.sure for answer in alone] == [True, True, False, True]
    assert {answer.typicality for answer in alone} == {None}


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (structs.replace(TWO, shares=(0.1, 0.01)), "do not rise"),
        (structs.replace(TWO, shares=()), "do not rise"),
        (structs.replace(TWO, scores={"goodness": structs.replace(OF, probabilities=(0.5,))}), "every share"),
        (structs.replace(FAR, scores={"goodness": structs.replace(OF, alone=(0.06, 0.006))}), "in order"),
        (structs.replace(FAR, distances=Distances(25.0, (30.0, 20.0))), "distances needs a figure"),
        (structs.replace(FAR, distances=None), "of which there are none"),
        (structs.replace(TWO, scores={"goodness": structs.replace(OF, probabilities=(0.7, 0.5))}), "in order"),
    ],
)
def test_tables_that_do_not_fit_are_refused(broken: Calibration, word: str) -> None:
    with pytest.raises(BundleError, match=word):
        check(broken)


def test_a_bundle_with_such_tables_is_refused(bundle: Path) -> None:
    manifest = Bundle(bundle).manifest
    with pytest.raises(BundleError, match=r"manifest\.json: calibration: its shares do not rise"):
        write_bundle(bundle, structs.replace(manifest, calibration=structs.replace(TWO, shares=())), {})
    with pytest.raises(BundleError, match="calibration of 'unit2', of which there are no scores"):
        write_bundle(bundle, structs.replace(manifest, calibration=structs.replace(TWO, scores={"unit2": OF})), {})


def test_probabilities_are_of_the_scores_that_answered(exported: Path, images: np.ndarray) -> None:
    """In mode `shortlist` after one pass the logits, else totals; the sums over all classes are 1."""
    model = Model(exported, state=False)
    assert model.manifest.calibration
    of = model.manifest.calibration.scores
    chosen: dict[str, list[float]] = {}
    for mode in ("goodness", "classifier", "shortlist"):
        rows, passes = model.scores_and_passes(images, mode)
        single = mode == "classifier" or (mode == "shortlist" and (passes == 1))
        temperature = np.where(single, of["classifier"].temperature, of[mode].temperature)
        expected = softmax(rows, temperature[..., None] if temperature.ndim else float(temperature))
        chosen[mode] = np.unique(temperature).tolist()
        for answer, row in zip(model.classify_batch(images, mode), expected, strict=True):
            assert answer.probabilities
            assert answer.probability == max(answer.probabilities.values()) == pytest.approx(row.max())
            assert sum(answer.probabilities.values()) == pytest.approx(1)
            assert list(answer.probabilities) == list(answer.scores)
    assert len(chosen["shortlist"]) == 2  # both kinds occurred


def test_a_unit_that_answers_alone_has_its_own_temperature(class_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle(class_bundle).manifest
    assert manifest.calibration
    images, shares = drawn(20)[0], exit_shares(manifest.network)
    whole = Model(class_bundle, state=False)
    for limit, of in ((0.0, manifest.calibration.scores["unit2"]), (1e9, manifest.calibration.scores["exit"])):
        path = tmp_path / f"{limit}.ff"
        path.symlink_to(class_bundle, target_is_directory=True)
        model = Model(path, state=False)
        model.bundle.manifest = structs.replace(manifest, exit=EarlyExit((limit,), 1.0, 1.0))
        rows, passes = model.scores_and_passes(images, "exit")
        assert set(passes) == {shares[0] if limit == 0 else shares[-1]}
        for answer, row in zip(model.classify_batch(images, "exit"), softmax(rows, of.temperature), strict=True):
            assert answer.probability == pytest.approx(row.max())
            assert answer.sure is bool(row.max() >= threshold(manifest.calibration, of, UNSURE))
    assert whole.classify(images[0]).probability


def test_no_more_than_the_rate_of_ordinary_images_is_unsure(exported: Path, class_bundle: Path) -> None:
    """Of images that nothing was fitted on; three times the rate leaves room for chance."""
    images = drawn(120)[0]
    for path in (exported, class_bundle):
        model = Model(path, session=Session(threads=1), state=False)
        for mode in model.modes():
            unsure = [answer.sure for answer in model.classify_batch(images, mode, unsure=0.1)].count(False)
            assert unsure < 0.3 * len(images)


def test_below_the_threshold_the_label_stays_the_best_class(bundle: Path, images: np.ndarray) -> None:
    sure = Model(bundle, state=False).classify(images[0])
    write_bundle(bundle, never_sure(Bundle(bundle).manifest), {})
    model = Model(bundle, state=False)
    unsure = model.classify(images[0])
    assert (sure.sure, unsure.sure) == (True, False)
    assert (unsure.label, unsure.probability) == (sure.label, sure.probability)
    assert model.classify(images[0], unsure=0).sure is None
    for rate in (-0.1, 0.6, float("nan")):
        with pytest.raises(UsageError, match="no rate of false alarms"):
            model.classify(images[0], unsure=rate)


def test_a_bundle_without_calibration_says_nothing(bundle: Path, picture_files: list[Path]) -> None:
    write_bundle(bundle, structs.replace(Bundle(bundle).manifest, calibration=None), {})
    answer = Model(bundle, state=False).classify(str(picture_files[0]))
    assert (answer.sure, answer.probability, answer.probabilities) == (None, None, None)
    line = ffruntime("classify", "--model", bundle, picture_files[0]).stdout.decode()
    assert f"{answer.label}  score " in line
    assert "sure" not in line
    for option in (("--only-sure",), ("--unsure", "0.05")):
        done = ffruntime("classify", "--model", bundle, *option, picture_files[0])
        assert done.returncode == 2
        assert "has no calibration" in done.stderr.decode()
    assert ffruntime("classify", "--model", bundle, "--unsure", "0", picture_files[0]).returncode == 0


def test_only_sure_answers_are_printed_where_they_are_asked_for(bundle: Path, picture_files: list[Path]) -> None:
    command = ("classify", "--model", bundle, "--only-sure", "--json", *picture_files[:2])
    done = ffruntime(*command)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line)["sure"] for line in done.stdout.splitlines()] == [True, True]
    write_bundle(bundle, never_sure(Bundle(bundle).manifest), {})
    done = ffruntime(*command)
    assert (done.returncode, done.stdout) == (11, b"")
    first, second = done.stderr.decode().splitlines()
    assert f"{picture_files[0]}: I don't know; most likely " in first
    assert str(picture_files[1]) in second
    assert ffruntime(*command, "--unsure", "0").returncode == 2
    assert ffruntime(*command, "no.png").returncode == 4


def test_an_unsure_answer_in_words_and_in_json(bundle: Path, picture_files: list[Path]) -> None:
    write_bundle(bundle, never_sure(Bundle(bundle).manifest), {})
    done = ffruntime("classify", "--model", bundle, picture_files[0])
    assert done.returncode == 0
    assert ": I don't know; most likely " in done.stdout.decode()
    answer = json.loads(ffruntime("classify", "--model", bundle, "--json", picture_files[0]).stdout)
    assert answer["sure"] is False
    assert 0 < answer["probability"] < 1
    off = ffruntime("classify", "--model", bundle, "--unsure", 0, picture_files[0]).stdout.decode()
    assert "% sure" in off


def test_the_option_says_what_the_program_does() -> None:
    """Its limits stand there as numbers, so that `--help` imports no numpy."""
    (option,) = (option for option in classify.params if option.name == "unsure")
    assert option.type.max == MOST in SHARES  # type: ignore[attr-defined]
    assert f"default: {UNSURE}" in option.help  # type: ignore[attr-defined]


# --- typicality, from class statistics


def with_statistics(bundle: Path) -> Bundle:
    """A bundle of two classes' worth of statistics, in which an image's brightness is a feature: dark ones are
    typical."""
    manifest, dimension, noise = Bundle(bundle).manifest, 16, np.random.default_rng(0)
    assert manifest.calibration
    count = len(manifest.classes)
    x = project(features_of(noise.integers(0, 40, (600, 1, 16, 16))), dimension, 0)
    found = statistics.of(x, np.arange(600) % count, count)
    weights = Bundle(bundle).weights()
    origin = Projected(dimension, 0).origin(statistics.units_hash(manifest.network, weights))
    shrinkage = Shrinkage(0.1, float(np.square(x.astype(float)).mean()), 300.0)
    far = tell(solve(found, statistics.none(count, dimension), shrinkage), x).distances
    at = np.quantile(far, 1 - np.array(manifest.calibration.shares)).tolist()
    scores = {
        name: structs.replace(of, probabilities=(0.0,) * len(of.probabilities), alone=manifest.calibration.shares)
        for name, of in manifest.calibration.scores.items()
    }
    after = structs.replace(
        manifest,
        statistics=ClassStatistics(
            dimension, 0, shrinkage=shrinkage, together=count, weights={"goodness": Weight(0.0, 1.0)}
        ),
        calibration=structs.replace(
            manifest.calibration, scores=scores, distances=Distances(float(far.max()), tuple(at))
        ),
    )
    return write_bundle(bundle, after, {STATISTICS: statistics.encode(found, origin)})


def features_of(images: np.ndarray) -> np.ndarray:
    """Some features (N, F) of images, in place of the graph's."""
    flat = images.reshape(len(images), -1)[:, :64].astype(np.float32)
    return flat / 20


def with_features(model: Model) -> Model:
    """A model whose graph of goodness gives these features besides."""
    graph = model.graph("goodness")
    model._graphs["goodness"] = lambda inputs: {
        **graph(inputs),
        "features": features_of(np.rint(inputs["images"] * 255)),
    }
    return model


def test_typicality_is_the_distance_to_the_nearest_class(class_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(class_bundle, tmp_path / "model.ff"))
    model = with_features(Model(with_statistics(path), state=False))
    noise = np.random.default_rng(1)
    usual = noise.integers(0, 40, (50, 1, 16, 16)).astype(np.uint8)
    found = model.classify_batch(usual, unsure=0.02)
    assert [answer.sure for answer in found].count(False) < 6
    assert np.mean([answer.typicality for answer in found]) > 0.3
    for answer in model.classify_batch(255 - usual, unsure=0.02):
        assert (answer.sure, answer.typicality) == (False, 0)
        assert answer.probability
    assert {answer.typicality for answer in model.classify_batch(usual, "exit")} == {None}


def test_statistics_of_other_units_say_nothing(class_bundle: Path, tmp_path: Path) -> None:
    """Units that have learned make other features; readouts may learn."""
    path = Path(shutil.copytree(class_bundle, tmp_path / "model.ff"))
    bundle = with_statistics(path)
    images, weights, names = drawn(5)[0], bundle.weights(), bundle.manifest.classes
    for name, same in (("unit2.readout.weight", True), ("unit2.conv1.weight", False)):
        learned = Weights({name: weights[name] + 1}, names)
        found = with_features(Model(bundle, learned)).classify_batch(images)
        assert all((answer.typicality is not None) is same for answer in found)
        assert all(answer.probability for answer in found)
    learned = Weights({"unit2.conv1.weight": weights["unit2.conv1.weight"].copy()}, names)
    assert with_features(Model(bundle, learned)).classify(images[0]).typicality is not None


def test_a_graph_without_features_is_an_error_where_statistics_answer(class_bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(class_bundle, tmp_path / "model.ff"))
    model = Model(with_statistics(path), state=False)
    graph = model.graph("goodness")
    model._graphs["goodness"] = lambda inputs: {"total": graph(inputs)["total"]}
    with pytest.raises(BundleError, match="export it again"):
        model.classify(drawn(1)[0][0])


# --- teaching what the model thinks very improbable


@pytest.fixture
def opinionated(bundle: Path) -> Path:
    """A bundle that is quite sure of every answer."""
    manifest = Bundle(bundle).manifest
    assert manifest.calibration
    sharp = {
        name: structs.replace(of, temperature=1e-3, probabilities=(0.0,) * len(of.probabilities))
        for name, of in manifest.calibration.scores.items()
    }
    calibration = structs.replace(manifest.calibration, scores=sharp)
    write_bundle(bundle, structs.replace(manifest, calibration=calibration), {})
    return bundle


def learn(bundle: Path, *arguments: object) -> tuple[int, list[str], list[str]]:
    """Exit code, lines of stdout and of stderr."""
    done = ffruntime("learn", "--model", bundle, "--steps", 1, "--tolerance", 1, *arguments)
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode().splitlines()


def test_teaching_against_a_strong_opinion_is_left_out(opinionated: Path, picture_files: list[Path]) -> None:
    first, second = (file.stem.partition("-")[2] for file in picture_files[:2])
    assert first != second
    code, out, said = learn(opinionated, "--label", second, *picture_files[:2])
    assert code == 12
    assert out[0].startswith("stored 1 example")
    assert len(said) == 1
    assert f"{picture_files[0]}: this looks like {first} to me, over 99.9 %; left out: --yes " in said[0]
    assert learn(opinionated, "--label", second, picture_files[0])[:2] == (12, [])


@pytest.mark.parametrize("option", ["--yes", "--json"])
def test_it_is_taught_where_that_is_wanted(option: str, opinionated: Path, picture_files: list[Path]) -> None:
    first, second = (file.stem.partition("-")[2] for file in picture_files[:2])
    code, out, said = learn(opinionated, "--label", second, option, picture_files[0])
    assert (code, said) == (0, [])
    if option == "--json":
        warning = json.loads(out.pop(0))
        assert warning.pop("probability") > 0.999
        assert warning == {"event": "warning", "path": str(picture_files[0]), "label": second, "looks_like": first}
    assert "stored" in out[0]


@pytest.mark.slow
def test_a_class_that_the_bundle_was_not_trained_on_is_taught_as_it_is(
    opinionated: Path, picture_files: list[Path]
) -> None:
    assert learn(opinionated, "--label", "star", picture_files[0])[0] == 0
    assert learn(opinionated, "--label", "star", picture_files[6])[0] == 0


def test_without_calibration_there_are_no_opinions(bundle: Path, picture_files: list[Path]) -> None:
    write_bundle(bundle, structs.replace(Bundle(bundle).manifest, calibration=None), {})
    assert learn(bundle, "--label", "ring", picture_files[0])[0] == 0
