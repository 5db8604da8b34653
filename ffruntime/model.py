"""A model on the device: images in, answers out, by the graphs of a bundle."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from msgspec import Struct

from . import picture, shortlist
from .backend import Graph, in_chunks
from .core.bundle import Bundle
from .core.data import to_unit_interval
from .core.errors import BundleError, UsageError, unknown
from .core.graphs import graphs, graphs_of_mode
from .core.manifest import SHORTLIST, Manifest, Mode, Precision
from .core.state import Weights
from .session import Session, load

if TYPE_CHECKING:
    from PIL.Image import Image

    from .learning.versions import Current


class Answer(Struct, frozen=True):
    """What the network says of one image.

    `scores` holds, for each class, the total goodness (mode `goodness`) or the classifier's logit (mode
    `classifier`), best first; `margin` is the best score minus the second best. In mode `shortlist` it is the total
    goodness of the labels in play, and the others stand below these; after a single pass, all are logits.
    """

    label: str
    margin: float
    scores: dict[str, float]
    mode: Mode
    passes: int  # of one image with one label through the network
    backend: str
    ms: float  # wall time of the engine and of the decision, per image


class Scored(NamedTuple):
    """What the network says of some images."""

    mode: Mode
    scores: np.ndarray  # of every class: (N, classes)
    passes: np.ndarray  # int (N,)
    ms: float  # as in `Answer`


class Model:
    """A bundle and what was learned on it, opened for inference.

    >>> from ffruntime import Model
    >>> model = Model("model.ff")
    >>> model.classify("three.png").label

    A model never changes: what is learned makes another one, and so does another session. Graphs are loaded when
    first needed. Safe to share between threads.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        weights: Weights | None = None,
        session: Session | None = None,
        *,
        state: str | Path | Literal[False] | None = None,
    ) -> None:
        """A bundle, or the one at that path, with `weights` in place of its own, run as `session` says.

        Without `weights`, those of the current version of a state directory count, where there is one: of `state`,
        by default `model.state` beside `model.ff`. With `state=False` the model is as shipped. The arrays in
        `weights` are borrowed and must not change any more. Raises `BundleError`; `StateError` for a state that is
        damaged or of another bundle; `UsageError` for learned weights in another precision than fp32.
        """
        self._bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        self._session = session or Session()
        own, always = self.manifest.classes, self.manifest.shortlist.always if self.manifest.shortlist else ()
        if self.manifest.shortlist and set(own) <= set(always):
            raise BundleError(f"{self.path}: its shortlist leaves the classifier no class to judge by")
        if weights is None:
            found = learned(self._bundle, state)
            weights = found.weights if found else Weights({}, own)
        if weights.tensors and self.precision != "fp32":
            raise UsageError(
                f"what was learned runs in fp32, not in {self.precision}: ffexport --state makes a bundle of both, "
                "and with --shipped the bundle runs as it is"
            )
        self._weights, self._undertrained = weights, weights.undertrained.union(always)
        self._graphs: dict[str, Graph] = {}
        self._lock = threading.Lock()

    @property
    def bundle(self) -> Bundle:
        return self._bundle

    @property
    def weights(self) -> Weights:
        """What it computes with in place of the bundle's own weights."""
        return self._weights

    @property
    def session(self) -> Session:
        """How its graphs are run."""
        return self._session

    @property
    def path(self) -> Path:
        return self._bundle.path

    @property
    def manifest(self) -> Manifest:
        return self._bundle.manifest

    @property
    def backend(self) -> str:
        return self._session.backend

    @property
    def precision(self) -> Precision:
        return self._session.precision

    @property
    def classes(self) -> tuple[str, ...]:
        """The bundle's, then those learned."""
        return self._weights.classes

    @property
    def undertrained(self) -> frozenset[str]:
        """Classes that mode `shortlist` always tries: the linear classifier has seen few examples of them."""
        return self._undertrained

    def with_weights(self, weights: Weights) -> Model:
        """The same with other weights. Cheap: graphs that hold none of the tensors that differ are shared."""
        other = Model(self._bundle, weights, self._session)
        before, after, network = self._weights.tensors, weights.tensors, self.manifest.network
        differ = {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}
        files = graphs(network)
        with self._lock:
            loaded = dict(self._graphs)
        other._graphs = {name: graph for name, graph in loaded.items() if differ.isdisjoint(files[name].holds)}
        return other

    def with_session(self, session: Session) -> Model:
        """The same, run otherwise."""
        return Model(self._bundle, self._weights, session)

    def graph(self, name: str) -> Graph:
        """The bundle's graph `name` (such as `unit1`), loaded once: `session.load` says what that raises."""
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = load(self._bundle, name, self._session, self._weights.tensors)
            return self._graphs[name]

    def modes(self) -> list[Mode]:
        """Every inference mode that needs no number of labels, best first."""
        calibrated = self.manifest.shortlist is not None
        return [mode for mode in self.manifest.inference_modes if mode != SHORTLIST or calibrated]

    def mode(self, asked: str | None = None, labels: int | None = None) -> Mode:
        """The inference mode asked for, by default the model's best; with a number of `labels`, `shortlist`.

        Raises `UsageError` where the model was not trained for it, or has no threshold for a shortlist.
        """
        if labels is not None and labels < 1:
            raise UsageError(f"labels: {labels} is no number of labels to try: one at least")
        modes = self.manifest.inference_modes
        name = asked or (SHORTLIST if labels else modes[0])
        mode = next((mode for mode in modes if mode == name), None)
        if mode is None:
            raise unknown("mode", name, modes)
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
        return self._scored(images, mode, labels).scores

    def scores_and_passes(
        self, images: np.ndarray, mode: str | None = None, labels: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score of every class, and the passes it took: images uint8 (N, C, H, W) -> (N, classes), int (N,).

        `labels`: in mode `shortlist`, how many labels to try, the most plausible ones, whatever the threshold says,
        beside the undertrained ones. Raises `UsageError` for images of another type or shape, or none, and as
        `mode` does.
        """
        found = self._scored(images, mode, labels)
        return found.scores, found.passes

    def classify_batch(
        self, images: np.ndarray, mode: str | None = None, labels: int | None = None
    ) -> list[Answer]:
        """Images that are ready, uint8 (N, C, H, W) -> an answer for each."""
        found = self._scored(images, mode, labels)
        return [
            self._answer(row, int(passes), found) for row, passes in zip(found.scores, found.passes, strict=True)
        ]

    def classify(
        self,
        source: str | Path | np.ndarray,
        mode: str | None = None,
        preprocess: bool = True,
        labels: int | None = None,
    ) -> Answer:
        """A picture's file, or an image uint8 (C, H, W) that is ready -> the answer.

        Raises `ImageError` where the file cannot be used.
        """
        image = source if isinstance(source, np.ndarray) else self.read(str(source), preprocess)
        return self.classify_batch(image[None], mode, labels)[0]

    def read(self, path: str, preprocess: bool = True, memory_limit: int | None = None) -> np.ndarray:
        """A picture's file (`-`: standard input) as the network's image, uint8 (C, H, W).

        `memory_limit`: bytes that the picture may take, as for `picture.read_picture`.
        """
        return self.prepare(picture.read_picture(path, memory_limit), picture.display_name(path), preprocess)

    def prepare(self, opened: Image, name: str, preprocess: bool = True) -> np.ndarray:
        """A picture as the network's image, uint8 (C, H, W). Raises `ImageError` with its name."""
        shape = self.manifest.network.image.shape
        if preprocess:
            return picture.prepare(opened, name, self.manifest.preprocessing, shape)
        return picture.take_as_is(opened, name, shape)

    def _scored(self, images: np.ndarray, asked: str | None, labels: int | None) -> Scored:
        shape = self.manifest.network.image.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise UsageError(
                f"images: must be uint8 (N, {', '.join(map(str, shape))}), one at least, not {images.dtype} "
                f"{images.shape}"
            )
        mode = self.mode(asked, labels)
        for graph in graphs_of_mode(mode, self.manifest.network):
            self.graph(graph)  # loading is not part of the time that is reported
        start = time.perf_counter()
        scores, passes = self._scores(images, mode, labels)
        return Scored(mode, scores, passes, (time.perf_counter() - start) * 1000 / len(images))

    def _scores(self, images: np.ndarray, mode: Mode, labels: int | None) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.classes)
        if mode == "goodness":
            return self._goodness(images, np.arange(count)), np.full(len(images), count)
        logits = self._call("classifier", "logits", {"images": images})[:, :count]
        if mode == "classifier":
            return logits, np.ones(len(images), int)
        unsure = [index for index, name in enumerate(self.classes) if name in self.undertrained]
        if labels:
            chosen = shortlist.most_plausible(logits, labels, unsure)
        else:
            assert self.manifest.shortlist  # or `mode` would have refused
            chosen = shortlist.in_play(logits, self.manifest.shortlist.threshold, unsure)
        scores = shortlist.scores(logits, chosen, lambda rows, tried: self._goodness(images[rows], tried))
        return scores, shortlist.passes(chosen)

    def _goodness(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Total goodness: images uint8 (N, C, H, W), labels (L,) -> (N, L)."""
        return self._call("goodness", "total", {"images": images, "labels": labels})

    def _call(self, name: str, output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """One output of a graph, of images uint8 (N, C, H, W), in calls as large as the session allows."""
        graph = self.graph(name)

        def some(part: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {output: graph({**part, "images": to_unit_interval(part["images"])})[output]}

        return in_chunks(some, self.session.batch, self.session.labels_per_call)(inputs)[output]

    def _answer(self, row: np.ndarray, passes: int, found: Scored) -> Answer:
        order: Sequence[int] = np.argsort(-row, kind="stable").tolist()
        scores = {self.classes[index]: float(row[index]) for index in order}
        values = list(scores.values())
        margin = values[0] - values[1] if len(values) > 1 else 0.0
        return Answer(self.classes[order[0]], margin, scores, found.mode, passes, self.backend, found.ms)


def learned(bundle: Bundle, state: str | Path | Literal[False] | None = None) -> Current | None:
    """What was learned on a bundle, `state` as for `Model`; None where there is none, or with False.

    Raises `StateError` for a state that is damaged or of another bundle.
    """
    directory = Path(state) if state else bundle.state_directory
    if state is False or not directory.is_dir():
        return None
    from .learning.store import current

    return current(directory, bundle.manifest)
