"""A unit's layers as the sweeps that `src/ffedge.c` computes: an operation, then pooling, then an activation."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, structs

from ffruntime.core.architecture import (
    AvgPool,
    Conv,
    LeakyRelu,
    Linear,
    MaxPool,
    Network,
    Relu,
    Shape,
    class_goodness,
)
from ffruntime.core.errors import BackendError
from ffruntime.core.layers import Layer, unit_layers

KERNELS = (Conv, Linear, MaxPool, AvgPool, Relu, LeakyRelu)
LARGEST_WINDOW = 16  # of pooling: a place in it is a uint8
LARGEST_SIDE = 255  # of a kernel, a stride, a padding: uint8


class Sweep(Struct, frozen=True):
    """One pass over a layer's output. Shapes are without the batch."""

    name: str  # of its first layer
    op: Conv | Linear | None
    before: Shape
    after: Shape
    pool: MaxPool | AvgPool | None = None
    slope: float | None = None  # of a negative value; 0: ReLU; None: no activation


def require_supported(path: Path, network: Network) -> None:
    """Raise `BackendError` where a network cannot be C: labels in the input, steps, layers without a kernel."""
    if not class_goodness(network) or network.steps:
        kind = "is recurrent" if network.steps else "has the label in its input"
        raise BackendError(f"{path}: --format c takes class goodness, and this network {kind}; train with 'micro'")
    for index in range(len(network.units)):
        for layer in unit_layers(network, index):
            op = layer.op
            if type(op) not in KERNELS:
                raise BackendError(f"{path}: {layer.name}: --format c has no kernel of {type(op).__name__}")
            if isinstance(op, MaxPool | AvgPool) and op.size > LARGEST_WINDOW:
                raise BackendError(f"{path}: {layer.name}: --format c pools windows of at most {LARGEST_WINDOW}")
            if isinstance(op, Conv) and max(op.kernel, op.stride, op.padding) > LARGEST_SIDE:
                raise BackendError(f"{path}: {layer.name}: --format c takes kernels of at most {LARGEST_SIDE}")


def sweeps(network: Network, index: int) -> list[Sweep]:
    """The sweeps of a unit. A maximum after an activation may come before it: both activations are monotone."""
    found: list[Sweep] = []
    for layer in unit_layers(network, index):
        joined = _joined(found[-1], layer) if found else None
        if joined:
            found[-1] = joined
        else:
            found.append(_begun(layer))
    return found


def _joined(sweep: Sweep, layer: Layer) -> Sweep | None:
    """The sweep with one more layer in it; None where it takes another sweep."""
    op, sweep = layer.op, structs.replace(sweep, after=layer.after)
    if (
        isinstance(op, MaxPool | AvgPool)
        and sweep.pool is None
        and (sweep.slope is None or isinstance(op, MaxPool))
    ):
        return structs.replace(sweep, pool=op)
    if isinstance(op, Relu | LeakyRelu) and sweep.slope is None:
        return structs.replace(sweep, slope=_slope(op))
    return None


def _begun(layer: Layer) -> Sweep:
    op = layer.op
    return Sweep(
        layer.name,
        op if isinstance(op, Conv | Linear) else None,
        layer.before,
        layer.after,
        op if isinstance(op, MaxPool | AvgPool) else None,
        _slope(op) if isinstance(op, Relu | LeakyRelu) else None,
    )


def _slope(op: Relu | LeakyRelu) -> float:
    return op.slope if isinstance(op, LeakyRelu) else 0.0
