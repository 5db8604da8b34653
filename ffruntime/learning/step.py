"""A step of learning on the device: the gradient graphs of a bundle, and optimizers in numpy.

A loss is part of its gradient graph. Unit after unit, `UnitSteps` and, with class goodness, `ClassSteps` run a
unit's gradient graph and change the unit's parameters in place; the next unit goes on with what this one put out
before. Nothing is kept for a backward pass, so only one unit's tensors are alive, however deep the network is
(`docs/learning.md`). `HeadSteps` does the same with the linear classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
from msgspec import Meta, Struct

from ..backend import gradient_in_chunks, in_chunks
from ..core.architecture import Network, Positive, class_goodness, unit_name
from ..core.errors import BundleError
from ..core.graphs import head_gradient, unit_gradient
from ..core.layers import Tensor, head_parameters, readout_parameters, unit_parameters
from ..core.learning import MICRO_BATCH, STEP, Hybrids, WrongLabels
from ..embedding import class_input, first_input
from ..session import return_free_memory
from .draws import choose_negatives, hybrids

if TYPE_CHECKING:
    from ..model import Model

Arrays: TypeAlias = dict[str, np.ndarray]
Tensors: TypeAlias = Mapping[str, np.ndarray]
Scores: TypeAlias = Callable[[np.ndarray], np.ndarray]  # images in [0, 1] (N, C, H, W) -> of each label (N, P)

NEXT = {"positive": "next.positive", "negative": "next.negative", "input": "next"}  # of a gradient graph
BLOCK = 1 << 14  # elements updated at once: 64 kB of float32, which stay in a core's cache


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """How an update is done. The loss is the gradient graphs' own, augmentation the manifest's."""

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


def update_steps(network: Network, settings: Settings) -> int:
    """Steps of an update: those of the units, and those of the classifier where there is one."""
    return settings.steps + (0 if class_goodness(network) else settings.head_steps)


# --- what a step changes


def learning_units(network: Network, graphs: Container[str]) -> list[int]:
    """Indices of the units with a gradient graph among `graphs` (file names). Raises `BundleError`: none has."""
    units = [index for index in range(len(network.units)) if unit_gradient(network, index).file in graphs]
    if not units:
        raise BundleError(
            "the bundle has no gradient graphs, so nothing can be learned on it; ffexport makes them where units "
            "were trained by losses of their own, in a feed-forward network"
        )
    return units


Changed: TypeAlias = Callable[[int, Arrays], None]  # takes a unit's index and what its gradient graph gave


class Chain:
    """The units of a model one above the other, those that learn by their gradient graphs."""

    def __init__(self, model: Model, micro_batch: int) -> None:
        """`model` lends its graphs, with `micro_batch` images in one call. Raises `BundleError`: no unit learns."""
        self.units = learning_units(model.manifest.network, model.manifest.files)
        self._graph, self._network, self._micro_batch = model.graph, model.manifest.network, micro_batch

    def run(self, inputs: Arrays, weights: Tensors, visit: Changed, labels: Arrays | None = None) -> None:
        """From what the first unit receives, by the names that gradient graphs have for it, up to the last unit
        that learns: `visit` each of these. What goes on to the next is from before its visit, and takes the place
        of what came in: the arrays in `inputs` are given up. `labels`, of each image, are for every gradient
        graph. Memory goes back after each unit, so that what is left over does not add up with depth."""
        given = labels or {}
        for index in range(max(self.units) + 1):
            if index in self.units:
                outputs = self._gradient(index, {**inputs, **given}, weights)
                inputs = {name: outputs[NEXT[name]] for name in inputs}
                visit(index, outputs)
            else:
                graph = in_chunks(self._graph(unit_name(index)), len(inputs) * self._micro_batch, 1)
                inputs = {name: graph({"input": x})["output"] for name, x in inputs.items()}
            return_free_memory()

    def _gradient(self, index: int, rows: Arrays, weights: Tensors) -> Arrays:
        graph, instead = unit_gradient(self._network, index), {NEXT[name]: name for name in rows if name in NEXT}
        run = gradient_in_chunks(self._graph(graph.name), self._micro_batch, rows, graph.means, instead)
        return run({**rows, **{name: weights[name] for name in graph.takes}})


class LocalSteps:
    """Layer-local steps of the units that have gradient graphs, in place in `weights`, with moments of its own."""

    def __init__(self, model: Model, weights: Arrays, settings: Settings, frozen: bool = False) -> None:
        """With `frozen`, of a unit its readout alone is changed."""
        self.losses: tuple[float, ...] = ()  # of the units, before the last step changed them
        self._chain, self._network = Chain(model, settings.micro_batch), model.manifest.network
        self._weights, self._settings = weights, settings
        parameters_of = readout_parameters if frozen else unit_parameters
        self._own = {k: parameters_of(self._network, k) for k in self._chain.units}
        parameters = (tensor for own in self._own.values() for tensor in own)
        self._optimizer = Optimizer(settings.optimizer, weights, parameters)

    def _descend(self, inputs: Arrays, rate: float, labels: Arrays | None = None) -> None:
        losses: list[float] = []

        def change(index: int, outputs: Arrays) -> None:
            self._optimizer.apply(outputs, self._own[index], rate * self._settings.lr)
            losses.append(float(outputs["loss"]))

        self._optimizer.next_step()
        self._chain.run(inputs, self._weights, change, labels)
        self.losses = tuple(losses)


class UnitSteps(LocalSteps):
    """Steps by goodness of pairs: of images with their labels, and of negatives.

    Where negatives are hybrid images, no label is shown, and there is no step from images that all look alike.
    """

    def __init__(
        self,
        model: Model,
        weights: Arrays,
        settings: Settings,
        negatives: WrongLabels | Hybrids,
        rng: np.random.Generator,
    ) -> None:
        """`model` lends its gradient graphs; `rng` draws negatives."""
        super().__init__(model, weights, settings)
        self._negatives, self._rng = negatives, rng

    def step(self, images: np.ndarray, labels: np.ndarray, scores: Scores, rate: float = 1.0) -> None:
        """One step from images in [0, 1] (B, C, H, W) with their labels (B,), at `rate` times the learning rate.

        `scores` says how plausible labels are, for hard negatives.
        """
        if not (isinstance(self._negatives, Hybrids) and (images == images[:1]).all()):
            self.descend(*self.pairs(images, labels, scores), rate)

    def pairs(self, images: np.ndarray, labels: np.ndarray, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
        """What the first unit receives of images in [0, 1] (B, C, H, W) with their labels (B,): (B, …); and of M
        negatives of each, with wrong labels or as hybrids: (M·B, …)."""
        count, network, weights = self._settings.negatives, self._network, self._weights
        if isinstance(self._negatives, Hybrids):
            copies = (images, *hybrids(images, count, self._negatives.blur, self._rng))
            shown = [(copy, weights["labels.neutral"][None]) for copy in copies]
        else:
            wrong = choose_negatives(labels, scores(images), count, self._settings.hard, self._rng)
            shown = [(images, weights["labels.patterns"][row]) for row in (labels, *wrong)]
        positive, *negative = (first_input(network, weights, *copy) for copy in shown)
        return positive, np.concatenate(negative)

    def descend(self, positive: np.ndarray, negative: np.ndarray, rate: float = 1.0) -> None:
        """Every unit updated from its own input, the first one's being given, as of `pairs`; both are given up."""
        self._descend({"positive": positive, "negative": negative}, rate)


