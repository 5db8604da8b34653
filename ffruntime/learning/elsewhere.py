"""What a state file from elsewhere is on this device: its classes by their labels here, and which of its class
statistics are new."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, structs

from ..core.architecture import class_goodness
from ..core.bundle import Bundle
from ..core.durable import sha256
from ..core.errors import BundleError, UsageError
from ..core.folders import class_name
from ..core.merge import Member, without
from ..core.relabel import reordered
from ..core.state import Check, State, Weights, merged_from, read_state
from .counted import Told
from .store import Store


class Elsewhere(Struct, frozen=True):
    """A file as it would be adopted."""

    weights: Weights  # with all class statistics of the file, for the judgement
    state: State
    told: Told | None  # class statistics that count from now on; None: there are none, or they count already
    own: bool  # whether they were left out, as examples of this state are among them


def member_of(file: Path, bundle: Bundle, check: Check | None = None, name: str | None = None) -> Member:
    """A state file, read and checked, by its name or another. Raises `BundleError`."""
    weights, state = read_state(file, bundle.manifest, check)
    try:
        return Member(name or str(file), sha256(file), weights, state, merged_from(file))
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error


def members_of(bundle: Bundle, check: Check | None, file: Path, own: Path | None) -> tuple[Member, Member | None]:
    """A state file and, where it is named, another. Raises `BundleError`."""
    return member_of(file, bundle, check), None if own is None else member_of(own, bundle, check)


def elsewhere(store: Store, bundle: Bundle, member: Member, own: Member | None) -> Elsewhere:
    """A file for a device whose state this is. `own`: the file of this device that was merged into it.

    Raises `UsageError` where `own` is not in it, or examples would count twice.
    """
    manifest, weights, state = bundle.manifest, member.weights, member.state
    rest = weights
    if own is not None:
        rest, state = without(member, own)
    if class_goodness(manifest.network):
        known = store.classes()
        names = {class_name(name) for name in known}
        order = (*known, *(name for name in weights.classes if class_name(name) not in names))
        if order[: len(weights.classes)] != weights.classes and len(order) <= manifest.network.label.patterns:
            weights, rest = (reordered(manifest, bundle.weights(), some, order) for some in (weights, rest))
            undertrained = tuple(name for name in order if name in weights.undertrained)
            state = structs.replace(state, classes=order, undertrained=undertrained)
    some, counted = rest.statistics, store.counted
    if some is None or counted is None:
        return Elsewhere(weights, state, None, False)
    told = Told(member.digest, some, state.origins)
    mine = store.identity in state.origins
    if not mine and counted.overlaps(store.current_version(), told):
        raise UsageError(
            f"{member.name}: has examples that count here already, by a state that was applied and has further "
            "ones; go back to before that with 'ffruntime rollback', and apply it then"
        )
    return Elsewhere(weights, state, None if mine else told, mine)
