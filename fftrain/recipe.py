"""Recipes: everything that decides what a training run does, as TOML. A new one needs no code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from ffruntime.core.architecture import (
    Conv,
    Image,
    Label,
    Network,
    NonNegative,
    Placement,
    Positive,
    Steps,
    Unit,
    class_goodness,
    unit_name,
    validate,
)
from ffruntime.core.devices import read_toml
from ffruntime.core.errors import FFError, UsageError, unknown
from ffruntime.core.layers import unit_parameters
from ffruntime.core.learning import (
    Augment,
    ClassLoss,
    CrossEntropy,
    Hybrids,
    Learning,
    Loss,
    PositiveFloat,
    WrongLabels,
)
from ffruntime.core.statistics import KEPT_BYTES, Moment

from .override import Override, set_fields

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class Fourier(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fourier"):
    """Waves over the whole image (Scodellaro et al.).

    Set 1: orientations × frequencies, twelve published modes and further ones where there are more classes.
    Set 2: one `frequency` (cycles per image; unstated in the paper), as many equidistant orientations as patterns.
    """

    set: Literal[1, 2] = 1
    intensity: Share = 0.35  # K: the pattern's share of the sum
    frequency: PositiveFloat = 4.0
    spare: NonNegative = 2


class RandomPatterns(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="random"):
    """Independent normal noise in every pixel, fixed for good; several channels of it are read sooner than one."""

    seed: NonNegative = 5
    channels: Positive = 1
    spare: NonNegative = 2


class Morphology(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="morphology"):
    """The image itself, eroded or dilated by an element of the label's own (`fftrain/patterns.py` defines them)."""

    intensity: Share = 0.35  # K: the share of the eroded or dilated image in the sum
    size: Annotated[int, Meta(ge=3, le=31)] = 5  # pixels a side of the element; odd
    spare: NonNegative = 2


class Overlay(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="overlay"):
    """The image's first pixels, one for each pattern, replaced: 1 in its own, 0 in the others (Hinton, 3.3)."""

    spare: NonNegative = 2


class PatternFile(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="file"):
    """Patterns of your own, from a `.npy` file: (P, `channels`, H, W), the classes' first, then the spare ones."""

    path: str  # from the working directory
    channels: Positive = 1
    spare: NonNegative = 2


class OneHot(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="one_hot"):
    """A vector with a 1 for the label, above the topmost unit of a recurrent network (Hinton, section 3.4)."""

    spare: NonNegative = 2


class NoLabel(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="none"):
    """Nothing: images without labels, which only the classifier is told (Hinton, section 3.2)."""

    spare: NonNegative = 2  # rows of the classifier


class ReadoutRows(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="readout"):
    """No patterns: a label has a row in the units' readouts (class goodness)."""

    spare: NonNegative = 2  # rows


Patterns: TypeAlias = Fourier | RandomPatterns | Morphology | Overlay | PatternFile | OneHot | NoLabel | ReadoutRows


class Negatives(Struct, frozen=True, forbid_unknown_fields=True):
    """Which wrong labels make an image's negative copies: `count` of them, independently drawn.

    A share `hard` is drawn from what the network finds plausible, once the share `warmup` of the training has
    passed: from its linear classifier's softmax over the wrong labels (Hinton), or from the softmax of `sharpness`
    times its own log-goodness, summed over the scored units, which costs a pass for every label. The others are
    drawn uniformly from all patterns but the right one, the spare ones included.

    Without labels in the images, negatives are `hybrid` (Hinton, section 3.2; `fftrain/epoch.py`): two images
    through a mask of random bits, which is blurred `blur` times (how often is unstated).
    """

    count: Positive = 1
    hard: Share = 0.0
    warmup: Share = 0.1
    source: Literal["classifier", "goodness", "hybrid"] = "classifier"
    sharpness: PositiveFloat = 8.0
    blur: Positive = 10


class Peer(Struct, frozen=True, forbid_unknown_fields=True):
    """Peer normalisation (Hinton, section 2; `peer_term` in `fftrain/step.py`): its `weight` in a unit's loss, 0
    for none, and the share of the running mean that a step keeps."""

    weight: Annotated[float, Meta(ge=0)] = 0.0
    decay: Annotated[float, Meta(ge=0, lt=1)] = 0.9