class ClassSteps(LocalSteps):
    """Steps by class goodness. Every label has to be of a row that is known (`labels.known`)."""

    def step(self, images: np.ndarray, labels: np.ndarray, rate: float = 1.0) -> None:
        """One step from images in [0, 1] (B, C, H, W) with their labels (B,), at `rate` times the learning rate."""
        x = class_input(self._network, self._weights, images)
        self._descend({"input": x}, rate, {"labels": labels})


class HeadSteps:
    """Steps of the linear classifier, in place in `weights`, with moments of their own."""

    def __init__(self, model: Model, weights: Arrays, settings: Settings) -> None:
        self.loss = float("nan")  # cross-entropy, before the last step
        self._graph, self._weights, self._settings = model.graph, weights, settings
        self._parameters = head_parameters(model.manifest.network)
        self._gradient = head_gradient(model.manifest.network)
        self._optimizer = Optimizer(settings.optimizer, weights, self._parameters)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """What the classifier says as it is now: features (B, D) -> (B, P)."""
        weight, bias = (self._weights[tensor.name] for tensor in self._parameters)
        return features @ weight.T + bias

    def step(self, features: np.ndarray, labels: np.ndarray, rate: float = 1.0) -> None:
        """One step from features (B, D) with their labels (B,), at `rate` times the learning rate."""
        rows, graph = {"features": features, "labels": labels}, self._gradient
        run = gradient_in_chunks(self._graph(graph.name), self._settings.micro_batch, rows, graph.means)
        outputs = run({**rows, **{name: self._weights[name] for name in graph.takes}})
        self._optimizer.next_step()
        self._optimizer.apply(outputs, self._parameters, rate * self._settings.head_lr)
        self.loss = float(outputs["loss"])


