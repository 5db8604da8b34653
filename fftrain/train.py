"""The training loop: epochs of steps, checkpoints, and an end that loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct, to_builtins
from torch import Tensor

from ffruntime.architecture import Image, Network

from .augment import augment
from .checkpoint import Identity, Progress, checkpoint_path, load_checkpoint, save_checkpoint
from .data import Dataset, Split, on_device, statistics
from .evaluate import accuracy
from .labels import make_patterns
from .network import Tensors, initialise, parameters
from .recipe import Recipe, build_network
from .step import Batch, training_step

CHECKPOINT_SECONDS = 60.0
GLANCE = 2_000  # validation images looked at after each epoch; all of them are at the end
REPORT_STEPS = 25  # between looks at the figures, which make a GPU wait


class Run(Struct):
    """A training run: what it makes (`tensors`, in place) and what it makes it from."""

    recipe: Recipe
    network: Network
    tensors: Tensors
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    seed: int
    device: torch.device
    dtype: torch.dtype
    seconds: float = 0.0  # of training, those before a resumption included
    history: tuple[dict[str, Any], ...] = ()  # a row for each whole epoch

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.dataset.train.labels) // self.recipe.schedule.batch)

    @property
    def identity(self) -> Identity:
        return Identity(
            to_builtins(self.recipe),
            self.seed,
            self.dataset.classes,
            self.dataset.source.source,
            str(self.dtype),
        )


class Report(Struct, frozen=True):
    """Where the run is. `figures` (U + 1, 2) are means over the epoch so far (`training_step`), on the CPU;
    `row` is the epoch's line in the history, at its end."""

    epoch: int
    step: int
    figures: Tensor
    row: dict[str, Any] | None = None


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its checkpoint is written."""


def start(recipe: Recipe, dataset: Dataset, seed: int, device: torch.device, dtype: torch.dtype) -> Run:
    """A run that has not begun, its network initialised from the seed."""
    c, h, w = dataset.train.pixels.shape[1:]
    patterns = make_patterns(recipe.patterns, len(dataset.classes), h, w)
    mean, std = statistics(dataset.train) if recipe.network.standardise else (0.0, 1.0)
    network = build_network(recipe, Image((c, h, w), mean, std), len(patterns["labels.patterns"]))
    tensors = initialise(network, patterns, torch.Generator().manual_seed(seed))
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Run(recipe, network, tensors, make_optimizer(recipe, network, tensors), dataset, seed, device, dtype)


def make_optimizer(recipe: Recipe, network: Network, tensors: Tensors) -> torch.optim.Optimizer:
    """Adam over every trained unit and the linear classifier; the losses stay local, as the gradients do."""
    trained = [
        tensor
        for index, unit in enumerate(network.units)
        if unit.trained
        for tensor in parameters(index, tensors).values()
    ]
    head = [tensors["head.weight"], tensors["head.bias"]]
    rates = ((trained, recipe.schedule.lr), (head, recipe.schedule.head_lr))
    return torch.optim.Adam([{"params": p, "base_lr": lr} for p, lr in rates if p], fused=True)


def learning_rate(progress: float, constant: float) -> float:
    """Factor of the learning rate: 1 for the share `constant` of the training, then linearly to 0."""
    return min(1.0, (1 - progress) / (1 - constant))


def epoch_batches(train: Split, recipe: Recipe, seed: int, epoch: int, skip: int) -> Iterator[Batch]:
    """The epoch's batches from number `skip` on. The same seed and epoch give the same batches."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    n, device, batch = len(train.labels), train.pixels.device, recipe.schedule.batch
    order = torch.randperm(n, generator=generator).to(device)
    noise = torch.rand(n, 2, generator=generator).to(device)
    pixels, labels = augment(recipe.augment, train.pixels[order], generator), train.labels[order]
    for start in range(skip * batch, max(n - batch, 0) + 1, batch):
        chosen = slice(start, start + batch)
        yield Batch(pixels[chosen], labels[chosen], noise[chosen])


