"""Classes of several states are the same where their names are: their labels, and what moves along with a label.

Rows of readouts and of the classifier, and class statistics, mean what their class is, and can take any label. A
pattern is what units have learned, and cannot. Pure functions; numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .errors import UsageError, listed
from .folders import class_name
from .layers import Tensor, of_readout, tensors
from .manifest import Manifest
from .state import Weights, changed
from .statistics import Statistics, with_classes


def united_classes(manifest: Manifest, members: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The bundle's classes, then those learned by any member: in the order of the lowest label that one has for
    them, then of their names. Raises `UsageError` where they are more than there are patterns."""
    first, lowest = len(manifest.classes), dict[str, int]()
    for classes in members:
        for label, name in enumerate(map(class_name, classes[first:]), first):
            lowest[name] = min(label, lowest.get(name, label))
    known = {class_name(name) for name in manifest.classes}
    new = sorted(lowest.keys() - known, key=lambda name: (lowest[name], name))
    patterns = manifest.network.label.patterns
    if first + len(new) > patterns:
        raise UsageError(
            f"together they have learned {len(new)} new classes, and the bundle has {patterns - first} spare "
            f"patterns: {listed(new)}; 'ffruntime forget --label' takes one back on a device"
        )
    return (*manifest.classes, *new)


def places(classes: Sequence[str], order: Sequence[str]) -> list[int]:
    """The label that each of `classes` has in `order`, by name."""
    label = {class_name(name): place for place, name in enumerate(order)}
    return [label[class_name(name)] for name in classes]


def reordered(
    manifest: Manifest, bundle: Mapping[str, np.ndarray], weights: Weights, order: tuple[str, ...]
) -> Weights:
    """The same with classes in another order, by name, which may have more: rows of readouts, classifier and
    statistics move along. For class goodness, where rows mean what their class is. `order` begins with the
    bundle's classes."""
    to = places(weights.classes, order)
    moved = {tensor.name for tensor in tensors(manifest.network) if of_rows(tensor)} & weights.tensors.keys()
    tensors_ = {
        name: placed_rows(bundle[name], tensor, to) if name in moved else tensor
        for name, tensor in weights.tensors.items()
    }
    told = weights.statistics and placed_statistics(weights.statistics, to, len(order))
    names = named(weights.undertrained)
    undertrained = frozenset(name for name in order if class_name(name) in names)
    return Weights(changed(bundle, tensors_), order, undertrained, told, weights.alone)


def placed_statistics(told: Statistics, to: Sequence[int], classes: int) -> Statistics:
    whole = with_classes(told, max(classes, told.classes))
    if list(to) == list(range(len(to))):
        return with_classes(whole, classes)
    of = np.full(classes, -1)
    of[list(to)] = np.arange(len(to))
    there = of >= 0
    counts, sums = (np.where(_as_rows(there, some), some[of], 0) for some in (whole.counts, whole.sums))
    products = whole.moment
    if whole.kind == "each":
        products = np.where(_as_rows(there, products), products[of], 0)
    return Statistics(counts, sums, products, whole.rows)


def _as_rows(there: np.ndarray, array: np.ndarray) -> np.ndarray:
    return there.reshape(-1, *[1] * (array.ndim - 1))


def placed_rows(own: np.ndarray, rows: np.ndarray, to: Sequence[int]) -> np.ndarray:
    """Rows (P, …) by other labels: row l goes to `to[l]`, and one that nothing goes to becomes the bundle's, `own`.
    Rows of no class stay where they are."""
    named, found = max(to) + 1, rows.copy()
    found[:named] = own[:named]
    found[list(to)] = rows[: len(to)]
    return found


def of_rows(tensor: Tensor) -> bool:
    """Whether it has a row for each class, which learning changes."""
    return of_readout(tensor) or tensor.of_head or tensor.role == "known"


def named(names: frozenset[str]) -> set[str]:
    return {class_name(name) for name in names}
