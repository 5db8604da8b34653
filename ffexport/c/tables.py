"""`model.h` and `model.c`: a bundle's network as the constant tables of `src/ffedge.h`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ffruntime.core import __version__
from ffruntime.core.architecture import (
    AvgPool,
    Conv,
    Linear,
    MaxPool,
    Network,
    Shape,
    readout_cells,
    scored_units,
    unit_shapes,
)
from ffruntime.core.devices import Flash
from ffruntime.core.layers import KNOWN, TOTAL, Tensor, readout_layer, tensors, unit_tensors
from ffruntime.core.learning import ClassLoss
from ffruntime.core.manifest import WEIGHTS, Manifest
from ffruntime.core.precision import TOLERANCES, Precision

from .arena import CONVERTED, NAME_BYTES, STACK_BYTES, Arena, deep, features, flash_precision, output
from .counting import COUNTS, MOMENT, NAMES, SUMS, Counting, state_shapes
from .imprint import Beginning
from .int8 import Int8
from .int8_tables import int8_source
from .literals import array, number
from .sweeps import Sweep, sweeps

RATE = 0.01  # learning rate of a step of one image, to begin with
NONE = -1  # the index of a tensor that there is not
FIXED = "FF_FIXED"
NORMALISE = {
    "none": "NONE",
    "divisive": "DIVISIVE",
    "batch": "BATCH",
    "layer": "GROUPS",
    "group": "GROUPS",
    "instance": "GROUPS",
}
MARK = "/* Written by ffexport --format c"
TYPES: Mapping[Precision, str] = {"fp32": "FF_FLOAT32", "fp16": "FF_FLOAT16", "int8": "FF_INT8"}


def header(manifest: Manifest, arena: Arena, ram: int | None, flash: Flash | None = None) -> str:
    """`model.h`: sizes, and the names of the tables. `ram`: bytes that a device has, to be asserted; `flash`: its
    flash, whose sectors are named."""
    network, classes = manifest.network, len(manifest.classes)
    sizes = {
        "FF_CLASSES": (classes, "that the network knows"),
        "FF_ROWS": (network.label.patterns, "of the readouts: those of the classes, and the spare ones"),
        "FF_UNITS": (len(network.units), ""),
        "FF_IMAGE_BYTES": (math.prod(network.image.shape), "×".join(map(str, network.image.shape))),
        "FF_CLASSIFY_BYTES": (arena.classify_bytes, "of an arena that classifies"),
        "FF_LEARN_BYTES": (arena.learn_bytes, "of one that learns, too"),
        "FF_MOMENTUM_BYTES": (arena.momentum_bytes, "of one that learns with momentum"),
        "FF_STATE_BYTES": (arena.state_bytes, "of a state file, at most"),
        "FF_CMSIS_NN_BYTES": (arena.cmsis_nn_bytes, "of more arena, where FF_USE_CMSIS_NN is defined"),
        "FF_STACK_BYTES": (STACK_BYTES, "of the deepest call, on a Cortex-M"),
    }
    lines = [f"#define {name} {value}{f'  /* {what} */' if what else ''}" for name, (value, what) in sizes.items()]
    limit = f"#ifndef FF_RAM_BYTES\n#define FF_RAM_BYTES {ram}  /* of the device */\n#endif\n" if ram else ""
    if flash:
        limit += FLASH.format(sector=flash.sector_bytes, unit=flash.program_bytes)
    return HEADER.format(sizes="\n".join(lines), limit=limit)


FLASH = """\
#ifndef FF_FLASH_SECTOR
#define FF_FLASH_SECTOR {sector}u  /* of the device: bytes of its flash that are erased at a time */
#define FF_FLASH_UNIT {unit}u  /* and that are programmed at a time */
#endif
"""

HEADER = """\
/* Written by ffexport --format c. The sizes of this network; bytes. */
#ifndef FF_MODEL_H
#define FF_MODEL_H

#include "ffedge.h"

{sizes}

/* Define FF_CLASSIFY_ONLY, for all files, where the arena is too small to learn. */
#ifdef FF_CLASSIFY_ONLY
#define FF_OWN_BYTES FF_CLASSIFY_BYTES
#else
#define FF_OWN_BYTES FF_LEARN_BYTES
#endif
#ifdef FF_USE_CMSIS_NN
#define FF_ARENA_BYTES (FF_OWN_BYTES + FF_CMSIS_NN_BYTES)
#else
#define FF_ARENA_BYTES FF_OWN_BYTES
#endif
#define FF_ARENA_WORDS (FF_ARENA_BYTES / 4)

