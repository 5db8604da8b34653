"""`ffexport --format c`: the C project of a bundle, proven where there is a compiler, and added to the bundle."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from ffruntime.core.bundle import CALIBRATION, Bundle, write_bundle
from ffruntime.core.devices import Microcontroller
from ffruntime.core.errors import BackendError
from ffruntime.core.manifest import GOLDEN
from ffruntime.core.precision import Precision
from ffruntime.lock import writing

from ..artefacts import REPORT, Artefact, encode_report, read_report, with_rows
from ..onnx_files import Files
from .arena import PARTS, Part
from .counting import counting
from .footprint import Footprint, choose
from .imprint import beginnings
from .int8 import calibrate, why_not_int8
from .proof import golden_error
from .sweeps import require_supported
from .tables import header, source

FOLDER = "c"
SOURCE_FOLDER = Path(__file__).parent / "src"
SOURCES = tuple(sorted(path for path in SOURCE_FOLDER.rglob("*") if path.is_file()))
UNPROVEN = "not run: no C compiler here; ff_golden proves it on the chip"


def export_c(
    path: Path,
    precision: Precision = "fp32",
    chip: Microcontroller | None = None,
    device: str | None = None,
    most: Part = PARTS[0],
) -> tuple[Artefact, Footprint]:
    """Add a C project to the bundle at `path`: for a microcontroller as much that learns as has room there, and no
    more than `most`.

    Raises `BackendError` where the network cannot be C or does not fit, `ParityError` where the golden vectors are
    not reproduced here; the bundle is then as it was.
    """
    with writing(path):
        bundle = Bundle(path)
        return _export(bundle, precision, chip, device, most)


def _export(
    bundle: Bundle, precision: Precision, chip: Microcontroller | None, device: str | None, most: Part
) -> tuple[Artefact, Footprint]:
    manifest = bundle.manifest
    require_supported(bundle.path, manifest.network)
    if precision == "int8" and (reason := why_not_int8(manifest.network)):
        raise BackendError(f"{bundle.path}: {reason}; leave out --precision int8, or use fp16")
    if GOLDEN not in bundle:
        raise BackendError(f"{bundle.path}: has no golden vectors to prove C by; train it again with fftrain")
    footprint = choose(manifest, precision, chip, device, most)
    golden, arena, weights = bundle.tensors(GOLDEN), footprint.arena, bundle.weights()
    coarse = None
    if arena.int8_units:
        coarse = calibrate(manifest.network, weights, bundle.exemplars(CALIBRATION), arena.int8_units)
    rows = beginnings(manifest.network, weights, bundle.exemplars(CALIBRATION)) if arena.learned_bytes else None
    files: Files = {file.relative_to(SOURCE_FOLDER).as_posix(): file.read_bytes() for file in SOURCES}
    ram, flash = (chip.ram.usable_kib * 1024, chip.flash) if chip else (None, None)
    files["model.h"] = header(manifest, arena, ram, flash).encode()
    files["model.c"] = source(manifest, weights, golden, arena, precision, counting(bundle), coarse, rows).encode()
    worst = golden_error(files)
    added = {f"{FOLDER}/{name}": data for name, data in files.items()}
    size, verdict = sum(map(len, files.values())), UNPROVEN if worst is None else "ok"
    row = Artefact(FOLDER, size, precision, worst, verdict)
    others = {name: entry for name, entry in manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    if report := read_report(bundle):
        added[REPORT] = encode_report(with_rows(report, [row]))
    write_bundle(bundle.path, structs.replace(manifest, files=others), added)
    return row, footprint
