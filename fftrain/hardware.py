"""What this machine is, and what that means for training: device, precision and default recipe."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from msgspec import Struct

from ffruntime.core.errors import BackendError

BF16_FLAGS = ("avx512_bf16", "amx_bf16", " bf16")  # x86-64's, and Arm's feature name


class Hardware(Struct, frozen=True):
    """Where training runs, and whether in bfloat16, which hardware that has it computes about twice as fast."""

    device: str
    bf16: bool
    name: str

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def precision(self) -> str:
        return "bf16 with fp32 master weights" if self.bf16 else "fp32"


def find_hardware(asked: str = "auto", precision: str = "auto") -> Hardware:
    """The CUDA GPU if there is one, else the CPU; or the one asked for. Raises `BackendError` if it is missing.

    `precision` is `fp32` or `bf16` where that is asked for, and else what the hardware is good at.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise BackendError("--device cuda: torch finds no CUDA GPU here; --device cpu trains on the processor")
    if asked != "cpu" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        bf16 = capability >= (8, 0) if precision == "auto" else precision == "bf16"
        return Hardware("cuda", bf16, torch.cuda.get_device_name())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = _cpu_computes_bf16() if precision == "auto" else precision == "bf16"
    return Hardware("cpu", bf16, f"{cores} CPU cores ({platform.machine()})")


def compute_exactly() -> None:
    """On CUDA: the same result for the same seed, and fp32 where fp32 is meant."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _cpu_computes_bf16() -> bool:
    try:
        features = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in features for flag in BF16_FLAGS)


def default_recipe(hardware: Hardware, offline_sample: bool) -> tuple[str, str]:
    """(recipe name, why) for this machine and these data."""
    if offline_sample:
        return "sample", "the offline sample is small, so it is seen many times"
    if hardware.device == "cuda":
        return "gpu", f"for a CUDA GPU ({hardware.name})"
    return "cpu", f"for a processor ({hardware.name})"