/* Images that are stored to be learned again: ff_replay.h; those in flash: ff_replay_flash.h. Bytes of RAM. */
#ifndef FF_REPLAY_IMAGES
#define FF_REPLAY_IMAGES 0
#endif
#ifdef FF_REPLAY_IN_FLASH
#define FF_REPLAY_STORED (FF_REPLAY_IMAGES * 3 + FF_IMAGE_BYTES)
#else
#define FF_REPLAY_STORED (FF_REPLAY_IMAGES * (FF_IMAGE_BYTES + 1))
#endif
#define FF_REPLAY_BYTES (FF_REPLAY_IMAGES ? FF_REPLAY_STORED + FF_IMAGE_BYTES + FF_ROWS * 4 : 0)

{limit}#ifdef FF_RAM_BYTES
typedef char ff_arena_and_stack_fit[FF_ARENA_BYTES + FF_REPLAY_BYTES + FF_STACK_BYTES <= FF_RAM_BYTES ? 1 : -1];
#endif

extern const struct ff_model ff_model;
extern const struct ff_golden ff_golden_vectors;  /* left out by the linker where nothing names it */

#endif
"""


def source(
    manifest: Manifest,
    weights: Mapping[str, np.ndarray],
    golden: Mapping[str, np.ndarray] | None,
    arena: Arena,
    precision: Precision,
    counting: Counting | None = None,
    coarse: Int8 | None = None,
    rows_begin: Mapping[int, Beginning] | None = None,
) -> str:
    """`model.c`: the weights, each in its precision, and the tables that name them; `counting`, where the arena has
    a place for class statistics; `rows_begin`: where a new class's row begins, by unit, otherwise it is 0."""
    network = manifest.network
    known = {tensor.name: tensor for tensor in tensors(network)}
    names = sorted([*known, *NAMES])
    shapes = state_shapes(manifest) if arena.counting_bytes else {}
    index = {name: place for place, name in enumerate(names)}
    parts = [f'{MARK}: weights and tables of one network, all constant. */\n#include "model.h"\n']
    parts += int8_source(coarse, arena) if coarse else []
    rows = []
    for place, name in enumerate(names):
        if name in NAMES:
            rows.append(_counted(name, shapes.get(name), arena))
            continue
        kind, data = flash_precision(known[name], name in arena.places, precision, arena.int8_units), "NULL"
        if kind != "int8":
            data = f"t{place}"
            parts.append(array(data, weights[name].astype(np.float16 if kind == "fp16" else np.float32), name))
        shape, ram = known[name].shape, arena.places.get(name)
        sides, at = ", ".join(map(str, shape)), FIXED if ram is None else f"{ram}u"
        rows.append(
            f'    {{"{name}", {data}, {at}, {math.prod(shape)}, {{{sides}}}, {len(shape)}, {TYPES[kind]}}},'
        )
    parts.append(f"static const struct ff_tensor tensors[] = {{\n{_lines(rows)}\n}};\n")
    for unit in range(len(network.units)):
        found = [
            _layer(sweep, unit, place, network, arena, index) for place, sweep in enumerate(sweeps(network, unit))
        ]
        parts.append(f"static const struct ff_layer layers{unit + 1}[] = {{\n{_lines(found)}\n}};\n")
    beginnings = rows_begin or {}
    for unit, begins in beginnings.items():
        parts.append(array(f"average{unit + 1}", begins.average, "features of the classes, where a new row begins"))
    units = [_unit(network, unit, arena, index, beginnings.get(unit)) for unit in range(len(network.units))]
    parts.append(f"static const struct ff_unit units[] = {{\n{_lines(units)}\n}};\n")
    parts.append(f"static const char *const names[] = {{{', '.join(map(quoted, manifest.classes))}}};\n")
    if manifest.exit:
        margins = np.array(manifest.exit.thresholds or [0.0], np.float32)
        parts.append(array("margins", margins, "of early exit"))
    if counting:
        parts.append(_counting(counting, arena))
    parts.append(_model(manifest, arena, index, len(names)))
    if golden is not None:
        parts.append(_golden(golden, TOLERANCES[precision]))
    return "\n".join(parts)


