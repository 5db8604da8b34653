"""From scores to answers: the best class, how probable it is, and whether the model is sure of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from .core.calibration import Calibration, OfScores, probabilities, thresholds, typicality
from .core.cost import exit_shares
from .core.manifest import EXIT, SHORTLIST, Manifest, Mode, lone_units
from .later import Later
from .later import sure as sure_of_later

STRONG = 0.999  # probability of an answer that whoever teaches otherwise is asked about


class Answer(Struct, frozen=True):
    """What the network says of one image.

    `scores` holds, for each class, the total goodness (mode `goodness`) or the classifier's logit (mode
    `classifier`), best first. In mode `shortlist` it is the total goodness of the labels in play, and the others
    stand below these; after a single pass, all are logits. In mode `exit` it is the total goodness up to the unit
    that answered. `probabilities`, calibrated, are made of them; None where the bundle has no calibration.
    `typicality` is the share of the validation images that are at least as far from their nearest class, by the
    Mahalanobis distance of features, in mode `exit` of those of the unit that answered; None where nothing tells.
    `sure` is False where the answer is to be read as "I don't know"; None where nobody asked, or nothing can tell.
    """

    label: str  # the best class, sure or not
    sure: bool | None
    probabilities: dict[str, float] | None
    typicality: float | None
    scores: dict[str, float]
    mode: Mode
    passes: float  # of one image, with one label where it is in the input, through the network; of `exit`, a share
    backend: str
    ms: float  # wall time of the engine and of the decision, per image

    @property
    def probability(self) -> float | None:
        """How probable it is that `label` is right."""
        return self.probabilities[self.label] if self.probabilities else None


class Scored(NamedTuple):
    """What the network says of some images."""

    mode: Mode
    scores: np.ndarray  # of every class: (N, classes)
    passes: np.ndarray  # int (N,); of mode `exit`, float
    ms: float  # as in `Answer`
    distances: np.ndarray | None = None  # to the nearest class, in class statistics or, in `exit`, of a unit: (N,)
    margins: np.ndarray | None = None  # by which these put the answer ahead of the next class: (N,)


def answers(
    manifest: Manifest,
    classes: Sequence[str],
    found: Scored,
    backend: str,
    unsure: float,
    own: Later | None = None,
) -> list[Answer]:
    """An answer for every image; `unsure` is the rate of false alarms, 0 where nothing is to be called unsure.
    `own`: what is told of answers that are classes which came later than training."""
    known = manifest.calibration
    of = _calibrations(manifest, known, found) if known else [None] * len(found.scores)
    temperatures = np.array([one.temperature if one else 1.0 for one in of])
    shares = probabilities(found.scores, temperatures[:, None])
    typical = _typicalities(manifest, known, found) if known else [None] * len(of)
    result, orders = [], np.argsort(-found.scores, axis=1, kind="stable").tolist()
    for index, order in enumerate(orders):
        sure, one, probable = None, of[index], None
        usual = typical[index]
        if known and one:
            probable = {classes[label]: float(shares[index, label]) for label in order}
            if unsure:
                least, least_typical = thresholds(known, one, unsure, usual is not None)
                best = float(shares[index, order[0]])
                sure = best >= least and (usual is None or usual >= least_typical)
                if own and order[0] >= own.first and usual is not None:
                    assert found.distances is not None
                    assert found.margins is not None
                    figures = float(found.margins[index]), float(found.distances[index])
                    limits = (best, least), (usual, least_typical)
                    sure = sure_of_later(own, order[0], *limits, figures, one.temperature)
        scores = {classes[label]: float(found.scores[index, label]) for label in order}
        passes = found.passes[index].item()
        result.append(
            Answer(classes[order[0]], sure, probable, usual, scores, found.mode, passes, backend, found.ms)
        )
    return result


def _calibrations(manifest: Manifest, known: Calibration, found: Scored) -> Sequence[OfScores | None]:
    """What calibrates each answer, by what its scores are; None where nothing does."""
    mode = found.mode
    if mode == EXIT:
        return [known.scores.get(name) for name in _answering(manifest, found)]
    if mode == SHORTLIST:  # with a single label in play, after one pass, its scores are logits
        single, several = known.scores.get("classifier"), known.scores.get("shortlist")
        return [single if passes == 1 else several for passes in found.passes.tolist()]
    return [known.scores.get(mode)] * len(found.scores)


def _answering(manifest: Manifest, found: Scored) -> list[str]:
    """In mode `exit`, which unit has answered, by its name; `EXIT`, where all have run."""
    names = (*lone_units(manifest.network), EXIT)
    return [names[unit] for unit in np.searchsorted(exit_shares(manifest.network), found.passes).tolist()]


def _typicalities(manifest: Manifest, known: Calibration, found: Scored) -> list[float | None]:
    """How typical each image is; in mode `exit` not where the answer is a class that came later: the bundle knows
    nothing of how its images look to a single unit."""
    distances = found.distances
    if distances is None:
        return [None] * len(found.scores)
    if found.mode != EXIT:
        all_of_them = typicality(known, distances)
        return [None] * len(distances) if all_of_them is None else list(map(float, all_of_them))
    first = manifest.statistics.together if manifest.statistics else 0
    units, trained = _answering(manifest, found), found.scores.argmax(1) < first
    result: list[float | None] = []
    for unit, distance, so in zip(units, distances, trained, strict=True):
        one = typicality(known, distance, known.units[unit]) if so and unit in known.units else None
        result.append(None if one is None else float(one))
    return result


def contradicts(answer: Answer, label: str, trained: Sequence[str]) -> bool:
    """Whether an answer speaks strongly against teaching its image as `label`.

    Only where that is one of the classes that the bundle was `trained` on: what a model says of images of a class
    that it learns later means little until it has seen enough of them.
    """
    strong = answer.probability is not None and answer.probability >= STRONG and answer.sure is not False
    return strong and label in trained and answer.label != label
