"""The learning contract: what a device has to know to go on learning as the network was trained.

The losses that units are trained by, what negative data are, and how images are changed anew. A recipe says it in
training; a bundle's manifest carries it (`manifest.learning`), and a device obeys that. The formulas of the losses
are computed in torch (`fftrain/step.py`, `class_step.py`) and as graphs (`ffexport/gradient_graphs.py`,
`class_graphs.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from .architecture import NonNegative, Positive

PositiveFloat: TypeAlias = Annotated[float, Meta(gt=0)]

LOWEST_GOODNESS = 1e-12  # the ratio loss takes a smaller goodness for this one

# What the planner has to know of learning on a device, too.
STEP = 32  # images in a step of an update, each with its negatives
EVERY = 5  # with class statistics, every fifth example of a class judges updates
PORTION = 64  # examples that one update takes
MICRO_BATCH = 8  # images in one call of a gradient graph: more are hardly faster, benchmarks/README.md
REPLAY_BYTES = 1 << 20  # of images that are stored to be replayed
KEPT = 3  # versions whose weights stay on the flash


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


class ClassLoss(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="class"):
    """Of class goodness: cross-entropy of softmax(G) of a unit's own goodness of the classes known so far.

    `smoothing` is the share of the target that is spread evenly over those classes (label smoothing, Szegedy et al.
    2016). Local classifiers: `pred` of Nøkland and Eidnes (2019); CwComp, DeeperForward and CAW-Conv in the
    Forward-Forward literature. `prototypes` is the weight of the same cross-entropy of softmax(−½ ‖z − R‖²), where
    each row R of a readout is the prototype of its class among the features z (after Distance-Forward, 2408.14925).
    """

    smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    prototypes: Annotated[float, Meta(ge=0)] = 0.0


class CrossEntropy(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cross_entropy"):
    """The BP baseline: cross-entropy of the linear classifier, backpropagated through the whole network."""


PairLoss: TypeAlias = Threshold | Symmetric | Ratio  # of a positive and its negatives, unit by unit
LocalLoss: TypeAlias = PairLoss | ClassLoss  # of a unit alone
Loss: TypeAlias = LocalLoss | CrossEntropy


class WrongLabels(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wrong_labels"):
    """Negative data are the same images with wrong labels (Hinton; Scodellaro et al.)."""


class Hybrids(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hybrids"):
    """Negative data are two images through a mask of random bits, blurred `blur` times (Hinton, section 3.2): of
    networks that are shown no labels. How often the paper blurs is unstated."""

    blur: Positive = 10


class Augment(Struct, frozen=True, forbid_unknown_fields=True):
    """How images are changed, anew each time they are learned from."""

    shift: NonNegative = 0  # moved by up to so many pixels, each way
    rotate: Annotated[float, Meta(ge=0, le=180)] = 0.0  # turned by up to so many degrees, each way
    scale: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # made larger or smaller by up to this share
    flip: bool = False  # half of them mirrored, left to right


class Learning(Struct, frozen=True, forbid_unknown_fields=True):
    """How the units of a network learn, each by a loss of its own: in training, and on a device from then on.

    `negatives` are those of a pair's loss; class goodness has none.
    """

    loss: LocalLoss
    negatives: WrongLabels | Hybrids = WrongLabels()
    augment: Augment = Augment()


def sharpness(loss: PairLoss, neurons: int, goodness: float) -> float:
    """How many times a relative error of goodness, near `goodness`, can come back in the loss's slope, at most.

    The slope is a logistic function: of s · (g − θ), of α · (g⁺ − g⁻) or of α · (ln g⁺ − ln g⁻).
    """
    if isinstance(loss, Ratio):
        return loss.alpha
    if isinstance(loss, Symmetric):
        return loss.alpha * goodness
    return goodness * (neurons if loss.reduce == "sum" else 1)
