"""Hybrid images, the negative data of unsupervised Forward-Forward: regions of one image, the rest of another.

After Hinton, section 3.2: a mask has large regions of ones and zeros; random bits are blurred repeatedly with
[¼ ½ ¼] in both directions, then thresholded at ½. A hybrid is one image times the mask plus another one times its
reverse: right in the small, wrong in the large.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 5_000  # masks blurred at once: they are float32 meanwhile


def masks(count: int, height: int, width: int, blur: int, generator: torch.Generator) -> Tensor:
    """So many random masks, blurred `blur` times: bool (count, height, width). The image's edges meet, so that ones
    are as likely there as anywhere. The generator is a CPU's."""
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


def hybrids(pixels: Tensor, count: int, blur: int, generator: torch.Generator) -> Tensor:
    """Of each image `count` hybrids, with another image each: pixels uint8 (N, C, H, W) -> (N, count, C, H, W).

    The n-th hybrid of an image is with the one n places further on: pixels have to be in random order.
    """
    n, _, height, width = pixels.shape
    made = []
    for step in range(1, count + 1):
        mask = masks(n, height, width, blur, generator).to(pixels.device)[:, None]
        made.append(torch.where(mask, pixels, pixels.roll(-step, 0)))
    return torch.stack(made, dim=1)
