"""What this machine is, and how training uses it: device and precision, several processes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor

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


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_computes_bf16() -> bool:
    try:
        features = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in features for flag in BF16_FLAGS)


# Several processes, one training run (torchrun): each takes its share of every batch, gradients are averaged.


def join(device: str) -> None:
    """Join the other processes that torchrun started, if it started this one: NCCL between GPUs, else gloo.

    A process that waits for one that is evaluating or writing does so for hours, not for minutes.
    """
    if "RANK" in os.environ and dist.is_available() and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(hours=12))


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process, from 0; number 0 shows, evaluates and writes."""
    return dist.get_rank() if world() > 1 else 0


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if world() == 1:
        return
    for tensor in tensors:
        total = tensor.contiguous()  # NCCL takes no other
        dist.all_reduce(total)
        tensor.copy_(total / world())


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process; all of them have to ask."""
    if world() == 1:
        return flag
    asked = torch.tensor(float(flag), device=device)
    dist.all_reduce(asked, op=dist.ReduceOp.MAX)
    return bool(asked)


def from_first(data: Any) -> Any:
    """What the first process has, in all of them."""
    if world() == 1:
        return data
    box = [data]
    dist.broadcast_object_list(box)
    return box[0]


def leave() -> None:
    """Wait for the others, and end the group."""
    if world() > 1:
        dist.barrier()
        dist.destroy_process_group()
