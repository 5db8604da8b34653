"""What was learned, in an engine: the order of calls, on a stand-in for TensorRT, and the proof before use."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffruntime import cuda, engine
from ffruntime.backend import load_graph
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BackendError, ParityError
from ffruntime.core.state import Weights
from ffruntime.engine import prove, refit
from ffruntime.model import Model
from ffruntime.session import Session

FILE = Path("goodness.engine")
SHIPPED = {"a.weight": np.zeros(3, np.float32), "a.bias": np.ones(2, np.float32)}
LEARNED = {"a.weight": np.full(3, 7, np.float32)}
LOG = SimpleNamespace(said=lambda: "no reason given")


class Refitter:
    """TensorRT's, as documented: tensors that it has combined with given ones are missing until they are given."""

    combined: tuple[str, ...] = ()
    accepts = True

    def __init__(self, engine: dict[str, np.ndarray], _log: object) -> None:
        self.engine, self.given = engine, dict[str, np.ndarray]()

    def set_named_weights(self, name: str, weights: np.ndarray) -> bool:
        self.given[name] = weights
        return name in self.engine or name in self.combined

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.combined if name not in self.given]

    def refit_cuda_engine(self) -> bool:
        self.engine.update(self.given)
        return self.accepts


def library(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(Refitter=type("Changed", (Refitter,), changes), Weights=lambda array: array)


def test_learned_tensors_replace_the_engines() -> None:
    held = dict(SHIPPED)
    refit(FILE, held, library(), LOG, LEARNED, SHIPPED)
    assert held["a.weight"].tolist() == [7, 7, 7]
    assert held["a.bias"].tolist() == [1, 1]


def test_what_the_engine_has_combined_with_them_comes_from_the_bundle() -> None:
    held: dict[str, np.ndarray] = {"a.weight": SHIPPED["a.weight"]}
    refit(FILE, held, library(combined=("a.bias",)), LOG, LEARNED, SHIPPED)
    assert held["a.bias"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "learned", "words"),
    [
        ({}, {"b.weight": np.zeros(1, np.float32)}, "takes no 'b.weight': no reason given"),
        ({"combined": ("fused",)}, LEARNED, "needs 'fused' as well"),
        ({"accepts": False}, LEARNED, "takes no other weights"),
    ],
)
def test_what_the_engine_refuses(changes: dict[str, object], learned: Mapping[str, np.ndarray], words: str) -> None:
    with pytest.raises(BackendError, match=rf"goodness\.engine: .*{words}"):
        refit(FILE, dict(SHIPPED), library(**changes), LOG, learned, SHIPPED)


@pytest.fixture(scope="module")
def learned(exported: Path) -> dict[str, np.ndarray]:
    return {"unit2.conv1.bias": Bundle(exported).weights()["unit2.conv1.bias"] + 0.5}


@pytest.mark.parametrize("name", ["goodness", "classifier"])
def test_an_engine_proves_itself_with_what_was_learned(
    name: str, exported: Path, learned: dict[str, np.ndarray]
) -> None:
    bundle, file = Bundle(exported), exported / f"{name}.onnx"
    prove(load_graph(file, weights=learned), bundle, name, learned)
    with pytest.raises(ParityError, match=f"of the engine of {name} is off by .*onnxruntime-cpu"):
        prove(load_graph(file), bundle, name, learned)  # it has not taken them


def test_without_onnxruntime_an_engine_cannot_prove_itself(
    exported: Path, learned: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"checked in an engine .*onnxruntime is not installed: pip"):
        prove(lambda _inputs: {}, Bundle(exported), "goodness", learned)


def test_only_engines_that_take_other_weights_run_what_was_learned(
    exported: Path, learned: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "missing", lambda: None)
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.7")
    monkeypatch.setattr(engine, "import_library", lambda _name: SimpleNamespace(__version__="10.3.0"))
    bundle = Bundle(exported)
    model = Model(bundle, Weights(learned, bundle.manifest.classes), Session("tensorrt"))
    with pytest.raises(BackendError, match="no fp32 engine of goodness that takes other weights for tensorrt"):
        model.graph("goodness")
    with pytest.raises(BackendError, match="the engine of unit2 takes nothing that was learned"):
        model.graph("unit2")
