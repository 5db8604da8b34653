"""The manifest of a bundle: who the network is, how it came about, and the hash of every other file.

The format is specified field by field in `docs/bundle.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from .architecture import Network, Positive, class_goodness, scored_units, unit_name, validate
from .calibration import Calibration, check
from .data import Split
from .errors import OBEYED, BundleError
from .gaussians import Shrinkage, Weight
from .layers import statistics_features
from .learning import ClassLoss, Learning
from .statistics import Projected

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.safetensors"
EXEMPLARS = "exemplars.safetensors"
STATISTICS = "statistics.safetensors"
TYPICALITY = "typicality.safetensors"

TrainedMode: TypeAlias = Literal["goodness", "classifier"]  # what a network can be trained to answer by
TRAINED_MODES: tuple[TrainedMode, ...] = ("goodness", "classifier")
# Of inference: `shortlist` is made of the two; `exit` is class goodness that may stop after any unit.
Mode: TypeAlias = Literal["goodness", "classifier", "shortlist", "exit"]
MODES: tuple[Mode, ...] = ("goodness", "classifier", "shortlist", "exit")
SHORTLIST: Mode = "shortlist"
EXIT: Mode = "exit"
Accuracies = dict[str, dict[str, float]]  # split -> inference mode -> share of right answers

LONGEST_NAME = 200  # characters of a class's name
ClassName: TypeAlias = Annotated[str, Meta(max_length=LONGEST_NAME)]


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """What the manifest knows of a file: its size in bytes and its SHA-256 in hexadecimal."""

    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Digit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="digit"):
    """As MNIST was made (LeCun et al.): the figure in a box of `box` pixels a side with its proportions kept, its
    centre of mass in the centre of the image, light on black, its strongest ink white."""

    box: Positive


class Garment(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="garment"):
    """As Fashion-MNIST was made (Xiao et al. 2017, section 2): trimmed from its even background, the longer edge as
    long as the image's shorter one, centred by its box, grey, its difference from the background light on black."""


class Photo(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="photo"):
    """The largest part of the picture's middle that has the image's proportions, scaled; transparency is white."""


Preprocessing: TypeAlias = Digit | Garment | Photo  # how a picture becomes the network's image


