"""The arena of a network in C: where every buffer lies, and how much memory classifying and learning take.

All is computed here: `src/ffedge.c` has no allocator. Places and sizes are bytes, multiples of 4.
From the arena's start: what classifying needs; what a learning step needs beside it; the tensors that learn; names
of the classes learned; class statistics; moments. So an arena that is only for classifying is the first part of
one that learns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from ffruntime.core.architecture import Conv, MaxPool, Network, Shape
from ffruntime.core.layers import Tensor, of_readout, readout_layer, tensors, unit_layers, unit_parameters
from ffruntime.core.learning import ClassLoss, Learning
from ffruntime.core.manifest import Manifest
from ffruntime.core.precision import Precision

from .counting import NAMES, ORIGIN_BYTES, buffers, dimension_on_chip
from .sweeps import sweeps

BLOCK = 4  # channels that src/ffedge.c computes at a time
NAME_BYTES = 64  # FF_NAME_BYTES of src/ffedge.h
STACK_BYTES = 2048  # the deepest call, ff_load, on a Cortex-M: measured, docs/microcontrollers.md
CONVERTED = "converted"  # buffer of what the first unit above int8 ones receives
HEADER_ROOM = 1024  # of a state file's header, beside what is counted one by one

Part: TypeAlias = Literal["all", "last", "readouts"]  # of a network, what learns; the first one has the most of it
PARTS: tuple[Part, ...] = ("all", "last", "readouts")


class Buffer(Struct, frozen=True):
    """Bytes that are in use from one unit to another, both included."""

    name: str
    size: int
    first: int
    last: int


class Arena(Struct, frozen=True):
    """Where everything lies."""

    places: dict[str, int]  # of buffers, by their names, and of tensors that learn, by theirs
    classify_bytes: int
    learn_bytes: int
    momentum_bytes: int
    scratch_bytes: int  # from the start, free between two calls
    learned: int
    learned_bytes: int
    names: int
    counting_bytes: int = 0
    int8_units: int = 0  # so many, from the first on, are computed in int8
    cmsis_nn_bytes: int = 0  # of scratch memory behind it, where CMSIS-NN computes them

    state_bytes: int = 0  # of a state file, at most; 0: nothing learns


def learned(network: Network, learning: Learning | None, part: Part) -> list[Tensor]:
    """The tensors that learn: of every trained unit all parameters, or of the last of them alone, or of none; all
    readouts of trained units; and which rows are known."""
    trained = [index for index, unit in enumerate(network.units) if unit.trained]
    if learning is None or not isinstance(learning.loss, ClassLoss) or not trained:
        return []
    whole = {"all": trained, "last": trained[-1:], "readouts": []}[part]
    own = [
        tensor
        for index in trained
        for tensor in unit_parameters(network, index)
        if index in whole or of_readout(tensor)
    ]
    return [*(tensor for tensor in tensors(network) if tensor.role == "known"), *own]


def flash_precision(tensor: Tensor, learns: bool, precision: Precision, int8_units: int = 0) -> Precision:
    """In what a tensor lies in flash: what learns in float32 always; of int8 units all but the readout in tables of
    int8; of the others weights in float16, biases and statistics in float32."""
    if tensor.unit is not None and tensor.unit < int8_units and not of_readout(tensor):
        return "int8"
    halved = precision != "fp32" and not learns and tensor.role == "weight"
    return "fp16" if halved else "fp32"


def int8_units(network: Network, own: set[str], precision: Precision) -> int:
    """How many units are int8, from the first on: those below the first whose layers learn."""
    if precision != "int8":
        return 0
    learning = (index for index in range(len(network.units)) if deep(network, index, own))
    return next(learning, len(network.units))


def plan_arena(manifest: Manifest, part: Part, precision: Precision) -> Arena:
    """The arena of a bundle's network, of which `part` learns."""
    network, learning = manifest.network, manifest.learning
    changing = learned(network, learning, part)
    own, places = {tensor.name for tensor in changing}, dict[str, int]()
    coarse = int8_units(network, own, precision)
    scratch_cmsis_nn = max((_cmsis_nn_bytes(network, index) for index in range(coarse)), default=0)
    passing = _to_classify(network, _converted(network, own, precision, coarse), coarse)
    classify_bytes = end = _place(places, passing, 0)
    if not changing:
        sizes = (classify_bytes, classify_bytes, classify_bytes, classify_bytes, end, 0, end, 0)
        return Arena(places, *sizes, coarse, scratch_cmsis_nn)
    end = _place(places, _to_learn(network, own), 0, passing)
    header, count = _header_bytes(manifest, changing), len(tensors(network)) + len(NAMES)
    loading = 4 * (2 * count + network.label.patterns) + _aligned(network.label.patterns)  # arrays of ff_load
    end = scratch = max(end, loading + header)
    start = end
    for tensor in changing:
        places[tensor.name] = end
        end += 4 * math.prod(tensor.shape)
    learned_bytes, rows = end - start, network.label.patterns
    begin = learn_bytes = _aligned(end + (rows - len(manifest.classes)) * NAME_BYTES + rows)
    for name, size in buffers(manifest).items():
        places[name] = learn_bytes
        learn_bytes += _aligned(size)
    whole, counted = learn_bytes + learned_bytes, learn_bytes - begin
    sizes = (classify_bytes, learn_bytes, whole, scratch, start, learned_bytes, end, counted)
    state = 8 + header + learned_bytes + sum(buffers(manifest).get(name, 0) for name in NAMES)
    return Arena(places, *sizes, coarse, scratch_cmsis_nn, state)


