"""Ten devices that each see a part of MNIST: what each knows alone, what their merge knows, and one that saw all.

    python benchmarks/fleet.py WORK --bundles edges=A.ff nine=B.ff mnist=C.ff [--split validation] [--steps 60]

Every device is a state of `ffruntime.learning` that stores no picture: class statistics, at most 400 kB. Two ways
to deal the images out: two digits each, those of a task of Split-MNIST, which two devices share; and by a Dirichlet
distribution of 0.3 for every digit (Hsu et al. 2019). Merged as `ffruntime merge-states` does, and applied. Then
one of the ten lies: it names every digit as another, and counts every picture ten times. Readouts learn from 500
pictures that a device stores, beside its statistics, in parts that say so.

Choices are made with `--split validation`; `--split test` is written, once. Parts that are there are not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from common import machine
from continual_split import images
from msgspec import structs

from ffruntime import told
from ffruntime.backend import in_chunks
from ffruntime.core.closed_form import solve, tell
from ffruntime.core.data import Examples, to_unit_interval
from ffruntime.core.gaussians import combined
from ffruntime.core.merge import Average, Member, Merged, merge
from ffruntime.core.state import Weights, write_state
from ffruntime.core.statistics import Statistics, encode, moment, with_classes
from ffruntime.demo.split_mnist import TASKS
from ffruntime.learning.directory import export
from ffruntime.learning.elsewhere import member_of
from ffruntime.learning.learner import Learner
from ffruntime.learning.step import Settings
from ffruntime.model import Model
from ffruntime.session import Session

Row: TypeAlias = dict[str, Any]
DEVICES, DIGITS = 10, 10
STORED = 500 * 28 * 28  # bytes of pictures, of those whose readouts learn
AT_ONCE = 500
LIES = 10  # times that the liar counts a picture


class Seen(NamedTuple):
    """Images, and what the bundle's units make of them: once for all devices."""

    images: Examples
    goodness: np.ndarray  # (N, rows known)
    x: np.ndarray  # int8 (N, d)


def seen(model: Model, some: Examples) -> Seen:
    how, graph = model.manifest.statistics, in_chunks(model.graph(told.MODE), 100, 100)
    assert how
    goodness, x = [], []
    for start in range(0, len(some), AT_ONCE):
        shown = to_unit_interval(some.pixels[start : start + AT_ONCE])
        found = graph({"images": shown, "labels": model.known})
        goodness.append(found["total"])
        x.append(how.project(found["features"]))
    return Seen(some, np.concatenate(goodness), np.concatenate(x))


