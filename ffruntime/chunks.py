"""A graph that takes so many images and labels at a time, as one that takes any number."""

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


def _join(parts: list[dict[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}
