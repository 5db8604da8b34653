"""A graph that takes so many images and labels at a time, as one that takes any number, with the same results.

What the calls return goes straight into arrays of the final size: beside those, no more than one call is in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from .backend import Graph

BATCH = 16  # images in one call of an inference graph, where nothing smaller is asked for


def in_chunks(graph: Graph, batch: int, labels: int) -> Graph:
    """The inference graph `graph`, called with at most `batch` rows and, where it takes them, `labels` labels.

    The batch is the first axis of the input that is not `labels` and of every output; labels are the outputs'
    second axis. Not for gradients, which are means over the batch.
    """

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (name,) = inputs.keys() - {"labels"}
        steps = {name: batch, "labels": labels} if "labels" in inputs else {name: batch}
        size = tuple(len(inputs[axis]) for axis in steps)
        whole: dict[str, np.ndarray] = {}
        for some in itertools.product(*map(_pieces, size, steps.values())):
            part = {axis: inputs[axis][piece] for axis, piece in zip(steps, some, strict=True)}
            for output, value in graph(part).items():
                if output not in whole:
                    whole[output] = np.empty((*size, *value.shape[len(size) :]), value.dtype)
                whole[output][some] = value
        return whole

    return run


def gradient_in_chunks(graph: Graph, batch: int) -> Graph:
    """The gradient graph `graph` (`gradient<k>`, `gradient_head`), called with at most `batch` images.

    `positive`, `features` and `labels` have an image in each row; `negative`, and outputs named so, all images'
    first negatives first, then all second ones. Gradients and the loss are means over the images, added up call by
    call: no more than two copies of a gradient are alive, however many calls there are.
    """

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(inputs["positive" if "positive" in inputs else "features"])
        if count <= batch:
            return graph(inputs)
        whole: dict[str, np.ndarray] = {}
        for some in _pieces(count, batch):
            part = {name: inputs[name][some] for name in ("positive", "features", "labels") if name in inputs}
            if "negative" in inputs:
                part["negative"] = _rows(_columns(inputs["negative"], count)[:, some])
            _add(whole, graph({**inputs, **part}), some, count)
        return whole

    return run


def _pieces(count: int, largest: int) -> list[slice]:
    """All of `count`, in pieces of at most `largest`."""
    return [slice(start, min(start + largest, count)) for start in range(0, count, largest)]


def _add(whole: dict[str, np.ndarray], part: dict[str, np.ndarray], some: slice, count: int) -> None:
    """Put what a graph says of the images `some` of `count` into what it says of all of them, in place."""
    size = some.stop - some.start
    for name, value in part.items():
        if name == "loss" or name.startswith("gradient."):
            value *= np.float32(size / count)
            whole[name] = np.add(whole[name], value, out=whole[name]) if name in whole else value
        else:
            if name not in whole:
                whole[name] = np.empty((len(value) // size * count, *value.shape[1:]), value.dtype)
            _columns(whole[name], count)[:, some] = _columns(value, size)


def _columns(rows: np.ndarray, images: int) -> np.ndarray:
    """(M·N, …) -> (M, N, …): a view."""
    return rows.reshape(-1, images, *rows.shape[1:])


def _rows(columns: np.ndarray) -> np.ndarray:
    """(M, N, …) -> (M·N, …)."""
    return columns.reshape(-1, *columns.shape[2:])
