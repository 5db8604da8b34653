"""What several devices have learned on one bundle, as one state: class statistics added up, weights averaged.

Class statistics are integers over the bundle's units, so their sum is what one device would have that was shown
everything, bit for bit. Weights are averaged as differences from the bundle's, weighed by examples: federated
averaging (McMahan et al. 2017). Classes are the same where their names are. Pure functions; numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np
from msgspec import Struct, structs

from .architecture import class_goodness
from .errors import UsageError, listed
from .folders import class_name
from .layers import feature_tensors, tensors
from .manifest import Manifest
from .relabel import named, of_rows, placed_rows, placed_statistics, places, united_classes
from .robust import bounded, bounded_counts, left_out, trimmed
from .state import State, Weights, changed
from .statistics import Statistics, added, subtracted, with_classes

# What is averaged: nothing, so that class statistics alone are of the devices; readouts, or the linear classifier;
# or all that differs from the bundle.
Average: TypeAlias = Literal["nothing", "readouts", "units"]
Part: TypeAlias = Literal["everything", "statistics", "readouts", "units"]


class Member(Struct, frozen=True):
    """A state file that is merged."""

    name: str  # of the file, for what is said of it
    digest: str  # SHA-256 of the file
    weights: Weights
    state: State
    members: tuple[str, ...] = ()  # hashes of the files whose class statistics are in it as they were, of a merge


class LeftOut(Struct, frozen=True):
    """A part of a member that is not in the merge."""

    member: str
    part: Part
    reason: str


class Merged(Struct, frozen=True):
    """What `write_state` takes, and what is not in it."""

    weights: Weights
    updates: int
    examples: int
    origins: tuple[str, ...]
    members: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def merge(
    manifest: Manifest,
    bundle: Mapping[str, np.ndarray],
    members: Sequence[Member],
    average: Average | None = None,
    robust: bool = False,
    prior: Statistics | None = None,
) -> Merged:
    """One state of several that were learned on the bundle of `manifest`, of weights `bundle`.

    `average`: None for `default_average`. With `robust` members that contradict the others are left out, weights
    are trimmed means of bounded differences, and no member counts more than three times as many examples as the
    median; `prior` is then the bundle's class statistics, which are compared with and not part of the merge.

    The order of the members changes nothing. Raises `UsageError` where examples would count twice, or where there
    are more classes than patterns.
    """
    require_distinct(members)
    if len(members) == 1:
        (one,) = members
        return _merged(one.weights, members, one.members, ())
    members = sorted(members, key=lambda member: member.digest)
    average = average or default_average(manifest)
    if average == "nothing" and not manifest.counted:
        raise UsageError("--average nothing: this bundle has no class statistics, so nothing would be merged")
    gone: list[LeftOut] = []
    classes = united_classes(manifest, [member.weights.classes for member in members])
    if robust:
        some = [placed(member, classes) for member in members]
        suspect = left_out(some, prior and with_classes(prior, len(classes)))
        gone += [LeftOut(members[place].name, "everything", reason) for place, reason in suspect.items()]
        members = [member for place, member in enumerate(members) if place not in suspect]
        classes = united_classes(manifest, [member.weights.classes for member in members])
    learned, how = _averaged(manifest, bundle, members, classes, average, robust)
    gone += how
    told, whole, how = _counted(manifest, bundle, members, classes, learned, robust)
    gone += how
    undertrained = frozenset(
        name for name in classes if any(name in named(member.weights.undertrained) for member in members)
    )
    weights = Weights(learned, classes, undertrained | _foreign(manifest, members, classes), told)
    digests = {digest for member in whole for digest in member.members or (member.digest,)}
    return _merged(weights, members, tuple(sorted(digests)), tuple(gone))


def default_average(manifest: Manifest) -> Average:
    """What is averaged where nobody says: nothing beside class statistics, where the bundle has some
    (`benchmarks/fleet.py`), else readouts with class goodness, and units where labels are in the input."""
    if manifest.counted:
        return "nothing"
    return "readouts" if class_goodness(manifest.network) else "units"


def require_distinct(members: Sequence[Member]) -> None:
    """Raises `UsageError` where two files have examples of one state, by their origins or by what they were merged
    from: these would count twice."""
    if not members:
        raise UsageError("no state to merge")
    for one, other in combinations(members, 2):
        files = _files(one) & _files(other)
        if twice := files or set(one.state.origins) & set(other.state.origins):
            what = f"file {min(twice)[:12]}" if files else f"examples of device {min(twice)}"
            raise UsageError(
                f"{one.name} and {other.name} both hold {what}, which would count twice: name the newer one"
            )


def _files(member: Member) -> set[str]:
    return {member.digest, *member.members}


def placed(member: Member, classes: Sequence[str]) -> Statistics | None:
    """A member's class statistics by the labels of `classes`; None: it has none."""
    told = member.weights.statistics
    return told and placed_statistics(told, places(member.weights.classes, classes), len(classes))


