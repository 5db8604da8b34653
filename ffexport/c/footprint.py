"""What a network in C takes on a microcontroller, and how much of it can learn there."""

from __future__ import annotations

import math

from msgspec import Struct

from ffruntime.core.architecture import Network
from ffruntime.core.devices import Microcontroller, load_microcontroller, microcontroller_names
from ffruntime.core.errors import BackendError
from ffruntime.core.layers import tensors
from ffruntime.core.manifest import Manifest
from ffruntime.core.precision import PRECISIONS, Precision

from .arena import PARTS, STACK_BYTES, Arena, Part, features, flash_precision, plan_arena
from .counting import flash_bytes
from .int8 import why_not_int8
from .sweeps import sweeps

CODE_BYTES = 20 << 10  # of all C files but int8 and replay, with what they take of libc: a test holds it
INT8_CODE_BYTES = 3 << 10  # of ffint8.c beside them
INT8_CHANNEL_BYTES = 28  # tables of a channel of an int8 layer, at most
MARK_BYTES = 20  # FF_FLASH_MARK of src/ff_flash.h
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
        return self.code + self.weights + self.slots

    @property
    def code(self) -> int:
        return CODE_BYTES + (INT8_CODE_BYTES if self.arena.int8_units else 0)

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
    weights = _weight_bytes(manifest.network, arena, precision) + flash_bytes(manifest)
    if arena.learned_bytes:  # where rows of new classes begin
        weights += sum(4 * features(manifest.network, unit) for unit in range(len(manifest.network.units)))
    unit = chip.flash.program_bytes if chip else 4
    slot = math.ceil(MARK_BYTES / unit) * unit + arena.state_bytes + unit  # FF_FLASH_SLOT of src/ff_flash.h
    slots = SLOTS * math.ceil(slot / sector) * sector if arena.state_bytes else 0
    limits = (chip.ram.usable_kib * KIB, chip.flash.usable_kib * KIB) if chip else (None, None)
    return Footprint(part if arena.learned_bytes else None, precision, arena, weights, slots, device, *limits)


def _weight_bytes(network: Network, arena: Arena, precision: Precision) -> int:
    """Of weights, and of tables of int8: int8 biases and statistics are in these."""
    found = 0
    for tensor in tensors(network):
        kind = flash_precision(tensor, tensor.name in arena.places, precision, arena.int8_units)
        if kind != "int8" or tensor.role == "weight":
            found += {"fp32": 4, "fp16": 2, "int8": 1}[kind] * math.prod(tensor.shape)
    channels = (sweep.after[0] for index in range(arena.int8_units) for sweep in sweeps(network, index))
    return found + INT8_CHANNEL_BYTES * sum(channels)


def choose(
    manifest: Manifest,
    precision: Precision,
    chip: Microcontroller | None = None,
    device: str | None = None,
    most: Part = PARTS[0],
) -> Footprint:
    """As much that learns as fits, `most` at most; in int8 not so much that no unit is int8. Raises `BackendError`
    with the numbers where nothing fits, and what would do."""
    parts = PARTS[PARTS.index(most) :]
    tried = [footprint(manifest, part, precision, chip, device) for part in parts]
    if precision == "int8":
        tried = [found for found in tried if found.arena.int8_units] or tried
    for found in tried:
        if found.fits:
            return found
    raise BackendError(_refusal(manifest, tried[-1], chip))


def _refusal(manifest: Manifest, least: Footprint, chip: Microcontroller | None) -> str:
    """Of the least that can learn: what is short, and what would do."""
    short = []
    if least.ram_limit is not None and least.ram > least.ram_limit:
        short.append(f"RAM {_kib(least.ram)} KiB ({ram_text(least)}) of {_kib(least.ram_limit)} KiB")
    if least.flash_limit is not None and least.flash > least.flash_limit:
        short.append(f"flash {_kib(least.flash)} KiB ({flash_text(least)}) of {_kib(least.flash_limit)} KiB")
    remedies = [
        f"--device {name}"
        for name in microcontroller_names()
        if name != least.device and _fits(manifest, least.precision, load_microcontroller(name))
    ]
    coarser = PRECISIONS[PRECISIONS.index(least.precision) + 1 :]
    for precision in reversed(coarser):
        can = precision != "int8" or why_not_int8(manifest.network) is None
        if chip and can and _fits(manifest, precision, chip):
            remedies.insert(0, f"--precision {precision}")
    remedy = " or ".join(remedies[:3]) or "a narrower network, or fewer cells of its readouts,"
    return f"{least.device}: does not fit: {'; '.join(short)}; {remedy} would fit"


def _fits(manifest: Manifest, precision: Precision, chip: Microcontroller) -> bool:
    """Whether some of the network can learn on a chip."""
    return any(footprint(manifest, part, precision, chip).fits for part in PARTS)


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
    parts = {"code": found.code, "weights": found.weights, f"{SLOTS} slots of what was learned": found.slots}
    return ", ".join(f"{name} {_kib(size)}" for name, size in parts.items() if size)


def footprint_text(found: Footprint) -> str:
    """What a network takes, for people."""
    limits = (found.ram_limit, found.flash_limit)
    ram, flash = ("" if limit is None else f" of {_kib(limit)}" for limit in limits)
    what = WORDS[found.part] if found.part else "nothing learns"
    if count := found.arena.int8_units:
        what += f"; of units {f'1 to {count} are' if count > 1 else 'the first is'} int8"
    lines = [
        f"{found.device or 'any microcontroller'}, {found.precision}: {what}",
        f"RAM    {_kib(found.ram)}{ram} KiB ({ram_text(found)})",
        f"flash  {_kib(found.flash)}{flash} KiB ({flash_text(found)})",
    ]
    return "\n".join(lines)


def _kib(size: int) -> str:
    return f"{size / KIB:,.1f}"
