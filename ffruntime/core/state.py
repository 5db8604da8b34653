"""What a device learned, as one portable file: `docs/state.md` specifies it field by field.

A safetensors file of the tensors that differ from the bundle's weights, and who they are. It says which bundle it
belongs to, by the hash of that bundle's weights, and vouches for itself: safetensors has no checksum of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from . import __version__
from .bundle import check_shapes, require_finite
from .durable import write_atomically
from .errors import OBEYED, BundleError
from .layers import KNOWN, tensor_shapes
from .manifest import LONGEST_NAME, WEIGHTS, Manifest
from .reading import read_regular
from .signature import SIGNATURE, UNSIGNED, Sign, with_signature
from .statistics import METADATA as STATISTICS
from .statistics import Projected, Statistics, from_tensors, to_tensors

FORMAT = 1
STATE, DIGEST = "state", "sha256"  # keys of the file's metadata
MEMBERS = "members"  # another, of a merge: hashes of files, with blanks between them
MAX_HEADER_BYTES = 16 << 20

NonNegative = Annotated[int, Meta(ge=0)]
Check: TypeAlias = Callable[[Path, bytes], None]  # raises where a file of that content is not to be trusted


class Weights(Struct, frozen=True):
    """What a model computes with in place of its bundle's own weights."""

    tensors: dict[str, np.ndarray]  # those that differ from the bundle's, float32, by their names there
    classes: tuple[str, ...]  # the bundle's, then those learned
    undertrained: frozenset[str] = frozenset()  # classes of which the linear classifier has seen few examples
    statistics: Statistics | None = None  # of what a device was shown, beside the training set's; None: nothing
    alone: bool = False  # they are of these weights' own units: the training set's, of others, do not count
    later: dict[int, np.ndarray] = {}  # of classes that came later than training, the newest examples among them


class State(Struct, frozen=True, forbid_unknown_fields=True):
    """Who the tensors of a state file are."""

    format: int
    weights: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256 of the bundle's weights.safetensors
    classes: Annotated[tuple[str, ...], Meta(min_length=1)]  # the bundle's, then those learned
    undertrained: tuple[str, ...]  # those of them of which the linear classifier has seen few examples
    updates: NonNegative  # adopted since the bundle's weights
    examples: NonNegative  # that they learned from
    ffedge: str  # version of what wrote the file
    statistics: Projected | None = None  # its class statistics are made so, as the bundle's are; None: it has none
    origins: tuple[str, ...] = ()  # identities of the states whose examples it learned from


def changed(weights: Mapping[str, np.ndarray], learned: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of the learned tensors that differ from the bundle's weights."""
    return {name: tensor for name, tensor in learned.items() if not np.array_equal(tensor, weights[name])}


def write_state(
    path: Path,
    manifest: Manifest,
    weights: Weights,
    updates: int,
    examples: int,
    origins: Sequence[str] = (),
    sign: Sign | None = None,
    members: Sequence[str] = (),
) -> State:
    """Write what was learned on the bundle of `manifest`, by `updates` updates on so many `examples`; `origins`:
    identities of the states whose examples these are; `members`: hashes of the files whose class statistics are in
    a merge as they were.
    `sign` signs the file.

    Raises `BundleError` where `read_state` would refuse it, `StorageError`, with what was at `path` unchanged.
    """
    from safetensors.numpy import save

    undertrained = tuple(name for name in weights.classes if name in weights.undertrained)
    own = manifest.files[WEIGHTS].sha256
    told, how = weights.statistics, _projected(manifest)
    told = told if told is not None and told.counts.any() and not weights.alone else None
    how, from_ = how if told else None, tuple(origins)
    state = State(FORMAT, own, weights.classes, undertrained, updates, examples, __version__, how, from_)
    _check(path, manifest, weights.tensors, state)
    text = msgspec.json.encode(state).decode()
    more = {f"{STATISTICS}.{name}": array for name, array in to_tensors(told).items()} if told else {}
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in {**weights.tensors, **more}.items()}
    metadata = {STATE: text, DIGEST: _digest(text, whole), **({MEMBERS: " ".join(members)} if members else {})}
    data = with_signature(save(whole, {**metadata, SIGNATURE: UNSIGNED}), sign) if sign else save(whole, metadata)
    write_atomically(path, data)
    return state