# --- weights, as differences from the bundle's


def _averaged(
    manifest: Manifest,
    bundle: Mapping[str, np.ndarray],
    members: Sequence[Member],
    classes: tuple[str, ...],
    average: Average,
    robust: bool,
) -> tuple[dict[str, np.ndarray], list[LeftOut]]:
    """Tensors of the merge that differ from the bundle's, and what of the members is not in them."""
    if average == "nothing":
        return {}, [
            LeftOut(
                member.name, "readouts", "class statistics alone are merged; --average readouts averages these, too"
            )
            for member in members
            if member.weights.tensors
        ]
    rows = {tensor.name for tensor in tensors(manifest.network) if of_rows(tensor)}
    gone, taken = list[LeftOut](), list[Member]()
    for member in members:
        own = member.weights.tensors.keys() - rows
        if average == "readouts" and own:
            reason = "its units learned, too, and readouts belong to their units; --average units averages both"
            gone.append(LeftOut(member.name, "readouts", reason))
        elif own and not class_goodness(manifest.network) and _moved(member, classes):
            reason = f"it learned {listed(_moved(member, classes))} under other patterns than the merge has"
            gone.append(LeftOut(member.name, "units", reason))
        else:
            taken.append(member)
    weighed = [float(member.state.examples) for member in taken]
    if not any(weighed):
        weighed = [1.0] * len(taken)
    if robust and taken:
        weighed = np.minimum(weighed, 3 * np.median(weighed)).tolist()
    deltas = [_deltas(bundle, member, classes, rows) for member in taken]
    if robust:
        deltas = bounded(deltas)
    result = {}
    for name in sorted({name for some in deltas for name in some}):
        shipped, some = bundle[name].astype(np.float64), [delta.get(name) for delta in deltas]
        result[name] = _mean(shipped, some, weighed, robust)
        if name in rows:
            _average_new(result[name], shipped, name, taken, some, weighed, manifest, classes, robust)
    found = {name: tensor.astype(np.float32) for name, tensor in result.items()}
    return changed(bundle, found), gone


def _deltas(
    bundle: Mapping[str, np.ndarray], member: Member, classes: Sequence[str], rows: set[str]
) -> dict[str, np.ndarray]:
    """What a member changed, float64, by the labels of the merge."""
    to, found = places(member.weights.classes, classes), {}
    for name, tensor in member.weights.tensors.items():
        own = bundle[name]
        there = placed_rows(own, tensor, to) if name in rows else tensor
        found[name] = there.astype(np.float64) - own
    return found


def _mean(
    own: np.ndarray, deltas: Sequence[np.ndarray | None], weighed: Sequence[float], robust: bool
) -> np.ndarray:
    """The bundle's tensor and the mean of what members changed; who did not change it has no difference. Sorted
    before they are added up, so that the order of the members changes no bit."""
    some = np.stack([np.zeros_like(own) if delta is None else delta for delta in deltas])
    weights = np.array(weighed)
    if robust:
        return own + trimmed(some, weights)
    some *= weights.reshape(-1, *[1] * own.ndim)
    some.sort(0)
    mean: np.ndarray = own + some.sum(0) / np.sort(weights).sum()
    return mean


