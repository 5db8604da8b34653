"""A training run: epochs of steps, checkpoints, and a stop on request after which it can go on."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct, structs, to_builtins
from torch import Tensor

from ffruntime.core.architecture import Image, class_goodness, scored_units
from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError, UsageError
from ffruntime.core.filters import edge_filters
from ffruntime.core.layers import TOTAL
from ffruntime.core.learning import ClassLoss, CrossEntropy
from ffruntime.core.manifest import TRAINED_MODES, TrainedMode

from .checkpoint import Identity, Progress, checkpoint_path, load_checkpoint, save_checkpoint
from .clock import Costs, Limit, Watch, free_share
from .dataset import Dataset, on_device, pixel_statistics
from .epoch import Batch, epoch_batches
from .evaluation import accuracy, unit_goodness
from .hardware import anyone, average, rank, synchronise, world
from .network import initialise
from .patterns import make_patterns
from .recipe import NoLabel, Recipe, build_network, learning_of
from .step import peer_means, training_step
from .training import TrainingState, learning_rates, make_optimizers, set_learning_rates
from .ways import TOGETHER, Steps, Way, grouped, one_by_one, parse_way, several
from .weighing import weigh_units

CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SHARE = 0.05  # of the time at most, where epochs end sooner than that
GLANCE = 1_000  # validation images looked at after each epoch; all of them are at the end
PACKING_SECONDS = 8.0  # what a run does after its evaluation: golden vectors, the bundle, the report
LOOK_STEPS = TOGETHER  # between looks at the clock, at the user's wish to stop and, on a CPU, at the figures


class Run(TrainingState):
    """A training run: what it makes (`tensors`, in place) and what it makes it from."""

    dataset: Dataset
    seed: int
    total: int | None  # steps of the whole run; None: the clock has not decided yet
    seconds: float = 0.0  # of training, those before a resumption included
    history: tuple[dict[str, Any], ...] = ()  # a row for each epoch, the last of which may be a part of one

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.dataset.train.labels) // self.recipe.schedule.batch)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, the last of which may be a part of one; the recipe's while that is not known."""
        total = self.total
        return self.recipe.schedule.epochs if total is None else math.ceil(total / self.steps_per_epoch)

    @property
    def cut(self) -> int | None:
        """The number of steps, where it is another than the recipe's epochs make."""
        return None if self.total == self.recipe.schedule.epochs * self.steps_per_epoch else self.total

    def passed(self, epoch: int, step: int) -> float:
        """Share of the training that has passed after these steps of that epoch; 0 where its length is unknown."""
        if self.total is None:
            return 0.0
        return (epoch + step / self.steps_per_epoch) / (self.total / self.steps_per_epoch)

    def ended(self, epoch: int, step: int) -> bool:
        """Whether these steps of that epoch were the last."""
        return self.total is not None and epoch * self.steps_per_epoch + step >= self.total

    @property
    def modes(self) -> tuple[TrainedMode, ...]:
        """The inference modes that the recipe trains for, the best first."""
        if class_goodness(self.network):
            return ("goodness",)
        if isinstance(self.recipe.loss, CrossEntropy) or isinstance(self.recipe.patterns, NoLabel):
            return ("classifier",)
        return TRAINED_MODES if self.recipe.schedule.head_lr else ("goodness",)

    @property
    def identity(self) -> Identity:
        return Identity(
            to_builtins(self.recipe),
            self.seed,
            self.dataset.classes,
            self.dataset.source.source,
            str(self.dtype),
            self.dataset.source.content,
        )


