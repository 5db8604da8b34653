"""Which provider runs which node: found out by running, and refused where it is not the one asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from ffexport import cli
from ffexport.deploy import availability
from ffexport.engines import graph_files
from ffexport.providers import NAMES, check_providers, placement, require_provider
from ffruntime.backend import PROVIDERS, provider_problem
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BackendError, UsageError
from ffruntime.core.precision import PRECISIONS

ABSENT = [name for name in NAMES if provider_problem(f"onnxruntime-{name}")]


def test_every_graph_on_the_cpu_provider(exported: Path) -> None:
    rows = check_providers(Bundle(exported), ["cpu"])
    assert [row.artefact for row in rows] == list(graph_files(Bundle(exported).manifest, "fp32"))
    for row in rows:
        assert row.verdict.startswith("ok on onnxruntime-cpu, ")
        assert row.parity is None or row.parity < 1e-4
    assert any(row.parity is not None for row in rows)


@pytest.mark.parametrize("name", ABSENT)
def test_a_provider_that_is_not_here_is_one_line(exported: Path, name: str) -> None:
    with pytest.raises(BackendError) as raised:
        check_providers(Bundle(exported), [name])
    said = str(raised.value)
    assert said.startswith(f"onnxruntime-{name}: ")
    assert "pip install" in said or "on this machine" in said or "GPU" in said
    assert "\n" not in said


def test_nodes_elsewhere_are_named_and_shapes_are_not(exported: Path) -> None:
    """A real run on the CPU provider, judged as if CUDA's had been asked for."""
    file = exported / "goodness.onnx"
    nodes = placement(file, "onnxruntime-cpu")
    assert {node.provider for node in nodes} == {"CPUExecutionProvider"}
    shapes = {node.op for node in nodes if node.shape_only}
    assert {"Shape", "Concat"} <= shapes
    assert not shapes & {"Conv", "Relu", "Gemm", "ReduceMean"}
    assert any(node.op == "Concat" and not node.shape_only for node in nodes)  # of images, not of sizes
    require_provider(file, nodes, "CPUExecutionProvider")
    with pytest.raises(BackendError) as raised:
        require_provider(file, nodes, "CUDAExecutionProvider")
    said = str(raised.value)
    assert "CUDAExecutionProvider does not run" in said
    assert "CPU)" in said
    assert "Shape" not in said
    assert "\n" not in said
    require_provider(file, [node for node in nodes if node.shape_only], "CUDAExecutionProvider")


def test_an_unknown_provider_is_answered_with_the_known(exported: Path) -> None:
    with pytest.raises(UsageError, match="onnxruntime-cuda"):
        check_providers(Bundle(exported), ["cudo"])


def ffexport(*arguments: object) -> subprocess.CompletedProcess:
    """As a user types it."""
    return subprocess.run([sys.executable, "-m", "ffexport", *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
def test_the_list_is_a_table_and_json() -> None:
    text, objects = ffexport("--list"), json.loads(ffexport("--list", "--json").stdout)
    assert text.returncode == 0, text.stderr
    assert len(text.stdout.splitlines()) == len(objects) == len(cli.FORMATS) + len(cli.PROVIDERS)
    assert {"kind": "provider", "name": "cpu", "problem": None, "note": ""} in objects


@pytest.mark.slow
def test_the_command_checks_providers_and_writes_nothing(bundle: Path) -> None:
    before = Bundle(bundle).manifest
    done = ffexport("--model", bundle, "--check", "--provider", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    verdicts = {row["artefact"]: row["verdict"] for row in json.loads(done.stdout)["artefacts"]}
    assert verdicts["goodness.onnx"].startswith("ok on onnxruntime-cpu")
    assert Bundle(bundle).manifest == before
    refused = ffexport("--model", bundle, "--check", "--format", "tensorrt-rtx")
    assert refused.returncode == 2
    assert "--check makes nothing" in refused.stderr


def test_the_list_says_what_works_and_why_not() -> None:
    offers = {(offer.kind, offer.name): offer for offer in availability()}
    assert [name for kind, name in offers if kind == "format"] == list(cli.FORMATS)
    assert [name for kind, name in offers if kind == "provider"] == list(cli.PROVIDERS) == list(NAMES)
    assert cli.PRECISIONS == PRECISIONS
    assert offers["format", "onnx"].problem is None
    assert offers["provider", "cpu"].problem is None
    for backend, provider in PROVIDERS.items():
        offer = offers["provider", backend.removeprefix("onnxruntime-")]
        if provider in onnxruntime.get_available_providers():
            assert offer.problem is None
    for name in ABSENT:
        problem = offers["provider", name].problem
        assert problem
        assert "\n" not in problem
