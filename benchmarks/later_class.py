"""How sure answers for a digit are that a device learned by class statistics, and what is turned away meanwhile.

    python benchmarks/later_class.py NINE.ff EIGHT.ff

NINE.ff was trained on the digits 0 to 8 and learns the 9; EIGHT.ff on 0 to 7, learns the 8, and is shown the 9,
which nothing has taught it. On validation images, at two rates of false alarms, after 5, 20, 80 and 320 examples:
which share of the new digit, of the trained ones and of what is strange gets "I don't know", by the thresholds of
the new class's own and, of the same answers, by those of the trained classes. A pass of an image serves for all
draws.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import record
from msgspec import structs

from ffruntime.answers import Answer
from ffruntime.backend import Graph
from ffruntime.core.calibration import thresholds
from ffruntime.core.data import SPLIT, Examples, data_directory, read_idx_examples
from ffruntime.model import Model
from ffruntime.session import Session

DRAWS = {5: 10, 20: 6, 80: 4, 320: 3}  # examples of the new digit: how often they are drawn
RATES = (0.01, 0.05)
TRAINED = 2_000  # validation images of trained digits
STRANGE = 500  # of Fashion-MNIST, and of noise
AT_ONCE = 100
NEW = "new"


def remembered(graph: Graph) -> Graph:
    """A graph that computes the same images once."""
    known: dict[bytes, dict[str, np.ndarray]] = {}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        key = inputs["images"].tobytes()
        if key not in known:
            known[key] = {name: found for name, found in graph(inputs).items() if name in ("total", "features")}
        return known[key]

    return run  # type: ignore[return-value]


def answered(model: Model, images: np.ndarray, rate: float) -> list[Answer]:
    return [
        answer
        for start in range(0, len(images), AT_ONCE)
        for answer in model.classify_batch(images[start : start + AT_ONCE], "goodness", unsure=rate)
    ]


def unsure(model: Model, answers: list[Answer], rate: float, wanted: str | None = None) -> dict[str, Any]:
    """Which share is called unsure, by the class's own thresholds and by the trained classes'; of those that are
    answered `wanted`, too."""
    calibration = model.manifest.calibration
    assert calibration
    least, least_typical = thresholds(calibration, calibration.scores["goodness"], rate, both=True)
    trained = np.array([(a.probability or 0) < least or (a.typicality or 0) < least_typical for a in answers])
    own = np.array([answer.sure is False for answer in answers])
    found: dict[str, Any] = {"own": float(own.mean()), "trained": float(trained.mean())}
    if wanted is not None:
        so = np.array([answer.label == wanted for answer in answers])
        counted = {"own": int(own[so].sum()), "trained": int(trained[so].sum()), "of": int(so.sum())}
        found["answered_new"] = counted
    return found


def measured(path: Path, whole: Examples, strange: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of one network, the digit after its last one being learned."""
    model = Model(path, session=Session(threads=1), state=False)
    model._graphs["goodness"] = remembered(model.graph("goodness"))
    label, how = len(model.classes), model.manifest.statistics
    assert how
    training, held_back = (whole.take(np.array(places)) for places in SPLIT.places(len(whole.labels)))
    known = held_back.take(held_back.labels < label)
    untaught = {f"the digit {n}, not taught": held_back.pixels[held_back.labels == n] for n in range(label + 1, 10)}
    shown = {
        "new": held_back.pixels[held_back.labels == label],
        "trained": known.pixels[:TRAINED],
        **untaught,
        **strange,
    }
    candidates = training.pixels[training.labels == label][:1500]
    x = np.concatenate([model.examples(candidates[start : start + 50]) for start in range(0, len(candidates), 50)])
    rows = []
    for count, draws in DRAWS.items():
        parts: dict[tuple[float, str], list[dict[str, Any]]] = {}
        for draw in range(draws):
            some = x[np.random.default_rng(draw).choice(len(x), count, replace=False)]
            told = how.of(some, np.full(count, label), label + 1)
            later = {"classes": (*model.classes, NEW), "statistics": told, "later": {label: some}}
            now = model.with_weights(structs.replace(model.weights, **later))
            for name, images in shown.items():
                for rate in RATES:
                    found = unsure(now, answered(now, images, rate), rate, NEW)
                    parts.setdefault((rate, name), []).append(found)
        rows += [{"examples": count, "rate": rate, "shown": name, **mean(of)} for (rate, name), of in parts.items()]
    images_of = {name: len(some) for name, some in shown.items()}
    return {"classes": list(model.classes), "images": images_of, "rows": rows}


def mean(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over draws, and the share of what was answered as the new digit."""
    of = sum(one["answered_new"]["of"] for one in draws)
    return {
        **{which: float(np.mean([one[which] for one in draws])) for which in ("own", "trained")},
        "deviation": float(np.std([one["own"] for one in draws])),
        "answered_new": {
            "of": of / len(draws),
            **{w: sum(one["answered_new"][w] for one in draws) / max(of, 1) for w in ("own", "trained")},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nine", type=Path)
    parser.add_argument("eight", type=Path)
    o = parser.parse_args()
    directory = data_directory(None)
    whole = read_idx_examples(directory / "MNIST" / "raw", "train")
    fashion = read_idx_examples(directory / "FashionMNIST" / "raw", "train").pixels[:STRANGE]
    noise = np.random.default_rng(0).integers(0, 256, (STRANGE, 1, 28, 28), dtype=np.uint8)
    strange = {"Fashion-MNIST": fashion, "uniform noise": noise}
    record("later_class", {"networks": [measured(path, whole, strange) for path in (o.nine, o.eight)]})


if __name__ == "__main__":
    main()
