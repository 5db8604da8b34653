"""A model on the device: classify images with the graphs of a bundle."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import Struct

from . import picture, shortlist
from .backend import DEFAULT_BACKEND, ENGINES, Graph, in_chunks, load_graph
from .core import transition as bundle
from .core.architecture import Network, scored_units, unit_name
from .core.data import to_unit_interval
from .core.errors import BundleError, UsageError, unknown
from .core.layers import gradient_tensors, tensor_shapes
from .core.manifest import PRECISIONS, Precision, in_folder
from .core.plan import BATCH
from .core.state import Weights
from .core.transition import from_below

if TYPE_CHECKING:
    from PIL.Image import Image

    from .learning.versions import Current

SHORTLIST = "shortlist"
MANY = 1 << 16  # labels: as many as there are


class Answer(Struct, frozen=True):
    """What the network says of one image.

    `scores` holds, for each class, the total goodness (mode `goodness`) or the classifier's logit (mode
    `classifier`), best first; `margin` is the best score minus the second best. In mode `shortlist` it is the total
    goodness of the labels in play, and the others stand below these; after a single pass, all are logits.
    """

    label: str
    margin: float
    scores: dict[str, float]
    mode: str
    passes: int  # of one image with one label through the network
    backend: str
    ms: float  # wall time of the engine and of the decision, per image


class Model:
    """A bundle and what was learned on it, opened for inference.

    >>> from ffruntime import Model
    >>> model = Model("model.ff")
    >>> model.classify("three.png").label

    Graphs are loaded when first needed; safe to share between threads. `state` is the directory of what was learned
    on the bundle, by default `model.state` beside `model.ff`; its current version counts, where there is one. With
    `state=False` the model is as shipped. Raises `BundleError`, and `StateError` for a state that is damaged or of
    another bundle.

    Whoever gives `learned` has no state read: tensors in place of the bundle's, float32 by their names there. The
    model borrows the arrays, which must not change any more. `classes` are the bundle's and those learned; of the
    `doubtful` ones among them the classifier knows too little. Without `arena` the engine gives memory back after
    each call.
    """

    def __init__(
        self,
        path: str | Path,
        backend: str = DEFAULT_BACKEND,
        threads: int = 0,
        precision: str = "fp32",
        *,
        state: str | Path | Literal[False] | None = None,
        learned: Mapping[str, np.ndarray] | None = None,
        classes: Sequence[str] | None = None,
        doubtful: frozenset[str] = frozenset(),
        arena: bool = True,
    ) -> None:
        known = {str(name): name for name in PRECISIONS}
        if precision not in known:
            raise unknown("precision", precision, known)
        self.path, self.backend, self.threads, self.arena = Path(path), backend, threads, arena
        self.precision: Precision = known[precision]
        self.batch, self.at_once = BATCH, MANY  # images, and labels, in one call of a graph
        self.bundle = bundle.Bundle(self.path)
        self.manifest = self.bundle.manifest
        if self.manifest.shortlist and set(self.manifest.classes) <= set(self.manifest.shortlist.always):
            raise BundleError(f"{self.path}: its shortlist leaves the classifier no class to judge by")
        self._graphs: dict[str, Graph] = {}
        self._state = state
        self._verified: set[str] = set()  # files of the bundle whose hash was checked
        self._lock = threading.Lock()
        if learned is None and (now := learned_state(self.path, self.manifest, state)):
            learned, classes, doubtful = now.weights.tensors, now.weights.classes, now.weights.undertrained
        self._learn(learned or {}, classes or self.manifest.classes, doubtful)

    def relearned(
        self,
        learned: Mapping[str, np.ndarray],
        classes: Sequence[str] | None = None,
        doubtful: frozenset[str] = frozenset(),
    ) -> Model:
        """The same bundle with other learned tensors, as at construction; by default with the same classes.

        Cheap: hashes are not computed again, and graphs that hold none of the tensors that differ are shared.
        """
        with self._lock:
            other, graphs = copy.copy(self), dict(self._graphs)
        other._lock = threading.Lock()
        before = other.weights_override
        other._learn(learned, classes or other.classes, doubtful)
        after, network = other.weights_override, self.manifest.network
        changed = {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}
        other._graphs = {n: g for n, g in graphs.items() if changed.isdisjoint(graph_tensors(network, n))}
        return other

    @property
    def undertrained(self) -> frozenset[str]:
        return self.doubtful

    @property
    def weights(self) -> Weights:
        return Weights(self.weights_override, self.classes, self.doubtful)

    def with_weights(self, weights: Weights) -> Model:
        return self.relearned(weights.tensors, weights.classes, weights.undertrained)

    def _as_now(self) -> Model:
        """The same model, which goes on with these weights whatever is learned meanwhile."""
        with self._lock:
            return copy.copy(self)

    def limited(self, batch: int, at_once: int, threads: int = 0) -> Model:
        """The same model with so many images and labels in one call at most, and memory given back after each.

        The whole process gives freed memory back from now on (`heap.py`).
        """
        from .heap import return_freed_blocks  # only who has little memory waits for it

        return_freed_blocks()
        other = self._as_now()
        other._lock, other._graphs = threading.Lock(), {}
        other.batch, other.at_once, other.threads, other.arena = batch, at_once, threads, False
        return other

    def _learn(self, learned: Mapping[str, np.ndarray], classes: Sequence[str], doubtful: frozenset[str]) -> None:
        if learned and self.precision != "fp32":
            raise UsageError(
                f"what was learned runs in fp32, not in {self.precision}: ffexport --state makes a bundle of both, "
                "and with --shipped the bundle runs as it is"
            )
        self.weights_override: dict[str, np.ndarray] = dict(learned)
        self.classes: tuple[str, ...] = tuple(classes)
        always = self.manifest.shortlist.always if self.manifest.shortlist else ()
        self.doubtful: frozenset[str] = doubtful.union(always)

    def graph(self, name: str) -> Graph:
        """The bundle's graph `name` (such as `unit1`), after its hash and its weights' have been checked."""
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = self._load(name)
            return self._graphs[name]

    def _load(self, name: str) -> Graph:
        if self.backend in ENGINES:
            from .engine import engine_for  # only who runs engines waits for it

            return engine_for(self.path, self.manifest, name, self.backend, self.precision, self._learned_in(name))
        file, weights = self._verify(f"{name}.onnx"), self._learned_in(name)
        self._verify(bundle.WEIGHTS)
        return load_graph(file, self.backend, self.threads, weights, self.arena)

    def _learned_in(self, name: str) -> dict[str, np.ndarray]:
        """The learned tensors that the graph `name` holds."""
        if not self.weights_override:
            return {}
        held = graph_tensors(self.manifest.network, name)
        return {tensor: array for tensor, array in self.weights_override.items() if tensor in held}

    def _verify(self, name: str) -> Path:
        """Path of a file in the model's precision; its hash is computed once for all models made of this one."""
        file = in_folder(name, self.precision)
        if file not in self._verified:
            bundle.verified(self.path, self.manifest, file)
            self._verified.add(file)
        return self.path / file

    def modes(self) -> list[str]:
        """Every inference mode that the model has, best first."""
        modes: list[str] = [*self.manifest.modes]
        return [*modes, SHORTLIST] if len(modes) > 1 and self.manifest.shortlist else modes

    def mode(self, asked: str | None, labels: int | None = None) -> str:
        """The inference mode asked for, by default the model's best; with a number of `labels`, `shortlist`.

        Raises `UsageError` where the model was not trained for it, or has no threshold for a shortlist.
        """
        modes = {*map(str, self.manifest.modes)}
        if modes == {"goodness", "classifier"}:
            modes.add(SHORTLIST)
        mode = asked or (SHORTLIST if labels else self.manifest.modes[0])
        if mode not in modes:
            raise unknown("mode", mode, modes)
        if labels and mode != SHORTLIST:
            raise UsageError(f"mode {mode} tries no choice of labels: leave out --labels, or --mode")
        if mode == SHORTLIST and not (labels or self.manifest.shortlist):
            raise UsageError(
                f"{self.path}: has no threshold for mode {SHORTLIST}; export it again with 'ffexport --model "
                f"{self.path}', or say how many labels to try (--labels)"
            )
        return mode

    def scores(self, images: np.ndarray, mode: str | None = None, labels: int | None = None) -> np.ndarray:
        """Score of every class: images uint8 (N, C, H, W) -> float32 (N, classes)."""
        return self.scores_and_passes(images, mode, labels)[0]

    def scores_and_passes(
        self, images: np.ndarray, mode: str | None = None, labels: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score of every class, and the passes it took: images uint8 (N, C, H, W) -> (N, classes), int (N,).

        `labels`: in mode `shortlist`, how many labels to try, the most plausible ones, whatever the threshold says,
        beside the doubtful ones.
        """
        self._check(images)
        now, mode = self._as_now(), self.mode(mode, labels)
        count = len(now.classes)
        if mode == "goodness":
            return now._goodness(images, np.arange(count)), np.full(len(images), count)
        logits = now._logits(images)
        if mode == "classifier":
            return logits, np.ones(len(images), int)
        chosen = now._chosen(logits, labels)
        scores = shortlist.scores(logits, chosen, lambda rows, tried: now._goodness(images[rows], tried))
        return scores, shortlist.passes(chosen)

    def _check(self, images: np.ndarray) -> None:
        """Raises `UsageError` unless they are some images as the network takes them."""
        shape = self.manifest.network.image.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise UsageError(
                f"images: must be uint8 (N, {', '.join(map(str, shape))}), one at least, not {images.dtype} "
                f"{images.shape}"
            )

    def _goodness(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Total goodness: images uint8 (N, C, H, W), labels (L,) -> (N, L)."""
        graph = in_chunks(self.graph("goodness"), self.batch, self.at_once)
        parts = _parts(images, self.batch)
        return np.concatenate([graph({"images": part, "labels": labels})["total"] for part in parts])

    def _logits(self, images: np.ndarray) -> np.ndarray:
        """The classifier's logits: images uint8 (N, C, H, W) -> (N, classes)."""
        graph, classes = self.graph("classifier"), len(self.classes)
        parts = _parts(images, self.batch)
        return np.concatenate([graph({"images": part})["logits"][:, :classes] for part in parts])

    def _chosen(self, logits: np.ndarray, labels: int | None) -> np.ndarray:
        """Labels in play, bool (N, classes)."""
        doubtful = [index for index, name in enumerate(self.classes) if name in self.doubtful]
        if labels:
            known = logits.copy()
            known[:, doubtful] = -np.inf
            chosen = shortlist.most_plausible(known, labels)
            chosen[:, doubtful] = True
            return chosen
        assert self.manifest.shortlist  # mode() has seen to it
        return shortlist.in_play(logits, self.manifest.shortlist.threshold, doubtful)

    def classify_batch(
        self, images: np.ndarray, mode: str | None = None, labels: int | None = None
    ) -> list[Answer]:
        """Images that are ready, uint8 (N, C, H, W) -> an answer for each."""
        self._check(images)
        now, mode = self._as_now(), self.mode(mode, labels)
        for graph in ("classifier", "goodness") if mode == SHORTLIST else (mode,):
            now.graph(graph)  # loading is not part of the time that is reported
        start = time.perf_counter()
        scores, passes = now.scores_and_passes(images, mode, labels)
        elapsed = (time.perf_counter() - start) * 1000 / len(images)
        return [now._answer(row, mode, int(cost), elapsed) for row, cost in zip(scores, passes, strict=True)]

    def classify(
        self,
        source: str | Path | np.ndarray,
        mode: str | None = None,
        preprocess: bool = True,
        labels: int | None = None,
    ) -> Answer:
        """An image file, or an array uint8 (C, H, W) that is ready -> the answer.

        Raises `ImageError` where the file cannot be used.
        """
        image = source if isinstance(source, np.ndarray) else self.read(str(source), preprocess)
        return self.classify_batch(image[None], mode, labels)[0]

    def read(self, path: str, preprocess: bool = True, room: int | None = None) -> np.ndarray:
        """An image file (`-`: standard input) as the network's input, uint8 (C, H, W).

        `room`: bytes of memory that the picture may take, as for `picture.read_picture`.
        """
        return self.prepare(picture.read_picture(path, room), picture.display_name(path), preprocess)

    def prepare(self, opened: Image, name: str, preprocess: bool = True) -> np.ndarray:
        """A picture as the network's input, uint8 (C, H, W). Raises `ImageError` with its name."""
        shape = self.manifest.network.image.shape
        if preprocess:
            return picture.prepare(opened, name, self.manifest.preprocessing, shape)
        return picture.take_as_is(opened, name, shape)

    def _answer(self, row: np.ndarray, mode: str, passes: int, ms: float) -> Answer:
        order: Sequence[int] = np.argsort(-row, kind="stable").tolist()
        scores = {self.classes[index]: float(row[index]) for index in order}
        values = list(scores.values())
        margin = values[0] - values[1] if len(values) > 1 else 0.0
        return Answer(self.classes[order[0]], margin, scores, mode, passes, self.backend, ms)


def learned_state(
    path: Path, manifest: bundle.Manifest, state: str | Path | Literal[False] | None
) -> Current | None:
    """What was learned on the bundle at `path`, `state` as for `Model`; None where there is none, or with False.

    Raises `StateError` for a state that is damaged or of another bundle.
    """
    directory = Path(state) if state else bundle.state_directory(path)
    if state is False or not directory.is_dir():
        return None
    from .learning.store import current  # only who has learned waits for a database

    return current(directory, manifest)


def _parts(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """uint8 images (N, C, H, W) -> float32 in [0, 1], at most so many at a time."""
    return (to_unit_interval(images[start : start + size]) for start in range(0, len(images), size))


def graph_tensors(network: Network, graph: str) -> set[str]:
    """Names of the tensors of `weights.safetensors` that a graph holds; a gradient graph takes them as inputs."""
    names = set(tensor_shapes(network))
    if graph.startswith("gradient"):
        return set()
    if graph == "goodness":
        return {name for name in names if name != "labels.neutral" and not name.startswith("head.")}
    if graph == "classifier":
        above = tuple(f"{unit_name(index)}." for index in range(scored_units(network)[-1] + 1, len(network.units)))
        passed = {name for name in names if from_below(name) and not name.startswith(above)}
        return passed - {"labels.patterns"}
    return set(gradient_tensors(network, int(graph.removeprefix("unit")) - 1))
