"""A model on the device: images in, answers out, by the graphs of a bundle."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from . import early_exit, later, shortlist, told
from .answers import Answer, Scored, answers
from .backend import Graph, in_chunks
from .core.architecture import class_goodness
from .core.bundle import Bundle
from .core.calibration import UNSURE, require_rate
from .core.closed_form import Solved, with_examples
from .core.cost import exit_shares
from .core.data import require_images, to_unit_interval
from .core.errors import BundleError, UsageError, unknown
from .core.graphs import graphs, graphs_of_mode
from .core.layers import KNOWN, TOTAL, tensors
from .core.learning import PORTION
from .core.manifest import EXIT, SHORTLIST, ClassStatistics, Manifest, Mode
from .core.precision import Precision
from .core.state import Weights
from .pictures import picture
from .session import ALL_LABELS, Session, learned, load
from .typical import Distances, of_units

if TYPE_CHECKING:
    from PIL.Image import Image


class Model:
    """A bundle and what was learned on it, opened for inference.

    >>> from ffruntime import Model
    >>> model = Model("model.ff")
    >>> model.classify("three.png").label

    It never changes: learning, or another session, makes another. Graphs are loaded when needed. Threads may share.
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
        self._told: Solved | None = None  # made when they are first needed
        self._whitened = later.Whitened()
        self._seen: tuple[Graph, np.ndarray, np.ndarray] | None = None  # a pass's images and examples of statistics
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

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled and copied, it is the bundle at that path, opened anew, with the same weights and session."""
        return Model, (self.path, self._weights, self._session)

    def with_weights(self, weights: Weights, more: tuple[np.ndarray, np.ndarray] | None = None) -> Model:
        """The same with other weights. Cheap: graphs that hold none of the tensors that differ are shared.

        `more`: examples of class statistics and their labels, where the new statistics are the old ones with these.
        """
        other = Model(self._bundle, weights, self._session)
        if more and self._told:
            other._told = with_examples(self._told, *more)
        elif weights.statistics is self._weights.statistics:
            other._told = self._told
        before, after, network = self._weights.tensors, weights.tensors, self.manifest.network
        differ = {name for name in before.keys() | after.keys() if before.get(name) is not after.get(name)}
        with self._lock:
            other._graphs, other._seen, other._whitened = dict(self._graphs), self._seen, self._whitened
        if differ:
            files, loaded = graphs(network), other._graphs
            other._graphs = {name: graph for name, graph in loaded.items() if differ.isdisjoint(files[name].holds)}
        return other

    def with_session(self, session: Session) -> Model:
        """The same, run otherwise."""
        return Model(self._bundle, self._weights, session)

    @functools.cached_property
    def counts(self) -> bool:
        """Whether class statistics have a part in its answers: the bundle says how, and the units are those whose
        features they are made of."""
        return told.hold(self._bundle, self._weights)

    def gaussians(self) -> Solved:
        """Its classes as class statistics tell them. For a model that `counts`."""
        with self._lock:
            if self._told is None:
                self._told = told.gaussians(self._bundle, self._how, self._weights)
            return self._told

    def examples(self, images: np.ndarray) -> np.ndarray:
        """The examples of class statistics that images uint8 (N, C, H, W) are, int8 (N, d); of images that were
        just answered, those of that pass."""
        seen = self._seen
        if seen and seen[0] is self.graph(told.MODE) and np.array_equal(seen[1], images):
            return seen[2]
        outputs = self._call(told.MODE, {"images": images, "labels": np.zeros(1, np.int64)})
        return told.examples(self.path, outputs, self._how)

    @property
    def _how(self) -> ClassStatistics:
        assert self.manifest.statistics
        return self.manifest.statistics

    def graph(self, name: str) -> Graph:
        """The bundle's graph `name` (such as `unit1`), loaded once: `session.load` says what that raises."""
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = load(self._bundle, name, self._session, self._weights.tensors)
            return self._graphs[name]

    def modes(self) -> list[Mode]:
        """Every inference mode that needs no number of labels, best first."""
        calibrated = {SHORTLIST: self.manifest.shortlist, EXIT: self.manifest.exit}
        return [mode for mode in self.manifest.inference_modes if mode not in calibrated or calibrated[mode]]

    def mode(self, asked: str | None = None, labels: int | None = None) -> Mode:
        """The inference mode asked for, by default the model's best; with a number of `labels`, `shortlist`. In
        place of `exit`, `goodness` where class statistics alone know a class.

        Raises `UsageError` where the model was not trained for it, or has no threshold for a shortlist or an early
        exit.
        """
        if labels is not None and labels < 1:
            raise UsageError(f"labels: {labels} is no number of labels to try: one at least")
        modes = self.manifest.inference_modes
        if labels and SHORTLIST not in modes:
            raise UsageError(f"a choice of labels is for mode {SHORTLIST}; {self.path} has {', '.join(modes)}")
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
        if mode == EXIT and not self.manifest.exit:
            raise UsageError(
                f"{self.path}: has no thresholds for mode {EXIT}; export it again with 'ffexport --model "
                f"{self.path}'"
            )
        if mode == EXIT and self.counts and (len(self.known) < len(self.classes) or not self._how.together):
            return told.MODE  # no unit is sure that an image is not of a class that it does not know
        return mode

    def scores(self, images: np.ndarray, mode: str | None = None, labels: int | None = None) -> np.ndarray:
        """Score of every class: images uint8 (N, C, H, W) -> float32 (N, classes)."""
        return self._scored(images, mode, labels).scores

    def scores_and_passes(
        self, images: np.ndarray, mode: str | None = None, labels: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score of every class, and the passes it took: images uint8 (N, C, H, W) -> (N, classes), int (N,), or of
        mode `exit`, shares of a pass's multiply-accumulates, float (N,).

        `labels`: in mode `shortlist`, how many labels to try, the most plausible ones, whatever the threshold says,
        beside the undertrained ones. Raises `UsageError` for images of another type or shape, or none, and as
        `mode` does.
        """
        found = self._scored(images, mode, labels)
        return found.scores, found.passes

    def classify_batch(
        self, images: np.ndarray, mode: str | None = None, labels: int | None = None, unsure: float = UNSURE
    ) -> list[Answer]:
        """Images that are ready, uint8 (N, C, H, W) -> an answer for each.

        `unsure`: the share of images like those of training of which the answer may be called unsure, 0 (which
        turns that off) to 0.5. Raises `UsageError` for another one, and as `scores_and_passes` does.
        """
        require_rate(unsure)
        found = self._scored(images, mode, labels, typical=True)
        if not np.isfinite(found.scores).all():
            raise BundleError(f"{self.path}: computes scores that are no finite numbers, so there is no answer")
        own, stored = None, self._weights.later
        if unsure and found.margins is not None:
            own = later.later(
                self.gaussians(), self._how, told.MODE, found.scores.argmax(1), stored, self._whitened
            )
        return answers(self.manifest, self.classes, found, self.backend, unsure, own)

    def classify(
        self,
        source: str | Path | bytes | bytearray | BinaryIO | Image | np.ndarray,
        mode: str | None = None,
        preprocess: bool = True,
        labels: int | None = None,
        unsure: float = UNSURE,
    ) -> Answer:
        """A picture, or an image uint8 (C, H, W) that is ready -> the answer.

        A picture is a path, the bytes of a file, an open binary file, or an image of Pillow. `unsure` as for
        `classify_batch`. Raises `ImageError` where it cannot be used.
        """
        if isinstance(source, np.ndarray):
            image = source
        elif isinstance(source, (str, Path)):
            image = self.read(str(source), preprocess)
        else:
            from .pictures.sources import picture_of

            image = self.prepare(picture_of(source), "picture", preprocess)
        return self.classify_batch(image[None], mode, labels, unsure)[0]

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

    def _scored(self, images: np.ndarray, asked: str | None, labels: int | None, typical: bool = False) -> Scored:
        require_images(images, self.manifest.network.image.shape)
        mode = self.mode(asked, labels)
        for graph in graphs_of_mode(mode, self.manifest.network):
            self.graph(graph)  # loading is not part of the time that is reported
        classes = self.gaussians() if mode == told.MODE and self.counts else None  # solving is not, either
        start = time.perf_counter()
        far = margins = None
        if mode == EXIT:
            scores, passes, far = self._exit(images, typical)
        elif classes:
            found, passes = self._with_statistics(images, classes), np.ones(len(images), int)
            scores = found["scores"]
            if (known := self.manifest.calibration) and known.distances and not self._weights.alone:
                far, margins = found["distances"], found["margins"]  # calibrated by the bundle's units
        else:
            scores, passes = self._scores(images, mode, labels)
        ms = (time.perf_counter() - start) * 1000 / len(images)
        return Scored(mode, scores, passes, ms, far, margins)

    def _with_statistics(self, images: np.ndarray, classes: Solved) -> dict[str, np.ndarray]:
        """What `told.answered` has of total goodness and class statistics, by one pass."""
        graph, rows = self.graph(told.MODE), self.known

        def some(part: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = graph({"images": to_unit_interval(part["images"]), "labels": rows})
            return told.answered(self.path, outputs, rows, classes, self._how)

        found = in_chunks(some, self.session.batch, ALL_LABELS)({"images": images})
        if len(images) <= PORTION:
            self._seen = graph, images.copy(), found["examples"]
        return found

    def _scores(self, images: np.ndarray, mode: Mode, labels: int | None) -> tuple[np.ndarray, np.ndarray]:
        count = len(self.classes)
        if mode == "goodness":
            of_classes = class_goodness(self.manifest.network)
            found = self._goodness(images, self.known if of_classes else np.arange(count))
            return self._of_all(found), np.full(len(images), 1 if of_classes else count)
        logits = self._call("classifier", {"images": images})["logits"][:, :count]
        if mode == "classifier":
            return logits, np.ones(len(images), int)
        unsure = [index for index, name in enumerate(self.classes) if name in self.undertrained]
        if labels:
            chosen = shortlist.most_plausible(logits, labels, unsure)
        else:
            assert self.manifest.shortlist  # or `mode` would have refused
            chosen = shortlist.in_play(logits, self.manifest.shortlist.threshold, unsure)
        goodness, weight = self._goodness, self.manifest.logit_weight
        scores = shortlist.scores(logits, chosen, lambda rows, tried: goodness(images[rows], tried), weight, unsure)
        return scores, shortlist.passes(chosen)

    def _exit(self, images: np.ndarray, how_typical: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Total goodness when the answer is sure (N, classes), the share of a pass (N,), and the distance there."""
        network, thresholds = self.manifest.network, self.manifest.exit.thresholds if self.manifest.exit else ()
        typical = self._typical if how_typical and self.counts and not self._weights.alone else None
        graph = early_exit.as_graph(network, self._constants, self.graph, thresholds, self.known, typical)
        found = in_chunks(graph, self.session.batch, ALL_LABELS)({"images": images})
        scores, passes = self._of_all(found["scores"]), np.array(exit_shares(network))[found["after"]]
        return scores, passes, found["distances"] if typical else None

    @functools.cached_property
    def _typical(self) -> list[Distances] | None:
        return of_units(self._bundle)

    @functools.cached_property
    def known(self) -> np.ndarray:
        """With class goodness, labels of the classes that have rows in the readouts: (K,). A class that was stored
        and not yet learned from has none, and was it so when its bundle was made of a state, there neither."""
        known, classes, how = self._weights.tensors.get(KNOWN), len(self.classes), self.manifest.counted
        if known is None and how and how.together < len(self.manifest.classes):
            known = self._bundle.weights()[KNOWN]
        if known is None:
            return np.arange(min(classes, len(self.manifest.classes)))
        return np.flatnonzero(known[:classes])

    def _of_all(self, scores: np.ndarray) -> np.ndarray:
        """Scores of the classes with rows -> (N, classes): of another they are those of the least."""
        if scores.shape[1] == len(self.classes):
            return scores
        whole = np.repeat(scores.min(1, keepdims=True), len(self.classes), axis=1)
        whole[:, self.known] = scores
        return whole

    @functools.cached_property
    def _constants(self) -> dict[str, np.ndarray]:
        """What mode `exit` takes of the weights beside the graphs' own."""
        weights, own = {**self._bundle.weights(), **self._weights.tensors}, tensors(self.manifest.network)
        first = [tensor.name for tensor in own if tensor.unit == 0 and tensor.role in ("mean", "variance")]
        return {name: weights[name] for name in (TOTAL, *first)}

    def _goodness(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Total goodness: images uint8 (N, C, H, W), labels (L,) -> (N, L)."""
        return self._call("goodness", {"images": images, "labels": labels})["total"]

    def _call(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of a graph the outputs that answers are made of: images uint8 (N, C, H, W), in calls as large as the
        session allows. With class goodness no label costs a pass of its own, so there are no calls of fewer."""
        graph = self.graph(name)
        labels_per_call = ALL_LABELS if class_goodness(self.manifest.network) else self.session.labels_per_call

        def some(part: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = graph({**part, "images": to_unit_interval(part["images"])})
            return {output: found[output] for output in ("total", "logits", "features") if output in found}

        return in_chunks(some, self.session.batch, labels_per_call)(inputs)
