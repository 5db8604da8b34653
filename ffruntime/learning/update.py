"""One update on the device: layer-local steps through the bundle's gradient graphs, optimizers in numpy.

Unit after unit, a step runs the unit's gradient graph and changes the unit's parameters in place; the next unit
goes on with what this one put out before. Nothing is kept for a backward pass, so only one unit's tensors are
alive, however deep the network is (`docs/learning.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from ..backend import Graph, gradient_in_chunks, in_chunks
from ..core.architecture import Network, Positive, unit_name
from ..core.data import to_unit_interval
from ..core.errors import BundleError
from ..core.layers import gradient_tensors
from ..core.learning import MICRO_BATCH, STEP, Hybrids, Learning
from ..embedding import first_input
from ..optimizer import adam, sgd, zeros_like
from .augment import augment
from .hybrid import hybrids
from .negatives import choose_negatives

Arrays: TypeAlias = dict[str, np.ndarray]
Graphs: TypeAlias = Callable[[str], Graph]  # a bundle's graph by its name
Draw: TypeAlias = Callable[[int], tuple[np.ndarray, np.ndarray]]  # so many images uint8 (N, C, H, W), labels (N,)
Scores: TypeAlias = Callable[[np.ndarray], np.ndarray]  # images in [0, 1] (N, C, H, W) -> of each label (N, P)

HEAD = ("head.weight", "head.bias")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """How an update is done. The loss is the gradient graphs' own, augmentation the recipe's."""

    steps: Positive = 60
    batch: Positive = STEP  # images in a step
    micro_batch: Positive = MICRO_BATCH  # images in one call of a gradient graph
    fresh: Annotated[float, Meta(gt=0, le=1)] = 0.2  # share of them that is new; the others are replayed
    lr: Annotated[float, Meta(gt=0)] = 5e-4
    head_steps: Annotated[int, Meta(ge=0)] = 60
    head_lr: Annotated[float, Meta(gt=0)] = 5e-4
    negatives: Positive = 1  # to an image
    hard: Annotated[float, Meta(ge=0, le=1)] = 0.8  # share of them that the network finds plausible
    optimizer: Literal["adam", "sgd"] = "adam"


class Optimizer:
    """Moments of all that learns, and the rule by which they change the parameters."""

    def __init__(self, kind: str, parameters: Arrays) -> None:
        self._kind, self._step = kind, 0
        self._moments = [zeros_like(parameters) for _ in range(2 if kind == "adam" else 1)]

    def next_step(self) -> None:
        """To be called before the first gradient of a step."""
        self._step += 1

    def apply(self, parameters: Arrays, gradients: Arrays, lr: float) -> None:
        """Change in place those of `parameters` that have a gradient."""
        if self._kind == "adam":
            adam(parameters, gradients, *self._moments, step=self._step, lr=lr)
        else:
            sgd(parameters, gradients, *self._moments, lr=lr)


def learning_units(network: Network, graphs: Mapping[str, Any]) -> list[int]:
    """Indices of the units with a gradient graph among `graphs` (file names). Raises `BundleError`: none has."""
    units = [index for index in range(len(network.units)) if f"gradient{index + 1}.onnx" in graphs]
    if not units:
        raise BundleError(
            "the bundle has no gradient graphs, so nothing can be learned on it; ffexport makes them where units "
            "were trained by losses of their own, in a feed-forward network"
        )
    return units


def learned_names(network: Network, units: list[int]) -> list[str]:
    """Names of the tensors that learning changes: parameters of those units and of the classifier."""
    own = [n for i in units for n in gradient_tensors(network, i) if n.startswith(f"{unit_name(i)}.")]
    return [*own, *HEAD]


def update_units(
    network: Network,
    graphs: Graphs,
    units: list[int],
    weights: Arrays,
    draw: Draw,
    scores: Scores,
    settings: Settings,
    learning: Learning,
    rng: np.random.Generator,
    stepped: Callable[[], None] = lambda: None,
) -> list[float]:
    """`settings.steps` layer-local steps, in place in `weights`; returns the units' losses in the last one.

    `scores` says how plausible labels are (hard negatives); `stepped` is called after each step. Where negatives
    are hybrids, there is no step from pictures that all look alike.
    """
    own = [name for name in learned_names(network, units) if name not in HEAD]
    optimizer = Optimizer(settings.optimizer, {name: weights[name] for name in own})
    losses, hybrid = list[float](), isinstance(learning.negatives, Hybrids)
    for _ in range(settings.steps):
        pixels, labels = draw(settings.batch)
        images = to_unit_interval(augment(learning.augment, pixels, rng))
        if hybrid and (images == images[:1]).all():
            stepped()
            continue
        positive, negative = pair_inputs(network, weights, images, labels, scores, settings, learning, rng)
        optimizer.next_step()
        losses = local_step(network, graphs, units, weights, positive, negative, optimizer, settings)
        stepped()
    return losses


def pair_inputs(
    network: Network,
    weights: Arrays,
    images: np.ndarray,
    labels: np.ndarray,
    scores: Scores,
    settings: Settings,
    learning: Learning,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """What the first unit receives of images in [0, 1] (B, C, H, W) with their labels (B,): (B, …); and of M
    negatives of each, with wrong labels: (M·B, …). Where negatives are hybrid images, no
    label is shown."""
    if not isinstance(learning.negatives, Hybrids):
        wrong = choose_negatives(labels, scores(images), settings.negatives, settings.hard, rng)
        patterns = weights["labels.patterns"]
        positive, *negative = (first_input(network, weights, images, patterns[row]) for row in (labels, *wrong))
    else:
        copies, neutral = (
            (images, *hybrids(images, settings.negatives, learning.negatives.blur, rng)),
            weights["labels.neutral"][None],
        )
        positive, *negative = (first_input(network, weights, copy, neutral) for copy in copies)
    return positive, np.concatenate(negative)


def local_step(
    network: Network,
    graphs: Graphs,
    units: list[int],
    weights: Arrays,
    positive: np.ndarray,
    negative: np.ndarray,
    optimizer: Optimizer,
    settings: Settings,
) -> list[float]:
    """Every unit of `units` updated from its own input, the first one's being given: as of `pair_inputs`.

    Returns each unit's loss before its update.
    """
    losses = []
    for index in range(max(units) + 1):
        if index in units:
            graph = gradient_in_chunks(graphs(f"gradient{index + 1}"), settings.micro_batch)
            tensors = {name: weights[name] for name in gradient_tensors(network, index)}
            outputs = graph({"positive": positive, "negative": negative, **tensors})
            positive, negative = outputs["next.positive"], outputs["next.negative"]
            optimizer.apply(weights, _gradients(outputs), settings.lr)
            losses.append(float(outputs["loss"]))
        else:
            graph = in_chunks(graphs(unit_name(index)), 2 * settings.micro_batch, 1)
            positive, negative = (graph({"input": x})["output"] for x in (positive, negative))
    return losses


def update_head(
    graphs: Graphs,
    features: Callable[[np.ndarray], np.ndarray],
    weights: Arrays,
    draw: Draw,
    settings: Settings,
    learning: Learning,
    rng: np.random.Generator,
    stepped: Callable[[], None] = lambda: None,
) -> float:
    """`settings.head_steps` steps of the linear classifier on the features of the units as they are now, in place.

    `features`: images in [0, 1] (N, C, H, W) -> (N, D). Returns the last cross-entropy.
    """
    optimizer, loss = Optimizer(settings.optimizer, {name: weights[name] for name in HEAD}), float("nan")
    for _ in range(settings.head_steps):
        pixels, labels = draw(settings.batch)
        images = to_unit_interval(augment(learning.augment, pixels, rng))
        optimizer.next_step()
        loss = head_step(graphs, features(images), labels, weights, optimizer, settings)
        stepped()
    return loss


def head_step(
    graphs: Graphs,
    features: np.ndarray,
    labels: np.ndarray,
    weights: Arrays,
    optimizer: Optimizer,
    settings: Settings,
) -> float:
    """The linear classifier updated in place: features (B, D), labels (B,). Returns the cross-entropy before."""
    graph = gradient_in_chunks(graphs("gradient_head"), settings.micro_batch)
    outputs = graph({"features": features, "labels": labels, **{name: weights[name] for name in HEAD}})
    optimizer.apply(weights, _gradients(outputs), settings.head_lr)
    return float(outputs["loss"])


def _gradients(outputs: Mapping[str, np.ndarray]) -> Arrays:
    return {n.removeprefix("gradient."): value for n, value in outputs.items() if n.startswith("gradient.")}
