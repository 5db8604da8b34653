"""Photographs of digits as people take them, drawn around images of MNIST: for `photographs.py` and for tests.

A scene is what lies in the picture beside the digit: paper (red, green and blue, 0 to 255: (H, W, 3)), ink upon it,
light over all of it. Each function draws one picture from a random generator and a digit, uint8 (28, 28).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

HEIGHT, WIDTH = 450, 600
PAPER, INK = (228, 226, 220), (45, 45, 60)
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(float)
Random = np.random.Generator
Scene = Callable[[Random, np.ndarray], np.ndarray]


def sheet(random: Random, colour: tuple[int, ...] = PAPER) -> np.ndarray:
    """A sheet of paper, with its grain."""
    return np.array(colour) + random.normal(0, 2.5, (HEIGHT, WIDTH, 1))


def stroke(digit: np.ndarray, side: int, centre: tuple[float, float], turned: float = 0) -> np.ndarray:
    """How much ink a digit leaves where, `side` pixels large about `centre` (down, right): (H, W) in [0, 1]."""
    drawn = Image.fromarray(digit).rotate(turned, Image.Resampling.BICUBIC)
    drawn = drawn.resize((side, side), Image.Resampling.BICUBIC)
    field = Image.new("L", (WIDTH, HEIGHT))
    field.paste(drawn, (round(centre[1] - side / 2), round(centre[0] - side / 2)))
    return np.asarray(field) / 255


def written(paper: np.ndarray, ink: np.ndarray, colour: tuple[int, ...] = INK, strength: float = 1.0) -> np.ndarray:
    cover = strength * ink[..., None]
    return paper * (1 - cover) + np.array(colour) * cover


def somewhere(random: Random, digit: np.ndarray, side: int) -> np.ndarray:
    """The digit, a little turned, anywhere near the middle."""
    centre = HEIGHT / 2 + random.uniform(-40, 40), WIDTH / 2 + random.uniform(-70, 70)
    return stroke(digit, side, centre, random.uniform(-6, 6))


def on_paper(random: Random, digit: np.ndarray) -> np.ndarray:
    return written(sheet(random), somewhere(random, digit, 260))


def by_the_edge_of_a_table(random: Random, digit: np.ndarray) -> np.ndarray:
    """A table shows on one side, or on two."""
    paper = written(sheet(random), somewhere(random, digit, 240))
    table = np.array((95, 62, 40)) + random.normal(0, 6, (HEIGHT, WIDTH, 1))
    slope, wide = random.uniform(-0.06, 0.06), random.uniform(8, 70)
    beyond = wide + slope * (Y - HEIGHT / 2) > X
    if random.random() < 0.5:
        beyond |= HEIGHT - random.uniform(8, 40) < Y
    return np.where(beyond[..., None], table, paper)


def in_half_shadow(random: Random, digit: np.ndarray) -> np.ndarray:
    """The edge of a shadow, sharp or soft, crosses the digit."""
    angle, soft = random.uniform(0, 2 * np.pi), random.choice([0.5, 4, 25])
    across = (X - WIDTH / 2) * np.cos(angle) + (Y - HEIGHT / 2) * np.sin(angle) + random.uniform(-40, 40)
    light = 1 - random.uniform(0.25, 0.5) / (1 + np.exp(-(across / soft).clip(-50, 50)))
    return on_paper(random, digit) * light[..., None]


def under_a_lamp(random: Random, digit: np.ndarray) -> np.ndarray:
    """Light falls off from one corner."""
    far = np.hypot(X - random.choice([0, WIDTH]), Y - random.choice([0, HEIGHT])) / np.hypot(WIDTH, HEIGHT)
    return on_paper(random, digit) * (1.05 - 0.6 * far)[..., None]


def on_squared_paper(random: Random, digit: np.ndarray) -> np.ndarray:
    """Squares of 5 mm, photographed not quite straight."""
    angle, step = random.uniform(-0.04, 0.04), random.uniform(18, 30)
    u, v = X * np.cos(angle) + Y * np.sin(angle), Y * np.cos(angle) - X * np.sin(angle)
    paper = sheet(random)
    paper[((u % step) < 1.8) | ((v % step) < 1.8)] = (165, 180, 215)
    return written(paper, somewhere(random, digit, 260))


def on_ruled_paper(random: Random, digit: np.ndarray) -> np.ndarray:
    """Rulings almost as dark as the ink, and a margin."""
    paper, step, slope = sheet(random), random.uniform(36, 52), random.uniform(-0.03, 0.03)
    paper[((Y + slope * X) % step) < 2] = (120, 140, 190)
    paper[np.abs(X - 60 - 0.02 * Y) < 1.2] = (200, 110, 110)
    return written(paper, somewhere(random, digit, 240))


def in_a_frame(random: Random, digit: np.ndarray) -> np.ndarray:
    """A printed box of a form around the digit."""
    page = Image.fromarray(on_paper(random, digit).clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(page).rectangle((105, 20, 495, 430), outline=(40, 40, 40), width=4)
    return np.asarray(page, float)


def in_faint_pencil(random: Random, digit: np.ndarray) -> np.ndarray:
    return written(sheet(random), somewhere(random, digit, 220), (95, 95, 95), random.uniform(0.3, 0.5))


def faint_in_the_shade(random: Random, digit: np.ndarray) -> np.ndarray:
    """Pencil, and the shadow of whoever takes the picture."""
    light = 1 - 0.4 / (1 + np.exp(-((Y - 200 - 0.4 * X) / 20).clip(-50, 50)))
    return written(sheet(random), somewhere(random, digit, 240), (80, 80, 80), 0.5) * light[..., None]


def small_on_a_page(random: Random, digit: np.ndarray) -> np.ndarray:
    centre = random.uniform(40, HEIGHT - 40), random.uniform(40, WIDTH - 40)
    return written(sheet(random), stroke(digit, 56, centre))


def in_chalk(random: Random, digit: np.ndarray) -> np.ndarray:
    """Chalk on a board, lit from one side."""
    board = sheet(random, (48, 66, 56)) * (1.2 - 0.5 * X / WIDTH)[..., None]
    return written(board, somewhere(random, digit, 260), (225, 225, 215), 0.9)


def a_card_on_a_table(random: Random, digit: np.ndarray) -> np.ndarray:
    """A card that lies on a dark table, all of it in the picture."""
    card, table = sheet(random), np.array((80, 55, 40)) + random.normal(0, 5, (HEIGHT, WIDTH, 1))
    inside = (np.abs(X - WIDTH / 2 - 0.04 * Y) < 190) & (np.abs(Y - HEIGHT / 2 + 0.04 * X) < 175)
    ink = stroke(digit, 200, (HEIGHT / 2 - 12, WIDTH / 2 + 9))
    return np.where(inside[..., None], written(card, ink), table)


def two_digits(random: Random, digit: np.ndarray) -> np.ndarray:
    """A second one beside it, of the same size or smaller."""
    other, side = np.roll(digit[::-1, ::-1], 1, axis=1), round(random.uniform(130, 200))
    ink = stroke(digit, 200, (HEIGHT / 2, 170)) + stroke(other, side, (HEIGHT / 2, 430))
    return written(sheet(random), ink)


def an_empty_page(random: Random, _: np.ndarray) -> np.ndarray:
    """Paper and a table, and nothing written."""
    paper = sheet(random) * (1 - 0.3 * Y / HEIGHT)[..., None]
    return np.where((random.uniform(10, 60) > X)[..., None], np.array((90, 60, 40)), paper)


# What a person reads at once; and what is not one digit.
READ: dict[str, Scene] = {
    scene.__name__.replace("_", " "): scene
    for scene in (
        on_paper,
        by_the_edge_of_a_table,
        in_half_shadow,
        under_a_lamp,
        on_squared_paper,
        on_ruled_paper,
        in_a_frame,
        in_faint_pencil,
        faint_in_the_shade,
        small_on_a_page,
        in_chalk,
        a_card_on_a_table,
    )
}
REFUSED: dict[str, Scene] = {"two digits": two_digits, "an empty page": an_empty_page}
SCENES = {**READ, **REFUSED}


def photograph(scene: str, seed: int, digit: np.ndarray) -> Image.Image:
    """A picture of that scene: the same one for the same seed."""
    random = np.random.default_rng([seed, list(SCENES).index(scene)])
    pixels = SCENES[scene](random, digit).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7))
