"""What an engine is built with: shapes from a device's limits, targets, memory. Needs no engine library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ffruntime.core.devices import Gpu, Profile
from ffruntime.core.errors import BackendError
from ffruntime.engine import Shapes, Target, numbers

# What engines run on that TensorRT-RTX builds when nothing is asked for (its documentation, "CPU-Only AOT and
# TensorRT-RTX Engines": these and later ones).
PORTABLE = Target(("8.0", "8.6", "8.9", "12.0"), newer=True)
AMPERE_PLUS = Target(("8.0",), newer=True)  # TensorRT's HardwareCompatibilityLevel of that name


class Limits(Struct, frozen=True):
    """The largest call of a graph: images (in training, pairs), labels for each, MiB of scratch memory."""

    batch: int = 16
    labels: int = 16
    workspace_mib: int = 512


class Options(Struct, frozen=True):
    """What a user may ask of an engine, at some cost in speed: that newer libraries, or other GPUs, run it, too."""

    version_compatible: bool = False
    hardware_compatible: bool = False


PLAIN = Options()


def limits(device: Profile | None, batch: int | None = None, labels: int | None = None) -> Limits:
    """A device's limits, or the smaller `batch` and `labels` a network fits with; without a device `Limits()`."""
    if device is None or device.gpu is None:
        return Limits()
    inference = device.inference
    return Limits(batch or inference.max_batch, labels or inference.max_labels, device.gpu.workspace_mib)


def rtx_target(device: Gpu | None, here: str | None, offered: Sequence[str]) -> Target:
    """The GPUs that a TensorRT-RTX engine is for: the device's, else this machine's, else all that one can serve.

    `here`: compute capability of this machine's GPU; `offered`: those that this TensorRT-RTX targets. Raises
    `BackendError` where the device's is none of them.
    """
    if device is None:
        return Target((here,)) if here is not None and here in offered else PORTABLE
    asked = device.compute_capability
    if asked not in offered:
        raise BackendError(
            f"tensorrt-rtx: targets compute capabilities {', '.join(offered)}, not {device.name} ({asked}); "
            "--format tensorrt, on the device, makes engines for it"
        )
    return Target((asked,))


def offered_capabilities(members: Sequence[str]) -> list[str]:
    """Compute capabilities among the names of TensorRT-RTX's enumeration: `SM89` is 8.9, `SM120` is 12.0."""
    found = [f"{name[2:-1]}.{name[-1]}" for name in members if name.startswith("SM")]
    return sorted(found, key=numbers)


def profile_shapes(graph: str, shape: Sequence[int], names: Sequence[str | None], limit: Limits) -> Shapes:
    """Smallest, likeliest and largest shape of an input of the graph `graph`.

    `shape` has −1 where a dimension is dynamic, and `names` its name there, else None. On a device images come one
    by one, each with every label; in a gradient graph N images are as many as fit, with M·N negatives.
    """
    pairs = limit.batch * limit.labels
    ranges: Mapping[str, tuple[int, int, int]] = {"N": (1, 1, limit.batch), "L": (1, limit.labels, limit.labels)}
    if graph.startswith("unit"):  # a row is an image with one of its labels
        ranges = {"N": (1, limit.labels, pairs)}
    elif graph.startswith("gradient"):
        ranges = {"N": (1, limit.batch, limit.batch), "MN": (1, limit.batch, pairs)}
    plain = [(name or "").replace("·", "") for name in names]  # TensorRT-RTX's parser gives M·N back as MN
    columns = [ranges[name] if size < 0 else (size, size, size) for size, name in zip(shape, plain, strict=True)]
    low, likely, high = (tuple(column[i] for column in columns) for i in range(3))
    return Shapes(low, likely, high)
