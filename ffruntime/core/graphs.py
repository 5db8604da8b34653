"""The ONNX graphs of a bundle: what each computes, of which unit, and which tensors it holds or takes.

A graph's name is its file's, without `.onnx`. No reader takes a name apart; what it needs to know stands in
`GraphFile`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal, TypeAlias

from msgspec import Struct

from .architecture import Network, class_goodness, scored_units, unit_name
from .layers import KNOWN, Tensor, head_parameters, tensors, unit_parameters, unit_tensors
from .manifest import Mode

GraphKind: TypeAlias = Literal["unit", "goodness", "classifier", "gradient", "head_gradient"]


class GraphFile(Struct, frozen=True):
    """One ONNX graph of a bundle, in any precision."""

    name: str  # `unit2`, `goodness`, `gradient2`
    kind: GraphKind
    unit: int | None  # index of the unit that it is of
    holds: frozenset[str]  # names of the tensors that are its initializers
    takes: tuple[str, ...] = ()  # names of the tensors that are its inputs, beside what it computes on
    means: frozenset[str] = frozenset()  # names of its outputs that are means over the images, not rows of each

    @property
    def file(self) -> str:
        """The file's name in the bundle, in fp32."""
        return f"{self.name}.onnx"

    @property
    def infers(self) -> bool:
        """Whether it is for inference, and so comes in every precision and holds its tensors."""
        return not self.takes

    @property
    def answers(self) -> bool:
        """Whether it answers for images by itself, and so is what engines are made of."""
        return self.kind in ("goodness", "classifier")


@functools.lru_cache(maxsize=16)
def graphs(network: Network) -> dict[str, GraphFile]:
    """Every graph that there can be of a network, by its name. Which gradient graphs there are, the bundle says."""
    units = range(len(network.units))
    found = [GraphFile(unit_name(index), "unit", index, frozenset(_with_next(network, index))) for index in units]
    found.append(GraphFile("goodness", "goodness", None, _goodness(network)))
    if not class_goodness(network):
        found.append(GraphFile("classifier", "classifier", None, _classifier(network)))
    found += [unit_gradient(network, index) for index in units if unit_parameters(network, index)]
    if not class_goodness(network):
        found.append(head_gradient(network))
    return {graph.name: graph for graph in found}


def unit_gradient(network: Network, index: int) -> GraphFile:
    """The gradient graph of the unit at `index`: it takes which rows of a readout are known, the unit's parameters,
    and the next unit's statistics."""
    known = (KNOWN,) if class_goodness(network) else ()
    takes = (*known, *_with_next(network, index))
    means = _means(unit_parameters(network, index))
    return GraphFile(f"gradient{index + 1}", "gradient", index, frozenset(), takes, means)


def head_gradient(network: Network) -> GraphFile:
    """The gradient graph of the linear classifier, which there is with labels in the input."""
    head = head_parameters(network)
    takes = tuple(tensor.name for tensor in head)
    return GraphFile("gradient_head", "head_gradient", None, frozenset(), takes, _means(head))


def graphs_of_mode(mode: Mode, network: Network) -> tuple[str, ...]:
    """Names of the graphs that answer in an inference mode."""
    if mode == "shortlist":
        return ("classifier", "goodness")
    if mode == "exit":
        return tuple(unit_name(index) for index in range(scored_units(network)[-1] + 1))
    return (mode,)


def _means(parameters: Iterable[Tensor]) -> frozenset[str]:
    return frozenset(("loss", *(tensor.gradient for tensor in parameters)))


def _with_next(network: Network, index: int) -> list[str]:
    """Parameters of a unit, and the next unit's statistics: a unit's output is normalised for that one."""
    own = [tensor.name for tensor in unit_parameters(network, index)]
    above = unit_tensors(network, index + 1) if index + 1 < len(network.units) else ()
    return [*own, *(tensor.name for tensor in above if tensor.role in ("mean", "variance"))]


def _goodness(network: Network) -> frozenset[str]:
    """Every tensor but the neutral pattern, which rows are known, and the classifier; with class goodness, of units
    up to the last that has a readout."""
    read = [index for index, unit in enumerate(network.units) if unit.readout or not class_goodness(network)]
    return frozenset(
        t.name
        for t in tensors(network)
        if t.role not in ("neutral", "known") and not t.of_head and (t.unit is None or t.unit <= read[-1])
    )


def _classifier(network: Network) -> frozenset[str]:
    """What the pass from below needs up to the last scored unit: those above add nothing to the features."""
    last = scored_units(network)[-1]
    return frozenset(
        t.name
        for t in tensors(network)
        if t.role != "patterns" and (t.unit is None or t.unit <= last) and (t.layer is None or t.layer.from_below)
    )
