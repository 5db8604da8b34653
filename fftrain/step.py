"""One step of training: every unit updated by its own loss, from its own input, and nothing else."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn import functional as F

from ffruntime.architecture import Network, unit_name

from . import network as net
from .loss import discriminated, pair_loss
from .network import Tensors
from .recipe import Loss, Negatives, Recipe


class Batch(Struct, frozen=True):
    """What one step sees: pixels uint8 (B, C, H, W), labels (B,), and random numbers in [0, 1), (B, 2)."""

    pixels: Tensor
    labels: Tensor
    noise: Tensor


def local_gradient(
    network: Network, index: int, tensors: Tensors, x: Tensor, loss: Loss
) -> tuple[Tensors, Tensor, Tensor]:
    """Gradient of one unit's own loss: nothing flows in from the unit above or out to the one below.

    `x` is the unit's normalised input, the positive half first. Returns (gradient by parameter name,
    activation (2B, …), [loss, discrimination accuracy] of the batch).
    """
    own = {name: t.detach().requires_grad_() for name, t in net.parameters(index, tensors).items()}
    with torch.enable_grad():
        y = net.activation(network, index, own, x.detach())
        positive, negative = net.mean_square(y).chunk(2)
        value = pair_loss(loss, positive, negative, y[0].numel()).mean()
        gradients = torch.autograd.grad(value, list(own.values()))
    report = torch.stack([value.detach(), discriminated(loss, positive, negative).mean()])
    return dict(zip(own, gradients, strict=True)), y.detach(), report


def choose_negatives(
    negatives: Negatives, labels: Tensor, logits: Tensor, noise: Tensor, progress: float
) -> Tensor:
    """A wrong label for every image: (B,).

    `noise[:, 0]` decides between hard and uniform, `noise[:, 1]` which label it is.
    """
    right = F.one_hot(labels, logits.shape[1]).bool()
    hard = logits.float().masked_fill(right, -torch.inf).softmax(1)
    uniform = (~right).float() / (logits.shape[1] - 1)
    share = negatives.hard if progress >= negatives.warmup else 0.0
    chances = torch.where(noise[:, :1] < share, hard, uniform)
    cumulative = chances.cumsum(1)
    drawn = torch.searchsorted(cumulative, noise[:, 1:] * cumulative[:, -1:], right=True)[:, 0]
    return drawn.clamp_max(logits.shape[1] - 1)


def training_step(
    recipe: Recipe,
    network: Network,
    tensors: Tensors,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    progress: float,
    dtype: torch.dtype,
) -> Tensor:
    """Update every trained unit and the linear classifier in place.

    `progress` is the share of the training that has passed. Returns (U + 1, 2): loss and discrimination
    accuracy of every unit; in the last row cross-entropy and accuracy of the classifier.
    """
    images = net.to_images(batch.pixels, network, dtype)
    with torch.no_grad():
        x, logits = net.classify_linear(network, tensors, images)
        head_report = head_gradient(tensors, x, logits, batch.labels)
        wrong = choose_negatives(recipe.negatives, batch.labels, logits, batch.noise, progress)
        patterns = tensors["labels.patterns"][torch.cat([batch.labels, wrong])]
        x = net.embed(network, tensors, images.repeat(2, 1, 1, 1), patterns)  # (2B, C', H, W), positives first
        reports = []
        for index, unit in enumerate(network.units):
            x = net.normalise(unit, unit_name(index), tensors, x, training=True)
            if unit.trained:
                gradients, x, report = local_gradient(network, index, tensors, x, recipe.loss)
                for name, gradient in gradients.items():
                    tensors[name].grad = gradient.contiguous()  # the fused optimizer ignores strides
            else:
                x, report = (
                    net.activation(network, index, tensors, x),
                    torch.full((2,), torch.nan, device=x.device),
                )
            reports.append(report)
    optimizer.step()
    return torch.stack([*reports, head_report])


def head_gradient(tensors: Tensors, x: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Set the linear classifier's own gradient, of cross-entropy; return [cross-entropy, accuracy]."""
    error = logits.softmax(1) - F.one_hot(labels, logits.shape[1])
    error /= len(labels)
    tensors["head.weight"].grad = (error.to(x.dtype).T @ x).to(tensors["head.weight"].dtype)
    tensors["head.bias"].grad = error.sum(0)
    return torch.stack([F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()])
