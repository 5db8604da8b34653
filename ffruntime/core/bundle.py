"""The model bundle: a directory with a manifest that vouches for every file in it.

`docs/bundle.md` specifies the format. Writing is all or nothing: new files are staged beside the old ones and
synced, then renamed, and the manifest is replaced last; a full disk or a lost power supply before that leaves what
was there before. Reading refuses what does not match.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from .architecture import Shape
from .data import Examples
from .durable import sha256, stage, sync_directory
from .errors import BundleError, StateError, StorageError, UsageError
from .layers import tensor_shapes
from .manifest import (
    EXEMPLARS,
    FORMAT,
    GOLDEN,
    MANIFEST,
    STATISTICS,
    WEIGHTS,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from .precision import PRECISIONS
from .reading import read_regular
from .shipped import is_shipped
from .statistics import Statistics, decode, units_hash

MAX_MANIFEST_BYTES = 16 << 20
CALIBRATION, REPLAY, HELD_BACK = 0, 1, 2  # parts of the exemplars
# A file's name in the manifest has one spelling, the same on every file system.
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_+.-]*[A-Za-z0-9_+-])?(/[A-Za-z0-9_]([A-Za-z0-9_+.-]*[A-Za-z0-9_+-])?)*")


class Bundle:
    """A bundle opened for reading. Nothing in it changes: whoever writes opens it again.

    `manifest` is checked field by field, and the bundle's files by name and size; a file's hash is checked when it
    is first asked for. Safe to share between threads. Raises `BundleError` where there is no bundle, or one that is
    damaged, incomplete or too new.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, (str, Path)):
            raise UsageError(f"bundle: must be the path of one, not {type(path).__name__}")
        self.path = Path(path)
        self.manifest = _read_manifest(self.path)
        self._verified: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    @property
    def state_directory(self) -> Path:
        """Where what is learned on the bundle lies by default: `model.state` beside `model.ff`; of the model that
        comes with the runtime, `mnist.state` in the working directory."""
        return state_directory(self.path)

    def verified(self, name: str) -> Path:
        """Path of a file whose hash has been checked. Raises `BundleError` naming the file."""
        entry, file = self.entry(name), self.path / name
        if name not in self._verified:
            try:
                digest = sha256(file)
            except OSError as error:
                raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
            _check_hash(file, digest, entry)
            self._verified.add(name)
        return file

    def read(self, name: str) -> bytes:
        """The content of a file, whose hash has been checked. Raises `BundleError` naming the file."""
        return _read_checked(self.path / name, self.entry(name))

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The tensors of one of the bundle's safetensors files, finite, after its hash has been checked."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        file, data = self.path / name, self.read(name)
        try:
            found = load(data)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:  # the last three: types numpy has not
            raise BundleError(f"{file}: not a safetensors file: {error}") from error
        require_finite(file, found)
        return found

    def weights(self) -> dict[str, np.ndarray]:
        """Every parameter, state and pattern, float32, in exactly the shapes that the description asks for."""
        tensors = self.tensors(WEIGHTS)
        check_shapes(self.path / WEIGHTS, tensors, tensor_shapes(self.manifest.network))
        return tensors

    def exemplars(self, part: int | None = None) -> Examples:
        """Exemplars of a part, or all of them; none where the bundle has none."""
        if EXEMPLARS not in self:
            return Examples.none(self.manifest.network.image.shape)
        found, shape, classes = (
            self.tensors(EXEMPLARS),
            self.manifest.network.image.shape,
            len(self.manifest.classes),
        )
        count = len(found.get("images", ()))
        expected = {
            "images": ((count, *shape), np.uint8),
            "labels": ((count,), np.int64),
            "part": ((count,), np.uint8),
        }
        for name, wanted in expected.items():
            if name not in found or (found[name].shape, found[name].dtype) != wanted:
                raise BundleError(f"{self.path / EXEMPLARS}: '{name}' is missing, or not of the network's images")
        examples = Examples(found["images"], found["labels"])
        if count and not 0 <= examples.labels.min() <= examples.labels.max() < classes:
            raise BundleError(f"{self.path / EXEMPLARS}: a label is none of the {classes} classes")
        if count and found["part"].max() > HELD_BACK:
            raise BundleError(f"{self.path / EXEMPLARS}: 'part' names a part that there is not")
        return examples if part is None else examples.take(found["part"] == part)

    def statistics(self) -> Statistics:
        """Class statistics of the training set; of no example where the bundle has no file of them.

        For a manifest that says how they are made. Raises `BundleError` where they are damaged, or of other units.
        """
        how, classes = self.manifest.statistics, len(self.manifest.classes)
        assert how
        if STATISTICS not in self:
            return how.none(classes)
        file = self.path / STATISTICS
        found, origin = decode(self.read(STATISTICS), file)
        if origin != how.origin(self.units_hash):
            raise BundleError(f"{file}: made by other units, or projected otherwise; copy the bundle again")
        if found.classes != classes:
            raise BundleError(f"{file}: {found.classes} classes instead of {classes}; copy the bundle again")
        return found

    @functools.cached_property
    def units_hash(self) -> str:
        """The hash of what features are made with: class statistics belong to it."""
        return units_hash(self.manifest.network, self.weights())

    def some_images(self) -> np.ndarray:
        """Real images, uint8 (N, C, H, W): the exemplars, else those of the golden vectors."""
        return self.exemplars().pixels if EXEMPLARS in self else self.tensors(GOLDEN)["images"]

    def entry(self, name: str) -> FileEntry:
        """What the manifest knows of a file. Raises `BundleError` that says what makes it where it is not there."""
        if name not in self.manifest.files:
            folder = Path(name).parent.name
            option = f" --precision {folder}" if folder in PRECISIONS else ""
            trained = name.endswith(".safetensors") and not option
            remedy = "'fftrain' makes it" if trained else f"make it with 'ffexport --model {self.path}{option}'"
            raise BundleError(f"{self.path}: holds no {name}; {remedy}")
        return self.manifest.files[name]