# --- optimizers: a few lines of numpy, in place
#
# An array is updated block by block through views of it, so that whatever its size, temporaries are at most two
# blocks, 128 kB together: there is no second copy of parameters or moments. Parameters and state have to be
# C-contiguous and writable. The formulas are those of torch.optim, to the order of operations.


class Optimizer:
    """Moments of some of `weights`, and the rule by which they change these in place."""

    def __init__(self, kind: str, weights: Arrays, parameters: Iterable[Tensor]) -> None:
        self._kind, self._weights, self._step = kind, weights, 0
        learned = {tensor.name: weights[tensor.name] for tensor in parameters}
        self._moments = [zeros_like(learned) for _ in range(2 if kind == "adam" else 1)]

    def next_step(self) -> None:
        """To be called before the first gradient of a step."""
        self._step += 1

    def apply(self, outputs: Tensors, parameters: Iterable[Tensor], lr: float) -> None:
        """Change `parameters` by their gradients among the outputs of a gradient graph."""
        gradients = {tensor.name: outputs[tensor.gradient] for tensor in parameters}
        if self._kind == "adam":
            adam(self._weights, gradients, *self._moments, step=self._step, lr=lr)
        else:
            sgd(self._weights, gradients, *self._moments, lr=lr)


def zeros_like(parameters: Tensors) -> dict[str, np.ndarray]:
    """Fresh state: a zero for every parameter."""
    return {name: np.zeros_like(array) for name, array in parameters.items()}


def sgd(
    parameters: Tensors,
    gradients: Tensors,
    momenta: Tensors,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> None:
    """One step of gradient descent with momentum (Polyak), in place in `parameters` and `momenta`.

    m ← momentum · m + g + weight_decay · w, then w ← w − lr · m. Raises `ValueError` naming an array that cannot be
    updated in place.
    """
    for name, gradient in gradients.items():
        for w, g, m in _blocks(name, gradient, parameters, momenta):
            m *= momentum
            m += g
            if weight_decay:
                m += weight_decay * w
            w -= lr * m


def adam(
    parameters: Tensors,
    gradients: Tensors,
    first: Tensors,
    second: Tensors,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """Step number `step`, from 1, of Adam (Kingma, Ba 2015, algorithm 1), in place in all but the gradients.

    m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², then w ← w − lr · m̂ / (√v̂ + eps), where m̂ = m / (1 − β₁ᵗ) and
    v̂ = v / (1 − β₂ᵗ). Raises `ValueError` naming an array that cannot be updated in place.
    """
    rate, root = lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5
    for name, gradient in gradients.items():
        for w, g, m, v in _blocks(name, gradient, parameters, first, second):
            change = g - m
            change *= 1 - betas[0]
            m += change
            np.multiply(g, g, out=change)
            change *= 1 - betas[1]
            v *= betas[1]
            v += change
            np.sqrt(v, out=change)
            change /= root
            change += eps
            np.divide(m, change, out=change)
            change *= rate
            w -= change


def _blocks(name: str, gradient: np.ndarray, parameters: Tensors, *state: Tensors) -> Iterator[list[np.ndarray]]:
    """Views of the parameter `name`, of its gradient and of its state, block by block."""
    changed = [arrays[name] for arrays in (parameters, *state)]
    for array in changed:
        if not (array.flags.c_contiguous and array.flags.writeable and array.shape == gradient.shape):
            raise ValueError(f"{name}: not a writable, C-contiguous array of shape {gradient.shape}")
    flat = [changed[0].reshape(-1), gradient.reshape(-1), *(array.reshape(-1) for array in changed[1:])]
    for start in range(0, gradient.size, BLOCK):
        yield [array[start : start + BLOCK] for array in flat]
