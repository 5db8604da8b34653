"""What was learned, in an engine: its weights are replaced in place, and it proves itself before it is used.

Written against TensorRT's documentation; not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .backend import DEFAULT_BACKEND, Graph, load_graph
from .core import transition as bundle
from .core.data import to_unit_interval
from .core.errors import BackendError, MissingExtra, ParityError
from .golden import TOLERANCE


def refit(
    file: Path,
    engine: Any,
    module: Any,
    log: Any,
    learned: Mapping[str, np.ndarray],
    shipped: Mapping[str, np.ndarray],
) -> None:
    """Put learned tensors into the TensorRT `engine` of `file`, which takes other weights.

    What it has combined with them needs to be given anew, too, and is taken from the `shipped` tensors. Raises
    `BackendError` where the engine refuses a tensor, or wants one that is none of the bundle's.
    """
    refitter, held = module.Refitter(engine, log), []

    def give(name: str, tensor: np.ndarray) -> None:
        held.append(np.ascontiguousarray(tensor))  # the refitter makes no copy
        if not refitter.set_named_weights(name, module.Weights(held[-1])):
            raise BackendError(f"{file}: the engine takes no '{name}': {log.said()}")

    for name, tensor in learned.items():
        give(name, tensor)
    for name in refitter.get_missing_weights():
        if name not in shipped:
            raise BackendError(f"{file}: the engine needs '{name}' as well, which is no tensor of the bundle")
        give(name, shipped[name])
    if not refitter.refit_cuda_engine():
        raise BackendError(f"{file}: the engine takes no other weights: {log.said()}")


def prove(
    engine: Graph, path: Path, manifest: bundle.Manifest, name: str, learned: Mapping[str, np.ndarray]
) -> None:
    """Let an engine of the graph `name` compute the golden images, and ONNX Runtime's CPU provider, too.

    Raises `ParityError` where they differ by more than rounding, `BackendError` without onnxruntime.
    """
    golden = bundle.read_tensors(path, manifest, bundle.GOLDEN)
    inputs = {"images": to_unit_interval(golden["images"])}
    if name == "goodness":
        inputs["labels"] = np.arange(manifest.network.label.patterns)
    file = bundle.verified(path, manifest, f"{name}.onnx")
    try:
        expected = load_graph(file, DEFAULT_BACKEND, weights=learned)(inputs)
    except MissingExtra as error:
        raise BackendError(f"what was learned is checked in an engine before use, and {error}") from error
    for output, values in engine(inputs).items():
        off, scale = np.abs(values - expected[output]).max(), np.abs(expected[output]).max()
        if not off <= TOLERANCE * scale:  # also where it is no number
            raise ParityError(
                f"{path}: with what was learned, {output} of the engine of {name} is off by {off:.2e} (it reaches "
                f"{scale:.2e}): do not trust it, and use --backend {DEFAULT_BACKEND}"
            )
