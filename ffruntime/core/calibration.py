"""How sure an answer is: calibrated probabilities, and below which of them the answer is "I don't know".

softmax(scores / T), with one temperature T for each inference mode, is a calibrated probability: Guo, Pleiss, Sun,
Weinberger: On Calibration of Modern Neural Networks (ICML 2017). Temperatures and thresholds are fitted on
validation images when training ends (`fftrain/calibrate.py`), and lie in the manifest as numbers. All in float64.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from .errors import BundleError, UsageError

UNSURE = 0.01  # the false-alarm rate where nobody asks for another
# False-alarm rates that thresholds are stored for. Between them thresholds are interpolated.
SHARES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST = SHARES[-1]  # of the rates that can be asked for

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class OfScores(Struct, frozen=True, forbid_unknown_fields=True):
    """Calibration of one kind of scores: those of an inference mode, or of a unit that answers alone."""

    temperature: Annotated[float, Meta(gt=0)]
    error_before: Share  # expected calibration error of softmax(scores)
    error: Share  # the same of softmax(scores / T)
    probabilities: tuple[Share, ...]  # below the i-th lies `shares[i]` of the validation images' answers


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer's probability and its being sure rest on. `docs/bundle.md` says what each field means."""

    images: Annotated[int, Meta(ge=1)]  # validation images that all of it was fitted on
    shares: tuple[Annotated[float, Meta(gt=0, lt=1)], ...]  # rising
    # By what the scores are: `goodness` and `classifier` as in these modes, `shortlist` where several labels are in
    # play, and of a unit that can answer alone in mode `exit`, by its name.
    scores: dict[str, OfScores]


def check(calibration: Calibration) -> None:
    """Raise `BundleError` where its tables do not fit each other."""
    shares = calibration.shares
    if not shares or any(after <= before for before, after in pairwise(shares)):
        raise BundleError("calibration: its shares do not rise")
    for of in calibration.scores.values():
        if len(of.probabilities) != len(shares):
            raise BundleError("calibration: needs a probability for every share")
        if any(after < before for before, after in pairwise(of.probabilities)):
            raise BundleError("calibration: its probabilities fall where the shares rise")


def probabilities(scores: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """softmax(scores / T): (N, C), one T or (N, 1) of them -> (N, C); 1 / C in a row with a NaN or an infinity."""
    finite = np.isfinite(scores).all(axis=1, keepdims=True)
    logits = np.where(finite, scores, 0).astype(np.float64)
    shares: np.ndarray = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return shares / shares.sum(axis=1, keepdims=True)


def threshold(calibration: Calibration, of: OfScores, rate: float) -> float:
    """The probability below which an answer is not sure, so that it happens to a share `rate` of known images."""
    return float(np.interp(rate, (0.0, *calibration.shares), (0.0, *of.probabilities)))


def require_rate(rate: float) -> float:
    """A false-alarm rate as it is. Raises `UsageError` for one that there are no thresholds for."""
    if not 0 <= rate <= MOST:
        raise UsageError(f"unsure: {rate:g} is no rate of false alarms: 0 (never unsure) to {MOST:g}")
    return rate
