"""The golden check: a backend proves that it computes what the trainer computed.

The bundle's golden vectors are a few real images, and what the trainer made of them in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from msgspec import Struct, structs

from .core.architecture import Network, class_goodness, unit_name, unit_shapes
from .core.bundle import Bundle
from .core.data import to_unit_interval
from .core.errors import BundleError, ParityError
from .core.graphs import unit_gradient
from .core.layers import head_parameters, tensors, unit_parameters
from .core.learning import ClassLoss, Hybrids, sharpness
from .core.manifest import GOLDEN
from .core.precision import TOLERANCE, TOLERANCES, Precision
from .embedding import class_input, embed, first_input
from .model import Model

Arrays: TypeAlias = dict[str, np.ndarray]  # by name

# A goodness is off by about so much of itself in fp32. Where the loss is sharp, as a threshold on a sum of 100,352
# squares is, that alone decides how far an image counts, and a gradient may be off by what comes of it.
ROUNDING = 1e-6


class Check(Struct, frozen=True):
    """One row of the table: what a graph's output is off by, at most, and how many decisions agree."""

    graph: str
    output: str
    max_error: float
    scale: float  # largest magnitude among the golden values
    agree: int | None = None
    decisions: int | None = None
    precision: Precision = "fp32"
    slack: float = 1.0  # how many times the usual tolerance applies

    @property
    def relative(self) -> float:
        """The error as a share of the golden values; of an untrained classifier, whose logits are 0, as it is."""
        return self.max_error / (self.scale or 1)

    @property
    def passed(self) -> bool:
        decided = self.agree == self.decisions or self.precision != "fp32"
        return self.max_error <= self.slack * TOLERANCES[self.precision] * self.scale and decided


def check(model: Model) -> list[Check]:
    """Run every graph of the bundle on the golden images; one row for each output."""
    golden, weights = read_golden(model.bundle), model.bundle.weights()
    if class_goodness(model.manifest.network):
        rows = [*_check_class_units(model, golden, weights), *_check_goodness(model, golden)]
        return [structs.replace(row, precision=model.precision) for row in rows]
    rows = [
        *_check_units(model, golden, weights),
        *_check_goodness(model, golden),
        _check_classifier(model, golden),
    ]
    learns = "gradient_head.onnx" in model.bundle and not model.manifest.network.steps
    if learns and model.precision == "fp32":
        rows += [*_check_gradients(model, golden, weights), *_check_head_gradient(model, golden, weights)]
    return [structs.replace(row, precision=model.precision) for row in rows]


def require(checks: Sequence[Check], backend: str) -> None:
    """Raise `ParityError` naming the worst row unless every row passed."""
    failed = [row for row in checks if not row.passed]
    if failed:
        worst = max(failed, key=lambda row: row.relative)
        raise ParityError(
            f"{backend}: {worst.graph} {worst.output} is off by {worst.max_error:.2e} (golden values reach "
            f"{worst.scale:.2e}): do not trust this backend on this machine"
        )


def read_golden(bundle: Bundle) -> Arrays:
    """The golden vectors. Raises `BundleError` where one that the check needs is not as the network is."""
    golden, network, learning = bundle.tensors(GOLDEN), bundle.manifest.network, bundle.manifest.learning
    n, k, u = len(golden.get("images", ())), network.label.patterns, len(network.units)
    shapes = {"images": (n, *network.image.shape), "goodness": (n, k, u), "total": (n, k), "labels": (n,)}
    if not class_goodness(network):
        shapes |= {"logits": (n, k), "negatives": (n,)}
    if learning and isinstance(learning.negatives, Hybrids):
        shapes["hybrids"] = shapes["images"]
    shapes |= {tensor.gradient: tensor.shape for tensor in tensors(network) if tensor.gradient in golden}
    if unknown := golden.keys() - shapes.keys():
        raise BundleError(f"{bundle.path / GOLDEN}: '{min(unknown)}' is of no such network")
    for name, shape in shapes.items():
        kind = {"images": "u", "hybrids": "u", "labels": "i", "negatives": "i"}.get(name, "f")
        if n == 0 or name not in golden or (golden[name].shape, golden[name].dtype.kind) != (shape, kind):
            raise BundleError(f"{bundle.path / GOLDEN}: '{name}' is missing, of another type or not {shape}")
    for name in ("labels", "negatives"):
        if name in shapes and not 0 <= golden[name].min() <= golden[name].max() < len(bundle.manifest.classes):
            raise BundleError(f"{bundle.path / GOLDEN}: '{name}' holds what is no label of a class")
    return golden


