"""Device profiles: what a device has, one TOML file each, in `devices/` or anywhere."""

from __future__ import annotations

import sys
from importlib.resources import files
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


def profile_names() -> list[str]:
    """Names of the profiles that are shipped."""
    return sorted(p.name.removesuffix(".toml") for p in files("ffruntime.devices").iterdir() if p.name.endswith(".toml"))


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any TOML file by its path. Raises `UsageError`."""
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        try:
            return convert_toml(path.read_bytes(), Profile, name_or_path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if name_or_path not in profile_names():
        raise unknown("device", name_or_path, profile_names())
    file = files("ffruntime.devices") / f"{name_or_path}.toml"
    return convert_toml(file.read_bytes(), Profile, f"{name_or_path}.toml")


def convert_toml(text: bytes, kind: Any, where: str) -> Any:
    """TOML text as a `kind` (a msgspec struct). Raises `UsageError` naming `where` and the field."""
    try:
        return msgspec.convert(tomllib.loads(text.decode()), kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{where}: {error}") from error
