"""Which pixels speak for a class: class activation maps of the linear classifier, and maps of units' readouts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import Tensor

from ffruntime import class_maps
from ffruntime.core.architecture import Network, scored_units, unit_name, unit_shapes
from ffruntime.core.layers import TOTAL

from . import network as net
from .functional import Tensors


class UnitMap(Struct, frozen=True):
    """What a scored unit adds to the logit of a label: `total` (N,), and where, `map` (N, h, w).

    `map` is None where the activation has no pixels (after a linear layer). `offset` and `stride` place the map on
    the image: the centre of its cell (i, j) is the pixel offset + stride · (i, j).
    """

    unit: str
    total: Tensor
    map: Tensor | None
    offset: float
    stride: float


@torch.no_grad()
def class_activation_maps(network: Network, tensors: Tensors, images: Tensor, label: int) -> list[UnitMap]:
    """The class activation map of `label` in every scored unit (Scodellaro et al., after Zhou et al. 2016).

    For standardised images (N, C, H, W): at each pixel, the sum over the unit's feature maps of the linear
    classifier's weight for `label` there times the feature, which is the activation under the neutral label,
    divisively normalised. All totals and `head.bias[label]` add up to the logit, and a map to its unit's total.
    """
    features, _ = net.classify_linear(network, tensors, images)  # (N, F)
    products = features * tensors["head.weight"][label].to(features.dtype)
    shapes, places = unit_shapes(network), class_maps.places(network)
    units = scored_units(network)
    parts = products.split([math.prod(shapes[index][1]) for index in units], dim=1)
    maps = []
    for index, part in zip(units, parts, strict=True):
        place = places[index]
        spatial = part.view(-1, *shapes[index][1]).sum(1) if place else None  # (N, h, w)
        maps.append(UnitMap(unit_name(index), part.sum(1), spatial, *(place or (0.0, 1.0))))
    return maps


@torch.no_grad()
def readout_maps(
    network: Network, tensors: Tensors, image: Tensor, labels: Sequence[int]
) -> dict[int, list[class_maps.UnitMap]]:
    """The maps of each of these labels in every scored unit, with class goodness, for one standardised image
    (1, C, H, W): as the device draws them (`ffruntime/class_maps.py`)."""
    activities, located = net.activations(network, tensors, image), class_maps.places(network)
    found: dict[int, list[class_maps.UnitMap]] = {label: [] for label in labels}
    for index in scored_units(network):
        readout, place, y = network.units[index].readout, located[index], activities[index]
        assert readout
        goodness = net.readout_goodness(network, index, tensors, y)[0]
        weight, bias = (tensors[name] for name in net.readout_names(network)[index])
        for label in labels:
            drawn = class_maps.class_map(y.numpy(), weight[label].numpy(), readout)[0] if place else None
            found[label].append(
                class_maps.UnitMap(
                    unit_name(index),
                    float(tensors[TOTAL][index]),
                    float(goodness[label]),
                    float(bias[label]),
                    drawn,
                    class_maps.on_image(drawn, place, *image.shape[2:]) if drawn is not None and place else None,
                )
            )
    return found


def on_image(unit_map: UnitMap, height: int, width: int) -> Tensor:
    """A unit's map, which has to have one, at the image's resolution: (N, height, width), with the same sum.

    Each cell is spread linearly over the pixels around its centre, a cell's width to each side.
    """
    assert unit_map.map is not None
    rows, columns = (
        _spread(cells, pixels, unit_map).to(unit_map.map)
        for cells, pixels in zip(unit_map.map.shape[1:], (height, width), strict=True)
    )
    return rows @ unit_map.map @ columns.T


def _spread(cells: int, pixels: int, place: UnitMap) -> Tensor:
    """How a row of cells is shared out to a row of pixels: (pixels, cells), each column adds up to 1."""
    centres = (place.offset + place.stride * torch.arange(cells)).clamp(0, pixels - 1)
    distance = (torch.arange(pixels)[:, None] - centres).abs() / place.stride
    shares = (1 - distance).clamp_min(0)
    return shares / shares.sum(0)


def together(maps: list[UnitMap], height: int, width: int) -> Tensor:
    """The maps of all units that have one, added up on the image: (N, height, width)."""
    return torch.stack([on_image(m, height, width) for m in maps if m.map is not None]).sum(0)