def _counted(name: str, shape: tuple[int, ...] | None, arena: Arena) -> str:
    """Class statistics of a state file as a tensor."""
    if shape is None:
        return f'    {{"{name}", NULL, {FIXED}, 0, {{0}}, 0, FF_ELSEWHERE}},'
    kind, sides = f"FF_{name.split('.')[1].upper()}", ", ".join(map(str, shape))
    return f'    {{"{name}", NULL, {arena.places[name]}u, {math.prod(shape)}, {{{sides}}}, {len(shape)}, {kind}}},'


def _counting(found: Counting, arena: Arena) -> str:
    """The training set's class statistics, and how they answer."""
    weight, places = found.how.weights["goodness"], arena.places
    fields: dict[str, object] = {
        "dimension": found.how.dimension,
        "shift": found.shift,
        "seed": f"{found.how.seed}u",
        "rows": "kept",
        "prior": "prior",
        "counts": "trained",
        "sums": "trained_sums",
        "classes": found.statistics.classes,
        "together": found.how.together,
        "examples": number(found.examples),
        "share": number(found.share),
        "isotropic": number(found.how.shrinkage.isotropic),
        "beside": number(weight.beside),
        "alone": number(weight.alone),
        "counted": places[COUNTS],
        "sums_here": places[SUMS],
        "moment": places[MOMENT],
        **{name: places[name] for name in ("factor", "about", "x", "v", "origins")},
    }
    return "\n".join(
        [
            array("kept", found.rows, "class statistics: rows of the Hadamard matrix"),
            array("prior", found.prior.astype(np.float32), "the covariance times the examples that it counts as"),
            array("trained", found.statistics.counts, "images of each class that the network was trained on"),
            array("trained_sums", found.statistics.sums, "their sums, as examples"),
            f"static const struct ff_counting counting = {{{_fields(fields)}}};\n",
        ]
    )


def quoted(text: str) -> str:
    """A string of UTF-8 as a C literal."""
    plain = (chr(b) if 32 <= b < 127 and b not in b'"\\?' else f"\\{b:03o}" for b in text.encode())
    return f'"{"".join(plain)}"'


def _lines(rows: Sequence[str]) -> str:
    return "\n".join(rows)


def _fields(values: Mapping[str, object]) -> str:
    return ", ".join(f".{name} = {value}" for name, value in values.items())


def _layer(sweep: Sweep, unit: int, place: int, network: Network, arena: Arena, index: Mapping[str, int]) -> str:
    op, pool = sweep.op, sweep.pool
    learns = deep(network, unit, set(arena.places))
    kind = {Conv: "FF_CONV", Linear: "FF_LINEAR"}[type(op)] if op else "FF_NOTHING"
    pooled = {MaxPool: "FF_POOL_MAX", AvgPool: "FF_POOL_MEAN"}[type(pool)] if pool else "FF_POOL_NONE"
    first = "image" if unit == 0 else output(unit - 1, len(sweeps(network, unit - 1)) - 1)
    if 0 < unit == arena.int8_units:
        first = CONVERTED
    fields: dict[str, object] = {"op": kind, "pool": pooled, "size": pool.size if pool else 1}
    if isinstance(op, Conv):
        fields |= {"kernel": op.kernel, "stride": op.stride, "padding": op.padding}
    fields |= dict(zip(("in_c", "in_h", "in_w"), _sides(sweep.before), strict=True))
    fields |= dict(zip("chw", _sides(sweep.after), strict=True))
    fields |= {
        "weight": index.get(f"{sweep.name}.weight", NONE),
        "bias": index.get(f"{sweep.name}.bias", NONE),
        "slope": number(1.0 if sweep.slope is None else sweep.slope),
        "x": arena.places[output(unit, place - 1) if place else first],
        "y": arena.places[output(unit, place)],
    }
    if learns and isinstance(pool, MaxPool):
        fields["best"] = arena.places[f"best{unit}.{place}"]
    if learns and place:
        fields["dx"] = arena.places[f"dx{unit}.{place}"]
    return f"    {{{_fields(fields)}}},"


def _sides(shape: Shape) -> tuple[int, int, int]:
    """(C, H, W); a vector is (n, 1, 1)."""
    c, h, w = (*shape, 1, 1)[:3] if len(shape) == 1 else shape
    return c, h, w


