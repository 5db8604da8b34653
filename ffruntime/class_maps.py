"""Class maps: where in an image a unit finds what speaks for a class. Exact, of networks with class goodness.

A unit's goodness of a class is the bias and the sum, over its cells, of the readout's weights times the averaged,
normalised activation. Written pixel by pixel, with one factor for the whole activation, that is a map whose sum is
the goodness without the bias (as class activation maps: Zhou et al. 2016). `ffruntime explain` draws that of one
image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from .core.architecture import (
    EPS_DIVISIVE,
    AvgPool,
    Conv,
    Linear,
    MaxPool,
    Network,
    Readout,
    cell_edges,
    readout_cells,
    scored_units,
    unit_name,
)
from .core.data import to_unit_interval
from .core.layers import TOTAL, readout_parameters
from .embedding import class_input
from .model import Model
from .saliency import page, tile
from .typical import readout_means


class Place(NamedTuple):
    """Where on the image a unit's activation lies: the centre of pixel i of a side is offset + stride · i."""

    offset: float
    stride: float


class UnitMap(Struct, frozen=True):
    """A scored unit's goodness of a class, and where it comes from."""

    unit: str
    weight: float  # of the unit in the total
    goodness: float
    bias: float
    map: np.ndarray | None  # (h, w), adds up to goodness − bias; None after a linear layer: there are no pixels
    on_image: np.ndarray | None  # the same on the image, (H, W), with the same sum


def class_maps(model: Model, image: np.ndarray, labels: Sequence[int]) -> dict[int, list[UnitMap]]:
    """The maps of each of these labels in every scored unit, for an image uint8 (C, H, W)."""
    network, weights = model.manifest.network, {**model.bundle.weights(), **model.weights.tensors}
    x, located = class_input(network, weights, to_unit_interval(image[None])), places(network)
    maps: dict[int, list[UnitMap]] = {label: [] for label in labels}
    for index in range(scored_units(network)[-1] + 1):
        outputs = model.graph(unit_name(index))({"input": x})
        x = outputs["output"]
        if not network.units[index].scored:
            continue
        for label in labels:
            y, goodness = outputs["activation"], float(outputs["goodness"][0, label])
            maps[label].append(unit_map(network, index, weights, label, y, goodness, located[index]))
    return maps


def unit_map(
    network: Network,
    index: int,
    weights: Mapping[str, np.ndarray],
    label: int,
    activation: np.ndarray,
    goodness: float,
    place: Place | None,
) -> UnitMap:
    """The map of a label in the unit at `index`, which has a readout, from its activation for one image (1, …), its
    goodness of the label, and where on the image the activation lies."""
    readout, (_, height, width) = network.units[index].readout, network.image.shape
    assert readout
    rows, biases = (weights[tensor.name] for tensor in readout_parameters(network, index))
    drawn = class_map(activation, rows[label], readout)[0] if place else None
    spread = on_image(drawn, place, height, width) if place and drawn is not None else None
    return UnitMap(unit_name(index), float(weights[TOTAL][index]), goodness, float(biases[label]), drawn, spread)


def together(maps: Sequence[UnitMap]) -> np.ndarray:
    """Maps of a class on the image, weighed as in the total and added up: (H, W)."""
    found: np.ndarray = np.sum([one.weight * one.on_image for one in maps if one.on_image is not None], axis=0)
    return found


def picture(image: np.ndarray, explained: Mapping[str, Sequence[UnitMap]]) -> bytes:
    """A PNG with a row for each class: its map in every unit that has pixels, and these together, over the image
    uint8 (C, H, W); each on its own scale, with its sum above."""
    tiles, columns = [], 1
    for name, maps in explained.items():
        drawn = {one.unit: one.on_image for one in maps if one.on_image is not None}
        if len(drawn) > 1:
            drawn["together"] = together(maps)
        columns = len(drawn)
        for of, values in drawn.items():
            tiles.append((f"{name}  {of}  {values.sum():+.2f}".replace("-", "−"), tile(image, values)))
    return page(tiles, columns, "speaks for", "speaks against")


def to_lines(explained: Mapping[str, Sequence[UnitMap]]) -> list[str]:
    """For people: of every class its total goodness, and what that is made of."""
    lines = []
    for name, maps in explained.items():
        parts = " + ".join(f"{one.weight:.3g} × {one.goodness:.3f} {one.unit}" for one in maps)
        lines.append(f"{name}: goodness {sum(one.weight * one.goodness for one in maps):.3f} = {parts}")
    return lines


def to_json(maps: Sequence[UnitMap]) -> dict[str, dict[str, object]]:
    """A class's maps as JSON has them, by unit."""
    return {
        one.unit: {
            **{name: getattr(one, name) for name in ("weight", "goodness", "bias")},
            "map": None if one.map is None else one.map.tolist(),
        }
        for one in maps
    }


def class_map(activation: np.ndarray, row: np.ndarray, readout: Readout) -> np.ndarray:
    """What each pixel of an activation (N, C, H, W) adds to the goodness whose readout row is (F,): (N, H, W)."""
    shape = activation.shape[1:]
    cells = readout_cells(readout, shape)
    edges = [cell_edges(side, some) for side, some in zip(shape[1:], cells[1:], strict=True)]
    pixels = [np.diff(edge) for edge in edges]  # of every cell, along each side
    means = readout_means(activation, readout)  # (N, F)
    length = np.sqrt((means**2).mean(1) + EPS_DIVISIVE)  # (N,)
    spread = row.reshape(cells) / np.multiply.outer(*pixels)
    for axis, repeats in enumerate(pixels, 1):
        spread = spread.repeat(repeats, axis=axis)  # (C, H, W)
    found: np.ndarray = (activation * spread).sum(1) / length[:, None, None]
    return found


def places(network: Network) -> list[Place | None]:
    """Of every unit, where on the image its activation lies; None from the first linear layer on."""
    offset, stride, flat = 0.0, 1.0, False
    found: list[Place | None] = []
    for unit in network.units:
        for op in (*unit.inputs[0].ops, *unit.ops):
            if isinstance(op, Linear):
                flat = True
            elif isinstance(op, Conv):
                offset += ((op.kernel - 1) / 2 - op.padding) * stride
                stride *= op.stride
            elif isinstance(op, MaxPool | AvgPool):
                offset += (op.size - 1) / 2 * stride
                stride *= op.size
        found.append(None if flat else Place(offset, stride))
    return found


def on_image(values: np.ndarray, place: Place, height: int, width: int) -> np.ndarray:
    """Maps (…, h, w) at the image's resolution: (…, height, width), each with the same sum.

    Each value is spread linearly over the pixels around its centre, a stride to each side.
    """
    rows, columns = (_spread(*of, place) for of in zip(values.shape[-2:], (height, width), strict=True))
    spread: np.ndarray = rows @ values @ columns.T
    return spread


def _spread(cells: int, pixels: int, place: Place) -> np.ndarray:
    """How a row of cells is shared out to a row of pixels: (pixels, cells), each column adds up to 1."""
    centres = np.clip(place.offset + place.stride * np.arange(cells), 0, pixels - 1)
    shares = np.maximum(1 - np.abs(np.arange(pixels)[:, None] - centres) / place.stride, 0)
    return shares / shares.sum(0)