class Status(Struct, frozen=True):
    """Where the run is. `figures` (U + 1, 2) are means over the epoch so far (`training_step`), on the CPU, or
    None; `row` is the epoch's line in the history, at its end."""

    epoch: int
    step: int
    total: int | None  # steps of the whole run, once they are known
    figures: Tensor | None
    of_classes: bool  # whether the figures' accuracy is that of each unit's answers
    row: dict[str, Any] | None = None


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its checkpoint is written."""


def start(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    way: Way | None = None,
) -> Run:
    """A run that has not begun, its network initialised from the seed, its steps run in that way or the usual one.

    Raises `UsageError` where recipe, data and number of processes do not fit each other.
    """
    _check(recipe)
    c, h, w = dataset.train.pixels.shape[1:]
    labels = make_patterns(recipe.patterns, len(dataset.classes), h, w)
    mean, std = pixel_statistics(dataset.train) if recipe.network.standardise else (0.0, 1.0)
    network = build_network(recipe, Image((c, h, w), mean, std), len(dataset.classes) + recipe.patterns.spare)
    tensors = initialise(network, labels, torch.Generator().manual_seed(seed))
    if recipe.network.filters == "edges":
        out, channels, side, _ = tensors["unit1.conv1.weight"].shape
        edges = torch.from_numpy(edge_filters(out, side))[:, None] / channels
        tensors["unit1.conv1.weight"] = edges.repeat(1, channels, 1, 1)
    if class_goodness(network) and isinstance(recipe.loss, CrossEntropy):  # which trains that readout alone
        tensors[TOTAL][scored_units(network)[:-1]] = 0
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    optimizers = make_optimizers(recipe, network, tensors)
    peers = peer_means(recipe.peer, network, device)
    first = frozenset(learning_rates(recipe, network, 0.0, 0.0))
    way = way or parse_way("auto", device.type)
    run = Run(recipe, network, tensors, optimizers, peers, first, device, dtype, way, dataset, seed, None)
    run.total = recipe.schedule.epochs * run.steps_per_epoch
    return run


def _check(recipe: Recipe) -> None:
    batch_statistics = any(unit.inputs[0].normalise == "batch" for unit in recipe.network.units)
    one_graph = isinstance(recipe.loss, CrossEntropy) or recipe.gradient == "crossing"
    head = recipe.schedule.head_lr or recipe.network.placement == "readout"  # which has no head
    if not head and (isinstance(recipe.loss, CrossEntropy) or _asks_classifier(recipe)):
        raise UsageError("recipe: head_lr is 0, but the loss or the hard negatives come from the classifier")
    if recipe.schedule.order == "sequential" and one_graph:
        raise UsageError("recipe: units in sequence need gradients that stay in their unit")
    if recipe.network.steps and (one_graph or recipe.schedule.order == "sequential"):
        raise UsageError(
            "recipe: units of a recurrent network learn together, by gradients that stay in their unit"
        )
    if recipe.peer.weight and one_graph:
        raise UsageError("recipe: peer normalisation needs gradients that stay in their unit")
    if not recipe.schedule.head_lr and isinstance(recipe.patterns, NoLabel):
        raise UsageError("recipe: head_lr is 0 and images have no labels, so nothing would tell classes apart")
    if recipe.schedule.batch % world():
        raise UsageError(f"recipe: a batch of {recipe.schedule.batch} cannot be shared by {world()} processes")
    if world() > 1 and batch_statistics and one_graph:
        raise UsageError("recipe: batch statistics over several processes need gradients that stay in their unit")


def _asks_classifier(recipe: Recipe) -> bool:
    return recipe.negatives.hard > 0 and recipe.negatives.source == "classifier"


def train(
    run: Run, out: Path, resume: bool, stop: Callable[[], bool], limit: Limit | None = None
) -> Iterator[Status]:
    """Train to the run's last step, reporting on the way.

    Where its number is not known, the clock decides it once, by the `limit`. Asked to `stop`, finishes the step,
    writes the checkpoint and raises `Interrupted`. The checkpoint is written every minute, and after every epoch
    where that takes no more than `CHECKPOINT_SHARE` of the time; a run that is killed goes on from the last one. Of
    several processes the first writes and reports; all of them have to call this.
    """
    path, of_classes, per_epoch = checkpoint_path(out), class_goodness(run.network), run.steps_per_epoch
    progress = Progress(total=run.total)
    sums = torch.zeros(len(run.network.units) + 1, 2, device=run.device)
    saved = cost = 0.0  # when the last checkpoint was written, and how long that took

    def save(progress: Progress) -> None:
        nonlocal saved, cost
        started = time.monotonic()
        if rank() == 0:
            save_checkpoint(path, run.identity, progress, run, sums)
        saved = time.monotonic()
        cost = saved - started

    if resume:
        progress, loaded = load_checkpoint(path, run.identity, run)
        sums, run.seconds, run.history = loaded.to(run.device), progress.seconds, progress.history
        if run.total is not None and progress.total not in (None, run.total):
            raise UsageError(f"--resume: {path} is of a run of {progress.total:,} steps, not of {run.total:,}")
        run.total = run.total if progress.total is None else progress.total
        if run.total is not None and progress.epoch * per_epoch + progress.step > run.total:
            raise BundleError(f"{path}: damaged checkpoint: past the end of its run; delete it to start again")
        saved = time.monotonic()
    else:  # says at once, and not after an epoch, that this place cannot be written
        save(progress)
    split, glance = on_device(run.dataset.train, run.device), _glance(run)
    step_function, size = _step(run), together(run)
    hard = torch.zeros((), device=run.device)
    share = free_share(run.recipe, run.network)
    watch = Watch(
        limit if run.total is None else None, share, per_epoch, time.monotonic() - run.seconds, run.device
    )
    if run.total is None:
        run.total = watch.decide(progress.epoch * per_epoch + progress.step)
    for epoch in itertools.count(progress.epoch):
        if run.ended(epoch, 0):
            return
        step = progress.step if epoch == progress.epoch else 0
        watch.pauses()
        batches = epoch_batches(split, run.recipe, run.seed, epoch, skip=step)
        room = None if run.total is None else run.total - epoch * per_epoch - step
        for group in grouped(batches, size, step, room):
            if run.ended(epoch, step):  # the clock has decided within this epoch
                break
            share = run.passed(epoch, step)
            rates = learning_rates(run.recipe, run.network, run.passed(epoch, 0), share)
            set_learning_rates(run.optimizers, rates)
            if run.learning != rates.keys():
                run.learning, step_function = frozenset(rates), _step(run)
            hard.fill_(run.recipe.negatives.hard if share >= run.recipe.negatives.warmup else 0.0)
            watch.steps()
            sums += step_function(run, group, hard)
            step += len(group)
            watch.stepped()
            if step % LOOK_STEPS and world() > 1:
                continue
            if run.total is None:
                run.total = watch.decide(epoch * per_epoch + step)
            asked = anyone(stop(), run.device)
            if asked or anyone(time.monotonic() - saved > CHECKPOINT_SECONDS, run.device):
                save(Progress(epoch, step, watch.seconds(), run.history, run.total))
            if asked:
                raise Interrupted
            if step % LOOK_STEPS == 0:
                figures = (sums / step) if run.device.type == "cpu" else None
                yield Status(epoch, step, run.total, figures, of_classes)
        figures = sums / step
        average([figures])
        ended = run.ended(epoch, step)
        row = _history_row(run, epoch, figures.cpu(), glance)
        if ended and isinstance(run.recipe.loss, ClassLoss):
            row["total"] = _weigh_units(run, row["loss"])
        run.seconds, run.history = watch.seconds(), (*run.history, row)
        progress = Progress(epoch + 1, 0, run.seconds, run.history, run.total)
        sums.zero_()
        since = time.monotonic() - saved
        due = ended or cost < CHECKPOINT_SHARE * since or since > CHECKPOINT_SECONDS
        if due:
            save(progress)
        yield Status(epoch, step, run.total, figures.cpu(), of_classes, row)
        if anyone(stop(), run.device):
            if not due:
                save(progress)
            raise Interrupted


def _step(run: Run) -> Steps[Run, Batch]:
    """Training steps as they run here. What a CUDA graph does cannot change later: other parts, another step."""
    steady = run.way.graph and world() == 1 and not run.recipe.dropout
    return several(training_step, together(run)) if steady else one_by_one(training_step)


def together(run: Run) -> int:
    """How many steps are taken as one: several where the way says so, nothing changes in them but the batch, and
    their number is known."""
    schedule, negatives = run.recipe.schedule, run.recipe.negatives
    alike = schedule.falls == "epoch" and schedule.order == "together" and not (negatives.hard and negatives.warmup)
    return max(run.way.graph, 1) if alike and run.total is not None and world() == 1 else 1


def _glance(run: Run) -> Examples:
    validation = run.dataset.validation
    return on_device(Examples(validation.pixels[:GLANCE], validation.labels[:GLANCE]), run.device)


def _history_row(run: Run, epoch: int, figures: Tensor, glance: Examples) -> dict[str, Any]:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    units, head = figures[:-1].tolist(), figures[-1].tolist()
    of_classes = class_goodness(run.network)
    return {
        "epoch": epoch + 1,
        "loss": [number(loss) for loss, _ in units],
        "unit_accuracy" if of_classes else "discrimination_accuracy": [number(share) for _, share in units],
        "classifier_loss": number(head[0]),
        "classifier_accuracy": number(head[1]),
        "validation_images": len(glance.labels),
        "validation": accuracy(
            run.network, run.tensors, glance, len(run.dataset.classes), run.dtype, modes=run.modes
        ),
    }


def _weigh_units(run: Run, losses: list[float | None]) -> dict[str, Any]:
    """Choose the units' weights in the total on all validation images, in place -> what is told of it."""
    validation, classes = on_device(run.dataset.validation, run.device), len(run.dataset.classes)
    goodness = unit_goodness(run.network, run.tensors, validation.pixels, classes).cpu().numpy()
    known = [math.nan if loss is None else loss for loss in losses]
    chosen = weigh_units(goodness, validation.labels.cpu().numpy(), scored_units(run.network), known)
    run.tensors[TOTAL].copy_(torch.tensor(chosen.weights))
    return {**structs.asdict(chosen), "weights": list(chosen.weights)}