def dealt(labels: np.ndarray, how: str, seed: int) -> list[np.ndarray]:
    """Places of the images of each device."""
    rng, parts = np.random.default_rng([seed, 21]), [list[int]() for _ in range(DEVICES)]
    for digit in range(DIGITS):
        own = rng.permutation(np.flatnonzero(labels == digit))
        if how == "pairs":
            task = next(place for place, task in enumerate(TASKS) if digit in task)
            of = [task, task + len(TASKS)]
            cuts = [len(own) // 2]
        else:
            of, shares = list(range(DEVICES)), rng.dirichlet([0.3] * DEVICES)
            cuts = (np.cumsum(shares)[:-1] * len(own)).astype(int).tolist()
        for device, some in zip(of, np.split(own, cuts), strict=True):
            parts[device] += some.tolist()
    return [rng.permutation(np.array(part, int)) for part in parts]


def count(learner: Learner, shown: Seen, places: np.ndarray, names: Sequence[str], keep: bool) -> None:
    """A device is shown images whose features are known; with `keep` they stay as the replay policy says."""
    for start in range(0, len(places), AT_ONCE):
        some = places[start : start + AT_ONCE]
        here = shown.images.take(some)
        ids = learner.store.add(here.pixels, [names[label] for label in here.labels], shown.x[some])
        if not keep:
            learner.store.keep(ids, ids)
    learner.refresh()


def exported(learner: Learner, file: Path) -> Member:
    export(learner.store, learner.model.bundle, file, own=True)
    return member_of(file, learner.model.bundle)


class Fleet:
    """Devices with one bundle, and what is measured of them."""

    def __init__(self, bundle: Path, work: Path, o: argparse.Namespace) -> None:
        self.model = Model(bundle, session=Session(threads=1), state=False)
        found = images("mnist", o.split, o.quick)
        self.training, self.tested = (
            seen(self.model, part.take(slice(most))) for part, most in zip(found, (o.images, o.tested), strict=True)
        )
        self.names = tuple(map(str, range(DIGITS)))
        self.work, self.steps = work, o.steps
        self.manifest, self.weights = self.model.manifest, self.model.bundle.weights()

    def state(self, **more: Any) -> contextlib.closing[Learner]:
        settings = Settings(steps=self.steps)
        return contextlib.closing(Learner(self.model, False, settings, **{"seeded": False, **more}))

    def told(self, weights: Weights) -> float:
        """Accuracy where the bundle's own readouts answer, with class statistics."""
        how = self.manifest.statistics
        assert how
        classes = len(weights.classes)
        device = with_classes(weights.statistics or how.none(classes), classes)
        solved = solve(self.model.bundle.statistics(), device, how.shrinkage)
        scores, t = [], self.tested
        for start in range(0, len(t.x), 1000):
            part = slice(start, start + 1000)
            own = tell(solved, t.x[part]).scores
            rows = np.asarray(self.model.known)
            scores.append(combined(t.goodness[part], rows, own, how.weights[told.MODE], how.together))
        return self.right(np.concatenate(scores), weights.classes)

    def right(self, scores: np.ndarray, classes: Sequence[str]) -> float:
        labels = np.array([classes.index(name) if name in classes else -1 for name in self.names])
        return float(np.mean(scores.argmax(1) == labels[self.tested.images.labels]))

    def asked(self, model: Model) -> float:
        """Accuracy of a model, asked as any device is."""
        return self.right(model.scores(self.tested.images.pixels), model.classes)

    def applied(self, found: Merged, name: str) -> tuple[Path, Learner]:
        file = self.work / f"{name}.state"
        write_state(
            *(file, self.manifest, found.weights, found.updates, found.examples, found.origins),
            members=found.members,
        )
        learner = Learner(self.model, False, Settings(steps=self.steps))
        assert learner.apply(file, force=True).adopted
        return file, learner

    def merged(self, members: Sequence[Member], average: Average, robust: bool = False) -> Merged:
        prior = self.model.bundle.statistics() if robust else None
        prior = prior if prior is not None and prior.counts.any() else None
        return merge(self.manifest, self.weights, members, average, robust, prior)

    # --- statistics alone

    def counting(self, how: str, seed: int) -> Row:
        """Each alone, the merge, one that saw everything, and one liar with and without `--robust`."""
        start, parts = time.process_time(), dealt(self.training.images.labels, how, seed)
        members, alone, kept = [], [], 0
        for device, places in enumerate(parts):
            with self.state(replay_bytes=0) as learner:
                count(learner, self.training, places, self.names, False)
                members.append(exported(learner, self.work / f"{device}.state"))
                alone.append(self.told(learner.model.weights))
                assert learner.counted
                assert self.manifest.statistics
                snapshot = learner.counted.snapshot()
                kept = max(kept, len(encode(snapshot, self.manifest.statistics.origin("0" * 64))))
        found = self.merged(members, "nothing")
        everything = self.everything(found)
        assert found.weights.statistics
        same = np.array_equal(moment(found.weights.statistics), moment(everything)) and np.array_equal(
            found.weights.statistics.sums, everything.sums
        )
        _, learner = self.applied(found, "merged")
        with contextlib.closing(learner):
            merged_ = self.asked(learner.model)
        one = self.told(structs.replace(found.weights, statistics=everything))
        liar = self.lying(members[0], parts[0])
        lied, robust = (self.merged([liar, *members[1:]], "nothing", how) for how in (False, True))
        honest = self.merged(members[1:], "nothing")
        benign = self.merged(members, "nothing", True)
        return {
            "alone": alone,
            "merged": merged_,
            "everything": one,
            "bit_for_bit": bool(same),
            "kept": kept,
            "without_the_liar": self.told(honest.weights),
            "lied_to": self.told(lied.weights),
            "lied_to_robust": self.told(robust.weights),
            "liar_left_out": [left.member == liar.name for left in robust.left_out],
            "robust_among_honest": self.told(benign.weights),
            "honest_left_out": len(benign.left_out),
            "images": [len(self.training.x), len(self.tested.x)],
            "seconds": round(time.process_time() - start, 1),
        }

    def everything(self, found: Merged) -> Statistics:
        """Class statistics of one device that was shown all images."""
        how = self.manifest.statistics
        assert how
        labels = np.array([found.weights.classes.index(name) for name in self.names])
        classes = len(found.weights.classes)
        return how.of(self.training.x, labels[self.training.images.labels], classes)

    def lying(self, member: Member, places: np.ndarray) -> Member:
        """The same device, which names every digit as the third after it, ten times."""
        how = self.manifest.statistics
        assert how
        x, labels = self.training.x[places], (self.training.images.labels[places].astype(int) + 3) % DIGITS
        classes = self.names if len(member.weights.classes) == DIGITS else (*self.manifest.classes, "9")
        one = how.of(x, labels, DIGITS)
        many = structs.replace(one, counts=LIES * one.counts, sums=LIES * one.sums, moment=LIES * moment(one))
        many = structs.replace(many, rows=one.rows[:0])
        weights = structs.replace(member.weights, statistics=many, classes=classes)
        return structs.replace(member, weights=weights, state=structs.replace(member.state, classes=classes))

    # --- readouts

    def learning(self, how: str, seed: int) -> Row:
        """Readouts learn on every device, too: what averaging them gives, alone and beside class statistics, after
        rehearsal on the bundle's exemplars, and where one member's are turned round."""
        start, parts = time.process_time(), dealt(self.training.images.labels, how, seed)
        members, alone = [], []
        for device, places in enumerate(parts):
            with self.state(replay_bytes=STORED, tolerance=1.0) as learner:
                count(learner, self.training, places[:-500], self.names, False)
                count(learner, self.training, places[-500:], self.names, True)
                learner.update()
                members.append(exported(learner, self.work / f"{device}.state"))
                alone.append(self.asked(learner.model))
        row: Row = {"alone": alone, "stored": STORED}
        bare = [structs.replace(one, weights=structs.replace(one.weights, statistics=None)) for one in members]
        ways: list[tuple[str, Sequence[Member], Average]] = [
            ("statistics", members, "nothing"),
            ("readouts", bare, "readouts"),
            ("both", members, "readouts"),
        ]
        for name, some, average in ways:
            _, learner = self.applied(self.merged(some, average), name)
            with contextlib.closing(learner):
                row[name] = self.asked(learner.model)
                learner.tolerance = 1.0
                learner.rehearse(self.steps)
                row[f"{name}_rehearsed"] = self.asked(learner.model)
        turned = {
            name: self.weights[name] - 10 * (tensor - self.weights[name]) if "readout" in name else tensor
            for name, tensor in bare[0].weights.tensors.items()
        }
        liar = structs.replace(bare[0], weights=structs.replace(bare[0].weights, tensors=turned))
        for name, robust in (("readouts_lied_to", False), ("readouts_lied_to_robust", True)):
            _, learner = self.applied(self.merged([liar, *bare[1:]], "readouts", robust), name)
            with contextlib.closing(learner):
                row[name] = self.asked(learner.model)
        row["images"] = [len(self.training.x), len(self.tested.x)]
        return {**row, "steps": self.steps, "seconds": round(time.process_time() - start, 1)}


def runs(o: argparse.Namespace) -> Iterator[tuple[str, str, int, str]]:
    """What is measured, the short parts first: part, bundle, seed, how images are dealt out."""
    seeds_of = {"counting": o.seeds, "learning": o.learning_seeds}
    for part in o.parts:
        for bundle in o.bundles:
            for seed in range(seeds_of[part]):
                for how in ("pairs", "dirichlet"):
                    yield part, bundle, seed, how


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bundles", nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--images", type=int, metavar="N", help="the first N to learn from, of 50,000")
    parser.add_argument("--tested", type=int, metavar="N", help="the first N to measure on, of 10,000")
    parser.add_argument("--parts", nargs="+", choices=["counting", "learning"], default=["counting", "learning"])
    parser.add_argument("--quick", action="store_true", help="hundreds of images, and no results file")
    o = parser.parse_args()
    o.bundles = dict(entry.split("=", 1) for entry in o.bundles)
    o.work.mkdir(parents=True, exist_ok=True)
    results = Path(__file__).parent / "results" / "fleet.json"
    if o.quick:
        results = o.work / "fleet.json"
    found: Row = json.loads(results.read_text()) if results.exists() else {}
    fleets: dict[str, Fleet] = {}
    for part, bundle, seed, how in runs(o):
        rows = found.setdefault(o.split, {}).setdefault(part, {}).setdefault(bundle, {}).setdefault(how, [])
        if seed < len(rows):
            continue
        if bundle not in fleets:
            fleets = {bundle: Fleet(Path(o.bundles[bundle]), o.work, o)}
        rows.append(getattr(fleets[bundle], part)(how, seed))
        found["machine"] = machine()
        results.write_text(json.dumps(found, indent=2) + "\n")
        print(part, bundle, seed, how, json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
