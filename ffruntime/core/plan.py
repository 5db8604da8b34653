"""Whether a network fits a memory limit, and in how large calls: for every use that a bundle has.

One plan answers `ffruntime plan` and `ffexport --device`, one row of it `--memory`. The figures are those of
`memory.py`, bytes unless a name says MiB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from msgspec import Struct, structs

from .architecture import Network, class_goodness
from .devices import Profile
from .errors import BackendError
from .learning import KEPT, MICRO_BATCH, REPLAY_BYTES
from .manifest import EXIT, Manifest, Mode
from .memory import PROCESS, Memory, inference_memory, learned_bytes, update_memory, weights_bytes
from .precision import Precision, in_folder

BATCH = 16  # images in one call of an inference graph, where nothing smaller is asked for
MIB = 1 << 20
CUDA = 512 * MIB  # an assumption: CUDA's context and libraries
MARGIN = 1.1  # what a process may take beyond its figure: `benchmarks/memory.py`
# Of 8 bytes a number, at the highest point of solving class statistics: in all, where classes share a moment,
# measured, d = 400: 8.2; of each class, where each has its own, d = 136: 5.7
MATRICES, MATRICES_EACH = 9, 6
# Measured: Starlette, uvicorn, threads, and what they keep. And what may have been sent, where memory is limited.
SERVER, UPLOADS = 18 << 20, 16 << 20
GRAPHS = 256 << 10  # all graphs of a precision together, generously

Use: TypeAlias = Mode | Literal["update"]  # what a bundle can be used for


class Limits(Struct, frozen=True):
    """What there is: bytes for a process and of flash, the largest calls wanted, what is taken before a network."""

    memory: int
    batch: int = BATCH
    labels: int = 1 << 16
    micro_batch: int = MICRO_BATCH
    process: int = PROCESS
    workspace: int = 0
    storage: int | None = None

    @property
    def available(self) -> int:
        """Bytes that figures may add up to."""
        return int(self.memory / MARGIN)


UNLIMITED = Limits(1 << 62)


def device_limits(profile: Profile) -> Limits:
    """What a device offers."""
    gpu, calls = profile.gpu, profile.inference
    memory = (gpu.memory_mib if gpu and gpu.memory_mib else profile.memory.usable_mib) * MIB
    return Limits(
        memory,
        calls.max_batch,
        calls.max_labels,
        min(MICRO_BATCH, calls.max_batch),
        process=PROCESS + (CUDA if gpu else 0),
        workspace=gpu.workspace_mib * MIB if gpu else 0,
        storage=profile.storage.usable_mib * MIB,
    )


class Calls(Struct, frozen=True):
    """How much is computed at a time."""

    batch: int  # images in one call of an inference graph
    labels: int  # labels tried in one call, each with a pass; 1 where one pass answers for all
    micro_batch: int  # images in one call of a gradient graph


class Need(Struct, frozen=True):
    """What a use of a network needs, in the largest calls that fit; where none fits, in the smallest."""

    use: Use
    calls: Calls
    memory: Memory
    fits: bool


class Flash(Struct, frozen=True):
    """What is on flash: the bundle, with what a precision still adds, and what learning keeps."""

    bundle: int
    versions: int
    examples: int

    @property
    def total(self) -> int:
        return self.bundle + self.versions + self.examples


class Plan(Struct, frozen=True):
    """What all that a bundle can be used for needs, and what there is: None where nothing limits it."""

    device: str | None
    precision: Precision
    needs: tuple[Need, ...]
    flash: Flash
    memory: int | None
    storage: int | None

    @property
    def fits(self) -> bool:
        """Whether flash is enough, and memory for one use at least."""
        return self.flash_fits and any(found.fits for found in self.needs)

    @property
    def flash_fits(self) -> bool:
        return self.storage is None or self.flash.total <= self.storage


def plan(
    manifest: Manifest,
    classes: int,
    precision: Precision,
    limits: Limits,
    device: str | None = None,
    serving: bool = False,
) -> Plan:
    """A plan for a bundle that knows so many classes; `device`: whose limits they are; `serving`: in the process of
    `ffruntime serve`."""

    def left(use: Use) -> Limits:
        found = beside_statistics(manifest, use, limits)
        return beside_server(manifest, classes, use, found, precision) if serving else found

    needs = tuple(need(manifest.network, classes, use, left(use), precision) for use in uses(manifest))
    memory = None if limits.memory == UNLIMITED.memory else limits.memory
    return Plan(device, precision, needs, flash(manifest, precision), memory, limits.storage)


def beside_statistics(manifest: Manifest, use: Use, limits: Limits) -> Limits:
    """The same limits where class statistics are in memory, too, as they answer in such a use: in mode `exit` while
    they alone know a class. States that were applied add nothing: they are read one after the other."""
    how = manifest.counted
    if not (how and use in ("goodness", EXIT, "update")):
        return limits
    each = MATRICES_EACH * manifest.network.label.patterns
    matrices = MATRICES if how.moment == "shared" else each
    return structs.replace(limits, process=limits.process + matrices * 8 * how.dimension**2)


def beside_server(manifest: Manifest, classes: int, use: Use, limits: Limits, precision: Precision) -> Limits:
    """The same limits where a server is in the process, and what is sent to it; beside an update, too, what answers
    meanwhile: the former weights, with a picture."""
    more, network = SERVER + UPLOADS, manifest.network
    if use == "update":
        labels = 1 if class_goodness(network) else min(classes, limits.labels)
        more += inference_memory(network, precision, 1, labels, manifest.inference_modes[0], 0).total
    return structs.replace(limits, process=limits.process + more)


def uses(manifest: Manifest) -> list[Use]:
    """What a bundle can be used for: its modes, and to learn where it has gradient graphs or would get them."""
    return [*manifest.inference_modes, "update"] if manifest.learning else [*manifest.inference_modes]


def need(network: Network, classes: int, use: Use, limits: Limits, precision: Precision = "fp32") -> Need:
    """The largest calls for a use that keep to the limits, with a margin for what the figures are off by.

    All labels in one call come before many images in one, and both, in an update, before a large micro-batch:
    judging it takes calls of a mode, too.
    """

    def memory(calls: Calls) -> Memory:
        sizes, rest = (calls.batch, calls.labels), (limits.process, limits.workspace)
        if use == "update":
            return update_memory(network, calls.micro_batch, *sizes, *rest)
        return inference_memory(network, precision, *sizes, use, *rest)

    def largest(tried: Sequence[Calls]) -> Calls:
        return next((one for one in tried if memory(one).total <= limits.available), tried[-1])

    one_pass = use == "classifier" or class_goodness(network)
    all_labels = 1 if one_pass else min(classes, limits.labels)
    calls = largest([Calls(n, labels, 1) for labels in halvings(all_labels) for n in halvings(limits.batch)])
    if use == "update":
        calls = largest([Calls(calls.batch, calls.labels, pairs) for pairs in halvings(limits.micro_batch)])
    needed = memory(calls)
    return Need(use, calls, needed, needed.total <= limits.available)


def halvings(largest: int) -> list[int]:
    """largest, half of it, …, 1."""
    return [largest >> shift for shift in range(largest.bit_length())]


def choose(network: Network, classes: int, use: Use, limits: Limits, precision: Precision = "fp32") -> Need:
    """The same. Raises `BackendError` with the numbers where not even one image with one label fits."""
    found = need(network, classes, use, limits, precision)
    if not found.fits:
        enough, given = _mib(math.ceil(found.memory.total * MARGIN)), _mib(limits.memory)
        raise BackendError(f"in {given} MiB: {_short(found, limits.memory)}; allow {enough} MiB")
    return found


def flash(manifest: Manifest, precision: Precision) -> Flash:
    """What a bundle needs on flash."""
    network, bundle = manifest.network, sum(entry.size for entry in manifest.files.values())
    if in_folder("goodness.onnx", precision) not in manifest.files:
        bundle += GRAPHS + (0 if precision == "fp32" else weights_bytes(network, precision))
    if "update" not in uses(manifest):
        return Flash(bundle, 0, 0)
    return Flash(bundle, KEPT * learned_bytes(network), REPLAY_BYTES + _counted(manifest))


def _counted(manifest: Manifest) -> int:
    """What class statistics add to what is stored: features beside every picture, the snapshot, and what came with
    a version, as a state that was applied does, of as many as are kept."""
    how, network = manifest.counted, manifest.network
    if not how:
        return 0
    rows = REPLAY_BYTES // math.prod(network.image.shape)
    return rows * how.dimension + (1 + KEPT) * how.kept_bytes(network.label.patterns)


def require_fit(wanted: Plan, others: Sequence[Plan] = ()) -> None:
    """Raise `BackendError` with the numbers unless the bundle fits; `others`: plans in other precisions."""
    if wanted.fits:
        return
    short, remedies = [], []
    if not any(found.fits for found in wanted.needs):
        least = min(wanted.needs, key=lambda found: found.memory.total)
        short.append(_short(least, UNLIMITED.memory if wanted.memory is None else wanted.memory))
        remedies.append(f"{_mib(math.ceil(least.memory.total * MARGIN))} MiB for programs")
    if wanted.storage is not None and not wanted.flash_fits:
        size = _mib(wanted.flash.total)
        short.append(f"bundle and {KEPT} learned versions need {size} of {_mib(wanted.storage)} MiB of flash")
        remedies.append(f"{size} MiB of flash")
    fitting = next((other.precision for other in others if other.fits), None)
    remedy = f"--precision {fitting}" if fitting else f"{' and '.join(remedies)}, or a narrower network,"
    where = f"{wanted.device}, {wanted.precision}" if wanted.device else wanted.precision
    raise BackendError(f"{where}: does not fit: {'; '.join(short)}; {remedy} would fit")


def _short(found: Need, memory: int) -> str:
    figures = {name: getattr(found.memory, name) for name in found.memory.__struct_fields__}
    listed = ", ".join(f"{name} {_mib(value)}" for name, value in figures.items() if value)
    available = math.floor(memory / MARGIN / MIB)
    return f"{found.use} needs {_mib(found.memory.total)} MiB ({listed}) of {available:,} MiB"


def _mib(size: int) -> str:
    return f"{math.ceil(size / MIB):,}"