def estimate(run: Run) -> Costs:
    """What the parts of a run take here, from a few steps on copies, to a quarter or so."""
    recipe, schedule, source = run.recipe, run.recipe.schedule, run.dataset.source
    tensors = {name: tensor.clone() for name, tensor in run.tensors.items()}
    optimizers, peers = (
        make_optimizers(recipe, run.network, tensors),
        peer_means(recipe.peer, run.network, run.device),
    )
    trial = structs.replace(run, tensors=tensors, optimizers=optimizers, peers=peers)
    step_function = _step(trial)
    few = 8 * schedule.batch
    split = on_device(Examples(run.dataset.train.pixels[:few], run.dataset.train.labels[:few]), run.device)
    hard = torch.tensor(recipe.negatives.hard, device=run.device)

    def timed(work: Callable[[], Any]) -> float:
        work()  # warm up: the first call chooses kernels
        synchronise(run.device)
        begun = time.perf_counter()
        work()
        synchronise(run.device)
        return time.perf_counter() - begun

    def draw() -> list[Batch]:
        return list(epoch_batches(split, recipe, run.seed, 0, skip=0))

    def look(dtype: torch.dtype) -> Callable[[], Any]:
        some, classes = Examples(split.pixels[:100], split.labels[:100]), len(run.dataset.classes)
        return lambda: accuracy(trial.network, tensors, some, classes, dtype, modes=run.modes)

    batches, drawn, shown = draw(), timed(draw), len(split.labels[:100])
    at_the_end = source.validation + source.test
    if isinstance(recipe.loss, ClassLoss):
        at_the_end += 2 * source.validation  # by which the total is chosen, and units that answer alone calibrated
    if learning_of(recipe):  # features of class statistics, and of what they are chosen on and answer with
        each = 1 if isinstance(recipe.loss, ClassLoss) else len(run.dataset.classes)
        at_the_end += (source.train + 3 * source.validation) // each
    return Costs(
        timed(lambda: [step_function(trial, [batch], hard) for batch in batches]) / len(batches),
        drawn * source.train / len(split.labels) + timed(look(run.dtype)) * min(GLANCE, source.validation) / shown,
        timed(look(torch.float32)) * at_the_end / shown + PACKING_SECONDS,
    )


def estimate_seconds(run: Run, costs: Costs) -> float:
    """How long a run of so many steps will take, all in all."""
    assert run.total is not None
    return run.total * costs.step + run.epochs * costs.epoch + costs.end
