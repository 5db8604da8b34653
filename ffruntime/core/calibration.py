"""How sure an answer is: calibrated probabilities, and below which of them the answer is "I don't know".

softmax(scores / T), with one temperature T for each inference mode, is a calibrated probability: Guo, Pleiss, Sun,
Weinberger: On Calibration of Modern Neural Networks (ICML 2017). Temperatures and thresholds are fitted on
validation images when training ends (`fftrain/calibration.py`), and lie in the manifest as numbers. All in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from .errors import BundleError, UsageError

UNSURE = 0.01  # the false-alarm rate where nobody asks for another
MOST = 0.5  # of the rates that can be asked for
# Shares of the validation images that figures are stored for; between them they are interpolated.
SHARES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0)

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class OfScores(Struct, frozen=True, forbid_unknown_fields=True):
    """Calibration of one kind of scores: those of an inference mode, or of a unit that answers alone."""

    temperature: Annotated[float, Meta(gt=0)]
    error_before: Share  # expected calibration error of softmax(scores)
    error: Share  # the same of softmax(scores / T)
    probabilities: tuple[Share, ...]  # below the i-th lies `shares[i]` of the validation images' answers
    # Beside a typicality: what each of the two turns away by itself when both turn away `shares[i]`.
    alone: tuple[Share, ...] | None = None


class Distances(Struct, frozen=True, forbid_unknown_fields=True):
    """Mahalanobis distances of the validation images to the nearest class."""

    farthest: Annotated[float, Meta(ge=0)]
    beyond: tuple[Annotated[float, Meta(ge=0)], ...]  # at least so far are `shares[i]` of them


class OfUnit(Distances, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same by the features of one unit, projected (`projection.py`)."""

    dimension: Annotated[int, Meta(ge=1)]
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)]


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer's probability and its being sure rest on. `docs/bundle.md` says what each field means."""

    images: Annotated[int, Meta(ge=1)]  # validation images that all of it was fitted on
    shares: tuple[Annotated[float, Meta(gt=0, le=1)], ...]  # rising
    # By what the scores are: `goodness` and `classifier` as in these modes, `shortlist` where several labels are in
    # play; in mode `exit` of a unit that can answer alone, by its name, and `exit` after all of them.
    scores: dict[str, OfScores]
    distances: Distances | None = None  # None: nothing tells how typical an image is
    units: dict[str, OfUnit] = {}  # in mode `exit`, by the unit that answers, as in `scores`; or none of them


def check(calibration: Calibration) -> None:
    """Raise `BundleError` where its tables do not fit each other."""
    shares = calibration.shares
    if not shares or any(after <= before for before, after in pairwise(shares)):
        raise BundleError("calibration: its shares do not rise")
    for name, of in calibration.scores.items():
        _check_rising(name, of.probabilities, shares)
        if of.alone is not None:
            _check_rising(name, of.alone, shares)
            if not (calibration.units.get(name) or calibration.distances):
                raise BundleError(f"calibration: {name} shares its rate with distances, of which there are none")
    whole = {"distances": calibration.distances} if calibration.distances else {}
    for name, known in {**whole, **calibration.units}.items():
        _check_rising(name, (*known.beyond[::-1], known.farthest), (0.0, *shares))


def _check_rising(name: str, values: Sequence[float], shares: Sequence[float]) -> None:
    if len(values) != len(shares) or any(after < before for before, after in pairwise(values)):
        raise BundleError(f"calibration: {name} needs a figure for every share, in order")


def probabilities(scores: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """softmax(scores / T): (N, C), one T or (N, 1) of them -> (N, C); 1 / C in a row with a NaN or an infinity."""
    finite = np.isfinite(scores).all(axis=1, keepdims=True)
    logits = np.where(finite, scores, 0).astype(np.float64)
    shares: np.ndarray = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return shares / shares.sum(axis=1, keepdims=True)


def typicality(
    calibration: Calibration, distances: np.ndarray, known: Distances | None = None
) -> np.ndarray | None:
    """Which share of the validation images is at least as far from the nearest class, from 1 (as near as the
    nearest) to 0 (farther than the farthest): distances (N,) -> (N,); None where nothing tells. `known`: those of a
    unit, in place of the whole pass's."""
    known = known or calibration.distances
    if not known:
        return None
    return np.interp(distances, (*known.beyond[::-1], known.farthest), (*calibration.shares[::-1], 0.0))


def nearest(x: np.ndarray, factor: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Mahalanobis distance of examples int8 (N, d) to the nearest class: a factor (d, d) of the inverse covariance,
    and it times every class's mean, (C, d) -> float64 (N,)."""
    at = x.astype(np.float64) @ factor.T
    squares = np.square(at).sum(1)[:, None] - 2 * at @ centres.T + np.square(centres).sum(1)
    return np.sqrt(np.maximum(squares.min(1), 0))


def thresholds(calibration: Calibration, of: OfScores, rate: float, both: bool) -> tuple[float, float]:
    """(probability, typicality) below either of which an answer is not sure, so that it happens to a share `rate`
    of images like those of validation. Each turns away the same share of them by itself; where not `both` are known
    of an answer, its probability has the whole rate.
    """
    at = (0.0, *calibration.shares)
    own = float(np.interp(rate, at, (0.0, *of.alone))) if both and of.alone else rate
    return float(np.interp(own, at, (0.0, *of.probabilities))), own if both and of.alone else 0.0


def require_rate(rate: float) -> float:
    """A false-alarm rate as it is. Raises `UsageError` for one that there are no thresholds for."""
    if not 0 <= rate <= MOST:
        raise UsageError(f"unsure: {rate:g} is no rate of false alarms: 0 (never unsure) to {MOST:g}")
    return rate
