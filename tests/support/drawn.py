"""Networks of class goodness that are drawn at random, with weights."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from ffruntime.core.architecture import (
    AvgPool,
    Conv,
    Image,
    Input,
    Label,
    LeakyRelu,
    Linear,
    MaxPool,
    Network,
    Op,
    Readout,
    Relu,
    Unit,
    op_shape,
    validate,
)
from ffruntime.core.layers import KNOWN, TOTAL
from fftrain import network as net

ROWS, KNOWN_ROWS = 5, 3


@st.composite
def operations(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[Op, ...], tuple[int, ...]]:
    """One to two sweeps' operations that fit a shape, and what they make of it."""
    ops: list[Op] = []
    for _ in range(draw(st.integers(1, 2))):
        if len(shape) == 3 and draw(st.integers(0, 4)):
            kernel = draw(st.integers(1, min(4, *shape[1:])))
            padding, stride = draw(st.integers(0, kernel)), draw(st.integers(1, 3))
            more: list[Op] = [Conv(draw(st.integers(1, 4)), kernel, stride, padding, draw(st.booleans()))]
        else:
            more = [Linear(draw(st.integers(1, 7)), draw(st.booleans()))]
        activation = draw(st.sampled_from([Relu(), LeakyRelu(0.2)]))
        shape = op_shape(more[0], shape, "")
        if len(shape) == 3 and min(shape[1:]) >= 2 and draw(st.booleans()):
            pool = draw(st.sampled_from([MaxPool, AvgPool]))(draw(st.integers(2, min(3, *shape[1:]))))
            shape = op_shape(pool, shape, "")
            more += [activation, pool] if draw(st.booleans()) else [pool]
        ops += more
    return (*ops, activation) if not isinstance(ops[-1], Relu | LeakyRelu) else tuple(ops), shape


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Two units of one to two sweeps each, with every normalisation."""
    shape: tuple[int, ...] = tuple(draw(st.integers(low, high)) for low, high in ((1, 2), (4, 9), (4, 9)))
    image, units = Image(shape, 0.3, 0.25), list[Unit]()
    for _ in range(2):
        kinds = ["none", "divisive", "batch", *(["layer"] if math.prod(shape) > 1 else [])]  # not of one number
        kinds += ["instance", "group"] if math.prod(shape[1:]) > 1 else []
        kind = draw(st.sampled_from(kinds))
        groups = 2 if kind == "group" and shape[0] % 2 == 0 else 1
        ops, after = draw(operations(shape))
        readout, scored = Readout(draw(st.integers(1, 4))), bool(units) or draw(st.booleans())
        shortcut = after == shape and draw(st.booleans())
        units.append(Unit(ops, (Input("below", kind, groups=groups),), True, scored, readout, shortcut))
        shape = after
    network = Network(image, Label("readout", ROWS), tuple(units))
    validate(network)
    return network


def drawn_weights(network: Network) -> net.Tensors:
    """In float64, of float32 values: biases and readouts, too. Spare rows are 0, and their classes not known."""
    generator = torch.Generator().manual_seed(0)
    known = {KNOWN: (torch.arange(ROWS) < KNOWN_ROWS).float()}
    tensors = net.initialise(network, known, generator)
    for name, tensor in tensors.items():
        if ".readout." in name or name.endswith((".bias", ".mean", ".var")):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        if name.endswith(".var"):
            tensor.abs_().add_(0.5)
        if ".readout." in name:
            tensor[KNOWN_ROWS:] = 0
    tensors[TOTAL] = torch.rand(len(network.units), generator=generator)
    return {name: tensor.double() for name, tensor in tensors.items()}
