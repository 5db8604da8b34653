"""One step of units with class goodness: each updated by the cross-entropy of its own readout, one after the other.

Layer-local classifiers: a unit's gradient passes its readout and its operations, and never another unit (`pred` of
Nøkland and Eidnes 2019; CwComp, DeeperForward and CAW-Conv in the Forward-Forward literature). There are no
negatives, and nothing is kept for a backward pass from unit to unit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import Network, scored_units, unit_name
from ffruntime.core.layers import KNOWN
from ffruntime.core.learning import ClassLoss, CrossEntropy

from . import network as net
from .epoch import Batch
from .functional import Tensors, channels_last
from .hardware import average
from .training import TrainingState, apply_gradients, descend, nothing, with_gradients


def class_step(state: TrainingState, images: Tensor, batch: Batch) -> Tensor:
    """Update everything that the recipe trains, in place, by standardised images (B, C, H, W).

    Returns (U + 1, 2): loss and accuracy of every unit on the batch, NaN where it has none; in the last row NaN,
    and under backpropagation those of the whole network.
    """
    if isinstance(state.recipe.loss, CrossEntropy):
        return _backpropagation(state, images, batch.labels)
    generator = None
    if batch.dropout is not None:
        generator = torch.Generator(state.device).manual_seed(batch.dropout)
    return torch.stack([*_class_units(state, images, batch.labels, generator), nothing(images)])


def _class_units(
    state: TrainingState, x: Tensor, labels: Tensor, generator: torch.Generator | None
) -> list[Tensor]:
    """One pass over the units, each updated on the way, from the first one's input (B, …) -> a report (2,) each."""
    network, loss, reports = state.network, state.recipe.loss, []
    assert isinstance(loss, ClassLoss)
    for index, unit in enumerate(network.units):
        name = unit_name(index)
        x = channels_last(net.normalise(network, index, state.tensors, x, training=True))
        if unit.trained and name in state.learning:
            drop = (state.recipe.dropout, generator) if generator else None
            similarity = state.recipe.similarity
            gradients, x, report = class_gradient(network, index, state.tensors, x, labels, loss, drop, similarity)
            average(gradients.values())
            apply_gradients(state.optimizers[name], state.tensors, gradients)
        else:
            x = net.activation(network, index, state.tensors, {"below": x})
            report = nothing(x)
            if unit.readout:
                goodness = net.readout_goodness(network, index, state.tensors, x)
                _, report = class_loss(goodness, labels, state.tensors[KNOWN], loss)
        reports.append(report)
    return reports


def class_gradient(
    network: Network,
    index: int,
    tensors: Tensors,
    x: Tensor,
    labels: Tensor,
    loss: ClassLoss,
    drop: tuple[float, torch.Generator] | None = None,
    similarity: float = 0.0,
) -> tuple[Tensors, Tensor, Tensor]:
    """The gradient of the unit at `index`, and what it makes of its normalised input x (B, …), with labels (B,).

    `drop`: the share of its activation that is dropped, and what draws that; `similarity`: the weight of
    `similarity_loss`. Returns (gradient by name, of the unit's parameters, in the tensors' type; activation, which
    holds no graph; [loss of the labels, accuracy]).
    """
    own = net.parameters(network, unit_name(index), tensors)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in own.items()}
    with torch.enable_grad():
        y = net.activation(network, index, leaves, {"below": x.detach()})
        y = y if drop is None else dropped(y, *drop)
        goodness = net.readout_goodness(network, index, leaves, y)
        value, report = class_loss(goodness, labels, tensors[KNOWN], loss)
        if loss.prototypes:
            nearness = goodness - net.prototype_offsets(network, index, leaves)
            value = value + loss.prototypes * class_loss(nearness, labels, tensors[KNOWN], loss)[0]
            report = torch.stack([value.detach(), report[1]])
        if similarity:
            value = value + similarity * similarity_loss(net.readout_features(network, index, y), labels)
        gradients = torch.autograd.grad(value, list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True)), y.detach(), report


def dropped(y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Activations with that share of them 0, and the others larger by as much (Srivastava et al. 2014)."""
    kept = torch.empty_like(y).bernoulli_(1 - share, generator=generator)
    return y * kept.div_(1 - share)


def class_loss(goodness: Tensor, labels: Tensor, known: Tensor, loss: ClassLoss) -> tuple[Tensor, Tensor]:
    """Goodness of every class and every spare one (B, P), labels (B,), which rows are classes' (P,) -> (the batch's
    cross-entropy, [that, share of right answers] detached). Rows that are not known take no part."""
    rows = known > 0
    logits = goodness.masked_fill(~rows, -torch.inf)
    value = F.cross_entropy(logits, labels)
    if loss.smoothing:
        spread = torch.where(rows, logits.log_softmax(1), 0).sum(1) / rows.sum()
        value = (1 - loss.smoothing) * value - loss.smoothing * spread.mean()
    right = (logits.detach().argmax(1) == labels).float().mean()
    return value, torch.stack([value.detach(), right.to(value.dtype)])


def similarity_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Similarity matching (`sim` of Nøkland and Eidnes 2019): mean squared difference, over all pairs of a batch,
    between the cosine similarity of their features (B, F), each less its mean, and 1 for the same label, else 0.

    Features are those of the readout; theirs are standard deviations of a further convolution.
    """
    centred = F.normalize(features - features.mean(1, keepdim=True))
    alike = (labels[:, None] == labels).to(centred.dtype)
    return F.mse_loss(centred @ centred.T, alike)


def _backpropagation(state: TrainingState, x: Tensor, labels: Tensor) -> Tensor:
    """The baseline: cross-entropy of the last scored unit's readout, through the whole network below."""
    network = state.network
    last = scored_units(network)[-1]
    between = {name for index, names in net.readout_names(network).items() if index != last for name in names}
    parts = [net.parameters(network, part, state.tensors) for part in state.optimizers]
    own = with_gradients(state, [name for part in parts for name in part if name not in between])
    with torch.enable_grad():
        for index in range(last + 1):
            x = channels_last(net.normalise(network, index, state.tensors, x, training=True))
            x = net.activation(network, index, own, {"below": x})
        goodness = net.readout_goodness(network, last, own, x)
        value, report = class_loss(goodness, labels, state.tensors[KNOWN], ClassLoss())
        descend(state, own, value)
    return torch.stack([*[nothing(x)] * len(network.units), report])