def golden_pairs(network: Network, weights: Arrays, golden: Arrays) -> np.ndarray:
    """What the first unit receives of the golden images, and then of their negatives, (2 · G, *input shape): of the
    same with right and with wrong labels, or of the images and `hybrids`, with the neutral label."""
    if "hybrids" in golden:
        images = np.concatenate([golden["images"], golden["hybrids"]])
        return first_input(network, weights, to_unit_interval(images), weights["labels.neutral"][None])
    images, labels = np.concatenate([golden["images"]] * 2), np.concatenate([golden["labels"], golden["negatives"]])
    return first_input(network, weights, to_unit_interval(images), weights["labels.patterns"][labels])


def _row(graph: str, output: str, value: np.ndarray, golden: np.ndarray, decide: bool = False) -> Check:
    error = float(np.abs(value - golden).max()) if np.isfinite(value).all() else float("inf")
    if not decide:
        return Check(graph, output, error, float(np.abs(golden).max()))
    agree = int((value.argmax(1) == golden.argmax(1)).sum())
    return Check(graph, output, error, float(np.abs(golden).max()), agree, len(golden))


def _check_units(model: Model, golden: Arrays, weights: Arrays) -> list[Check]:
    """The unit graphs against the golden goodness, fed with what the other ones put out."""
    network, patterns = model.manifest.network, weights["labels.patterns"]
    images = to_unit_interval(golden["images"])
    n, k = len(images), len(patterns)
    images, patterns = images.repeat(k, 0), np.concatenate([patterns] * n)
    if network.steps:
        goodness = list(_settle(model, embed(network, weights, images, patterns), patterns))
    else:
        goodness = list(_chain(model, first_input(network, weights, images, patterns)))
    return [
        _row(unit_name(index), "goodness", value.reshape(n, k), golden["goodness"][:, :, index])
        for index, value in enumerate(goodness)
    ]


def _chain(model: Model, x: np.ndarray) -> Iterator[np.ndarray]:
    """Goodness (N,) of every unit of a feed-forward network, from the first unit's input."""
    for index in range(len(model.manifest.network.units)):
        outputs = model.graph(unit_name(index))({"input": x})
        x = outputs["output"]
        yield outputs["goodness"]


