"""Device profiles: what a device has, one TOML file each, in `devices/` or anywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from .errors import UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Fact(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a figure is from, and anything a reader should know about it."""

    source: Annotated[str, Meta(min_length=1)]
    note: str = ""


class Memory(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Main memory in MiB: what there is, and what a program may plan with."""

    total_mib: Annotated[int, Meta(ge=1)]
    usable_mib: Annotated[int, Meta(ge=1)]


class Cpu(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The processor."""

    name: str
    cores: Annotated[int, Meta(ge=1)]
    architecture: Literal["aarch64", "x86_64"]


class Gpu(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The NVIDIA GPU; `memory_mib` 0 means that it shares main memory."""

    name: str
    compute_capability: Annotated[str, Meta(pattern=r"^\d+\.\d$")]
    memory_mib: Annotated[int, Meta(ge=0)]


class Inference(Fact, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Engines that exist for the device, best first, and the precisions that pay there."""

    providers: Annotated[tuple[str, ...], Meta(min_length=1)]
    precision: Annotated[tuple[Literal["fp32", "fp16", "int8"], ...], Meta(min_length=1)]


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """One device."""

    title: str
    memory: Memory
    cpu: Cpu
    inference: Inference
    gpu: Gpu | None = None


def profiles_folder() -> Path:
    """Where the shipped profiles are: inside this package, or `devices/` beside it in a checkout."""
    installed = Path(__file__).parent / "devices"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "devices"


def profile_names() -> list[str]:
    """Names of the profiles that are shipped."""
    return sorted(path.stem for path in profiles_folder().glob("*.toml"))


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any TOML file by its path. Raises `UsageError`."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in profile_names():
            raise unknown("device", name_or_path, profile_names())
        path = profiles_folder() / f"{name_or_path}.toml"
    profile: Profile = read_toml(path, Profile)
    return profile


def read_toml(path: Path, kind: Any) -> Any:
    """A TOML file as a `kind` (a msgspec struct). Raises `UsageError` naming the file and the field."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error
