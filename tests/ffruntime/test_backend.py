"""What was asked for is what runs: a provider that leaves nodes to another one, or that fails, is an error."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail
from shapes import SHAPE

from ffruntime import backend
from ffruntime.backend import DEFAULT_BACKEND, PROVIDERS, elsewhere, load_graph, open_session, require_no_other
from ffruntime.core.errors import BackendError, MissingExtra


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


class Blocked:
    """Import of onnxruntime ends in that error, as where it is not installed, or does not start."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def find_spec(self, name: str, *_: object) -> None:
        if name == "onnxruntime":
            raise self.error


def without_onnxruntime(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Blocked(error), *sys.meta_path])


ABSENT = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")


@pytest.mark.parametrize(
    ("bits", "soabi", "words"),
    [
        (31, "cpython-311-arm-linux-gnueabihf", ("no wheel for 32-bit Python", "ffexport --format c")),
        (63, "cpython-312-aarch64-linux-musl", ("no wheel for musl", "Debian", "ffexport --format c")),
        (63, "cpython-312-x86_64-linux-gnu", ("pip install 'ffedge[cpu]'",)),
        (63, None, ("pip install 'ffedge[cpu]'",)),
    ],
)
def test_where_onnxruntime_has_no_wheel_one_line_says_what_there_is(
    bits: int, soabi: str | None, words: tuple[str, ...], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_onnxruntime(monkeypatch, ABSENT)
    monkeypatch.setattr(sys, "maxsize", (1 << bits) - 1)
    monkeypatch.setitem(sysconfig.get_config_vars(), "SOABI", soabi)
    with pytest.raises(MissingExtra) as raised:
        load_graph(exported / "unit1.onnx")
    assert all(word in str(raised.value) for word in ("onnxruntime is not installed", *words))
    assert ("pip install" in str(raised.value)) == (len(words) == 1)


def test_an_onnxruntime_that_does_not_start_is_not_called_absent(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_onnxruntime(monkeypatch, ImportError("libstdc++.so.6: cannot open shared object file"))
    with pytest.raises(BackendError, match=r"is installed, and does not start here: libstdc\+\+.so.6"):
        load_graph(exported / "unit1.onnx")
    without_onnxruntime(monkeypatch, ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"))
    with pytest.raises(BackendError, match="lacks a package: No module named 'flatbuffers'"):
        load_graph(exported / "unit1.onnx")
