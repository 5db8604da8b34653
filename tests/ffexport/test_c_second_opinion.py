"""A second opinion of the updates in C: the same gradient graphs, made C by emx-onnx-cgen, a general compiler that
knows nothing of this project (a package for tests alone)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from chip import CLASSES, COMPILER, Chip, needs_compiler

from ffexport.class_graphs import class_gradient_graph
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import to_unit_interval
from ffruntime.core.learning import ClassLoss
from ffruntime.embedding import class_input

PROGRAM = shutil.which("emx-onnx-cgen") or shutil.which(Path(sys.executable).with_name("emx-onnx-cgen"))
pytestmark = [
    pytest.mark.slow,
    needs_compiler,
    pytest.mark.skipif(PROGRAM is None, reason="no emx-onnx-cgen here: pip install emx-onnx-cgen"),
]
RATE, STEPS = 0.2, 20


class Compiled:
    """A graph of one image as a function in C: arrays by name in, arrays by name out."""

    def __init__(self, graph: onnx.ModelProto, folder: Path) -> None:
        self._takes, self._gives = list(graph.graph.input), list(graph.graph.output)
        source, library = folder / "unit.c", folder / "unit.so"
        onnx.save(graph, folder / "unit.onnx")
        subprocess.run([str(PROGRAM), "compile", str(folder / "unit.onnx"), str(source)], check=True)
        flags = ["-shared", "-fPIC", "-O1", "-w", str(source), "-lm", "-o", str(library)]
        subprocess.run([str(COMPILER), *flags], check=True)
        self._model = ctypes.CDLL(str(library)).model
        self._model.restype = None

    def __call__(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kinds = {value.name: np.int64 if value.name == "labels" else np.float32 for value in self._takes}
        taken = [np.ascontiguousarray(given[name], kind) for name, kind in kinds.items()]
        made = {
            value.name: np.empty([side.dim_value for side in value.type.tensor_type.shape.dim], np.float32)
            for value in self._gives
        }
        self._model(*(array.ctypes.data_as(ctypes.c_void_p) for array in (*taken, *made.values())))
        return made


def test_twenty_updates(tmp_path: Path) -> None:
    """One image at a time, every unit by its gradient graph and SGD in numpy: weights as the C code has them."""
    bundle = Bundle(CLASSES)
    network, learning, examples = bundle.manifest.network, bundle.manifest.learning, bundle.exemplars()
    assert learning
    assert isinstance(learning.loss, ClassLoss)
    units = list[Compiled]()
    for index in range(len(network.units)):
        (folder := tmp_path / f"unit{index + 1}").mkdir()
        units.append(Compiled(class_gradient_graph(network, index, learning.loss, np.float32, 1), folder))
    before = bundle.weights()
    weights = {name: tensor.copy() for name, tensor in before.items()}
    with Chip.of(tmp_path / "chip", bundle) as chip:
        chip.settings(RATE)
        for place in np.random.default_rng(0).integers(0, len(examples), STEPS):
            image, label = examples.pixels[place], int(examples.labels[place])
            x = class_input(network, weights, to_unit_interval(image[None]))
            for unit in units:
                made = unit({**weights, "input": x, "labels": np.array([label])})
                x = made["next"]
                for name, gradient in made.items():
                    if name.startswith("gradient."):
                        weights[name.removeprefix("gradient.")] -= RATE * gradient
            assert chip.learn(image, label) == "OK"
        learned = chip.weights()
    moved = max(float(np.abs(weights[name] - before[name]).max()) for name in learned)
    assert moved > 0.01
    for name, tensor in learned.items():
        assert np.abs(tensor - weights[name]).max() <= 1e-4 * max(float(np.abs(weights[name]).max()), moved), name
