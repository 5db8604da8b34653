"""One member of a fleet may lie: which one contradicts the others, and means that one cannot move far.

Weights: differences are bounded by the median of their norms, and the mean is trimmed (Yin et al. 2018). Class
statistics are sums, so whoever lies is left out as a whole: who shows one class and names another, who is far from
all others, whose examples are spread as nobody else's. numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from .statistics import Statistics, moment, scatter, scatters, upper

TRIMMED = 0.1  # share of the members whose values are left out at either end
MOST = 3.0  # times the median: examples that a member counts at most, and how far from all others it may be
FEWEST = 5  # examples of a class from which on its mean says anything
NEARER = 0.5  # share of the distance to its own class, as others know it, at which another class is the likelier
SPREAD = 4.0  # times the median: variance within a member's classes, or its inverse


# --- weights


def bounded(deltas: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Differences from the bundle's tensors, each member's at most as long as the median of those that have any."""
    norms = [float(np.sqrt(sum(np.square(delta).sum() for delta in some.values()))) for some in deltas]
    if not any(norms):
        return list(deltas)
    most = float(np.median([norm for norm in norms if norm]))
    return [
        {name: delta * (most / norm) for name, delta in some.items()} if norm > most else dict(some)
        for some, norm in zip(deltas, norms, strict=True)
    ]


