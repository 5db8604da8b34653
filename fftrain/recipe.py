"""Recipes: everything that decides what a training run does, as TOML. A new one needs no code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from ffruntime.architecture import Image, Label, Network, NonNegative, Positive, Unit, validate
from ffruntime.errors import FFError, UsageError, unknown
from ffruntime.profile import read_toml

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
PositiveFloat: TypeAlias = Annotated[float, Meta(gt=0)]


class Threshold(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="threshold"):
    """Logistic loss on ±(goodness − θ) (Hinton; Scodellaro et al.).

    `theta` is θ per neuron. With `reduce = "sum"` goodness is the sum of squares over the unit's N
    neurons and θ is N · theta; with `"mean"` it is their mean.
    """

    theta: PositiveFloat = 1.0
    reduce: Literal["sum", "mean"] = "sum"


class Symmetric(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="symmetric"):
    """softplus(−α · (g⁺ − g⁻)), goodness as the mean of squares (Trifecta's SymBa loss)."""

    alpha: PositiveFloat = 4.0


class Ratio(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ratio"):
    """softplus(−α · (log g⁺ − log g⁻)): symmetric on the ratio, blind to the scale of activities. Ours."""

    alpha: PositiveFloat = 20.0


Loss: TypeAlias = Threshold | Symmetric | Ratio


class Fourier(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fourier"):
    """Waves over the whole image (Scodellaro et al., set 1): twelve modes, the last two spare."""

    intensity: Share = 0.35  # K: the pattern's share of the sum


class RandomPatterns(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="random"):
    """Independent normal noise in every pixel, fixed for good."""

    seed: NonNegative = 5
    spare: NonNegative = 2


Patterns: TypeAlias = Fourier | RandomPatterns


class Negatives(Struct, frozen=True, forbid_unknown_fields=True):
    """Which wrong label makes an image's negative copy.

    A share `hard` is drawn from the linear classifier's softmax over the wrong labels (Hinton), once the
    share `warmup` of the training has passed; the others uniformly from all patterns but the right one, the
    spare ones included.
    """

    hard: Share = 0.0
    warmup: Share = 0.1


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """How long, how fast, and on how much at once.

    The learning rate is constant for the share `constant` of the training, then it falls linearly to zero; half
    and half is Scodellaro et al.'s schedule, and Hinton's.
    """

    epochs: NonNegative
    batch: Positive = 64
    lr: PositiveFloat = 1e-3
    head_lr: PositiveFloat = 1e-3
    constant: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    shift: NonNegative = 0  # images are moved by up to so many pixels, each way


class RecipeNetwork(Struct, frozen=True, forbid_unknown_fields=True):
    """The network, but for what the data set and the patterns decide (image shape, number of patterns)."""

    units: tuple[Unit, ...]
    placement: Literal["add", "channel"]
    normalise: Literal["none", "range"] = "none"
    score: Literal["sum", "log_sum"] = "sum"
    mean: float = 0.0
    std: PositiveFloat = 1.0


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """One recipe file."""

    about: str
    network: RecipeNetwork
    patterns: Patterns
    loss: Loss
    schedule: Schedule
    negatives: Negatives = Negatives()


FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or any TOML file by its path. Raises `UsageError` naming the field."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if name_or_path not in recipe_names():
            raise unknown("recipe", name_or_path, recipe_names())
        path = FOLDER / f"{name_or_path}.toml"
    recipe: Recipe = read_toml(path, Recipe)
    return recipe


def build_network(recipe: Recipe, shape: tuple[int, int, int], patterns: int) -> Network:
    """The recipe's network for images of `shape` (C, H, W). Raises `UsageError` where it does not fit them."""
    r = recipe.network
    network = Network(
        image=Image(shape, r.mean, r.std),
        label=Label(r.placement, patterns, 1, r.normalise),
        units=r.units,
        score=r.score,
    )
    try:
        validate(network)
    except FFError as error:
        raise UsageError(f"recipe does not fit images of {shape}: {error}") from error
    if not any(unit.trained for unit in network.units):
        raise UsageError("recipe: no unit is trained, so there is nothing to do")
    return network


def with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe, trained for another number of epochs where one is given."""
    if epochs is None:
        return recipe
    return msgspec.structs.replace(recipe, schedule=msgspec.structs.replace(recipe.schedule, epochs=epochs))
