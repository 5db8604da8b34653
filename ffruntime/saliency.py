"""Accuracy-differential saliency (Bakhshi, arXiv 2409.15365): what a network's answers rest on, without a gradient.

A window slides over every pixel; the pixels under it are set to zero. The accuracy over a data set without them
minus that with them is the saliency of the pixel at the window's centre: below zero, where answers need it.
`ffruntime explain` finds it of a bundle's graphs, `fftrain explain --method ads` of a network in torch.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from PIL import Image, ImageDraw

from .core.durable import write_atomically

BATCH = 25  # images whose occluded copies, for a row of windows, are one tensor: of CIFAR 2.5 MB
TILE = 140  # pixels a side of a map in the picture, at least
COLUMNS = 6
NEEDED, HARMFUL = (224, 130, 20), (84, 39, 136)  # orange and purple, of ColorBrewer's PuOr

Predict = Callable[[np.ndarray], np.ndarray]  # images uint8 (N, C, H, W) -> score of every class (N, K)


class Occluded(Struct, frozen=True):
    """Right answers by class: of `images` (K,) as they are, `plain` (K,), and without the pixels under the window
    at each place, `without` (K, H, W)."""

    images: np.ndarray
    plain: np.ndarray
    without: np.ndarray

    @property
    def overall(self) -> np.ndarray:
        """Saliency over all images: (H, W) in [−1, 1]."""
        difference: np.ndarray = (self.without.sum(0) - self.plain.sum()) / self.images.sum()
        return difference

    @property
    def by_class(self) -> np.ndarray:
        """Saliency over each class's images: (K, H, W) in [−1, 1], 0 where a class has none."""
        difference = self.without - self.plain[:, None, None]
        return difference / np.maximum(self.images, 1)[:, None, None]


class Saliency(Struct, frozen=True):
    """What right answers rest on, over all images or over those of a class."""

    image: np.ndarray  # the mean of the images, (C, H, W) in 0 … 255
    accuracy: float  # share of right answers with nothing hidden
    map: np.ndarray  # (H, W) in [−1, 1]


def explain_accuracy(
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    window: int,
    stepped: Callable[[], object] = lambda: None,
) -> dict[str, Saliency]:
    """Saliency over all images, `all`, and over those of every class that has some; arguments as of `occlude`."""
    found = occlude(predict, images, labels, len(classes), window, stepped)
    explained = {"all": Saliency(images.mean(0), float(found.plain.sum() / found.images.sum()), found.overall)}
    for label, name in enumerate(classes):
        if count := found.images[label]:
            accuracy = float(found.plain[label] / count)
            explained[name] = Saliency(images[labels == label].mean(0), accuracy, found.by_class[label])
    return explained


def to_json(explained: Mapping[str, Saliency]) -> dict[str, dict[str, object]]:
    """Accuracies and maps as JSON has them."""
    return {name: {"accuracy": one.accuracy, "map": one.map.tolist()} for name, one in explained.items()}


def to_lines(explained: Mapping[str, Saliency], window: int) -> list[str]:
    """For people: a line for each, with the place where most is lost."""
    lines = []
    for name, one in explained.items():
        row, column = divmod(int(one.map.argmin()), one.map.shape[1])
        lost = f"{100 * one.map.min():+.1f} points at row {row}, column {column}".replace("-", "−")
        lines.append(f"{name}: {100 * one.accuracy:.1f} % right; without {window} × {window} pixels {lost}")
    return lines


def write(
    explained: Mapping[str, Saliency], images: int, mode: str, window: int, target: Path, as_json: bool
) -> str:
    """Write the picture of saliencies to `target`; what a command says of them, in JSON or for people."""
    write_atomically(target, picture(explained))
    if as_json:
        result = {"images": images, "mode": mode, "window": window, "picture": str(target)}
        return json.dumps({**result, "saliency": to_json(explained)})
    return "\n".join((*to_lines(explained, window), f"{target} written"))