def train(run: Run, out: Path, resume: bool, stop: Callable[[], bool]) -> Iterator[Report]:
    """Train to the recipe's end, reporting on the way.

    Asked to `stop`, finishes the step, writes the checkpoint and raises `Interrupted`. The checkpoint is written
    after every epoch and every minute besides; a run that is killed goes on from the last one.
    """
    path, schedule = checkpoint_path(out), run.recipe.schedule
    progress = Progress()
    sums = torch.zeros(len(run.network.units) + 1, 2, device=run.device)
    if resume:
        progress, loaded = load_checkpoint(path, run.identity, run.tensors, run.optimizer)
        sums, run.seconds, run.history = loaded.to(run.device), progress.seconds, progress.history
    else:  # says at once, and not after an epoch, that this place cannot be written
        save_checkpoint(path, run.identity, progress, run.tensors, run.optimizer, sums)
    split = on_device(run.dataset.train, run.device)
    glance = on_device(
        Split(run.dataset.validation.pixels[:GLANCE], run.dataset.validation.labels[:GLANCE]), run.device
    )
    begun = time.monotonic() - run.seconds
    saved = time.monotonic()
    for epoch in range(progress.epoch, schedule.epochs):
        step = progress.step if epoch == progress.epoch else 0
        for batch in epoch_batches(split, run.recipe, run.seed, epoch, skip=step):
            passed = (epoch * run.steps_per_epoch + step) / (schedule.epochs * run.steps_per_epoch)
            for group in run.optimizer.param_groups:
                group["lr"] = group["base_lr"] * learning_rate(passed, schedule.constant)
            sums += training_step(run.recipe, run.network, run.tensors, run.optimizer, batch, passed, run.dtype)
            step += 1
            if step % REPORT_STEPS == 0:
                yield Report(epoch, step, (sums / step).cpu())
            asked = stop()
            if asked or time.monotonic() - saved > CHECKPOINT_SECONDS:
                progress = Progress(epoch, step, time.monotonic() - begun, run.history)
                save_checkpoint(path, run.identity, progress, run.tensors, run.optimizer, sums)
                saved = time.monotonic()
            if asked:
                raise Interrupted
        figures = (sums / step).cpu()
        row = _history_row(run, epoch, figures, glance)
        run.seconds, run.history = time.monotonic() - begun, (*run.history, row)
        progress = Progress(epoch + 1, 0, run.seconds, run.history)
        sums.zero_()
        save_checkpoint(path, run.identity, progress, run.tensors, run.optimizer, sums)
        saved = time.monotonic()
        yield Report(epoch, step, figures, row)
        if stop():
            raise Interrupted


def _history_row(run: Run, epoch: int, figures: Tensor, glance: Split) -> dict[str, Any]:
    units, head = figures[:-1], figures[-1]
    return {
        "epoch": epoch + 1,
        "loss": units[:, 0].tolist(),
        "discrimination_accuracy": units[:, 1].tolist(),
        "classifier_loss": head[0].item(),
        "classifier_accuracy": head[1].item(),
        "validation_images": len(glance.labels),
        "validation": accuracy(run.network, run.tensors, glance, len(run.dataset.classes), run.dtype),
    }


def estimate_seconds(run: Run) -> float:
    """How long the whole run will take here, from a few steps on copies: seconds, to a quarter or so."""
    tensors = {name: tensor.clone() for name, tensor in run.tensors.items()}
    trial = Run(
        run.recipe,
        run.network,
        tensors,
        make_optimizer(run.recipe, run.network, tensors),
        run.dataset,
        run.seed,
        run.device,
        run.dtype,
    )
    few = 8 * run.recipe.schedule.batch
    split = on_device(Split(run.dataset.train.pixels[:few], run.dataset.train.labels[:few]), run.device)
    schedule, steps = run.recipe.schedule, run.recipe.schedule.epochs * run.steps_per_epoch

    def timed(work: Callable[[], Any]) -> float:
        work()  # warm up: the first call chooses kernels
        _synchronise(run.device)
        begun = time.perf_counter()
        work()
        _synchronise(run.device)
        return time.perf_counter() - begun

    def some_steps() -> None:
        for batch in epoch_batches(split, run.recipe, run.seed, 0, skip=0):
            training_step(trial.recipe, trial.network, tensors, trial.optimizer, batch, 1.0, trial.dtype)

    def look(dtype: torch.dtype) -> Callable[[], Any]:
        some = Split(split.pixels[:100], split.labels[:100])
        return lambda: accuracy(trial.network, tensors, some, len(run.dataset.classes), dtype)

    per_step = timed(some_steps) / max(1, len(split.labels) // schedule.batch)
    source = run.dataset.source
    glances = schedule.epochs * min(GLANCE, source.validation) / len(split.labels[:100])
    final = (source.validation + source.test) / len(split.labels[:100])
    return steps * per_step + glances * timed(look(run.dtype)) + final * timed(look(torch.float32))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
