"""Device profiles: what a device has, one TOML file each, in `devices/` or anywhere."""

from __future__ import annotations

import codecs
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .errors import UsageError, unknown
from .precision import Precision
from .reading import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


LARGEST = 1 << 20  # bytes of a TOML file
MICROCONTROLLERS = "microcontrollers"  # folder of their profiles, beside the others
Kibibytes: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 20)]
Mebibytes: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 24)]  # at most 16 TiB, so that a typing error is refused


class Fact(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a figure is from, and anything a reader should know about it."""

    source: Annotated[str, Meta(min_length=1)]
    note: str = ""


class MainMemory(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Main memory in MiB: what there is, and what a program may plan with."""

    total_mib: Mebibytes
    usable_mib: Mebibytes

    def __post_init__(self) -> None:
        if self.usable_mib > self.total_mib:
            raise ValueError(f"`usable_mib` {self.usable_mib} is more than `total_mib` {self.total_mib}")


class Storage(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Flash or disk in MiB that a bundle, with the weights learned from it, may take."""

    usable_mib: Mebibytes


class Cpu(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor."""

    name: str
    cores: Annotated[int, Meta(ge=1, le=4096)]
    architecture: Literal["aarch64", "x86_64"]


class Gpu(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The NVIDIA GPU; `memory_mib` 0: it shares main memory; `workspace_mib`: scratch space of an engine."""

    name: str
    compute_capability: Annotated[str, Meta(pattern=r"^\d+\.\d$")]
    memory_mib: Annotated[int, Meta(ge=0, le=1 << 24)]
    workspace_mib: Mebibytes


class Inference(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Engines that exist for the device, best first, the precisions that pay there, and the largest call of a
    graph: so many images (in training, pairs), each with so many labels."""

    providers: Annotated[tuple[str, ...], Meta(min_length=1)]
    precision: Annotated[tuple[Precision, ...], Meta(min_length=1)]
    max_batch: Annotated[int, Meta(ge=1, le=65_536)]
    max_labels: Annotated[int, Meta(ge=1, le=65_536)]


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """One device."""

    title: str
    memory: MainMemory
    cpu: Cpu
    inference: Inference
    storage: Storage
    gpu: Gpu | None = None

    def __post_init__(self) -> None:
        if self.gpu and self.gpu.workspace_mib > (self.gpu.memory_mib or self.memory.usable_mib):
            raise ValueError(f"`gpu.workspace_mib` {self.gpu.workspace_mib} is more than there is memory")


class Ram(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A microcontroller's RAM in KiB: what there is, and what the network may take, stack included."""

    total_kib: Kibibytes
    usable_kib: Kibibytes


class Flash(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A microcontroller's flash in KiB, what of it a network may take with its code and its state, the bytes that
    are erased at a time, and those that are programmed at a time."""

    total_kib: Kibibytes
    usable_kib: Kibibytes
    sector_bytes: Annotated[int, Meta(ge=1, le=1 << 20)]
    program_bytes: Annotated[int, Meta(ge=1, le=4096)]


class Core(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A microcontroller's processor, and what compiles for it."""

    name: str
    flags: str = ""  # of arm-none-eabi-gcc


class Microcontroller(Struct, frozen=True, forbid_unknown_fields=True):
    """A device without an operating system, for `ffexport --format c`."""

    title: str
    ram: Ram
    flash: Flash
    core: Core


def profiles_folder() -> Path:
    """Where the shipped profiles are: inside this package, or `devices/` beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "devices"
    return installed if installed.is_dir() else package.parent / "devices"


def profile_names() -> list[str]:
    """Names of the profiles that are shipped."""
    return sorted(path.stem for path in profiles_folder().glob("*.toml"))


def microcontroller_names() -> list[str]:
    """Names of the microcontrollers whose profiles are shipped."""
    return sorted(path.stem for path in (profiles_folder() / MICROCONTROLLERS).glob("*.toml"))


def load_microcontroller(name_or_path: str) -> Microcontroller:
    """A shipped microcontroller by name, or any TOML file by its path. Raises `UsageError`."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in microcontroller_names():
            raise unknown("microcontroller", name_or_path, microcontroller_names())
        path = profiles_folder() / MICROCONTROLLERS / f"{name_or_path}.toml"
    profile: Microcontroller = read_toml(path, Microcontroller)
    return profile


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any TOML file by its path. Raises `UsageError`."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path in microcontroller_names():
            raise UsageError(f"{name_or_path} is a microcontroller: ffexport --format c --device {name_or_path}")
        if name_or_path not in profile_names():
            raise unknown("device", name_or_path, profile_names())
        path = profiles_folder() / f"{name_or_path}.toml"
    profile: Profile = read_toml(path, Profile)
    return profile


def read_toml(path: Path, kind: Any) -> Any:
    """A TOML file as a `kind` (a msgspec struct). Raises `UsageError` naming the file and the field."""
    try:
        return msgspec.convert(require_numbers(tomllib.loads(_text(read_regular(path, LARGEST)))), kind)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML, of Unicode, of a number's length, of msgspec
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error


def require_numbers(value: Any) -> Any:
    """What was read from TOML, as it is. Raises `ValueError` where a number in it is NaN or infinite."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        require_numbers(part)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number to compute with")
    return value


def _text(data: bytes) -> str:
    """UTF-8, also behind the mark that Windows' editors write, or UTF-16 behind its own."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n")
