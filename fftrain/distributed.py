"""Several processes, one training run (torchrun): each takes its share of every batch, gradients are averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
