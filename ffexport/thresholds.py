"""Thresholds of the modes `shortlist` and `exit`, from exemplars: images that the network was trained on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ffruntime.core.architecture import scored_units
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.layers import TOTAL
from ffruntime.core.manifest import EXIT, EarlyExit, Shortlist
from ffruntime.model import Model
from ffruntime.shortlist import in_play, passes

from .decisions import CHUNK, Progress

LEAST, MOST = 1.2, 1.5  # passes of mode `shortlist` for an exemplar, on average

# ---------------------------------------- mode `shortlist` ----------------------------------------


def calibrate_shortlist(logits: np.ndarray, totals: np.ndarray) -> Shortlist:
    """How far below the best logit a label stays in play, from the classifier's logits and the total goodness of
    exemplars, (E, classes) both.

    The threshold is the smallest that keeps every exemplar's decision by goodness in play, within a budget of
    passes. The network has seen the exemplars in training, so few of its decisions on them are close: below `LEAST`
    passes nothing is worth saving, and above `MOST` it is too dear. Both were chosen on validation images. Where
    goodness and the classifier agree on 99.06 % (the default MNIST network), the threshold for 1.2 passes costs
    1.24 and decides 99.92 % as goodness does, that for 1.5 passes costs 1.63 and decides 99.98 %; where they agree
    on 93.2 % (a Fashion-MNIST network), it is 96.1 % for 1.17 passes and 98.8 % for 1.49.
    """
    behind = logits.max(1, keepdims=True) - logits
    candidates = np.unique(behind)  # where one label more comes into play

    def largest(budget: float) -> float:
        count = bisect_right(candidates, budget, key=lambda value: passes(in_play(logits, value)).mean())
        return float(candidates[max(count, 1) - 1])

    decisions = totals.argmax(1)[:, None]
    needed = float(np.take_along_axis(behind, decisions, 1).max())
    threshold = min(max(needed, largest(LEAST)), largest(MOST))
    chosen = in_play(logits, threshold)
    agree = np.where(chosen, totals, -np.inf).argmax(1)[:, None] == decisions
    return Shortlist(threshold, float(passes(chosen).mean()), float(agree.mean()))


# ---------------------------------------- mode `exit` ----------------------------------------


def running_totals(model: Model, images: Examples, progress: Progress) -> np.ndarray:
    """Total goodness of every class after each of S scored units: (E, classes, S)."""
    manifest = model.manifest
    scored, labels = scored_units(manifest.network), np.arange(len(manifest.classes))
    weights, parts = model.bundle.weights()[TOTAL][scored], []
    for start in range(0, len(images), CHUNK):
        progress(f"{model.precision}: {EXIT}", start / len(images))
        shown = to_unit_interval(images.pixels[start : start + CHUNK])
        goodness = model.graph("goodness")({"images": shown, "labels": labels})["goodness"]
        parts.append(np.cumsum(goodness[:, :, scored] * weights, axis=2))
    return np.concatenate(parts)


def calibrate_exit(totals: np.ndarray, shares: Sequence[float]) -> EarlyExit:
    raise NotImplementedError
