"""A graph that takes so many images and labels at a time, as one that takes any number, with the same results."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .backend import Graph


def in_chunks(graph: Graph, batch: int, labels: int) -> Graph:
    """The inference graph `graph`, called with at most `batch` rows and, where it takes them, `labels` labels.

    The batch is the first axis of the input that is not `labels` and of every output; labels are the outputs'
    second axis. Not for gradients, which are means over the batch.
    """

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        (name,) = inputs.keys() - {"labels"}
        asked = inputs.get("labels")
        rows = []
        for start in range(0, len(inputs[name]), batch):
            part = {name: inputs[name][start : start + batch]}
            if asked is None:
                rows.append(graph(part))
            else:
                chunks = [asked[first : first + labels] for first in range(0, len(asked), labels)]
                rows.append(_join([graph({**part, "labels": chunk}) for chunk in chunks], axis=1))
        return _join(rows, axis=0)

    return run


def gradient_in_chunks(graph: Graph, batch: int) -> Graph:
    """The gradient graph `graph` (`gradient<k>`, `gradient_head`), called with at most `batch` images.

    `positive`, `features` and `labels` have an image in each row; `negative`, and outputs named so, all images'
    first negatives first, then all second ones. Gradients and the loss are means over the images.
    """

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        count = len(inputs["positive" if "positive" in inputs else "features"])
        parts, sizes = [], []
        for start in range(0, count, batch):
            some = slice(start, start + batch)
            part = {name: inputs[name][some] for name in ("positive", "features", "labels") if name in inputs}
            if "negative" in inputs:
                part["negative"] = _rows(_columns(inputs["negative"], count)[:, some])
            parts.append(graph({**inputs, **part}))
            sizes.append(len(next(iter(part.values()))))
        return {name: _merge(name, [part[name] for part in parts], sizes) for name in parts[0]}

    return run


def _merge(name: str, values: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    if name == "loss" or name.startswith("gradient."):
        shares = [value * np.float32(size / sum(sizes)) for value, size in zip(values, sizes, strict=True)]
        return np.asarray(np.sum(shares, axis=0, dtype=np.float32))
    if name.endswith(".negative"):
        return _rows(np.concatenate([_columns(value, size) for value, size in zip(values, sizes, strict=True)], 1))
    return np.concatenate(values)


def _columns(negatives: np.ndarray, images: int) -> np.ndarray:
    """(M·N, …) -> (M, N, …)."""
    return negatives.reshape(-1, images, *negatives.shape[1:])


def _rows(negatives: np.ndarray) -> np.ndarray:
    """(M, N, …) -> (M·N, …)."""
    return negatives.reshape(-1, *negatives.shape[2:])


def _join(parts: list[dict[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}