def state_directory(path: Path) -> Path:
    """The same of the bundle at `path`, whether or not it can be read."""
    if is_shipped(path):
        path = Path(path.name)
    named = path if path.name not in ("", "..") else path.resolve()
    return named.with_name(f"{named.name.removesuffix('.ff')}.state")


def state_there(directory: Path) -> bool:
    """Whether there is a state directory. Raises `StateError` where something else is in its place."""
    if directory.exists() and not directory.is_dir():
        raise StateError(f"{directory}: is no directory, so no state; name another --state")
    return directory.is_dir()


def _read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle at `path`, and its files checked by name and size."""
    file = path / MANIFEST
    try:
        path.stat()
        if not file.is_file():
            raise BundleError(f"{path}: not a model bundle, it has no {MANIFEST}")
        text = read_regular(file, MAX_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such bundle; train one with 'fftrain mnist --out {path}'") from error
    except (OSError, ValueError) as error:  # the last: a name with a NUL in it
        raise BundleError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    manifest = decode_manifest(file, text)
    if WEIGHTS not in manifest.files:
        raise BundleError(f"{path}: its writing was interrupted; write it again (fftrain … --resume)")
    _check_names(file, manifest.files)
    for name, entry in manifest.files.items():
        _check_size(path, name, entry)
    return manifest


def _check_names(file: Path, names: Iterable[str]) -> None:
    """Raise `BundleError` unless every name has the one spelling that a file in a bundle has."""
    folded = {MANIFEST: ""}
    for name in names:
        if not name.strip("./") or name.startswith("/") or ".." in name.split("/"):
            raise BundleError(f"{file}: names a file outside the bundle: {name[:80]!r}")
        if len(name) > 255 or not NAME.fullmatch(name):
            raise BundleError(f"{file}: names no file as this format spells it, so it is missing: {name[:80]!r}")
        if name.lower() in folded:
            raise BundleError(f"{file}: names the same file twice: {name!r}")
        folded[name.lower()] = name


def _check_size(path: Path, name: str, entry: FileEntry) -> None:
    try:
        status = (path / name).stat()
    except FileNotFoundError as error:
        raise BundleError(f"{path / name}: missing; copy the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path / name}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path / name}: is no regular file; copy the bundle again")
    if status.st_size != entry.size:
        raise BundleError(f"{path / name}: {status.st_size} bytes instead of {entry.size}; copy the bundle again")


def _read_checked(file: Path, entry: FileEntry) -> bytes:
    try:
        data = read_regular(file, entry.size)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read: {error.strerror}") from error
    _check_hash(file, hashlib.sha256(data).hexdigest(), entry)
    return data


def _check_hash(file: Path, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise BundleError(f"{file}: damaged, its hash is not the manifest's; copy the bundle again")


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


def require_finite(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise `BundleError` naming a tensor that holds a value that is no finite number."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BundleError(f"{file}: '{name}' holds values that are no finite numbers")


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Add `files` to the bundle at `path`, or replace them; return the bundle as it is then.

    `manifest.files` holds the entries to keep; those that are links become files. Nothing is written or deleted
    outside the bundle. Raises `StorageError`, with the bundle as it was before, if anything cannot be staged.
    """
    _require_own_folders(path, {*manifest.files, *files})
    files = {**_linked(path, {n: e for n, e in manifest.files.items() if n not in files}), **files}
    entries = {n: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for n, data in files.items()}
    files_after = dict(sorted({**manifest.files, **entries}.items()))
    final = msgspec.structs.replace(manifest, format=FORMAT, files=files_after)
    contents = {**files, MANIFEST: encode_manifest(final)}  # replacing the manifest, last, commits the write
    created = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _clear_staged(path)  # what an interrupted write has left
        staged = {stage(path / name, data): path / name for name, data in contents.items()}
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
            if not _through_a_link(path, name):
                (path / name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be completed: {error.strerror}; write it again") from error
    return Bundle(path)


def _through_a_link(path: Path, name: str) -> bool:
    """Whether a folder between the bundle and a file in it is a link."""
    return any((path / folder).is_symlink() for folder in Path(name).parents)


def _require_own_folders(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if "/" in name and _through_a_link(path, name):
            folder = path / Path(name).parts[0]
            raise StorageError(f"{folder}: is a link, and nothing is written through one; copy the bundle (cp -rL)")


def _linked(path: Path, entries: Mapping[str, FileEntry]) -> dict[str, bytes]:
    """Content, checked, of files that are links: beside new files, they would be of another folder."""
    found = {}
    for name, entry in entries.items():
        if (path / name).is_symlink():
            found[name] = _read_checked(path / name, entry)
    return found


def _clear_staged(path: Path) -> None:
    for stale in path.glob("**/.*.new"):
        if not _through_a_link(path, str(stale.relative_to(path))):
            stale.unlink(missing_ok=True)


def _stage_withdrawal(path: Path, entries: Mapping[str, FileEntry]) -> tuple[set[str], Path | None]:
    """Before files are replaced by different ones, a manifest that no longer vouches for them has to be committed.

    Returns (names of the files that the bundle has, that manifest, staged, or None where nothing is replaced).
    """
    if not (path / MANIFEST).exists():
        return set(), None
    try:
        current = _read_manifest(path)
    except BundleError:
        return set(), None  # the manifest that is there cannot be read: nothing to preserve
    kept = {n: e for n, e in current.files.items() if n not in entries or e == entries[n]}
    if kept == current.files:
        return set(current.files), None
    withdrawn = encode_manifest(msgspec.structs.replace(current, format=FORMAT, files=kept))
    return set(current.files), stage(path / MANIFEST, withdrawn)
