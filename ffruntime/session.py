"""How graphs are run: on which backend, in which precision, in how large calls; and a bundle's graph loaded so, and
what was learned on it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import Struct, structs

from .backend import DEFAULT_BACKEND, ENGINES, Graph, load_graph
from .core.bundle import Bundle, state_there
from .core.errors import BundleError
from .core.graphs import graphs
from .core.manifest import WEIGHTS
from .core.plan import BATCH
from .core.precision import Precision, in_folder, known_precision
from .graph_check import check_graph, outputs_of, require_outputs

if TYPE_CHECKING:
    from .learning.versions import Current

ALL_LABELS = 1 << 16  # in one call of a graph: as many as there are
M_MMAP_THRESHOLD = -3  # mallopt(3)
BLOCK = 1 << 16  # bytes


class Session(Struct, frozen=True):
    """How graphs are run. Raises `UsageError` for a precision that there is none."""

    backend: str = DEFAULT_BACKEND
    precision: Precision = "fp32"
    threads: int = 0  # of the CPU; 0: all cores
    arena: bool = True  # whether an engine keeps memory from one call to the next; without it, calls take longer
    batch: int = BATCH  # images in one call
    labels_per_call: int = ALL_LABELS

    def __post_init__(self) -> None:
        known_precision(self.precision)


def limited(session: Session, batch: int, labels_per_call: int, threads: int = 0) -> Session:
    """The same with so many images and labels in one call at most, and memory given back after each.

    The whole process gives freed memory back from now on.
    """
    return_freed_blocks()
    return structs.replace(session, batch=batch, labels_per_call=labels_per_call, threads=threads, arena=False)


def load(bundle: Bundle, name: str, session: Session, learned: Mapping[str, np.ndarray]) -> Graph:
    """The bundle's graph `name` (such as `unit1`), after its hash and its weights' have been checked.

    `learned`: tensors in place of the bundle's, float32 by their names there; those that the graph does not hold
    are left out. The graph borrows the arrays, which must not change any more. Raises `BundleError`, and
    `BackendError` where the backend cannot run it here, or with these tensors.
    """
    graph = graphs(bundle.manifest.network).get(name)  # None: one that there cannot be, as is said below
    held = graph.holds if graph else ()
    tensors = {tensor: learned[tensor] for tensor in learned if tensor in held}
    if session.backend in ENGINES:
        from .engine import engine_for

        return engine_for(bundle, name, session.backend, session.precision, tensors)
    path = in_folder(f"{name}.onnx", session.precision)
    file, content = bundle.path / path, bundle.read(path)
    bundle.verified(in_folder(WEIGHTS, session.precision))
    if graph is None:
        raise BundleError(f"{file}: is no graph of this network")
    check_graph(file, content, bundle.manifest.network, graph)
    run = load_graph(file, session.backend, session.threads, tensors, session.arena)
    outputs = outputs_of(bundle.manifest.network, graph)

    def checked(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = run(inputs)
        rows = {given: len(array) for given, array in inputs.items() if array.ndim}
        require_outputs(file, outputs, rows, {output: array.shape for output, array in found.items()})
        return found

    return checked


def return_freed_blocks() -> None:
    """From now on, a block of 64 kB or more goes back to the system when it is freed.

    By default glibc keeps blocks of up to 32 MB once the first was freed, so that a process stays as large as its
    largest call, and larger with every new size. What is returned has to be fetched again: calls take longer. Other
    C libraries have no such setting, and nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # the last: Windows, where None is no library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, BLOCK)


def return_free_memory() -> None:
    """Give what is free now back to the system, as far as the C library can (glibc)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def learned(bundle: Bundle, state: str | Path | Literal[False] | None = None) -> Current | None:
    """What was learned on a bundle, `state` as for `Model`; None where there is none, or with False.

    Raises `StateError` for a state that is damaged or of another bundle.
    """
    directory = Path(state) if state else bundle.state_directory
    if state is False or not state_there(directory):
        return None
    from .learning.directory import current

    return current(directory, bundle.manifest)