class Adam(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="adam"):
    """Adam (Kingma, Ba) with its usual decay rates. Apart from the gradient, a step shrinks weights by the share
    lr · `weight_decay` (AdamW: Loshchilov, Hutter)."""

    weight_decay: Annotated[float, Meta(ge=0)] = 0.0


class Sgd(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sgd"):
    """Stochastic gradient descent with momentum and weight decay."""

    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0


Optimizer: TypeAlias = Adam | Sgd


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """How long, how fast, and on how much at once.

    The learning rate is constant for the share `constant` of the training, then it falls linearly to zero; half
    and half, once an epoch (`falls = "epoch"`), is Scodellaro et al.'s schedule: 2·lr·(1 + E − e)/E.
    A `head_lr` of 0 leaves the linear classifier out.

    In the order `sequential` (Bakhshi) the trained units share the training out evenly: each learns in its turn,
    the lowest first, with a whole schedule of its own; the classifier learns all the while.
    """

    epochs: NonNegative
    batch: Positive = 64
    lr: PositiveFloat = 1e-3
    head_lr: Annotated[float, Meta(ge=0)] = 1e-3
    constant: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    falls: Literal["step", "epoch"] = "step"
    order: Literal["together", "sequential"] = "together"


class Kind(Struct, frozen=True, forbid_unknown_fields=True):
    """Which class statistics are kept, of at most so many `bytes`, where units have losses of their own: `moment`
    and `root` as in the bundle. Unless training images are `counted`, a device begins with none."""

    bytes: Positive = KEPT_BYTES
    moment: Moment = "shared"
    root: bool = False
    counted: bool = True


PLAIN = Kind()


class RecipeNetwork(Struct, frozen=True, forbid_unknown_fields=True):
    """The network, but for what the data set and the patterns decide (image shape, number of patterns)."""

    units: tuple[Unit, ...]
    placement: Placement
    normalise: Literal["none", "range"] = "none"
    score: Literal["sum", "log_sum"] = "sum"
    goodness: Literal["high", "low"] = "high"
    steps: Steps | None = None
    standardise: bool = False  # with the mean and deviation of the training images
    filters: Literal["random", "edges"] = "random"  # what the first unit's first convolution begins as


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """One recipe file."""

    about: str
    network: RecipeNetwork
    patterns: Patterns
    loss: Loss
    schedule: Schedule
    negatives: Negatives = Negatives()
    peer: Peer = Peer()
    optimizer: Optimizer = Adam()
    augment: Augment = Augment()
    gradient: Literal["local", "crossing"] = "local"  # a unit's own loss only, or those of the units above it, too
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # share of a unit's activation that is dropped in training
    similarity: Annotated[float, Meta(ge=0)] = 0.0  # weight of similarity matching in a unit's loss, in training
    statistics: Kind = PLAIN


FOLDER = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "class"
QUICK_RECIPE = "micro"  # in place of the default one where there is time for fewer than so many of its steps
FEWEST = 1000  # of benchmarks/results/short_trainings.json: ahead at 841 steps by 0.06 points, which is noise


def recipe_names() -> list[str]:
    """Names of the recipes that are shipped; numbers in them count as numbers: 16 is before 128."""
    names = (path.stem for path in FOLDER.glob("*.toml"))
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(9), name))


