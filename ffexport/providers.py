"""Where ONNX Runtime runs a graph: one provider was asked for, and every node that matters has to be on it.

ONNX Runtime gives what a provider does not take to its own CPU provider and says nothing. Its profile of a run
(https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html) names every node with the provider
that ran it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from ffruntime.backend import PROVIDERS, SHAPE_OPS, open_session, require_no_other
from ffruntime.core.bundle import Bundle
from ffruntime.core.manifest import WEIGHTS
from ffruntime.core.precision import Precision, in_folder
from ffruntime.golden import check, require
from ffruntime.lock import scratch_folder
from ffruntime.model import Model
from ffruntime.session import Session

from .artefacts import Artefact
from .engines import graph_files

NAMES = tuple(backend.removeprefix("onnxruntime-") for backend in PROVIDERS)  # cpu, cuda, tensorrt, tensorrt-rtx
COPIES = frozenset({"MemcpyFromHost", "MemcpyToHost"})  # ONNX Runtime's own, between providers


class Node(Struct, frozen=True):
    """A node that has run."""

    name: str
    op: str
    provider: str
    shape_only: bool  # computes nothing but a shape

    def __str__(self) -> str:
        return f"{self.name} ({self.op}, {self.provider.removesuffix('ExecutionProvider')})"


def check_providers(bundle: Bundle, names: Sequence[str], precision: Precision = "fp32") -> list[Artefact]:
    """Every graph of that precision on each of the providers: the golden check, and a row for each pair.

    Raises `BackendError` where a provider cannot run here, or where another one ran a node that matters, naming the
    nodes; `ParityError` where the golden vectors are not reproduced.
    """
    rows = []
    for provider in names:
        backend = f"onnxruntime-{provider}"
        checks = check(Model(bundle, session=Session(backend, precision), state=False))
        require(checks, backend)
        bundle.verified(in_folder(WEIGHTS, precision))
        for name, graph in graph_files(bundle.manifest, precision).items():
            file = bundle.verified(name)
            nodes = placement(file, backend)
            require_provider(file, nodes, PROVIDERS[backend])
            parity = max((row.relative for row in checks if row.graph == graph.name), default=None)
            elsewhere = sum(node.provider != PROVIDERS[backend] for node in nodes)
            verdict = f"ok on {backend}, {len(nodes) - elsewhere} nodes"
            if elsewhere:
                verdict += f"; {elsewhere} for shapes on the CPU"
            rows.append(Artefact(name, bundle.manifest.files[name].size, precision, parity, verdict))
    return rows


def require_provider(file: Path, nodes: Sequence[Node], provider: str) -> None:
    """Raise `BackendError` naming the nodes, unless all that do more than shapes ran on `provider`."""
    wrong = [str(node) for node in nodes if node.provider != provider and not node.shape_only]
    require_no_other(file, provider, wrong)


def placement(file: Path, backend: str) -> list[Node]:
    """Every node of a graph, optimised as `backend` has it, and where it runs: found out by running it once."""
    with scratch_folder() as scratch:
        session = open_session(file, backend, profile=scratch / "profile")
        session.run(None, {value.name: _some(value) for value in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    return [_node(event) for event in events if event["name"].endswith("_kernel_time")]


def _some(value: Any) -> np.ndarray:
    """An input of the right type and shape, a dynamic dimension being 1."""
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    return np.zeros(shape, types[value.type])


def _node(event: dict[str, Any]) -> Node:
    arguments = event["args"]
    outputs = [shape for output in arguments["output_type_shape"] for shape in output.items()]
    integers = all(kind in ("int64", "int32") and len(shape) <= 1 for kind, shape in outputs)
    op = arguments["op_name"]
    shape_only = op in COPIES or (op in SHAPE_OPS and integers)
    return Node(event["name"].removesuffix("_kernel_time"), op, arguments["provider"], shape_only)
