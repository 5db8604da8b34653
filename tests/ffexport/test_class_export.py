"""A network with class goodness as a whole bundle: graphs, precisions, early exit, a device's state, engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from commands import in_process_text
from counting import EACH, with_statistics
from msgspec import structs
from onnx import TensorProto
from safetensors.numpy import load_file
from shapes import CLASS_BUNDLE

from ffexport.artefacts import bundle_graphs
from ffexport.engines import EngineLimits, build_engines, missing
from ffexport.export import export_onnx
from ffexport.from_state import export_state, told_apart
from ffexport.providers import check_providers
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import to_unit_interval
from ffruntime.core.errors import BundleError
from ffruntime.core.graphs import unit_gradient
from ffruntime.core.layers import KNOWN, learned_tensors, tensors, unit_parameters
from ffruntime.core.manifest import GOLDEN
from ffruntime.core.precision import TOLERANCES, Precision
from ffruntime.core.state import Weights, changed, write_state
from ffruntime.embedding import class_input
from ffruntime.golden import check, require
from ffruntime.learning import step as optimizer
from ffruntime.model import Model
from ffruntime.session import Session
from fftrain import network as net
from fftrain.dataset import Dataset
from fftrain.pack import golden_gradient, pack_run
from fftrain.recipe import load_recipe, with_epochs
from fftrain.run import Run, start, train

NEW = "inverted"  # the class that is learned: dark digits on white
UNITS = ("unit1", "unit2", "unit3")


@pytest.fixture(scope="module")
def run(dataset: Dataset, once: Callable) -> Run:
    """Recipe `class` with eight channels, after one epoch of 3,200 real images."""
    recipe = with_epochs(load_recipe("class", [(f"network.units.{unit}.ops.0.out", 8) for unit in range(3)]), 1)
    part = type(dataset.train)(dataset.train.pixels[:3200], dataset.train.labels[:3200])
    held_back = type(dataset.train)(dataset.validation.pixels[:400], dataset.validation.labels[:400])
    few = structs.replace(dataset, train=part, validation=held_back)

    def whole(folder: Path, resume: bool) -> Run:
        begun = start(recipe, few, 0, torch.device("cpu"), torch.float32)
        for _ in train(begun, folder / "model.ff", resume=resume, stop=lambda: False):
            pass
        return begun

    return whole(once("class-trained", lambda folder: whole(folder, False)), True)


@pytest.fixture(scope="module")
def exported(run: Run, once: Callable) -> Path:
    """That network as a bundle in every precision. Shared: what a test writes must be the same bytes."""

    def export(folder: Path) -> None:
        pack_run(folder / "model.ff", run, "class", "cpu", "fp32", {})
        export_onnx(folder / "model.ff", ("fp16", "int8"))

    return once("class-exported", export) / "model.ff"


@pytest.mark.slow
def test_all_graphs_are_there_and_proven(exported: Path) -> None:
    """And none of the classifier's."""
    manifest = Bundle(exported).manifest
    graphs = {name for name in manifest.files if name.endswith(".onnx") and "/" not in name}
    assert graphs == {f"{name}.onnx" for name in (*UNITS, "goodness", "gradient1", "gradient2", "gradient3")}
    rows = check(Model(exported, state=False))
    assert all(row.passed for row in rows), rows
    assert {row.graph for row in rows} == {Path(name).stem for name in graphs}
    assert any(row.output.startswith("gradient.unit") for row in rows)
    assert [row.verdict for row in check_providers(Bundle(exported), ["cpu"]) if "nodes" not in row.verdict] == []


@pytest.mark.slow
def test_decisions_are_torchs(exported: Path, run: Run) -> None:
    """Whatever labels are asked for, in one call."""
    pixels = run.dataset.validation.pixels[:200]
    images = net.to_images(pixels, run.network, torch.float32)
    expected = net.goodness_of_classes(run.network, run.tensors, images)
    total = net.total_goodness(run.network, run.tensors, expected).numpy()[:, :10]
    np.testing.assert_allclose(Model(exported, state=False).scores(pixels.numpy()), total, atol=1e-4)
    assert (total.argmax(1) == run.dataset.validation.labels[:200].numpy()).mean() > 0.8


