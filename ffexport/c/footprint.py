"""What a network in C takes on a microcontroller, and how much of it can learn there."""

from __future__ import annotations

import math

from msgspec import Struct

from ffruntime.core.devices import Microcontroller, load_microcontroller, microcontroller_names
from ffruntime.core.errors import BackendError
from ffruntime.core.layers import tensors
from ffruntime.core.manifest import Manifest, Precision

from .arena import PARTS, STACK_BYTES, Arena, Part, flash_precision, plan_arena
from .counting import flash_bytes

CODE_BYTES = 20 << 10  # of all C files with what they take of libc: a limit that a test holds
SLOTS = 2  # states in flash, the older and the newer
KIB = 1024
WORDS: dict[Part, str] = {
    "all": "all that was trained learns",
    "last": "the last unit and all readouts learn",
    "readouts": "the readouts learn",
}


class Footprint(Struct, frozen=True):
    """Bytes of RAM and of flash; `part` None: nothing learns."""

    part: Part | None
    precision: Precision
    arena: Arena
    weights: int
    slots: int
    device: str | None = None
    ram_limit: int | None = None
    flash_limit: int | None = None

    @property
    def ram(self) -> int:
        return self.arena.learn_bytes + STACK_BYTES

    @property
    def flash(self) -> int:
        return CODE_BYTES + self.weights + self.slots

    @property
    def fits(self) -> bool:
        ram, flash = self.ram_limit, self.flash_limit
        return (ram is None or self.ram <= ram) and (flash is None or self.flash <= flash)


def footprint(
    manifest: Manifest,
    part: Part,
    precision: Precision,
    chip: Microcontroller | None = None,
    device: str | None = None,
) -> Footprint:
    """Of a network of which `part` learns."""
    arena, sector = plan_arena(manifest, part, precision), chip.flash.sector_bytes if chip else 4 * KIB
    weights = sum(
        (2 if flash_precision(t, t.name in arena.places, precision) == "fp16" else 4) * math.prod(t.shape)
        for t in tensors(manifest.network)
    )
    weights += flash_bytes(manifest)
    slots = SLOTS * math.ceil(arena.state_bytes / sector) * sector
    limits = (chip.ram.usable_kib * KIB, chip.flash.usable_kib * KIB) if chip else (None, None)
    return Footprint(part if arena.learned_bytes else None, precision, arena, weights, slots, device, *limits)


def choose(
    manifest: Manifest, precision: Precision, chip: Microcontroller | None = None, device: str | None = None
) -> Footprint:
    """As much that learns as fits. Raises `BackendError` with the numbers where nothing does, and what would do."""
    tried = [footprint(manifest, part, precision, chip, device) for part in PARTS]
    for found in tried:
        if found.fits:
            return found
    raise BackendError(_refusal(manifest, tried[-1]))


def _refusal(manifest: Manifest, least: Footprint) -> str:
    """Of the least that can learn: what is short, and what would do."""
    short = []
    if least.ram_limit is not None and least.ram > least.ram_limit:
        short.append(f"RAM {_kib(least.ram)} KiB ({ram_text(least)}) of {_kib(least.ram_limit)} KiB")
    if least.flash_limit is not None and least.flash > least.flash_limit:
        short.append(f"flash {_kib(least.flash)} KiB ({flash_text(least)}) of {_kib(least.flash_limit)} KiB")
    remedies = [
        f"--device {name}"
        for name in microcontroller_names()
        if name != least.device and _fits(manifest, least, name)
    ]
    if least.precision == "fp32" and least.device and _fits(manifest, least, least.device, "fp16"):
        remedies.insert(0, "--precision fp16")
    remedy = " or ".join(remedies[:3]) or "a narrower network, or fewer cells of its readouts,"
    return f"{least.device}: does not fit: {'; '.join(short)}; {remedy} would fit"


def _fits(manifest: Manifest, least: Footprint, name: str, precision: Precision | None = None) -> bool:
    """Whether some of the network can learn on a device that is shipped."""
    if name not in microcontroller_names():
        return False
    chip = load_microcontroller(name)
    return any(footprint(manifest, part, precision or least.precision, chip).fits for part in PARTS)


def ram_text(found: Footprint) -> str:
    """Where RAM goes."""
    arena = found.arena
    parts = {
        "classifying": arena.classify_bytes,
        "a learning step beside it": arena.scratch_bytes - arena.classify_bytes,
        "what learns": arena.learn_bytes - arena.scratch_bytes - arena.counting_bytes,
        "class statistics": arena.counting_bytes,
        "stack": STACK_BYTES,
    }
    return ", ".join(f"{name} {_kib(size)}" for name, size in parts.items() if size)


def flash_text(found: Footprint) -> str:
    """Where flash goes."""
    parts = {"code": CODE_BYTES, "weights": found.weights, f"{SLOTS} slots of what was learned": found.slots}
    return ", ".join(f"{name} {_kib(size)}" for name, size in parts.items() if size)


def footprint_text(found: Footprint) -> str:
    """What a network takes, for people."""
    limits = (found.ram_limit, found.flash_limit)
    ram, flash = ("" if limit is None else f" of {_kib(limit)}" for limit in limits)
    what = WORDS[found.part] if found.part else "nothing learns"
    lines = [
        f"{found.device or 'any microcontroller'}, {found.precision}: {what}",
        f"RAM    {_kib(found.ram)}{ram} KiB ({ram_text(found)})",
        f"flash  {_kib(found.flash)}{flash} KiB ({flash_text(found)})",
    ]
    return "\n".join(lines)


def _kib(size: int) -> str:
    return f"{size / KIB:,.1f}"
