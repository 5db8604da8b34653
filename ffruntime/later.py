"""How sure an answer is where it is a class that came later than training: by thresholds of its own.

What a trained class is held to is too much for one of few examples. Two figures say how sure such an answer is:
its *margin*, by how much log-likelihood class statistics put the class ahead of the next, and the distance. Where
enough examples are stored, the limits are order statistics of theirs, each told as if it had not been among them:
of n and the one that is answered, each is as likely to be the least (conformal prediction: Vovk et al. 2005).
Before that the trained classes' limits hold, that of the margin as far as the class's mean is from the next one's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from .core.closed_form import Solved
from .core.gaussians import Gaussians, apart, leave_one_out, whitened
from .core.manifest import ClassStatistics


class Own(Struct, frozen=True):
    """Of the stored examples of a class, each told without itself."""

    margins: np.ndarray  # (n,), rising
    distances: np.ndarray  # (n,), to the nearest class, falling


class Later(Struct, frozen=True):
    """Classes that came later, as they are now."""

    first: int  # label of the first of them
    weight: float  # of a margin in the scores of an answer
    apart: np.ndarray  # (C,): distance of every class's mean to the nearest other one's
    own: dict[int, Own]  # by label, of those that answers are


class Whitened:
    """Stored examples, whitened: what was computed serves as long as the factor is the same."""

    def __init__(self) -> None:
        self._factor: np.ndarray | None = None
        self._rows: dict[bytes, np.ndarray] = {}
        self._lock = threading.Lock()

    def of(self, gaussians: Gaussians, x: np.ndarray) -> np.ndarray:
        """Examples int8 (N, d) -> float64 (N, d)."""
        with self._lock:
            if gaussians.factor is not self._factor:
                self._factor, self._rows = gaussians.factor, {}
            keys = [row.tobytes() for row in x]
            new = [index for index, key in enumerate(keys) if key not in self._rows]
            self._rows |= zip([keys[index] for index in new], whitened(gaussians, x[new]), strict=True)
            return np.stack([self._rows[key] for key in keys])


def later(
    solved: Solved,
    how: ClassStatistics,
    mode: str,
    labels: np.ndarray,
    stored: Mapping[int, np.ndarray],
    whitened: Whitened,
) -> Later | None:
    """Of answers with these labels (N,) what is told of those that came later; `stored`: examples int8 (n, d) of
    such, by label. None where none came later, or where classes have a covariance each."""
    first = how.together
    if not first or not isinstance(solved, Gaussians) or labels.max() < first:
        return None
    wanted = {label for label in labels.tolist() if label >= first and len(stored.get(label, ())) > 1}
    own = {label: _own(solved, label, whitened.of(solved, stored[label])) for label in wanted}
    return Later(first, how.weights[mode].alone, apart(solved), own)


def _own(gaussians: Gaussians, label: int, at: np.ndarray) -> Own:
    squares = leave_one_out(gaussians, at, label)
    margins = ahead(-0.5 * squares, np.full(len(at), label))
    distances = np.sqrt(np.maximum(squares.min(1), 0) / gaussians.longer)
    return Own(np.sort(margins), -np.sort(-distances))


def ahead(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much a label's score is above the best other one's: (N, C), (N,) -> (N,); infinite of one class."""
    places = np.arange(len(scores))
    others = scores.copy()
    others[places, labels] = -np.inf
    with np.errstate(invalid="ignore"):  # of a class without examples, among such
        found: np.ndarray = np.nan_to_num(scores[places, labels] - others.max(1), nan=-np.inf, posinf=np.inf)
    return found


def sure(
    found: Later,
    label: int,
    probability: tuple[float, float],
    typicality: tuple[float, float],
    figures: tuple[float, float],
    temperature: float,
) -> bool:
    """Whether an answer that is a class that came later is sure, by its margin and its distance, `figures`.

    Probability and typicality each stand beside the limit of trained classes; that of typicality is the share of
    false alarms that either has.
    """
    (probable, least), (typical, share), (margin, distance) = probability, typicality, figures
    own = found.own.get(label)
    rank = math.floor((len(own.margins) + 1) * share) if own else 0
    if own and rank:
        return bool(margin >= own.margins[rank - 1] and distance <= own.distances[rank - 1])
    return typical >= share and (probable >= least or margin >= _limit(found, label, least, temperature))


def _limit(found: Later, label: int, least: float, temperature: float) -> float:
    """The margin that turns away as many of a class as a probability of `least` does of the trained ones.

    The log-likelihood ratio of two Gaussians of one covariance whose means are δ apart has mean δ² / 2 and
    deviation δ: a margin that is z deviations below that on trained classes, on average, is so on this one.
    """
    known = found.apart[: found.first]
    known = known[np.isfinite(known) & (known > 0)]
    own, margin = float(found.apart[label]), temperature / found.weight * _log_odds(least)
    if not len(known) or not math.isfinite(own):
        return math.inf
    usual = float(np.median(known))
    return own * (own / 2 - (usual / 2 - margin / usual))


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)
