"""What `ffruntime classify` answers to photographs of digits as people take them (`scenes.py`).

    python benchmarks/photographs.py [MODEL.ff] [--count 30] [--first 0]

Drawn around validation images of MNIST, from the `--first` on; the model is by default the one that comes with
ffruntime. Counted are right answers that are sure, right ones that are not, wrong ones that are not, wrong ones
that are sure, and refusals. What was chosen was chosen on the first 2,000 validation images; the recorded figures
are of others. Writes `docs/pictures/photographs.png`, too.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
from common import record
from PIL import Image, ImageDraw
from scenes import READ, SCENES, photograph

from ffruntime.core.bundle import Bundle
from ffruntime.core.data import Examples, data_directory
from ffruntime.core.errors import ImageError
from ffruntime.core.shipped import MODEL
from ffruntime.demo import digits
from ffruntime.model import Model
from ffruntime.pictures.picture import prepare_all
from ffruntime.session import Session

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "photographs.png"
COLUMNS, TILE = 7, (168, 126)  # of the picture
KINDS = ("right sure", "right unsure", "wrong unsure", "wrong sure", "refused")


def said(model: Model, scene: str, seed: int, digit: np.ndarray, label: str) -> str:
    """Which of `KINDS` the answer to a photograph is."""
    try:
        image = model.prepare(photograph(scene, seed, digit), scene)
    except ImageError:
        return "refused"
    (answer,) = model.classify_batch(image[None])
    right = scene in READ and answer.label == label
    return f"{'right' if right else 'wrong'} {'unsure' if answer.sure is False else 'sure'}"


def drawn(model: Model, examples: Examples) -> Image.Image:
    """A photograph of each scene, with what was taken for its figures, and their boxes."""
    whole = Image.new("RGB", (COLUMNS * (TILE[0] + 6), -(-len(SCENES) // COLUMNS) * (TILE[1] + 6)), "white")
    for index, scene in enumerate(SCENES):
        tile = photograph(scene, index, examples.pixels[index, 0])
        size, image, preprocessing = tile.size, model.manifest.network.image, model.manifest.preprocessing
        with contextlib.suppress(ImageError):
            for figure in prepare_all(tile, scene, preprocessing, image.shape):
                assert figure.ink is not None
                mask = Image.fromarray(np.rint(255 * figure.ink).astype(np.uint8)).resize(size)
                tile.paste((230, 50, 0), mask=mask)
                ImageDraw.Draw(tile).rectangle(figure.box, outline=(230, 50, 0), width=4)
        place = index % COLUMNS * (TILE[0] + 6) + 3, index // COLUMNS * (TILE[1] + 6) + 3
        whole.paste(tile.resize(TILE, Image.Resampling.LANCZOS), place)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=MODEL)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--first", type=int, default=2000)
    o = parser.parse_args()
    model = Model(Bundle(o.model).path, state=False, session=Session(threads=1))
    examples = digits.load(data_directory(None), "validation")[1]
    result = {}
    for scene in SCENES:
        found = Counter(
            said(model, scene, seed, examples.pixels[seed, 0], str(examples.labels[seed]))
            for seed in range(o.first, o.first + o.count)
        )
        result[scene] = {kind: found[kind] for kind in KINDS}
        print(scene, dict(found), flush=True)
    drawn(model, examples).save(PICTURE, optimize=True)
    record("photographs", {"count": o.count, "read": list(READ), "scenes": result})


if __name__ == "__main__":
    main()
