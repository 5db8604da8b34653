"""Units in int8 as the constant tables of `src/ffint8.h`."""

from __future__ import annotations

from .arena import Arena
from .int8 import Int8, Layer, Unit
from .literals import array, number

KERNELS = ("receive", "run", "average", "hand_on")


def int8_source(coarse: Int8, arena: Arena) -> list[str]:
    """Their part of `model.c`, which ends with the variable `int8`."""
    parts = ['#include "ffint8.h"\n']
    rows = [_unit(unit, f"q{index + 1}", parts) for index, unit in enumerate(coarse.units)]
    parts.append(f"static const struct ff_int8_unit int8_units[] = {{\n{_joined(rows)}\n}};\n")
    parts.append(array("pixel_multiplier", coarse.pixel_multiplier, "of each channel of an image"))
    parts.append(array("pixel_offset", coarse.pixel_offset, "and of each channel"))
    parts.append(array("int8_rest", coarse.rest, "what is added to each channel of what the units above receive"))
    sizes = f"{len(coarse.units)}, int8_units, pixel_multiplier, pixel_offset, {number(coarse.step)}, int8_rest"
    kernels = ", ".join(f"ff_int8_{name}" for name in KERNELS)
    parts.append(f"static const struct ff_int8 int8 = {{{sizes}, {arena.cmsis_nn_bytes}, {kernels}}};\n")
    return parts


def _unit(unit: Unit, name: str, parts: list[str]) -> str:
    rows = [_layer(layer, f"{name}_{place + 1}", parts) for place, layer in enumerate(unit.layers)]
    parts.append(f"static const struct ff_int8_layer {name}_layers[] = {{\n{_joined(rows)}\n}};\n")
    parts.append(array(f"{name}_scale", unit.scale, f"of unit {name[1:]}'s output: the step of each channel"))
    parts.append(array(f"{name}_mean", unit.mean, "and what normalisation took off"))
    return f"    {{{name}_layers, {name}_scale, {name}_mean, {number(unit.gain)}, {number(unit.eps)}}}"


def _layer(layer: Layer, name: str, parts: list[str]) -> str:
    names = []
    for field in ("weight", "bias", "zero", "shortcut", "multiplier", "shift"):
        values = getattr(layer, field)
        names.append("NULL" if values is None else f"{name}_{field}")
        if values is not None:
            parts.append(array(names[-1], values, f"int8: {field} of each channel of unit {name[1:]}"))
    return f"    {{{', '.join(names)}, {layer.slope}}}"


def _joined(rows: list[str]) -> str:
    return ",\n".join(rows)