class Extension(Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe file that says only in what it differs: `set` maps dotted fields to values (`override.py`)."""

    extends: str  # a shipped recipe's name, or a path from this file's folder
    about: str
    set: dict[str, Any] = {}


def load_recipe(name_or_path: str, overrides: Iterable[Override] = ()) -> Recipe:
    """A shipped recipe by name, or any TOML file by its path, with fields set (`override.py`) in their order.

    Raises `UsageError` naming the file and the field.
    """
    data = set_fields(_read(_recipe_path(name_or_path, Path()), ()), overrides, Recipe)
    return _as_recipe(data, f"recipe {name_or_path}, with what was set")


def _recipe_path(name_or_path: str, folder: Path) -> Path:
    if Path(name_or_path).suffix == ".toml":
        return folder / name_or_path
    if name_or_path not in recipe_names():
        raise unknown("recipe", name_or_path, recipe_names())
    return FOLDER / f"{name_or_path}.toml"


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """The recipe of a file as plain data, with what it extends; `extending` are the files that led here."""
    chain = (*extending, path.resolve())
    if chain[-1] in extending:
        raise UsageError(f"{path}: extends itself: {' -> '.join(file.name for file in chain)}")
    data: dict[str, Any] = read_toml(path, dict)
    if "extends" in data:
        extension: Extension = read_toml(path, Extension)
        try:
            base = _read(_recipe_path(extension.extends, path.parent), chain)
            data = set_fields({**base, "about": extension.about}, extension.set.items(), Recipe)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    _as_recipe(data, str(path))
    return data


def _as_recipe(data: dict[str, Any], where: str) -> Recipe:
    try:
        recipe: Recipe = msgspec.convert(data, Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from error
    return recipe


def build_network(recipe: Recipe, image: Image, patterns: int) -> Network:
    """The recipe's network for such images. Raises `UsageError` where it does not fit them."""
    r = recipe.network
    element = recipe.patterns.size if isinstance(recipe.patterns, Morphology) else None
    if (element is None) == (r.placement == "morphology"):
        raise UsageError("recipe: network.placement and patterns.kind are both 'morphology', or neither is")
    hybrid, unlabelled = recipe.negatives.source == "hybrid", isinstance(recipe.patterns, NoLabel)
    if hybrid != unlabelled:
        raise UsageError("recipe: negatives.source is 'hybrid' and patterns.kind 'none', or neither is")
    if (r.placement == "top") != isinstance(recipe.patterns, OneHot):
        raise UsageError("recipe: network.placement is 'top' and patterns.kind 'one_hot', or neither is")
    if (r.placement == "readout") != isinstance(recipe.patterns, ReadoutRows):
        raise UsageError("recipe: network.placement and patterns.kind are both 'readout', or neither is")
    channels = recipe.patterns.channels if isinstance(recipe.patterns, RandomPatterns | PatternFile) else 1
    if isinstance(recipe.patterns, OneHot):
        channels = patterns
    network = Network(
        image=image,
        label=Label(r.placement, patterns, channels, r.normalise, element or 1),
        units=r.units,
        score=r.score,
        goodness=r.goodness,
        steps=r.steps,
    )
    try:
        validate(network)
    except FFError as error:
        raise UsageError(f"recipe does not fit images of {image.shape}: {error}") from error
    if not any(unit.trained for unit in network.units):
        raise UsageError("recipe: no unit is trained, so there is nothing to do")
    for index, unit in enumerate(network.units):
        if unit.trained and not unit_parameters(network, index):
            raise UsageError(f"recipe: {unit_name(index)} is trained, but has no weights")
    if r.filters == "edges" and type(r.units[0].ops[0]) is not Conv:
        raise UsageError("recipe: network.filters is 'edges', but the first unit does not begin with a convolution")
    _check_kind(recipe, class_goodness(network))
    return network


def _check_kind(recipe: Recipe, of_classes: bool) -> None:
    """Raise `UsageError` where the recipe asks for what its kind of goodness does not have."""
    backpropagation = isinstance(recipe.loss, CrossEntropy)
    if not backpropagation and isinstance(recipe.loss, ClassLoss) != of_classes:
        raise UsageError("recipe: loss.kind is 'class' and network.placement 'readout', or neither is")
    if of_classes and recipe.negatives != Negatives():
        raise UsageError("recipe: class goodness has no negatives: leave 'negatives' as it is")
    if of_classes and recipe.gradient == "crossing":
        raise UsageError(
            "recipe: class goodness has no crossing gradients; loss.kind = 'cross_entropy' is the baseline"
        )
    if of_classes and recipe.peer.weight:
        raise UsageError("recipe: peer normalisation is of goodness that has negatives: leave 'peer' as it is")
    if (recipe.dropout or recipe.similarity) and (backpropagation or not of_classes):
        raise UsageError("recipe: dropout and similarity are for units with loss.kind 'class'")


def learning_of(recipe: Recipe) -> Learning | None:
    """What a device has to know to go on as the recipe trains; None where units have no losses that it computes."""
    if isinstance(recipe.loss, CrossEntropy) or recipe.network.steps:
        return None
    hybrid = recipe.negatives.source == "hybrid"
    negatives = Hybrids(recipe.negatives.blur) if hybrid else WrongLabels()
    return Learning(recipe.loss, negatives, recipe.augment)


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe, trained for another number of epochs where one is given."""
    if epochs is None:
        return recipe
    return msgspec.structs.replace(recipe, schedule=msgspec.structs.replace(recipe.schedule, epochs=epochs))