def trimmed(some: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean (…) of members' values (N, …), weighed (N,), without the largest and the smallest of every number:
    a tenth of the members, and one at the least, at either end, where there are three or more."""
    n = len(some)
    k = min(int(np.ceil(TRIMMED * n)), (n - 1) // 2)
    order = np.argsort(some, axis=0, kind="stable")[k : n - k]
    kept, weighed = np.take_along_axis(some, order, 0), weights[order]
    mean: np.ndarray = (kept * weighed).sum(0) / np.maximum(weighed.sum(0), np.finfo(float).tiny)
    return mean


# --- class statistics


class Claim(Struct, frozen=True):
    """What a member, or the bundle (−1), says of a class."""

    member: int
    label: int
    mean: np.ndarray  # (d,), in standard deviations within classes
    count: int


def left_out(members: Sequence[Statistics | None], prior: Statistics | None) -> dict[int, str]:
    """Which members contradict the others, by their place, and why; fewer than half of them. `prior`: the bundle's
    statistics, which are believed."""
    found: dict[int, str] = {}
    there = {place: told for place, told in enumerate(members) if told is not None and told.counts.any()}
    for place, told in there.items():
        if reason := _impossible(told):
            found[place] = reason
    there = {place: told for place, told in there.items() if place not in found}
    if len(there) < 2 and prior is None:
        return found
    within = {place: _within(told) for place, told in there.items()}
    middle = np.maximum(np.median(list(within.values()), axis=0), 1.0) if within else np.ones(1)
    claims = [claim for place, told in there.items() for claim in _claims(place, told, middle)]
    if prior is not None:
        claims += _claims(-1, prior, middle)
    found |= _outliers(claims, {place: float(np.mean(of / middle)) for place, of in within.items()})
    most = (len(members) - 1) // 2 if prior is None else len(members) // 2
    while len(found) < most:
        claims = [claim for claim in claims if claim.member not in found]
        wrong = _mislabelled(claims)
        if not wrong:
            break
        place, (_, label, other) = max(wrong.items(), key=lambda entry: (entry[1][0], -entry[0]))
        found[place] = f"its class number {label} looks like what others know as number {other}"
    return found


def _impossible(told: Statistics) -> str | None:
    """Why no examples can have these statistics, as a scatter has no negative variance."""
    each = scatters(told) if told.kind == "each" else scatter(told)[None]
    slack = told.dimension * (1 + told.classes)  # of what is rounded where a class was forgotten
    if min(float(np.linalg.eigvalsh(one)[0]) for one in each) < -slack:
        return "no examples can have its class statistics"
    return None


def _within(told: Statistics) -> np.ndarray:
    """Variance within classes along every axis, (d,)."""
    d = told.dimension
    products = moment(told).sum(0) if told.kind == "each" else moment(told)
    squares = products[np.flatnonzero(np.eye(d, dtype=bool)[upper(d)])].astype(np.float64)
    squares -= (np.square(told.sums.astype(np.float64)) / np.maximum(told.counts, 1)[:, None]).sum(0)
    variance: np.ndarray = squares / max(int(told.counts.sum()), 1)
    return variance


def _claims(member: int, told: Statistics, middle: np.ndarray) -> list[Claim]:
    return [
        Claim(member, label, told.sums[label] / count / np.sqrt(middle), count)
        for label, count in enumerate(told.counts.tolist())
        if count >= FEWEST
    ]


def _outliers(claims: Sequence[Claim], spread: dict[int, float]) -> dict[int, str]:
    """Members whose means are far from all others', or whose examples are spread otherwise."""
    found: dict[int, str] = {}
    if claims:
        means = np.stack([claim.mean for claim in claims])
        far = np.linalg.norm(means - np.median(means, axis=0), axis=1)
        for claim, distance in zip(claims, far.tolist(), strict=True):
            if claim.member >= 0 and distance > MOST * np.median(far):
                found[claim.member] = f"its class number {claim.label} is far from all that others know"
    usual = float(np.median(list(spread.values()))) if spread else 0.0
    for place, of in spread.items():
        if usual and not usual / SPREAD <= of <= usual * SPREAD:
            found[place] = "its examples are spread as nobody else's"
    return found


def _mislabelled(claims: Sequence[Claim]) -> dict[int, tuple[float, int, int]]:
    """Members one of whose classes is nearer to what others know as another: how much so, over its classes; the
    class that is most, and that other one."""
    found: dict[int, tuple[float, int, int]] = {}
    worst: dict[int, float] = {}
    for claim in claims:
        if claim.member < 0:
            continue
        others = [other for other in claims if other.member != claim.member]
        away = {(other.member, other.label): _distance(claim, other) for other in others}
        own = min((d for (_, label), d in away.items() if label == claim.label), default=None)
        near = min(((d, label) for (_, label), d in away.items() if label != claim.label), default=None)
        if own is None or near is None or near[0] >= NEARER * own:
            continue
        share = 1 - near[0] / own
        total, label, other_label = found.get(claim.member, (0.0, 0, 0))
        if share > worst.get(claim.member, 0.0):
            worst[claim.member], label, other_label = share, claim.label, near[1]
        found[claim.member] = total + share, label, other_label
    return found


def _distance(one: Claim, other: Claim) -> float:
    """Between two means, but for what few examples make of it: root mean square over the axes."""
    by_chance = 1 / one.count + 1 / other.count
    return float(np.sqrt(max(float(np.mean(np.square(one.mean - other.mean))) - by_chance, 0.0)))


def bounded_counts(members: Sequence[Statistics]) -> list[Statistics]:
    """The same, where a member has more than three times as many examples as the median as if it had had that many:
    numbers are rounded then."""
    totals = [int(told.counts.sum()) for told in members]
    if not any(totals):
        return list(members)
    most = int(MOST * np.median([total for total in totals if total]))
    return [
        _fewer(told, most / total) if total > most else told for told, total in zip(members, totals, strict=True)
    ]


def _fewer(told: Statistics, share: float) -> Statistics:
    """Statistics as of a share of the examples, with the same means and spread, to the nearest integer."""
    counts = (told.counts * share).astype(np.int64)
    ratio = counts / np.maximum(told.counts, 1)
    sums = np.rint(told.sums * ratio[:, None]).astype(np.int64)
    by = ratio[:, None] if told.kind == "each" else share
    return Statistics(counts, sums, np.rint(moment(told) * by).astype(np.int64), told.rows[:0])