@pytest.mark.slow
def test_the_command_says_what_an_early_exit_costs(exported: Path) -> None:
    """And exporting once more gives the same bytes."""
    before = Bundle(exported).manifest
    options = ("--precision", "fp16", "--precision", "int8")
    done = in_process_text("ffexport", "--model", exported, *options, env={"FF_DATA": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    assert Bundle(exported).manifest == before
    assert before.exit
    *_, early, last = done.stdout.splitlines()
    assert early.startswith(f"mode exit: {before.exit.passes:.2f} passes on average, 1 at worst")
    assert "ffruntime classify" in last


@pytest.mark.slow
def test_check_repeats_all_checks(exported: Path) -> None:
    done = in_process_text("ffexport", "--model", exported, "--check", "--json", env={"FF_DATA": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    kept, again = json.loads((exported / "export.json").read_text()), json.loads(done.stdout)
    rows = {row["artefact"]: row for row in kept["artefacts"]}
    assert {row["artefact"]: row for row in again["artefacts"]} == rows
    assert rows["goodness.onnx"]["exemplars"] > 0.8
    assert rows["unit1.onnx"]["exemplars"] is None


@pytest.mark.slow
def test_an_early_exit_is_as_calibrated(exported: Path) -> None:
    """Mode `exit`, by the unit graphs, gives on the exemplars what the manifest says, calibrated by `goodness`."""
    found, model, pixels = (
        Bundle(exported).manifest.exit,
        Model(exported, state=False),
        Bundle(exported).exemplars(),
    )
    assert found
    scores, passes = model.scores_and_passes(pixels.pixels, "exit")
    assert passes.mean() == pytest.approx(found.passes, abs=0.01)
    agree = (scores.argmax(1) == model.scores(pixels.pixels).argmax(1)).mean()
    assert agree == pytest.approx(found.agree, abs=0.01)
    assert found.passes < 0.9
    assert found.agree > 0.95


@pytest.mark.slow
def test_it_is_judged_by_what_answers(tmp_path: Path) -> None:
    """Where a network tells no classes, these are statistics: the readouts of this one are nothing."""
    how = structs.replace(EACH, together=0)
    source = Bundle(with_statistics(CLASS_BUNDLE, tmp_path / "model.ff", how))
    names = {layer.name for layer in map(attrgetter("layer"), tensors(source.manifest.network)) if layer}
    blank = {name for name in names if name.endswith("readout")}
    weights = {
        name: tensor * 0 if name.rpartition(".")[0] in blank else tensor
        for name, tensor in source.weights().items()
    }
    target = tmp_path / "blank.ff"
    state = tmp_path / "blank.state"
    write_state(state, source.manifest, Weights(changed(source.weights(), weights), source.manifest.classes), 0, 0)
    report = export_state(source, state, target)
    (row,) = (row for row in report.artefacts if row.artefact == "goodness.onnx")
    exemplars = source.exemplars()
    right = Model(target, state=False).scores(exemplars.pixels).argmax(1) == exemplars.labels
    assert row.exemplars == pytest.approx(right.mean())
    assert row.exemplars > 0.8


# ---------------------------------------- precisions ----------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_golden_values_are_reproduced(precision: Precision, exported: Path) -> None:
    rows = check(Model(exported, session=Session(precision=precision), state=False))
    assert all(row.passed for row in rows)
    assert max(row.relative for row in rows) < TOLERANCES[precision]


@pytest.mark.slow
def test_readouts_are_float16_and_their_normalisation_is_not(exported: Path) -> None:
    stored = {name: load_file(exported / name / "weights.safetensors") for name in ("fp16", "int8")}
    for index in range(3):
        assert stored["fp16"][f"unit{index + 1}.readout.weight"].dtype == np.float16
        assert stored["int8"][f"unit{index + 1}.readout.weight"].dtype == np.float16
        assert stored["int8"][f"unit{index + 1}.conv1.weight"].dtype == np.int8
    model = onnx.load(exported / "fp16" / "unit2.onnx", load_external_data=False)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    by_type: dict[str, set[int]] = {}
    for node in model.graph.node:
        by_type.setdefault(node.op_type, set()).add(kinds.get(node.output[0], TensorProto.FLOAT))
    assert by_type["Conv"] == by_type["Gemm"] == {TensorProto.FLOAT16}
    for op in ("ReduceMean", "Sqrt", "Div", "MatMul"):  # the last: averages over cells that are not alike
        assert by_type[op] == {TensorProto.FLOAT}, op


# ---------------------------------------- a device's state ----------------------------------------


def learn(path: Path) -> dict[str, np.ndarray]:
    """All weights after updates with the bundle's own gradient graphs, on exemplars, half of them inverted."""
    model, exemplars = Model(path, state=False), Bundle(path).exemplars()
    network, generator = model.manifest.network, np.random.default_rng(0)
    weights = {name: tensor.copy() for name, tensor in Bundle(path).weights().items()}
    trainable = {t.name: weights[t.name] for index in range(3) for t in unit_parameters(network, index)}
    first, second = optimizer.zeros_like(trainable), optimizer.zeros_like(trainable)
    weights[KNOWN][10] = 1
    for step in range(1, 31):
        chosen = generator.choice(len(exemplars), 64, replace=False)
        images, labels = exemplars.pixels[chosen].copy(), exemplars.labels[chosen].copy()
        images[:32], labels[:32] = 255 - images[:32], 10
        x, gradients = class_input(network, weights, to_unit_interval(images)), {}
        for index in range(3):
            graph = unit_gradient(network, index)
            tensors = {name: weights[name] for name in graph.takes}
            outputs = model.graph(graph.name)({"input": x, "labels": labels, **tensors})
            gradients |= {k.removeprefix("gradient."): v for k, v in outputs.items() if k.startswith("gradient.")}
            x = outputs["next"]
        optimizer.adam(trainable, gradients, first, second, step=step, lr=2e-3)
    return weights


@pytest.fixture(scope="module")
def state(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was learned on the shared bundle: an eleventh class, and which rows are known."""
    path, manifest = tmp_path_factory.mktemp("state") / "learned.state", Bundle(exported).manifest
    tensors = changed(Bundle(exported).weights(), learn(exported))
    assert tensors.keys() <= {tensor.name for tensor in learned_tensors(manifest.network, range(3))}
    write_state(path, manifest, Weights(tensors, (*manifest.classes, NEW)), 30, 64 * 30)
    return path


@pytest.mark.slow
def test_a_state_becomes_a_bundle_that_proves_itself(exported: Path, state: Path, tmp_path: Path) -> None:
    target = tmp_path / "learned.ff"
    export_state(Bundle(exported), state, target)
    model = Model(target, state=False)
    require(check(model), model.backend)
    assert model.manifest.classes == (*Bundle(exported).manifest.classes, NEW)
    assert model.manifest.exit
    weights = Bundle(target).weights()
    assert weights[KNOWN].tolist() == [1] * 11 + [0] * (len(weights[KNOWN]) - 11)
    golden = Bundle(target).tensors(GOLDEN)
    assert not golden.keys() & {"logits", "negatives"}
    inverted = 255 - golden["images"]
    for mode in ("goodness", "exit"):
        told = [answer.label for answer in model.classify_batch(np.concatenate([golden["images"], inverted]), mode)]
        assert told[: len(inverted)].count(NEW) <= 1, mode
        assert told[len(inverted) :].count(NEW) >= len(inverted) - 1, mode
    exact = {name: torch.from_numpy(tensor).double() for name, tensor in weights.items()}
    x = net.to_images(torch.from_numpy(golden["images"]), model.manifest.network, torch.float64)
    assert model.manifest.learning
    again = golden_gradient(
        model.manifest.network, exact, x, torch.from_numpy(golden["labels"]), model.manifest.learning.loss
    )
    assert again.keys() == {key for key in golden if key.startswith("gradient.")}
    for name, gradient in again.items():
        np.testing.assert_allclose(golden[name], gradient, atol=1e-4 * gradient.abs().max().item())


def test_a_class_without_a_row_is_left_out() -> None:
    """Stored, and not learned from yet; one before a class that has a row cannot be."""
    classes, state = ("0", "1", "stored", NEW), Path("b.state")
    assert told_apart(state, classes, np.array([1, 1, 0, 0, 0]), None) == ("0", "1")
    with pytest.raises(
        BundleError, match=r"b\.state: class 'stored' has no row yet: learn from its examples first"
    ):
        told_apart(state, classes, np.array([1, 1, 0, 1, 0]), None)


# ---------------------------------------- engines ----------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(bool(missing("tensorrt-rtx")), reason="; ".join(missing("tensorrt-rtx")))
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_every_graph(precision: Precision, exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "model.ff"))
    limit = EngineLimits(batch=4, labels=1, workspace_mib=64)
    rows = build_engines(path, "tensorrt-rtx", None, precision, limit)
    assert len(rows) == len(bundle_graphs(Bundle(path).manifest, precision)) == (7 if precision == "fp32" else 4)
    place = Path(rows[0].artefact).parent
    patterns = Bundle(path).manifest.network.label.patterns
    assert json.loads((path / place / "goodness.json").read_text())["inputs"]["labels"]["max"] == [patterns]
