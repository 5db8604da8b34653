"""A training step as a CUDA graph: launched as a whole, without a kernel waiting for Python.

After PyTorch's documentation (CUDA semantics, CUDA Graphs): a few steps on a side stream, then capture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from msgspec.structs import asdict, astuple
from torch import Tensor

from .state import Batch, State

WARM_UP = 3  # real steps; they make the optimizers' states and choose kernels

Step = Callable[[State, Batch, Tensor], Tensor]


def graphed(step: Step) -> Step:
    """`step`, captured at its fourth call and replayed from then on: every batch has to have the same shapes.

    The learning rates and `hard` have to be tensors that are changed in place; what it returns is overwritten by
    the next call.
    """
    calls, static, graph = 0, None, torch.cuda.CUDAGraph()
    side, result = torch.cuda.Stream(), torch.empty(0)

    def run(state: State, batch: Batch, hard: Tensor) -> Tensor:
        nonlocal calls, static, result
        calls += 1
        if calls <= WARM_UP:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                result = step(state, batch, hard)
            torch.cuda.current_stream().wait_stream(side)
            return result
        if static is None:
            static = Batch(**{name: tensor.clone() for name, tensor in asdict(batch).items() if tensor is not None})
            with torch.cuda.graph(graph):
                result = step(state, static, hard)
        for place, value in zip(astuple(static), astuple(batch), strict=True):
            if place is not None:
                place.copy_(value)
        graph.replay()
        return result

    return run
