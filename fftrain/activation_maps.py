"""Which pixels speak for a class: class activation maps of the linear classifier, and maps of units' readouts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import Tensor

from ffruntime import class_maps
from ffruntime.core.architecture import Network, scored_units, unit_name, unit_shapes

from . import network as net
from .functional import Tensors


class UnitMap(Struct, frozen=True):
    """What a scored unit adds to the logit of a label: `total` (N,), and where, `map` (N, h, w) at `place` on the
    image; both None where the activation has no pixels (after a linear layer)."""

    unit: str
    total: Tensor
    map: Tensor | None
    place: class_maps.Place | None


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
        maps.append(UnitMap(unit_name(index), part.sum(1), spatial, place))
    return maps


@torch.no_grad()
def readout_maps(
    network: Network, tensors: Tensors, image: Tensor, labels: Sequence[int]
) -> dict[int, list[class_maps.UnitMap]]:
    """The maps of each of these labels in every scored unit, with class goodness, for one standardised image
    (1, C, H, W): as the device draws them (`ffruntime/class_maps.py`)."""
    activities, located = net.activations(network, tensors, image), class_maps.places(network)
    weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    found: dict[int, list[class_maps.UnitMap]] = {label: [] for label in labels}
    for index in scored_units(network):
        goodness = net.readout_goodness(network, index, tensors, activities[index])[0]
        for label in labels:
            y, own = activities[index].numpy(), float(goodness[label])
            found[label].append(class_maps.unit_map(network, index, weights, label, y, own, located[index]))
    return found


def on_image(unit_map: UnitMap, height: int, width: int) -> Tensor:
    """A unit's map, which has to have one, at the image's resolution: (N, height, width), with the same sum."""
    assert unit_map.map is not None
    assert unit_map.place
    spread = class_maps.on_image(unit_map.map.numpy(), unit_map.place, height, width)
    return torch.from_numpy(spread).to(unit_map.map)


def together(maps: list[UnitMap], height: int, width: int) -> Tensor:
    """The maps of all units that have one, added up on the image: (N, height, width)."""
    return torch.stack([on_image(m, height, width) for m in maps if m.map is not None]).sum(0)
