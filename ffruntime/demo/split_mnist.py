"""Scene 3: Split-MNIST, class-incremental, online, one pass, from an untrained network.

The device's learner learns as examples arrive (`learning/stream.py`), in memory, without a state directory. Beside
it, with the same network and the same kind of step: *naive*, which replays nothing, and *GDumb* (Prabhu et al.
2020), a fresh network that learns only the examples that are stored in the end. Without a network, methods that
take no steps, from edges or pixels (`methods.py`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from msgspec import Struct

from ..core.architecture import Network, class_goodness
from ..core.bundle import Bundle
from ..core.data import Examples
from ..core.errors import BundleError
from ..core.layers import tensors
from ..core.learning import Augment
from ..core.manifest import Mode
from ..core.statistics import KEPT_BYTES, default_dimension, none
from ..learning.learner import Learner
from ..learning.step import Arrays, Settings, learning_units
from ..learning.stream import Stream
from ..model import Model
from . import methods
from .digits import DIGITS, SHAPE, accuracy, names, require_digits, showing, some
from .methods import WIDTH, Covariances, NearestMean, Neighbours, edges, in_parts, waves

TASKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
SETTINGS = Settings(batch=64, micro_batch=32, fresh=0.25, lr=4e-3, head_lr=2e-3)
CLASS_SETTINGS = Settings(batch=64, micro_batch=32, fresh=0.25, lr=4e-3)  # with class goodness
AUGMENT = Augment(shift=2, rotate=15.0, scale=0.15)
REMEDY = "fftrain mnist --recipe stream --epochs 0 --out untrained.ff && ffexport --model untrained.ff"


class SplitPlan(Struct, frozen=True):
    """How many of what."""

    stored: int = 500  # examples
    arriving: int = 64  # images that arrive together; there is one step, then they are stored or gone
    per_task: int = 20_000  # images at most, so all
    rehearsal: int = 200  # steps on stored examples after each task, when the device is at rest
    gdumb: int = 1000  # steps of GDumb
    stream_rate: float = 0.25  # of the learning rates, while a task arrives
    goodness: int = 2000  # images on which goodness is measured in the end


QUICK = SplitPlan(stored=100, per_task=256, rehearsal=5, gdumb=20, goodness=100)


class Method(Struct, frozen=True):
    """What came of a method. Accuracies are shares, by task."""

    r: list[list[float]]  # after each task, on each; of GDumb, which has only an end, one row
    acc: float
    bwt: float | None
    forgetting: float | None
    goodness: list[float]  # in the end, by goodness of every label; of methods without a network none
    steps: int
    seconds: float
    kept: int  # bytes


def mode(network: Network) -> Mode:
    """The inference mode of R, ACC, BWT and forgetting: of labels in the input, chosen on validation images."""
    return "goodness" if class_goodness(network) else "classifier"


def require(bundle: Bundle) -> None:
    """Raises `BundleError` where the bundle is none for this scene, with the command that makes one."""
    require_digits(bundle, REMEDY)
    if bundle.manifest.classes != DIGITS or bundle.manifest.training.epochs:
        raise BundleError(f"{bundle.path}: an untrained network of all ten digits is needed: {REMEDY}")
    learning_units(bundle.manifest.network, bundle.manifest.files)


def steps(training: Examples, plan: SplitPlan) -> int:
    """Steps of the three methods that take some."""
    counts = (min(len(showing(training, *task)), plan.per_task) for task in TASKS)
    arrivals = sum(-(-count // plan.arriving) for count in counts)
    return 2 * arrivals + len(TASKS) * plan.rehearsal + plan.gdumb


def run(
    model: Model, training: Examples, tested: Examples, plan: SplitPlan, seed: int, stepped: Callable[[], None]
) -> Iterator[tuple[str, Method]]:
    """All methods, one after the other, on the same stream; those that take steps from the same weights.

    `seed` draws the weights, the order of the stream, and what is replayed.
    """
    order = np.random.default_rng([seed, 0])
    arriving = [
        order.permutation(np.flatnonzero(np.isin(training.labels, task)))[: plan.per_task] for task in TASKS
    ]
    measured = tested, some(tested, plan.goodness)
    with contextlib.closing(in_memory(model, plan.stored)) as learner:
        stream, start = begin(learner, seed, stepped), time.perf_counter()
        rows = learn(learner, stream, training, arriving, tested, plan)
        kept = plan.stored * int(np.prod(SHAPE))
        yield "replay", _method(learner.model, rows, measured, stream.steps, start, kept)
        with contextlib.closing(in_memory(model, 0)) as forgetful:
            stream, start = begin(forgetful, seed, stepped), time.perf_counter()
            rows = learn(forgetful, stream, training, arriving, tested, plan)
            yield "naive", _method(forgetful.model, rows, measured, stream.steps, start, 0)
        stream, start = begin(learner, seed, stepped), time.perf_counter()  # what is stored stays
        stream.rehearse(plan.gdumb)
        stream.adopt()
        rows = [by_task(learner.model, tested, len(TASKS))]
        yield "gdumb", _method(learner.model, rows, measured, stream.steps, start, kept)
    yield from at_once(training, tested, arriving, seed)


def at_once(
    training: Examples, tested: Examples, arriving: Sequence[np.ndarray], seed: int
) -> Iterator[tuple[str, Method]]:
    """Methods that take no steps, on the edges of the same images, projected by the seed, or on random Fourier
    features of their pixels, which the seed draws."""
    start = time.perf_counter()
    parts = [tested, *(training.take(places) for places in arriving)]
    seen = [edges(part.pixels) for part in parts]
    seeing, labels = time.perf_counter() - start, tested.labels
    flat = seen[0].shape[1]
    each = default_dimension(flat, len(DIGITS), KEPT_BYTES, "each")
    shared = default_dimension(flat, len(DIGITS))
    made: dict[str, tuple[int | None, methods.Method]] = {  # numbers that edges are projected to
        "each": (each, Covariances(none(len(DIGITS), each, "each"))),
        "shared": (shared, Covariances(none(len(DIGITS), shared))),
        "neighbours": (each, Neighbours(len(DIGITS), each, KEPT_BYTES, seed=seed)),
        "mean": (shared, NearestMean(none(len(DIGITS), shared))),
        "waves": (None, Covariances(none(len(DIGITS), shared))),
    }
    for name, (dimension, method) in made.items():
        start, rows = time.perf_counter() - (seeing if dimension else 0), []
        x, *arrives = (
            in_parts(edge, dimension, seed) if dimension else waves(part.pixels, shared, WIDTH, seed)
            for part, edge in zip(parts, seen, strict=True)
        )
        for number, (new, own) in enumerate(zip(parts[1:], arrives, strict=True), 1):
            method.add(own, new.labels.astype(np.int64))
            right = method.scores(x).argmax(1) == labels
            rows.append(
                [float(right[np.isin(labels, task)].mean()) if k < number else 0.0 for k, task in enumerate(TASKS)]
            )
        r, seconds = np.array(rows), time.perf_counter() - start
        yield name, Method(rows, acc(r), bwt(r), forgetting(r), [], 0, seconds, method.kept)


def in_memory(model: Model, stored: int) -> Learner:
    """A learner that keeps so many images, in memory, and adopts whatever it learns."""
    replay_bytes = stored * int(np.prod(SHAPE))
    settings = CLASS_SETTINGS if class_goodness(model.manifest.network) else SETTINGS
    return Learner(model, False, settings, tolerance=1.0, replay_bytes=replay_bytes, seeded=False)


def begin(learner: Learner, seed: int, stepped: Callable[[], None]) -> Stream:
    """A version of weights that the seed draws, and a stream of steps from there on."""
    rng = np.random.default_rng([seed, 1])
    fresh = untrained(learner.model.manifest.network, rng)
    learner.store.adopt(learner.store.current_version(), "applied", fresh, ())
    return Stream(learner, rng, AUGMENT, stepped)


def learn(
    learner: Learner,
    stream: Stream,
    training: Examples,
    arriving: Sequence[np.ndarray],
    tested: Examples,
    plan: SplitPlan,
) -> list[list[float]]:
    """Task after task: images arrive once, in the order of `arriving`; then the stored ones are rehearsed.

    Returns the rows of R.
    """
    rows = []
    for task, places in enumerate(arriving, 1):
        for start in range(0, len(places), plan.arriving):
            new = training.take(places[start : start + plan.arriving])
            stream.learn(new.pixels, names(new), plan.stream_rate)
        stream.rehearse(plan.rehearsal)
        stream.adopt()
        rows.append(by_task(learner.model, tested, task))
    return rows


def untrained(network: Network, rng: np.random.Generator) -> Arrays:
    """What learning can change of a network, drawn anew: as `fftrain` begins (He et al. 2015).

    Weights of units are normal with standard deviation √(2 / fan-in); biases, readouts and the classifier are zero,
    and no row of a readout is known.
    """
    fresh = {}
    for tensor in sorted(tensors(network), key=lambda tensor: tensor.name):
        layer = tensor.layer
        if tensor.role == "weight" and not (tensor.of_head or (layer and layer.readout)):
            drawn = math.sqrt(2 / tensor.fan_in) * rng.standard_normal(tensor.shape)
            fresh[tensor.name] = drawn.astype(np.float32)
        elif tensor.learnable or tensor.role == "known":
            fresh[tensor.name] = np.zeros(tensor.shape, np.float32)
    return fresh


def by_task(model: Model, tested: Examples, met: int, asked: Mode | None = None) -> list[float]:
    """Accuracy on each task of a network that has met the first `met` of them, and answers with their classes."""
    chosen = asked or mode(model.manifest.network)
    answering = model.with_weights(msgspec.structs.replace(model.weights, classes=DIGITS[: 2 * met]))
    return [
        accuracy(answering, showing(tested, *task), chosen) if number < met else 0.0
        for number, task in enumerate(TASKS)
    ]


def _method(
    model: Model, rows: list[list[float]], measured: tuple[Examples, Examples], steps: int, start: float, kept: int
) -> Method:
    seconds, r = time.perf_counter() - start, np.array(rows)
    whole = len(r) == len(TASKS)
    goodness = by_task(model, measured[1], len(TASKS), "goodness")
    return Method(
        rows, acc(r), bwt(r) if whole else None, forgetting(r) if whole else None, goodness, steps, seconds, kept
    )


# --- the standard figures of continual learning, of R: R[i, j] is the accuracy on task j after task i was learned
#
# Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017 (ACC, BWT); Chaudhry et al.,
# "Riemannian Walk for Incremental Learning", 2018 (forgetting, best − last).


def acc(r: np.ndarray) -> float:
    """Mean accuracy over the tasks in the end: R (T, T) -> mean_j R[T, j]."""
    return float(r[-1].mean())


def bwt(r: np.ndarray) -> float:
    """Backward transfer: mean over j < T of R[T, j] − R[j, j]; below zero, what came later did harm."""
    return float((r[-1] - np.diag(r))[:-1].mean())


def forgetting(r: np.ndarray) -> float:
    """Mean over j < T of max_{l < T} R[l, j] − R[T, j]; what was not yet learned has accuracy 0."""
    return float((r[:-1, :-1].max(0) - r[-1, :-1]).mean())


def summary(methods: Sequence[Method]) -> dict[str, tuple[float, float] | None]:
    """Mean and standard deviation over the seeds (0 of a single one) of each figure that the method has."""
    found: dict[str, list[float | None]] = {
        "acc": [method.acc for method in methods],
        "acc_by_goodness": [float(np.mean(method.goodness)) if method.goodness else None for method in methods],
        "bwt": [method.bwt for method in methods],
        "forgetting": [method.forgetting for method in methods],
    }
    return {figure: _spread([value for value in values if value is not None]) for figure, values in found.items()}


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    return (float(np.mean(values)), float(np.std(values, ddof=len(values) > 1))) if values else None