def _settle(model: Model, x: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Goodness of every unit of a recurrent network (U, N), from its image and the label at its top."""
    network = model.manifest.network
    assert network.steps
    first, last = network.steps.score
    shapes = [shape for _, shape in unit_shapes(network)]

    def step(index: int, below: np.ndarray, own: np.ndarray, above: np.ndarray) -> Arrays:
        given = {"below": below, "self": own, "above": above}
        wanted = {"self", *(inputs.source for inputs in network.units[index].inputs)}
        return model.graph(unit_name(index))({name: given[name] for name in wanted})

    silent = [*(np.zeros((len(x), *shape), np.float32) for shape in shapes), np.zeros_like(patterns)]
    activities: list[np.ndarray] = []
    for index in range(len(shapes)):
        activities.append(step(index, [x, *activities][-1], silent[index], silent[index + 1])["start"])
    counted = []
    for number in range(1, last + 1):
        around = [x, *activities, patterns]
        outputs = [step(index, *around[index : index + 3]) for index in range(len(shapes))]
        activities = [output["activation"] for output in outputs]
        if number >= first:
            counted.append([output["goodness"] for output in outputs])
    mean: np.ndarray = np.mean(counted, axis=0)
    return mean


def _check_class_units(model: Model, golden: Arrays, weights: Arrays) -> list[Check]:
    """With class goodness: each unit graph, fed with what the one below put out, against the golden goodness; and
    in fp32 each gradient graph beside it."""
    network, rows = model.manifest.network, list[Check]()
    x = class_input(network, weights, to_unit_interval(golden["images"]))
    for index, unit in enumerate(network.units):
        outputs = model.graph(unit_name(index))({"input": x})
        if unit.readout:
            rows.append(_row(unit_name(index), "goodness", outputs["goodness"], golden["goodness"][:, :, index]))
        if unit_gradient(network, index).file in model.bundle and model.precision == "fp32":
            rows += _check_class_gradient(model, index, x, outputs, golden, weights)
        x = outputs["output"]
    return rows


def _check_class_gradient(
    model: Model, index: int, x: np.ndarray, expected: Arrays, golden: Arrays, weights: Arrays
) -> list[Check]:
    """A gradient graph on a unit's input: against the unit's graph, and where the trainer's gradient is golden,
    against that."""
    network, graph = model.manifest.network, unit_gradient(model.manifest.network, index)
    taken = {name: weights[name] for name in graph.takes}
    outputs = model.graph(graph.name)({"input": x, "labels": golden["labels"], **taken})
    rows = [
        _row(graph.name, output, outputs[output], expected[same])
        for output, same in (("next", "output"), ("goodness", "goodness"))
    ]
    keys = [t.gradient for t in unit_parameters(network, index) if t.gradient in golden]
    return rows + _gradient_rows(graph.name, keys, outputs, golden)


def _gradient_rows(
    graph: str, keys: Sequence[str], outputs: Arrays, golden: Arrays, slack: float = 1
) -> list[Check]:
    """Gradients of one unit: all are measured by the largest of them."""
    scale = max((float(np.abs(golden[key]).max()) for key in keys), default=0.0)
    rows = (_row(graph, key, outputs[key], golden[key]) for key in keys)
    return [structs.replace(row, scale=scale, slack=slack) for row in rows]


def _check_goodness(model: Model, golden: Arrays) -> list[Check]:
    inputs = {"images": to_unit_interval(golden["images"]), "labels": np.arange(golden["total"].shape[1])}
    outputs = model.graph("goodness")(inputs)
    classes = len(model.manifest.classes)
    decides = "goodness" in model.manifest.modes  # else all labels may have the same
    units = [
        _row("goodness", unit_name(u), outputs["goodness"][:, :, u], golden["goodness"][:, :, u])
        for u in range(golden["goodness"].shape[2])
    ]
    return [
        *units,
        _row("goodness", "total", outputs["total"][:, :classes], golden["total"][:, :classes], decides),
    ]


def _check_classifier(model: Model, golden: Arrays) -> Check:
    logits = model.graph("classifier")({"images": to_unit_interval(golden["images"])})["logits"]
    classes = len(model.manifest.classes)
    decides = "classifier" in model.manifest.modes
    return _row("classifier", "logits", logits[:, :classes], golden["logits"][:, :classes], decides)


def _check_gradients(model: Model, golden: Arrays, weights: Arrays) -> list[Check]:
    """The gradient graphs, fed by the unit graphs: against those, and one against the trainer's gradient."""
    network = model.manifest.network
    learning, n = model.manifest.learning, len(golden["images"])
    x, rows = golden_pairs(network, weights, golden), list[Check]()
    for index, (_, shape) in enumerate(unit_shapes(network)):
        expected, graph = model.graph(unit_name(index))({"input": x}), unit_gradient(network, index)
        if graph.file in model.bundle and learning and not isinstance(learning.loss, ClassLoss):
            taken = {tensor: weights[tensor] for tensor in graph.takes}
            outputs = model.graph(graph.name)({"positive": x[:n], "negative": x[n:], **taken})
            for output, same in (("next", "output"), ("goodness", "goodness")):
                both = np.concatenate([outputs[f"{output}.positive"], outputs[f"{output}.negative"]])
                rows.append(_row(graph.name, output, both, expected[same]))
            keys = [t.gradient for t in unit_parameters(network, index) if t.gradient in golden]
            rounding = ROUNDING * sharpness(learning.loss, math.prod(shape), float(expected["goodness"].max()))
            rows += _gradient_rows(graph.name, keys, outputs, golden, max(1.0, rounding / TOLERANCE))
        x = expected["output"]
    return rows


def _check_head_gradient(model: Model, golden: Arrays, weights: Arrays) -> list[Check]:
    """The classifier's gradient graph, against softmax − one-hot of the golden logits, in float64."""
    features = model.graph("classifier")({"images": to_unit_interval(golden["images"])})["features"]
    weight, bias = head_parameters(model.manifest.network)
    head = {tensor.name: weights[tensor.name] for tensor in (weight, bias)}
    outputs = model.graph("gradient_head")({"features": features, "labels": golden["labels"], **head})
    shares = np.exp(golden["logits"] - golden["logits"].max(1, keepdims=True))
    error = shares / shares.sum(1, keepdims=True) - np.eye(shares.shape[1])[golden["labels"]]
    error /= len(error)
    expected = {
        "logits": golden["logits"],
        weight.gradient: error.T @ features.astype(np.float64),
        bias.gradient: error.sum(0),
    }
    return [_row("gradient_head", name, outputs[name], value) for name, value in expected.items()]