def _aligned(size: int) -> int:
    return (size + 3) // 4 * 4


def _converted(network: Network, own: set[str], precision: Precision, coarse: int) -> int:
    """Bytes of the longest rows of weights that are float16 in flash, as many as are computed at a time."""
    rows = [
        4 * BLOCK * math.prod(tensor.shape[1:])
        for tensor in tensors(network)
        if flash_precision(tensor, tensor.name in own, precision, coarse) == "fp16"
    ]
    return max(rows, default=0)


def _cmsis_nn_bytes(network: Network, index: int) -> int:
    """Scratch memory of CMSIS-NN for a unit in int8: what a convolution makes of the rows of one pooling window,
    and its own buffer, which is the largest for Helium (arm_convolve_s8_get_buffer_size_mve)."""
    found = 0
    for sweep in sweeps(network, index):
        size, width = sweep.pool.size if sweep.pool else 1, sweep.after[2] if len(sweep.after) == 3 else 1
        taps = sweep.before[0] * sweep.op.kernel**2 if isinstance(sweep.op, Conv) else math.prod(sweep.before)
        strip = _aligned(size**2 * width * sweep.after[0])
        found = max(found, strip + 4 * math.ceil(taps / 16) * 16 if sweep.op else 0)
    return found


def _to_classify(network: Network, converted: int, coarse: int = 0) -> list[Buffer]:
    """What a pass needs: inputs and outputs of a unit's sweeps while that unit runs, its features, and for all
    units the goodness of every row, of a unit and in total, and in a step the slopes there. Of the first `coarse`
    units a number is a byte."""
    last = len(network.units) - 1
    found = [
        Buffer("image", _numbers(network.image.shape, coarse > 0), 0, 0),
        Buffer("goodness", 8 * network.label.patterns, 0, last),
        Buffer("slopes", 8 * network.label.patterns, 0, last),
        Buffer("row", converted, 0, last),
    ]
    for index in range(len(network.units)):
        chain = sweeps(network, index)
        for place, sweep in enumerate(chain):
            until = min(index + 1, last) if sweep is chain[-1] else index
            found.append(Buffer(output(index, place), _numbers(sweep.after, index < coarse), index, until))
        found.append(Buffer(f"z{index}", 4 * features(network, index), index, index))
    if 0 < coarse <= last:
        found.append(Buffer(CONVERTED, 4 * math.prod(sweeps(network, coarse)[0].before), coarse - 1, coarse))
    return found


def _numbers(shape: Shape, coarse: bool) -> int:
    return _aligned(math.prod(shape)) if coarse else 4 * math.prod(shape)


def _to_learn(network: Network, own: set[str]) -> list[Buffer]:
    """What a step needs beside that, of units whose layers learn: places of maxima, and errors between layers."""
    found: list[Buffer] = []
    for index in range(len(network.units)):
        if not deep(network, index, own):
            continue
        for place, sweep in enumerate(sweeps(network, index)):
            if isinstance(sweep.pool, MaxPool):
                found.append(Buffer(f"best{index}.{place}", _aligned(math.prod(sweep.after)), index, index))
            if place:
                found.append(Buffer(f"dx{index}.{place}", 4 * math.prod(sweep.before), index, index))
    return found


def output(unit: int, sweep: int) -> str:
    """Name of the buffer of a sweep's output."""
    return f"y{unit}.{sweep}"


def deep(network: Network, index: int, own: set[str]) -> bool:
    """Whether a unit's layers learn, and not its readout alone."""
    return any(f"{layer.name}.weight" in own for layer in unit_layers(network, index))


def features(network: Network, index: int) -> int:
    """Numbers that a unit's readout reads; 0 where it has none."""
    layer = readout_layer(network, index)
    return math.prod(layer.before) if layer else 0


def _header_bytes(manifest: Manifest, changing: Sequence[Tensor]) -> int:
    """Room for the header of a state file, with the offsets of what is in it: names of classes stand in it twice,
    in a JSON string in a JSON string. There a quote takes four bytes, and so does a byte of what is
    written as an escape."""
    rows, classes = manifest.network.label.patterns, manifest.classes
    names = sum(4 * len(name.encode()) + 8 for name in classes) + (rows - len(classes)) * (4 * NAME_BYTES + 8)
    entries = sum(len(name) + 100 for name in (*(tensor.name for tensor in changing), *NAMES))
    origins = 4 * ORIGIN_BYTES if dimension_on_chip(manifest) else 0
    return _aligned(HEADER_ROOM + entries + 2 * names + origins)


def _place(places: dict[str, int], buffers: Sequence[Buffer], start: int, beside: Sequence[Buffer] = ()) -> int:
    """Give every buffer a place from `start` on, those that are always in use and then the largest first, each in
    the lowest gap that is free while it is in use; `beside`: others that have places. Returns the end of all."""
    placed = [(places[buffer.name], buffer) for buffer in beside]
    last = max((buffer.last for buffer in buffers), default=0)
    for buffer in sorted(buffers, key=lambda buffer: (buffer.first > 0 or buffer.last < last, -buffer.size)):
        busy = sorted(
            (place, place + other.size)
            for place, other in placed
            if other.first <= buffer.last and buffer.first <= other.last
        )
        place = start
        for begin, end in busy:
            if place + buffer.size <= begin:
                break
            place = max(place, end)
        placed.append((place, buffer))
        places[buffer.name] = place
    return max((place + buffer.size for place, buffer in placed), default=start)
