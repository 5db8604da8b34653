"""What was asked for is what runs: a provider that leaves nodes to another one, or that fails, is an error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail
from shapes import SHAPE

from ffruntime import backend
from ffruntime.backend import DEFAULT_BACKEND, PROVIDERS, elsewhere, open_session, require_no_other
from ffruntime.core.errors import BackendError


@pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="since ONNX Runtime 1.24",
)
@pytest.mark.parametrize("name", ["goodness", "classifier", "unit1", "gradient1"])
def test_nodes_of_another_provider_are_named_and_those_of_shapes_are_not(name: str, exported: Path) -> None:
    """A real session on the CPU provider, judged as if CUDA's had been asked for."""
    options, file = onnxruntime.SessionOptions(), exported / f"{name}.onnx"
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=[PROVIDERS[DEFAULT_BACKEND]])
    assert elsewhere(session, PROVIDERS[DEFAULT_BACKEND]) == []
    wrong = elsewhere(session, PROVIDERS["onnxruntime-cuda"])
    assert any("(Conv, CPU)" in node for node in wrong)
    assert not any(f"({op}, " in node for node in wrong for op in backend.SHAPE_OPS)
    with pytest.raises(BackendError, match="CUDAExecutionProvider does not run ") as caught:
        require_no_other(file, PROVIDERS["onnxruntime-cuda"], wrong)
    assert str(caught.value).startswith(f"{file}: ")
    require_no_other(file, PROVIDERS["onnxruntime-cuda"], [])


def test_an_older_version_that_does_not_tell_is_taken_as_it_is() -> None:
    assert elsewhere(SimpleNamespace(), "CUDAExecutionProvider") == []


@pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="since ONNX Runtime 1.24",
)
def test_a_session_that_leaves_nodes_to_the_cpu_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `onnxruntime-cuda` were here, and left all to the CPU provider."""
    monkeypatch.setitem(PROVIDERS, "onnxruntime-cuda", PROVIDERS[DEFAULT_BACKEND])
    real = backend.elsewhere
    monkeypatch.setattr(backend, "elsewhere", lambda session, _provider: real(session, "CUDAExecutionProvider"))
    open_session(exported / "unit1.onnx", DEFAULT_BACKEND)
    with pytest.raises(BackendError, match=r"does not run .*Conv, CPU"):
        open_session(exported / "unit1.onnx", "onnxruntime-cuda")


def test_a_provider_that_fails_is_not_replaced_by_another(exported: Path, capsys: pytest.CaptureFixture) -> None:
    """ONNX Runtime's own way would be a new session on the CPU, said on stdout."""
    session = open_session(exported / "classifier.onnx", DEFAULT_BACKEND)

    class Broken:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def run(self, *_arguments: object) -> None:
            raise EPFail("the engine broke")

    session._sess = Broken(session._sess)
    with pytest.raises(EPFail, match="the engine broke"):
        session.run(None, {"images": np.zeros((1, *SHAPE), np.float32)})
    assert capsys.readouterr().out == ""