def _average_new(
    result: np.ndarray,
    own: np.ndarray,
    name: str,
    members: Sequence[Member],
    deltas: Sequence[np.ndarray | None],
    weighed: Sequence[float],
    manifest: Manifest,
    classes: Sequence[str],
    robust: bool,
) -> None:
    """A new class's row is the mean over the members that have one, in place in `result`."""
    known = next((tensor.name for tensor in tensors(manifest.network) if tensor.role == "known"), None)
    for label in range(len(manifest.classes), len(classes)):
        has = [place for place, member in enumerate(members) if _has_row(member, classes[label], known)]
        if not has:
            result[label] = own[label]
            continue
        some = [deltas[place] for place in has]
        of_it = [None if delta is None else delta[label] for delta in some]
        weights = [weighed[place] for place in has]
        result[label] = _mean(own[label], of_it, weights if any(weights) else [1.0] * len(has), robust)
        if name == known:
            result[label] = 1


def _has_row(member: Member, name: str, known: str | None) -> bool:
    names = [class_name(own) for own in member.weights.classes]
    if name not in names:
        return False
    rows = member.weights.tensors.get(known) if known else None
    return known is None or (rows is not None and rows[names.index(name)] > 0)


def _moved(member: Member, classes: Sequence[str]) -> list[str]:
    """New classes of a member that have another label in the merge."""
    to = places(member.weights.classes, classes)
    return [member.weights.classes[label] for label, place in enumerate(to) if label != place]


def _foreign(manifest: Manifest, members: Sequence[Member], classes: Sequence[str]) -> frozenset[str]:
    """With labels in the input, classes whose pattern in the merge means them to no member's units: they are
    undertrained."""
    if class_goodness(manifest.network):
        return frozenset()
    new = classes[len(manifest.classes) :]
    taken = [member for member in members if not _moved(member, classes)]
    known = {class_name(name) for member in taken for name in member.weights.classes}
    return frozenset(name for name in new if name not in known)


# --- class statistics


def _counted(
    manifest: Manifest,
    bundle: Mapping[str, np.ndarray],
    members: Sequence[Member],
    classes: tuple[str, ...],
    learned: Mapping[str, np.ndarray],
    robust: bool,
) -> tuple[Statistics | None, list[Member], list[LeftOut]]:
    """The sum of what members have counted by the bundle's units; the members of which that is all that they have;
    and whose is not in it."""
    of_units = frozenset(feature_tensors(manifest.network))
    others = of_units & learned.keys()
    whole, gone, some = list[Member](), list[LeftOut](), list[tuple[Member, Statistics]]()
    for member in members:
        told = placed(member, classes)
        if told is None:
            whole.append(member)
        elif others:
            reason = "they are of features of the bundle's units, and the merge has others"
            gone.append(LeftOut(member.name, "statistics", reason))
        elif of_units & changed(bundle, member.weights.tensors).keys():
            reason = "its units are not the bundle's, of whose features they would have to be; the bundle's count"
            gone.append(LeftOut(member.name, "statistics", reason))
        else:
            some.append((member, told))
    counted = bounded_counts([told for _, told in some]) if robust else [told for _, told in some]
    whole += [member for (member, told), now in zip(some, counted, strict=True) if now is told]
    return (added(*counted) if counted else None), whole, gone


def _merged(
    weights: Weights, members: Sequence[Member], digests: tuple[str, ...], gone: tuple[LeftOut, ...]
) -> Merged:
    origins = sorted({origin for member in members for origin in member.state.origins})
    updates, examples = (sum(getattr(member.state, what) for member in members) for what in ("updates", "examples"))
    return Merged(weights, updates, examples, tuple(origins), digests, gone)


# --- what is another's in a merge


def without(merged: Member, own: Member) -> tuple[Weights, State]:
    """A merge without the class statistics of one of its members, exactly: what the others have counted.

    Raises `UsageError` where the merge does not have that very file in it, with all its class statistics.
    """
    files = {own.digest} if merged.digest != own.digest and not own.members else set(own.members)
    if merged.digest != own.digest and not files <= set(merged.members):
        raise UsageError(
            f"{own.name}: the class statistics of {merged.name} do not have this file's in them as they are; "
            "name the file that was merged"
        )
    told, state = merged.weights.statistics, merged.state
    mine = placed(own, merged.weights.classes)
    rest = tuple(origin for origin in state.origins if origin not in own.state.origins)
    state = structs.replace(state, origins=rest)
    if told is None or mine is None:
        return merged.weights, state
    try:
        difference = subtracted(told, mine)
    except ValueError as error:
        raise UsageError(f"{merged.name}: has not all that {own.name} counts, although it says so") from error
    return structs.replace(merged.weights, statistics=difference if difference.counts.any() else None), state
