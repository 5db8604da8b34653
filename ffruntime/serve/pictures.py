"""Pictures that were sent -> images, answers and explanations, by the model and what else the commands use."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from ..answers import Answer as ModelAnswer
from ..core.architecture import class_goodness
from ..core.errors import UsageError, unknown
from ..model import Model
from ..pictures.picture import Prepared, decode_picture, prepare_all, several
from .shapes import Answer, Evidence, Explained, Ranked, Said

NAME = "picture"  # what messages call it: names of files are their owner's
WINDOW = 5  # pixels a side that are hidden at once


def prepared(model: Model, data: bytes, memory_limit: int, all_figures: bool = False) -> list[Prepared]:
    """The images that a picture's file gives. Raises `ImageError`, of several figures unless `all_figures`."""
    shape = model.manifest.network.image.shape
    found = prepare_all(decode_picture(data, NAME, memory_limit), NAME, model.manifest.preprocessing, shape)
    if len(found) > 1 and not all_figures:
        raise several(NAME, found)
    return found


def answered(model: Model, found: Sequence[Prepared], unsure: float) -> tuple[Answer, ...]:
    """An answer for each figure."""
    answers = model.classify_batch(np.stack([one.image for one in found]), unsure=unsure)
    return tuple(_answer(answer, figure) for answer, figure in zip(answers, found, strict=True))


def _answer(answer: ModelAnswer, figure: Prepared) -> Answer:
    shares = answer.probabilities or {}
    ranked = tuple(Ranked(name, score, shares.get(name)) for name, score in answer.scores.items())
    return Answer(
        answer.label,
        answer.sure,
        answer.probability,
        answer.typicality,
        ranked,
        answer.mode,
        answer.passes,
        answer.ms,
        image_uri(figure.image),
        figure.box,
        figure.doubts,
    )


def said(answers: Sequence[ModelAnswer]) -> tuple[Said, ...]:
    """Answers in short."""
    return tuple(Said(answer.label, answer.sure, answer.probability) for answer in answers)


def explained(model: Model, image: np.ndarray, label: str | None) -> Explained:
    """Which pixels of an image uint8 (C, H, W) its answer rests on, or speak for a class.

    With class goodness exactly (`class_maps.py`), else by hiding pixels (`saliency.py`). Raises `UsageError` for a
    class that there is none of, or that has no map.
    """
    if label is not None and label not in model.classes:
        raise unknown("class", label, model.classes)
    (answer,) = model.classify_batch(image[None], "goodness" if class_goodness(model.manifest.network) else None)
    if not class_goodness(model.manifest.network):
        return _hidden(model, image, answer, label)
    from ..class_maps import class_maps, together
    from ..saliency import tile

    known = [model.classes[row] for row in model.known]
    first = label or answer.label
    if first not in known:
        raise UsageError(f"'{first}' has no row in the readouts, so there is no map: rehearse, and it gets one")
    names = [first, *[name for name in answer.scores if name != first and name in known][:1]]
    maps = class_maps(model, image, [model.classes.index(name) for name in names])
    evidence = []
    for name, of in zip(names, maps.values(), strict=True):
        if all(one.map is None for one in of):
            raise UsageError("no scored unit has pixels, so there is no map to draw")
        values = together(of)
        drawn = png_uri(tile(image, values))
        evidence.append(Evidence(name, answer.scores[name], np.round(values, 5).tolist(), drawn))
    return Explained(answer.label, "exact", image_uri(image), tuple(evidence))


def _hidden(model: Model, image: np.ndarray, answer: ModelAnswer, label: str | None) -> Explained:
    from ..saliency import explain_accuracy, tile

    if label is not None and label != answer.label:
        raise UsageError(f"the answer is '{answer.label}': of another class there is no map without class goodness")
    mode = "classifier" if "classifier" in model.manifest.inference_modes else None
    labels = np.array([int(model.scores(image[None], mode).argmax())])
    found = explain_accuracy(partial(model.scores, mode=mode), image[None], labels, model.classes, WINDOW)["all"]
    drawn = png_uri(tile(image, -found.map))
    evidence = Evidence(answer.label, None, (-found.map).tolist(), drawn)
    return Explained(answer.label, "hidden", image_uri(image), (evidence,))


def image_uri(image: np.ndarray) -> str:
    """An image uint8 (1 or 3, H, W) as a data URI."""
    return png_uri(Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)))


def png_uri(picture: Image.Image) -> str:
    """A picture as a data URI."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