def read_state(path: Path, manifest: Manifest, check: Check | None = None) -> tuple[Weights, State]:
    """What was learned on the bundle of `manifest`, and how it came about. `check` comes before anything is made of
    the content.

    Raises `BundleError`, naming the file, where it is missing, damaged, too new, or of another bundle.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    largest = sum(4 * math.prod(shape) for shape in tensor_shapes(manifest.network).values()) + MAX_HEADER_BYTES
    if how := manifest.statistics:
        largest += 2 * how.kept_bytes(manifest.network.label.patterns)
    try:
        data = read_regular(path, largest)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such state") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if check:
        check(path, data)
    try:
        tensors = load(data)
        text, digest = _metadata(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # the last three: types numpy has not
        raise BundleError(f"{path}: not a state file, or damaged: {error}; copy it again") from error
    state = _decode(path, text)
    if digest != _digest(text, tensors):
        raise BundleError(f"{path}: damaged, its hash is not that of its content; copy it again")
    told = None
    if state.statistics:
        if state.statistics != _projected(manifest):
            raise BundleError(f"{path}: its class statistics are made otherwise than the bundle's")
        names = {name: f"{STATISTICS}.{name}" for name in ("counts", "sums", "moment")}
        own = {short: tensors.pop(name) for short, name in names.items() if name in tensors}
        told = from_tensors(own, state.statistics, path)
        if told.classes > len(state.classes):
            raise BundleError(f"{path}: class statistics of more classes than it names")
    _check(path, manifest, tensors, state)
    return Weights(tensors, state.classes, frozenset(state.undertrained), told), state


def merged_from(path: Path) -> tuple[str, ...]:
    """Hashes of the files whose class statistics are in a merge as they were; of a file that `read_state` took."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return tuple(str(header["__metadata__"].get(MEMBERS, "")).split())


def _projected(manifest: Manifest) -> Projected | None:
    how = manifest.statistics
    return how.projected if how else None


def _metadata(data: bytes) -> tuple[str, str]:
    """State and digest of a well-formed safetensors file. Raises `ValueError` where it has none."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") or {}
    if not {STATE, DIGEST} <= metadata.keys():
        raise ValueError(f"its metadata lack '{STATE}' or '{DIGEST}'")
    return metadata[STATE], metadata[DIGEST]


def _digest(text: str, tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hexadecimal, of the metadata and of every tensor's name and bytes, by name."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _decode(path: Path, text: str) -> State:
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise BundleError(f"{path}: format {version} is newer than this program reads ({FORMAT}): upgrade")
        if version != FORMAT or isinstance(version, bool):
            raise BundleError(f"{path}: format {version!r} is none that this program reads ({FORMAT})")
        return msgspec.json.decode(text, type=State)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BundleError(f"{path}: damaged: {error}; copy it again") from error


def _check(path: Path, manifest: Manifest, tensors: Mapping[str, np.ndarray], state: State) -> None:
    own, patterns = manifest.files[WEIGHTS].sha256, manifest.network.label.patterns
    if state.weights != own:
        raise BundleError(f"{path}: learned on another bundle, of weights {state.weights[:12]} and not {own[:12]}")
    if len(state.classes) > patterns:
        raise BundleError(f"{path}: {len(state.classes)} classes, but the bundle has {patterns} label patterns")
    if any(len(name) > LONGEST_NAME or OBEYED.search(name) for name in state.classes):
        raise BundleError(f"{path}: the name of a class is too long, or holds what cannot be printed")
    if len(set(state.classes)) < len(state.classes):
        raise BundleError(f"{path}: a class is named twice")
    if state.classes[: len(manifest.classes)] != manifest.classes:
        raise BundleError(f"{path}: its classes do not begin with the bundle's")
    if list(state.undertrained) != [name for name in state.classes if name in state.undertrained]:
        raise BundleError(f"{path}: its undertrained classes are none of its classes, or not in their order")
    shapes = tensor_shapes(manifest.network)
    check_shapes(path, tensors, {name: shape for name, shape in shapes.items() if name in tensors})
    require_finite(path, tensors)
    if KNOWN in tensors:
        how = manifest.counted  # beyond its first classes, statistics alone may know one
        _check_known(path, tensors[KNOWN], how.together if how else len(manifest.classes), len(state.classes))


def _check_known(path: Path, known: np.ndarray, first: int, classes: int) -> None:
    """Rows are those of the bundle's `first` classes, and of others of the state's `classes`."""
    if not np.isin(known, (0, 1)).all():
        raise BundleError(f"{path}: '{KNOWN}' holds a value that is neither 0 nor 1")
    if not known[:first].all():
        raise BundleError(f"{path}: a class of the bundle has no row in '{KNOWN}'")
    if known[classes:].any():
        raise BundleError(f"{path}: a row is known that is of no class")
