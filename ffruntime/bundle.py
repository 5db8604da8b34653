"""The model bundle: a directory with a manifest that vouches for every file in it.

The format is specified field by field in `docs/bundle.md`. Writing is all or nothing: new files are
staged beside the old ones and synced, then renamed, and the manifest is replaced last; a full disk or
a lost power supply before that leaves what was there before. Reading refuses what does not match.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct

from .architecture import Network, Positive, Shape, parameter_shapes, validate
from .errors import BundleError, StorageError
from .precision import PRECISIONS

FORMAT = 5
READABLE = (1, 2, 3, 4, 5)  # a bundle of an earlier format is one of this without what came later
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
EXEMPLARS = "exemplars.safetensors"
MAX_MANIFEST_BYTES = 16 << 20

Mode: TypeAlias = Literal["goodness", "classifier"]  # of inference
Accuracies = dict[str, dict[str, float]]  # split -> inference mode -> share of right answers


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest knows of a file: its size in bytes and its SHA-256 in hexadecimal."""

    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Digit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="digit"):
    """As MNIST was made (LeCun et al.): the figure in a box of `box` pixels a side with its proportions kept, its
    centre of mass in the centre of the image, light on black, its strongest ink white."""

    box: Positive


class Garment(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="garment"):
    """As Fashion-MNIST was made (Xiao et al. 2017, section 2): trimmed from its even background, the longer edge as
    long as the image's shorter one, centred by its box, grey, its difference from the background light on black."""


class Photo(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="photo"):
    """The largest part of the picture's middle that has the image's proportions, scaled; transparency is white."""


Preprocessing: TypeAlias = Digit | Garment | Photo  # how a picture becomes the network's image