def _unit(network: Network, unit: int, arena: Arena, index: Mapping[str, int], begins: Beginning | None) -> str:
    described, (below, above) = network.units[unit], unit_shapes(network)[unit]
    given, statistics = described.inputs[0], {t.role: t for t in unit_tensors(network, unit) if not t.learnable}
    groups = {"layer": 1, "group": given.groups, "instance": below[0]}.get(given.normalise, 1)
    fields: dict[str, object] = {
        "layers": f"layers{unit + 1}",
        "count": len(sweeps(network, unit)),
        "normalise": f"FF_NORMALISE_{NORMALISE[given.normalise]}",
        "shortcut": int(described.shortcut),
        "scored": int(described.scored),
        "groups": groups,
        "mean": _index(index, statistics.get("mean")),
        "variance": _index(index, statistics.get("variance")),
    }
    if described.readout:
        layer, (_, *cells) = readout_layer(network, unit), readout_cells(described.readout, above)
        assert layer
        fields |= {
            "cell_rows": cells[0] if cells else 1,
            "cell_columns": cells[1] if cells else 1,
            "features": features(network, unit),
            "weight": index[f"{layer.name}.weight"],
            "bias": index[f"{layer.name}.bias"],
            "first": sum(features(network, other) for other in scored_units(network) if other < unit),
            "z": arena.places[f"z{unit}"],
        }
        if begins:
            fields |= {"average": f"average{unit + 1}", "high": number(begins.high), "low": number(begins.low)}
    else:
        fields |= {"weight": NONE, "bias": NONE}
    return f"    {{{_fields(fields)}}},"


def _index(index: Mapping[str, int], tensor: Tensor | None) -> int:
    return NONE if tensor is None else index[tensor.name]


def _model(manifest: Manifest, arena: Arena, index: Mapping[str, int], count: int) -> str:
    network, (c, h, w) = manifest.network, manifest.network.image.shape
    loss = manifest.learning.loss if manifest.learning else None
    fields: dict[str, object] = {
        "version": "FF_VERSION",
        "hash": quoted(manifest.files[WEIGHTS].sha256),
        "made_with": quoted(__version__),
        "channels": c,
        "height": h,
        "width": w,
        "image_mean": number(network.image.mean),
        "image_std": number(network.image.std),
        "rows": "FF_ROWS",
        "classes": "FF_CLASSES",
        "names": "names",
        "units": "units",
        "unit_count": "FF_UNITS",
        "int8": "&int8" if arena.int8_units else "NULL",
        "tensors": "tensors",
        "tensor_count": count,
        "known": index[KNOWN],
        "total": index[TOTAL],
        "margins": "margins" if manifest.exit else "NULL",
        "smoothing": number(loss.smoothing if isinstance(loss, ClassLoss) else 0),
        "prototypes": number(loss.prototypes if isinstance(loss, ClassLoss) else 0),
        "rate": number(RATE),
        "classify_bytes": "FF_CLASSIFY_BYTES",
        "learn_bytes": "FF_LEARN_BYTES",
        "momentum_bytes": "FF_MOMENTUM_BYTES",
        "goodness": arena.places["goodness"],
        "slopes": arena.places.get("slopes", 0),
        "row": arena.places["row"],
        "learned": arena.learned,
        "learned_bytes": arena.learned_bytes,
        "learned_names": arena.names,
        "scratch_bytes": arena.scratch_bytes,
        "counting": "&counting" if arena.counting_bytes else "NULL",
    }
    rows = _joined(f"    .{name} = {value}" for name, value in fields.items())
    check = f"typedef char ff_name_bytes_agree[FF_NAME_BYTES == {NAME_BYTES} ? 1 : -1];\n"
    return f"{check}\nconst struct ff_model ff_model = {{\n{rows}\n}};\n"


def _joined(rows: Iterable[str]) -> str:
    return ",\n".join(rows)


def _golden(golden: Mapping[str, np.ndarray], tolerance: float) -> str:
    images, goodness, total = golden["images"], golden["goodness"], golden["total"]
    return "\n".join(
        [
            array("golden_images", images, "golden vectors: images, goodness of every row and unit, totals"),
            array("golden_goodness", goodness.astype(np.float32), "(images, rows, units)"),
            array("golden_total", total.astype(np.float32), "(images, rows)"),
            "const struct ff_golden ff_golden_vectors = {"
            f"{len(images)}, golden_images, golden_goodness, golden_total, {number(tolerance)}}};\n",
        ]
    )