class DataSource(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the images came from, and how many of them were used for what."""

    name: str  # as `fftrain` calls it: mnist, fashion-mnist, cifar10, cifar100, folder
    source: str
    offline_sample: bool
    train: int
    validation: int
    test: int
    path: str | None = None  # of a folder
    split: Split | None = None  # which training images are for validation; None of a folder, and of the sample
    folders: dict[str, str] | None = (
        None  # of a folder, which folder in it is which part, as asked; None: by its name
    )
    content: str | None = None  # of a folder: a hash of which pictures are in which part, of which class, in order


class Training(Struct, frozen=True, forbid_unknown_fields=True):
    """How the weights came about."""

    recipe_name: str
    recipe: dict[str, Any]  # for information: what a device obeys is `Manifest.learning`
    seed: int
    epochs: int
    device: str
    precision: str
    seconds: float  # wall time of the training itself
    data: DataSource
    history: tuple[dict[str, Any], ...] = ()  # one row for each epoch
    steps: int | None = None  # of the schedule, where it was cut to these; None: whole epochs


class Shortlist(Struct, frozen=True, forbid_unknown_fields=True):
    """How mode `shortlist` chooses the labels to try, and what came of it on the exemplars of part 0."""

    threshold: Annotated[float, Meta(ge=0)]  # how far below the best logit a label's may be
    passes: Annotated[float, Meta(ge=1)]  # mean for an image
    agree: Annotated[float, Meta(ge=0, le=1)]  # share of the decisions that are those by goodness of all labels
    always: tuple[str, ...] = ()  # classes to try in any case: the classifier hardly knows them


class EarlyExit(Struct, frozen=True, forbid_unknown_fields=True):
    """How mode `exit` decides when to stop, chosen on the exemplars of part 0, and what comes of it on all of them.

    Each scored unit but the last answers, by its own goodness, if the best class's is more than the threshold above
    the second best's; what none is sure of, the total answers.
    """

    thresholds: tuple[Annotated[float, Meta(ge=0)], ...]  # of every scored unit but the last
    passes: Annotated[float, Meta(gt=0, le=1)]  # mean share of a pass's multiply-accumulates for an image
    agree: Annotated[float, Meta(ge=0, le=1)]  # share of the decisions that are those of a whole pass


class ClassStatistics(Projected, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=False):
    """How features become examples of class statistics, and what these count for in an answer (`statistics.py`).

    Shrinkage and weights were chosen on validation images when training ended.
    """

    shrinkage: Shrinkage
    together: Annotated[int, Meta(ge=0)]  # classes that the network was trained on: the first ones
    weights: dict[str, Weight]  # of their scores, in every mode that the network was trained for

    @property
    def projected(self) -> Projected:
        """How examples are made, and no more."""
        return Projected(self.dimension, self.seed, self.moment, self.root)


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.json`. `docs/bundle.md` says what each field means."""

    format: int
    network: Network
    classes: Annotated[tuple[ClassName, ...], Meta(min_length=1)]
    labels: dict[str, Any]
    preprocessing: Preprocessing
    training: Training
    accuracy: Accuracies
    made_with: dict[str, str]
    files: dict[str, FileEntry]
    modes: Annotated[tuple[TrainedMode, ...], Meta(min_length=1)] = TRAINED_MODES  # best first
    learning: Learning | None = None  # None: units have no losses of their own, or a device cannot compute them
    shortlist: Shortlist | None = None
    logit_weight: Annotated[float, Meta(ge=0)] = 0.0  # of the classifier's logits in the totals of mode `shortlist`
    exit: EarlyExit | None = None
    statistics: ClassStatistics | None = None  # None: the bundle has none, and a device makes none
    calibration: Calibration | None = None  # None: answers have no probability, and none is called unsure

    @property
    def counted(self) -> ClassStatistics | None:
        """How class statistics answer, and are kept, on a device: with class goodness. None: they are not."""
        return self.statistics if class_goodness(self.network) else None

    @property
    def inference_modes(self) -> tuple[Mode, ...]:
        """Every mode of a network that was trained for these, best first."""
        if class_goodness(self.network):
            return (*self.modes, EXIT)
        return (*self.modes, SHORTLIST) if len(self.modes) > 1 else self.modes


def decode_manifest(file: Path, text: bytes) -> Manifest:
    """The manifest in `text`, checked field by field. Raises `BundleError` naming `file` and what is wrong."""
    manifest = _decode(file, text)
    try:
        validate(manifest.network)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error
    if len(manifest.classes) > manifest.network.label.patterns:
        raise BundleError(f"{file}: {len(manifest.classes)} classes, but fewer label patterns")
    if len(set(manifest.classes)) < len(manifest.classes):
        raise BundleError(f"{file}: a class is named twice")
    if any(map(OBEYED.search, manifest.classes)):
        raise BundleError(f"{file}: the name of a class holds what cannot be printed")
    if len(set(manifest.modes)) < len(manifest.modes):
        raise BundleError(f"{file}: a mode is named twice")
    preprocessing = manifest.preprocessing
    if isinstance(preprocessing, Digit) and preprocessing.box > min(manifest.network.image.shape[1:]):
        raise BundleError(f"{file}: a box of {preprocessing.box} pixels does not fit the image")
    _check_class_goodness(file, manifest)
    _check_statistics(file, manifest)
    _check_calibration(file, manifest)
    if manifest.learning and manifest.network.steps:
        raise BundleError(f"{file}: a recurrent network has no losses that a device could learn by")
    return manifest


def lone_units(network: Network) -> list[str]:
    """Names of the units that can answer alone in mode `exit`: of class goodness, every scored one but the last."""
    return [unit_name(index) for index in scored_units(network)[:-1]] if class_goodness(network) else []


def _check_class_goodness(file: Path, manifest: Manifest) -> None:
    of_classes, learning = class_goodness(manifest.network), manifest.learning
    if of_classes and manifest.modes != ("goodness",):
        raise BundleError(f"{file}: class goodness has no classifier beside it, but modes are {manifest.modes}")
    if learning and isinstance(learning.loss, ClassLoss) != of_classes:
        raise BundleError(f"{file}: the units' loss is not of the network's kind of goodness")
    if manifest.exit and not of_classes:
        raise BundleError(f"{file}: early exit needs class goodness")
    if manifest.exit and len(manifest.exit.thresholds) != len(scored_units(manifest.network)) - 1:
        raise BundleError(f"{file}: early exit needs a threshold for every scored unit but the last")


def _check_statistics(file: Path, manifest: Manifest) -> None:
    found = manifest.statistics
    if found and found.dimension > (most := statistics_features(manifest.network)):
        raise BundleError(f"{file}: class statistics of dimension {found.dimension}, but {most} features")
    if found and found.together > len(manifest.classes):
        raise BundleError(f"{file}: {found.together} classes were trained together, and there are not so many")
    if found and set(found.weights) != set(manifest.modes):
        raise BundleError(f"{file}: class statistics need a weight for each of {', '.join(manifest.modes)}")


def _check_calibration(file: Path, manifest: Manifest) -> None:
    found = manifest.calibration
    if not found:
        return
    try:
        check(found)
    except BundleError as error:
        raise BundleError(f"{file}: {error}") from error
    if unknown_scores := sorted(found.scores.keys() - {*MODES, *lone_units(manifest.network)}):
        raise BundleError(f"{file}: calibration of '{unknown_scores[0]}', of which there are no scores")


def _decode(file: Path, text: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise BundleError(f"{file}: format {version} is newer than this program reads ({FORMAT}): upgrade")
        if version != FORMAT or isinstance(version, bool):
            raise BundleError(f"{file}: format {version!r} is none that this program reads ({FORMAT})")
        return msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{file}: damaged: {error}; copy the bundle again") from error


def encode_manifest(manifest: Manifest) -> bytes:
    """The content of `manifest.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