class DataSource(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images came from, and how many of them were used for what."""

    name: str  # as `fftrain` calls it: mnist, fashion-mnist, cifar10, cifar100, folder
    source: str
    offline_sample: bool
    train: int
    validation: int
    test: int
    path: str | None = None  # of a folder


class Training(Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights came about."""

    recipe_name: str
    recipe: dict[str, Any]
    seed: int
    epochs: int
    device: str
    precision: str
    seconds: float  # wall time of the training itself
    data: DataSource
    history: tuple[dict[str, Any], ...] = ()  # one row for each epoch


class Shortlist(Struct, frozen=True, forbid_unknown_fields=True):
    """How mode `shortlist` chooses the labels to try, and what came of it on the exemplars of part 0."""

    threshold: Annotated[float, Meta(ge=0)]  # how far below the best logit a label's may be
    passes: Annotated[float, Meta(ge=1)]  # mean for an image
    agree: Annotated[float, Meta(ge=0, le=1)]  # share of the decisions that are those by goodness of all labels
    always: tuple[str, ...] = ()  # classes to try in any case: the classifier hardly knows them


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json`. `docs/bundle.md` says what each field means."""

    format: int
    network: Network
    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    labels: dict[str, Any]
    preprocessing: Preprocessing
    training: Training
    accuracy: Accuracies
    made_with: dict[str, str]
    files: dict[str, FileEntry]
    modes: Annotated[tuple[Mode, ...], Meta(min_length=1)] = ("goodness", "classifier")  # trained for, best first
    shortlist: Shortlist | None = None


def state_directory(path: Path) -> Path:
    """Where what is learned on a bundle lies by default: `model.state` beside `model.ff`."""
    named = path if path.name not in ("", "..") else path.resolve()
    return named.with_name(f"{named.name.removesuffix('.ff')}.state")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path`, checked field by field, and its files by name and size.

    Raises `BundleError` where there is no bundle, or one that is damaged, incomplete or too new.
    """
    file = path / MANIFEST
    try:
        path.stat()
        if not file.is_file():
            raise BundleError(f"{path}: not a model bundle, it has no {MANIFEST}")
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{file}: larger than {MAX_MANIFEST_BYTES >> 20} MiB, so no manifest")
        text = file.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such bundle; train one with 'fftrain mnist --out {path}'") from error
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    manifest = _decode_manifest(file, text)
    try:
        validate(manifest.network)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error
    if len(manifest.classes) > manifest.network.label.patterns:
        raise BundleError(f"{file}: {len(manifest.classes)} classes, but fewer label patterns")
    if len(set(manifest.classes)) < len(manifest.classes):
        raise BundleError(f"{file}: a class is named twice")
    preprocessing = manifest.preprocessing
    if isinstance(preprocessing, Digit) and preprocessing.box > min(manifest.network.image.shape[1:]):
        raise BundleError(f"{file}: a box of {preprocessing.box} pixels does not fit the image")
    if WEIGHTS not in manifest.files:
        raise BundleError(f"{path}: its writing was interrupted; write it again (fftrain … --resume)")
    for name, entry in manifest.files.items():
        _check_size(path, name, entry)
    return manifest


def _decode_manifest(file: Path, text: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise BundleError(f"{file}: format {version} is newer than this program reads ({FORMAT}): upgrade")
        if version not in READABLE or isinstance(version, bool):
            raise BundleError(f"{file}: format {version!r} is none that this program reads {READABLE}")
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{file}: damaged: {error}; copy the bundle again") from error


def _check_size(path: Path, name: str, entry: FileEntry) -> None:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise BundleError(f"{path / MANIFEST}: names a file outside the bundle: {name!r}")
    try:
        size = (path / name).stat().st_size
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / name}: missing; copy the bundle again") from error
    if size != entry.size:
        raise BundleError(f"{path / name}: {size} bytes instead of {entry.size}; copy the bundle again")


def verified(path: Path, manifest: Manifest, name: str) -> Path:
    """Path of a bundle's file whose hash has just been checked. Raises `BundleError` naming the file."""
    entry = _entry(path, manifest, name)
    try:
        digest = sha256(path / name)
    except OSError as error:
        raise BundleError(f"{path / name}: cannot be read: {error.strerror}") from error
    _check_hash(path / name, digest, entry)
    return path / name


def _entry(path: Path, manifest: Manifest, name: str) -> FileEntry:
    if name not in manifest.files:
        folder = Path(name).parent.name
        option = f" --precision {folder}" if folder in PRECISIONS else ""
        trained = name.endswith(".safetensors") and not option
        remedy = "'fftrain' makes it" if trained else f"make it with 'ffexport --model {path}{option}'"
        raise BundleError(f"{path}: holds no {name}; {remedy}")
    return manifest.files[name]


def _check_hash(file: Path, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise BundleError(f"{file}: damaged, its hash is not the manifest's; copy the bundle again")


def read_tensors(path: Path, manifest: Manifest, name: str) -> dict[str, np.ndarray]:
    """The tensors of one of the bundle's safetensors files, after its hash has been checked."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file, entry = path / name, _entry(path, manifest, name)
    try:
        data = file.read_bytes()
        _check_hash(file, hashlib.sha256(data).hexdigest(), entry)
        return load(data)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # the last three: types numpy has not
        raise BundleError(f"{file}: not a safetensors file: {error}") from error


def read_weights(path: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Every parameter, state and pattern, float32, in exactly the shapes that the description asks for."""
    tensors = read_tensors(path, manifest, WEIGHTS)
    check_shapes(path / WEIGHTS, tensors, parameter_shapes(manifest.network))
    return tensors


def check_shapes(file: Path, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """Raise `BundleError` unless `tensors` are float32, and exactly those that `shapes` names."""
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors:
            raise BundleError(f"{file}: '{name}' is missing")
        if name not in shapes:
            raise BundleError(f"{file}: '{name}' is no parameter of this network")
        tensor = tensors[name]
        if tensor.shape != shapes[name] or tensor.dtype != np.float32:
            raise BundleError(f"{file}: '{name}' is {tensor.dtype} {tensor.shape}, not float32 {shapes[name]}")


def write(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Add `files` to the bundle at `path`, or replace them; return the manifest that now vouches for them.

    `manifest.files` holds the entries to keep. Raises `StorageError`, with the bundle as it was before,
    if anything cannot be staged.
    """
    entries = {n: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for n, data in files.items()}
    files_after = dict(sorted({**manifest.files, **entries}.items()))
    final = msgspec.structs.replace(manifest, format=FORMAT, files=files_after)
    contents = {**files, MANIFEST: _encode(final)}  # the manifest comes last: it is the commit
    created = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _clear_staged(path)  # what an interrupted write has left
        staged = {_stage(path / name, data): path / name for name, data in contents.items()}
        previous, withdrawn = _stage_withdrawal(path, entries)
    except BaseException as error:
        with contextlib.suppress(OSError):
            _clear_staged(path)
            for folder in {(path / name).parent for name in files} - {path}:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        if created and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        if not isinstance(error, OSError):
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror}; what was there is unchanged") from error
    try:
        if withdrawn:
            withdrawn.replace(path / MANIFEST)
            sync_directory(path)
        for file, target in staged.items():
            if target.name == MANIFEST:
                above = {parent for other in staged.values() for parent in other.parents}
                for folder in above:
                    if folder.is_relative_to(path):
                        sync_directory(folder)
            file.replace(target)
        sync_directory(path)
        sync_directory(path.parent)  # which may have a new entry
        for name in previous - final.files.keys():  # of the model that was here before
            (path / name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be completed: {error.strerror}; write it again") from error
    return final


def _clear_staged(path: Path) -> None:
    for stale in path.glob("**/.*.new"):
        stale.unlink(missing_ok=True)


def _stage_withdrawal(path: Path, entries: Mapping[str, FileEntry]) -> tuple[set[str], Path | None]:
    """Before files are replaced by different ones, a manifest that no longer vouches for them has to be committed.

    Returns (names of the files that the bundle has, that manifest, staged, or None where nothing is replaced).
    """
    if not (path / MANIFEST).exists():
        return set(), None
    try:
        current = read_manifest(path)
    except BundleError:
        return set(), None  # nothing there that could be trusted, so nothing to keep trustworthy
    kept = {n: e for n, e in current.files.items() if n not in entries or e == entries[n]}
    if kept == current.files:
        return set(current.files), None
    withdrawn = _encode(msgspec.structs.replace(current, format=FORMAT, files=kept))
    return set(current.files), _stage(path / MANIFEST, withdrawn, ".withdrawn.new")


def _encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _stage(target: Path, data: bytes, suffix: str = ".new") -> Path:
    """Write `data` beside `target` and sync it; leaves nothing behind when that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}{suffix}")
    try:
        with staged.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged


def write_atomically(target: Path, data: bytes) -> None:
    """Replace one file by another as a whole, durably. Raises `StorageError`, with the old file intact."""
    try:
        staged = _stage(target, data)
        try:
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)  # where it could not be renamed
        sync_directory(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable: new names, and names that are gone."""
    if os.name == "nt":  # Windows cannot open a directory, and syncs its entries by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, without holding it in memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