def occlude(
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    window: int,
    stepped: Callable[[], object] = lambda: None,
) -> Occluded:
    """Right answers with and without the window at every pixel: images uint8 (N, C, H, W), labels (N,).

    Of an image whose pixels under the window are zero anyway, the answer is known. `stepped` is called after each
    row of each batch of images (`steps`).
    """
    height, width = images.shape[2:]
    members = np.eye(classes, dtype=int)[labels]  # (N, K)
    plain, without = np.zeros(classes, int), np.zeros((classes, height, width), int)
    for start in range(0, len(images), BATCH):
        batch, right, member = (x[start : start + BATCH] for x in (images, labels, members))
        answers = predict(batch).argmax(1)
        plain += (answers == right) @ member
        for row in range(height):
            copies = occluded_copies(batch, window, row)  # (W, N, C, H, W)
            changed = (copies != batch).any((2, 3, 4))  # (W, N)
            found = np.broadcast_to(answers, changed.shape).copy()
            if changed.any():
                found[changed] = predict(copies[changed]).argmax(1)
            without[:, row] += ((found == right) @ member).T
            stepped()
    return Occluded(members.sum(0), plain, without)


def steps(images: np.ndarray) -> int:
    """How often `occlude` calls `stepped`."""
    return math.ceil(len(images) / BATCH) * images.shape[2]


def occluded_copies(images: np.ndarray, window: int, row: int) -> np.ndarray:
    """Images (N, C, H, W) with a zeroed window around each pixel of a row: (W, N, C, H, W).

    The window is `window` pixels a side, cut off at the image's edges; of an even one, the centre is the pixel
    above and left of the middle.
    """
    before, after = (window - 1) // 2, window // 2 + 1
    rows = slice(max(row - before, 0), row + after)
    copies = np.repeat(images[None], images.shape[3], axis=0)
    for column, copy in enumerate(copies):
        copy[..., rows, max(column - before, 0) : column + after] = 0
    return copies


def picture(explained: Mapping[str, Saliency]) -> bytes:
    """A PNG of tiles, by name an image and its saliency over it, each on its own scale.

    Orange: accuracy is lost without the pixels there, at most by the points that stand above; purple: it is gained.
    """
    tiles = [
        (f"{name}   {100 * one.map.min():+.0f} points", tile(one.image, -one.map))
        for name, one in explained.items()
    ]
    return page(tiles, min(COLUMNS, len(tiles)), "lost without it", "gained")


def page(tiles: Sequence[tuple[str, Image.Image]], columns: int, orange: str, purple: str) -> bytes:
    """A PNG of tiles of one size, each with a title, so many beside each other; what the two colours mean below."""
    step_x, step_y = tiles[0][1].width + 10, tiles[0][1].height + 26
    sheet = Image.new("RGB", (columns * step_x + 10, math.ceil(len(tiles) / columns) * step_y + 26), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (title, drawn) in enumerate(tiles):
        x, y = 10 + index % columns * step_x, index // columns * step_y
        pen.text((x, y + 8), title, fill="black")
        sheet.paste(drawn, (x, y + 24))
    bottom = sheet.height - 18
    pen.text((10, bottom), orange, fill=NEEDED)
    pen.text((110, bottom), purple, fill=HARMFUL)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def tile(image: np.ndarray, values: np.ndarray) -> Image.Image:
    """An image (C, H, W), faint, with orange over it where values (H, W) are above 0 and purple where they are
    below, the less faint, the further from 0."""
    strength = values / (np.abs(values).max() or 1)
    grey = (255 - 0.45 * image.mean(0))[..., None]  # (H, W, 1)
    colour = np.where(strength[..., None] > 0, NEEDED, HARMFUL)
    share = 0.9 * np.abs(strength[..., None]) ** 0.7
    pixels = ((1 - share) * grey + share * colour).astype(np.uint8)
    scale = max(1, math.ceil(TILE / max(strength.shape)))
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
