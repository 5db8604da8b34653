"""The ways in which a training step runs on a machine: the same step, with the same result but for rounding.

`benchmarks/gpu.py` measures them on a GPU, and `fftrain --step` takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import torch
from msgspec import Struct
from msgspec.structs import asdict, astuple, replace
from torch import Tensor

from ffruntime.core.errors import BackendError, UsageError, unknown

from .hardware import world

WARM_UP = 3  # real steps before a CUDA graph is captured; they make the optimizers' states and choose kernels
TOGETHER = 25  # steps in one CUDA graph, where there are several: those between two looks at the clock

Trained = TypeVar("Trained")
Given = TypeVar("Given", bound=Struct)
One = TypeVar("One")
Step: TypeAlias = Callable[[Trained, Given, Tensor], Tensor]
Steps: TypeAlias = Callable[[Trained, Sequence[Given], Tensor], Tensor]


class Way(Struct, frozen=True):
    """How a step runs: `graph`, so many steps are one CUDA graph, 0: none; `compiled`, a backend of torch.compile
    for what a unit with goodness of a pair does from its input to its loss, or none; `channels_last`, its images
    pixel by pixel in memory; `tuned`, cuDNN times its kernels and takes the fastest: a run may take others."""

    graph: int = 0
    compiled: str = ""
    channels_last: bool = True
    tuned: bool = False


PLAIN = Way()
WORDS: dict[str, dict[str, Any]] = {
    "plain": {"graph": 0},
    "graph": {"graph": 1},
    "graphs": {"graph": TOGETHER},
    "compiled": {"compiled": "inductor"},
    "nchw": {"channels_last": False},
    "tuned": {"tuned": True},
}


def parse_way(text: str, device: str) -> Way:
    """`graphs,compiled` and the like, or `auto`: CUDA graphs of one step on a GPU, else plain. Raises `UsageError`
    for a word that is none, `BackendError` for a way that this device has not."""
    way = Way(graph=int(device == "cuda"))
    if text == "auto":
        return way
    for word in text.split(","):
        if word not in WORDS:
            raise unknown("--step", word, ("auto", *WORDS))
        way = replace(way, **WORDS[word])
    if device != "cuda" and (way.graph or way.tuned):
        raise BackendError(f"--step {text}: graphs and tuned kernels are a CUDA GPU's; here: plain, compiled, nchw")
    if world() > 1 and way.graph:
        raise UsageError(f"--step {text}: several processes meet in every step, and a CUDA graph cannot wait")
    return way


def prepare(way: Way) -> None:
    """What the way asks of torch, for the whole process."""
    torch.backends.cudnn.benchmark = way.tuned


def grouped(things: Iterator[One], size: int, begun: int, room: int | None) -> Iterator[list[One]]:
    """Groups that end where their number, `begun` of which came before, is a multiple of `size`; at most `room`."""
    left = islice(things, room)
    while group := list(islice(left, size - begun % size)):
        yield group
        begun += len(group)


def one_by_one(step: Step[Trained, Given]) -> Steps[Trained, Given]:
    """A step as a function of several batches -> the sum of what it returns for each."""

    def run(state: Trained, batches: Sequence[Given], hard: Tensor) -> Tensor:
        first, *others = batches
        total = step(state, first, hard)
        if others:
            total = total.clone()  # a captured step overwrites it
        for batch in others:
            total += step(state, batch, hard)
        return total

    return run


def several(step: Step[Trained, Given], count: int) -> Steps[Trained, Given]:
    """As `one_by_one`, on CUDA: one graph of a step, and where `count` is more than 1, another of `count` steps."""
    single = one_by_one(graphed(step))
    if count == 1:
        return single
    warm, whole = 0, graphed_together(one_by_one(step), count)

    def run(state: Trained, batches: Sequence[Given], hard: Tensor) -> Tensor:
        nonlocal warm
        if len(batches) < count or warm < WARM_UP:
            warm += len(batches)
            return single(state, batches, hard)
        return whole(state, batches, hard)

    return run


def graphed(step: Step[Trained, Given]) -> Step[Trained, Given]:
    """`step`, captured at its fourth call and replayed from then on: every batch has to have the same shapes.

    The learning rates and `hard` have to be tensors that are changed in place; what it returns is overwritten by
    the next call. After PyTorch's documentation (CUDA semantics, CUDA Graphs): a few steps on a side stream, then
    capture. A batch is a struct of tensors, or None.
    """
    calls, side, captured = 0, torch.cuda.Stream(), graphed_together(one_by_one(step), 1)

    def run(state: Trained, batch: Given, hard: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > WARM_UP:
            return captured(state, [batch], hard)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = step(state, batch, hard)
        torch.cuda.current_stream().wait_stream(side)
        return result

    return run


def graphed_together(steps: Steps[Trained, Given], count: int) -> Steps[Trained, Given]:
    """`steps` on `count` batches, captured at the first call and replayed from then on: as `graphed`, after steps
    that were not captured."""
    graph, static, result = torch.cuda.CUDAGraph(), list[Given](), torch.empty(0)

    def run(state: Trained, batches: Sequence[Given], hard: Tensor) -> Tensor:
        nonlocal result
        assert len(batches) == count
        if not static:
            static.extend(_cloned(batch) for batch in batches)
            with torch.cuda.graph(graph):
                result = steps(state, static, hard)
        for own, batch in zip(static, batches, strict=True):
            for place, value in zip(astuple(own), astuple(batch), strict=True):
                if place is not None:
                    place.copy_(value)
        graph.replay()
        return result

    return run


def _cloned(batch: Given) -> Given:
    return replace(batch, **{name: tensor.clone() for name, tensor in asdict(batch).items() if tensor is not None})
