"""Class goodness on the device: one pass for all classes; early exit. (Learning: `learning/test_classes.py`.)"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from safetensors.numpy import save
from shapes import PATTERNS, drawn

from ffruntime import early_exit
from ffruntime.backend import Graph
from ffruntime.core.architecture import scored_units, unit_name
from ffruntime.core.bundle import write_bundle
from ffruntime.core.cost import exit_shares
from ffruntime.core.data import to_unit_interval
from ffruntime.core.errors import BundleError, UsageError
from ffruntime.core.layers import KNOWN, TOTAL
from ffruntime.core.manifest import GOLDEN, EarlyExit
from ffruntime.core.state import Weights
from ffruntime.embedding import class_input
from ffruntime.golden import check, read_golden
from ffruntime.model import Model
from ffruntime.session import Session

CLASSES = 6
classify = partial(in_process_text, "ffruntime", "classify")


@pytest.fixture(scope="module")
def model(class_bundle: Path) -> Model:
    return Model(class_bundle, session=Session(threads=1), state=False)


def with_exit(model: Model, folder: Path, *thresholds: float) -> Model:
    """The same bundle with these thresholds, in `folder`."""
    bundle = shutil.copytree(model.path, folder / "exit.ff")
    write_bundle(bundle, structs.replace(model.manifest, exit=EarlyExit(thresholds, 1.0, 1.0)), {})
    return Model(bundle, session=model.session, state=False)


def unit_goodness(model: Model, images: np.ndarray) -> list[np.ndarray]:
    """Goodness (N, P) of every unit by the unit graphs, one after the other."""
    x = class_input(model.manifest.network, model.bundle.weights(), to_unit_interval(images))
    found = []
    for index in range(len(model.manifest.network.units)):
        outputs = model.graph(unit_name(index))({"input": x})
        x = outputs["output"]
        found.append(outputs["goodness"])
    return found


def answers_of(model: Model, images: np.ndarray) -> np.ndarray:
    """What each scored unit answers, the last by the total, the others by their own goodness: (U, N, classes)."""
    weights, goodness = model.bundle.weights()[TOTAL], unit_goodness(model, images)
    scored = scored_units(model.manifest.network)
    total = sum(weights[index] * goodness[index][:, :CLASSES] for index in scored)
    return np.stack([*(goodness[index][:, :CLASSES] for index in scored[:-1]), total])


def test_the_golden_check_covers_every_graph(model: Model) -> None:
    rows = check(model)
    assert all(row.passed for row in rows)
    graphs = {name.removesuffix(".onnx") for name in model.manifest.files if name.endswith(".onnx")}
    assert {row.graph for row in rows} == {name for name in graphs if "/" not in name}
    assert any(row.output.startswith("gradient.") for row in rows)
    (total,) = (row for row in rows if row.output == "total")
    assert total.agree == total.decisions == len(read_golden(model.bundle)["images"])


@pytest.mark.parametrize("name", ["goodness", "gradient.unit1.readout.weight"])
def test_golden_vectors_of_another_network_are_told(name: str, model: Model, tmp_path: Path) -> None:
    golden = {key: value.copy() for key, value in model.bundle.tensors(GOLDEN).items()}
    golden[name].flat[0] += np.float32(0.1)
    bundle = shutil.copytree(model.path, tmp_path / "model.ff")
    write_bundle(bundle, model.manifest, {GOLDEN: save(golden)})
    assert not all(row.passed for row in check(Model(bundle, state=False)))
    del golden["labels"]
    write_bundle(bundle, model.manifest, {GOLDEN: save(golden)})
    with pytest.raises(BundleError, match="'labels' is missing"):
        check(Model(bundle, state=False))


def test_one_pass_answers_for_every_class(model: Model, images: np.ndarray) -> None:
    labels = drawn(60)[1]
    scores, passes = model.scores_and_passes(images)
    np.testing.assert_allclose(scores, answers_of(model, images)[-1], rtol=1e-4, atol=1e-5)
    assert np.mean(scores.argmax(1) == labels) > 0.95
    assert set(passes.tolist()) == {1}
    few = model.with_session(structs.replace(model.session, batch=7, labels_per_call=1))
    calls, graph = [], few.graph("goodness")

    def counted(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append((len(inputs["images"]), len(inputs["labels"])))
        return graph(inputs)

    few._graphs["goodness"] = counted  # type: ignore[assignment]
    np.testing.assert_allclose(few.scores(images[:10]), scores[:10], rtol=1e-5, atol=1e-6)
    assert calls == [(7, CLASSES), (3, CLASSES)]  # a label costs no pass


@pytest.mark.parametrize("threshold", [0.0, 1.5, 4.0, 1e9])
def test_early_exit_answers_when_it_is_sure(
    threshold: float, model: Model, images: np.ndarray, tmp_path: Path
) -> None:
    """As by what each unit answers; a unit runs for the images that are left and no others."""
    early = with_exit(model, tmp_path, threshold)
    assert early.modes() == ["goodness", "exit"]
    expected = answers_of(model, images)
    by = np.where(np.diff(np.sort(expected[0], axis=1)[:, -2:])[:, 0] > threshold, 0, 1)
    ran: dict[str, int] = {}

    def counted(name: str, graph: Graph) -> Graph:
        def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            ran[name] = ran.get(name, 0) + len(inputs["input"])
            return graph(inputs)

        return run  # type: ignore[return-value]

    for index in range(3):
        early._graphs[unit_name(index)] = counted(unit_name(index), early.graph(unit_name(index)))
    scores, passes = early.scores_and_passes(images, "exit")
    left = {"unit3": by.sum()} if by.any() else {}
    assert ran == {"unit1": len(images), "unit2": len(images), **left}
    np.testing.assert_allclose(scores, expected[by, np.arange(len(by))], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(passes, np.array(exit_shares(model.manifest.network))[by])
    answers = early.classify_batch(images[:3], "exit")
    assert [answer.passes for answer in answers] == passes[:3].tolist()


def test_modes_that_a_network_has_not_are_named(model: Model, images: np.ndarray, tmp_path: Path) -> None:
    assert model.manifest.inference_modes == ("goodness", "exit")
    for asked in ("classifier", "shortlist"):
        with pytest.raises(UsageError, match=rf"^unknown mode '{asked}': known: exit, goodness$"):
            model.scores(images, asked)
    with pytest.raises(UsageError, match=r"a choice of labels is for mode shortlist; .* has goodness, exit$"):
        model.scores(images, labels=2)
    bundle = shutil.copytree(model.path, tmp_path / "model.ff")
    write_bundle(bundle, structs.replace(model.manifest, exit=None), {})
    uncalibrated = Model(bundle, state=False)
    assert uncalibrated.modes() == ["goodness"]
    with pytest.raises(UsageError, match="has no thresholds for mode exit; export it again with 'ffexport"):
        uncalibrated.scores(images, "exit")


def test_a_class_without_a_row_stands_with_the_least(model: Model, images: np.ndarray, tmp_path: Path) -> None:
    """As one that is stored and was not learned yet; in the middle of the classes, as after a refused update."""
    known = model.bundle.weights()[KNOWN]
    assert known.tolist() == [1.0] * CLASSES + [0.0] * (PATTERNS - CLASSES)
    known[7] = 1
    learned = Weights({KNOWN: known}, (*model.classes, "stored", "learned"))
    early = with_exit(model, tmp_path, 1e9)
    shipped = early.scores(images)
    for mode in ("goodness", "exit"):
        scores = early.with_weights(learned).scores(images, mode)
        np.testing.assert_allclose(scores[:, :CLASSES], shipped, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[:, 7], 0, atol=1e-6)  # its row is zero
        np.testing.assert_array_equal(scores[:, 6], scores[:, [*range(6), 7]].min(1))


@given(
    st.integers(1, 5).flatmap(
        lambda units: st.tuples(
            st.lists(st.lists(st.floats(0, 10), min_size=units, max_size=units), min_size=1, max_size=5),
            st.lists(st.floats(0, 10), min_size=units - 1, max_size=units - 1),
        )
    )
)
def test_the_first_unit_above_its_threshold_answers(case: tuple[list[list[float]], list[float]]) -> None:
    margins, thresholds = case
    found = early_exit.sure(np.array(margins), thresholds)
    for row, answered in zip(margins, found.tolist(), strict=True):
        enough = [index for index, limit in enumerate(thresholds) if row[index] > limit]
        assert answered == (enough[0] if enough else len(thresholds))


def test_a_margin_is_of_the_two_best() -> None:
    np.testing.assert_array_equal(early_exit.margins(np.array([[1.0, 5, 3], [2, 2, 2]])), [2, 0])
    assert early_exit.margins(np.array([[1.0]])).tolist() == [np.inf]  # of one class, it is sure
    assert early_exit.margins(np.zeros((4, 3, 2))).shape == (4, 2)


def test_the_commands_say_what_it_costs(model: Model, picture_files: list[Path], tmp_path: Path) -> None:
    early = with_exit(model, tmp_path, 1.5)
    first = picture_files[0]
    said = classify("--model", early.path, first).stdout
    assert "[goodness, 1 pass, onnxruntime-cpu, " in said
    row = json.loads(classify("--model", early.path, "--mode", "exit", "--json", first).stdout)
    assert row["mode"] == "exit"
    assert row["passes"] in exit_shares(model.manifest.network)
    *answers, last = classify("--model", early.path, "--mode", "exit", *picture_files).stdout.splitlines()
    assert len(answers) == len(picture_files)
    assert last.startswith(f"{len(picture_files)} images, 0.")
    assert last.endswith("worst case 1, goodness of every label 1")
    done = in_process_text("ffruntime", "bench", "--model", early.path, "--mode", "exit", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("exit ")
