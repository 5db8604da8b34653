"""What every epoch draws anew: the order of the images, how they are changed, and their negatives.

Everything is drawn from the run's seed and the epoch's number, on the CPU; images are changed on the training
device, as uint8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from msgspec import Struct
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import Network, scored_units, sign
from ffruntime.core.data import Examples
from ffruntime.core.learning import Augment

from . import network as net
from .functional import Tensors
from .hardware import rank, world
from .recipe import Negatives, Recipe

BLOCK = 5_000  # images or masks in work at once: they are float32 meanwhile


class Batch(Struct, frozen=True):
    """What one step sees: pixels uint8 (B, C, H, W), labels (B,), and random numbers in [0, 1): (B, M, 2).

    `hybrids` uint8 (B, M, C, H, W) are the negatives of images without labels, `dropout` the seed of what this step
    drops, where the recipe asks for that.
    """

    pixels: Tensor
    labels: Tensor
    noise: Tensor
    hybrids: Tensor | None = None
    dropout: int | None = None


def epoch_batches(train: Examples, recipe: Recipe, seed: int, epoch: int, skip: int) -> Iterator[Batch]:
    """The epoch's batches from number `skip` on; of each, this process's share.

    The same seed and epoch give the same batches, whatever the number of processes.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    n, device, batch = len(train.labels), train.pixels.device, recipe.schedule.batch
    order = torch.randperm(n, generator=generator).to(device)
    noise = torch.rand(n, recipe.negatives.count, 2, generator=generator).to(device)
    pixels, labels = augment(recipe.augment, train.pixels[order], generator), train.labels[order]
    kind = recipe.negatives
    mixed = hybrids(pixels, kind.count, kind.blur, generator) if kind.source == "hybrid" else None
    seeds = torch.randint(1 << 60, (n // batch + 1,), generator=generator).tolist() if recipe.dropout else None
    for start in range(skip * batch, max(n - batch, 0) + 1, batch):
        chosen = slice(start + rank(), start + batch, world())
        yield Batch(
            pixels[chosen],
            labels[chosen],
            noise[chosen],
            None if mixed is None else mixed[chosen],
            seeds[start // batch] + rank() if seeds else None,
        )


# Images changed anew


def augment(kind: Augment, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every image changed in its own way: pixels (N, C, H, W) -> the same shape. The generator is a CPU's."""
    if kind.shift:
        offsets = torch.randint(2 * kind.shift + 1, (len(pixels), 2), generator=generator) - kind.shift
        pixels = shift_images(pixels, offsets.to(pixels.device))
    if kind.rotate or kind.scale:
        chances = 2 * torch.rand(len(pixels), 2, generator=generator) - 1  # (N, 2) in [-1, 1)
        angles, factors = math.radians(kind.rotate) * chances[:, 0], 1 + kind.scale * chances[:, 1]
        pixels = turn_images(pixels, angles.to(pixels.device), factors.to(pixels.device))
    if kind.flip:
        chosen = torch.rand(len(pixels), generator=generator) < 0.5
        pixels = torch.where(chosen.to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def turn_images(pixels: Tensor, angles: Tensor, factors: Tensor) -> Tensor:
    """Every image turned by its own angle and enlarged by its own factor about its centre, bilinear, what comes in
    is black: pixels uint8 (N, C, H, W), angles in radians (N,), factors (N,)."""
    cos, sin, zero = angles.cos() / factors, angles.sin() / factors, torch.zeros_like(angles)
    matrices = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    turned = torch.empty_like(pixels)
    for start in range(0, len(pixels), BLOCK):
        part = slice(start, start + BLOCK)
        grid = F.affine_grid(matrices[part], list(pixels[part].shape), align_corners=False)
        turned[part] = F.grid_sample(pixels[part].float(), grid, align_corners=False).round().to(torch.uint8)
    return turned


def shift_images(pixels: Tensor, offsets: Tensor) -> Tensor:
    """Every image moved by its own offset, what comes in is black: pixels (N, C, H, W), offsets int64 (N, 2)."""
    height, width = pixels.shape[2:]
    shifted = torch.zeros_like(pixels)
    for dy, dx in torch.unique(offsets, dim=0).tolist():
        chosen = ((offsets[:, 0] == dy) & (offsets[:, 1] == dx)).nonzero()[:, 0]
        to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
        from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
        source = pixels[chosen]
        moved = torch.zeros_like(source)
        moved[:, :, to_y, to_x] = source[:, :, from_y, from_x]
        shifted[chosen] = moved
    return shifted


# Hybrid images


def hybrids(pixels: Tensor, count: int, blur: int, generator: torch.Generator) -> Tensor:
    """Of each image `count` hybrids, with another image each: pixels uint8 (N, C, H, W) -> (N, count, C, H, W).

    Hybrids are the negative data of unsupervised Forward-Forward (Hinton, section 3.2): one image times a mask with
    large regions of ones and zeros, plus another one times its reverse; right in the small, wrong in the large. The
    n-th hybrid of an image is with the one n places further on: pixels have to be in random order.
    """
    n, _, height, width = pixels.shape
    made = []
    for step in range(1, count + 1):
        mask = masks(n, height, width, blur, generator).to(pixels.device)[:, None]
        made.append(torch.where(mask, pixels, pixels.roll(-step, 0)))
    return torch.stack(made, dim=1)


def masks(count: int, height: int, width: int, blur: int, generator: torch.Generator) -> Tensor:
    """So many random masks: bool (count, height, width). The generator is a CPU's.

    Random bits are blurred `blur` times with [¼ ½ ¼] in both directions, then thresholded at ½. The image's edges
    meet, so that ones are as likely there as anywhere.
    """
    rows, columns = blurring(height, blur), blurring(width, blur)
    parts = []
    for start in range(0, count, BLOCK):
        bits = torch.randint(2, (min(BLOCK, count - start), height, width), generator=generator).float()
        parts.append(rows @ bits @ columns > 0.5)
    return torch.cat(parts)


def blurring(size: int, times: int) -> Tensor:
    """The blur with [¼ ½ ¼] along one side, so many times over, as a symmetric matrix (size, size)."""
    one = torch.eye(size)
    return torch.linalg.matrix_power(one / 2 + (one.roll(1, 0) + one.roll(-1, 0)) / 4, times)


# Wrong labels, drawn in every step


def plausibility(
    negatives: Negatives, network: Network, tensors: Tensors, images: Tensor, logits: Tensor | None
) -> Tensor | None:
    """Score of every label for every image, (B, P), in which hard negatives stand out; None: there are none.

    Either the classifier's logits, or the sharpened log-goodness of every label, which costs a pass for each.
    """
    if not negatives.hard or negatives.source == "classifier":
        return logits if negatives.hard else None
    labels = torch.arange(network.label.patterns, device=images.device)
    goodness = net.label_goodness(network, tensors, images, labels)[..., scored_units(network)]  # (B, P, S)
    return sign(network) * negatives.sharpness * goodness.clamp_min(1e-30).log().sum(-1)


def choose_negatives(labels: Tensor, patterns: int, scores: Tensor | None, hard: Tensor, noise: Tensor) -> Tensor:
    """Wrong labels for every image: (M, B).

    A share `hard` (a scalar tensor) is drawn from the softmax of `scores` (B, P) over the wrong labels, the others
    uniformly. Of `noise` (B, M, 2) the first number decides between the two, the second which label it is.
    """
    right = F.one_hot(labels, patterns).bool()  # (B, P)
    chances = ((~right).float() / (patterns - 1))[:, None]  # (B, 1, P)
    if scores is not None:
        plausible = scores.float().masked_fill(right, -torch.inf).softmax(1)[:, None]
        chances = torch.where(noise[..., :1] < hard, plausible, chances)  # (B, M, P)
    cumulative = chances.cumsum(-1).expand(-1, noise.shape[1], -1).contiguous()
    drawn = torch.searchsorted(cumulative, noise[..., 1:] * cumulative[..., -1:], right=True)[..., 0]
    return drawn.clamp_max(patterns - 1).T
