"""The JSON of the API: every object that is answered, and the query of every request.

The OpenAPI document is made of these (`openapi.py`), and requests are checked by them. Shares and probabilities are
0 to 1, times milliseconds unless a name says seconds; pictures are PNG as data URIs.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from ..core.manifest import LONGEST_NAME

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Id: TypeAlias = Annotated[int, Meta(ge=1, le=(1 << 53) - 1)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the upright picture

# --- answers


class Ranked(Struct, frozen=True):
    """A class in an answer."""

    name: str
    goodness: float  # of mode `classifier` its logit
    probability: float | None


class Answer(Struct, frozen=True):
    """What the network says of a picture, or of a figure in it; fields as in `ffruntime.answers.Answer`."""

    label: str
    sure: bool | None  # false: "I don't know"; null: nothing can tell
    probability: float | None
    typicality: float | None
    classes: tuple[Ranked, ...]  # best first
    mode: str
    passes: float
    ms: float  # of the engine and the decision
    image: str  # what the network was shown
    box: Box | None  # of the figure in the picture; null where none is taken out of it
    doubts: tuple[str, ...]  # what whoever took the picture should know


class Classified(Struct, frozen=True):
    """Answers to one picture: one, or with `figures=all` one for each figure, from left to right."""

    version: int  # of the weights that answered
    took: float  # from the picture's last byte to the answer, waiting included
    answers: tuple[Answer, ...]


class Evidence(Struct, frozen=True):
    """What speaks for a class, or what an answer rests on."""

    label: str
    goodness: float | None
    values: list[list[float]]  # by row and column of the image; above 0: for the class
    picture: str  # the same drawn over the image


class Explained(Struct, frozen=True):
    """Which pixels an answer rests on."""

    label: str  # the answer
    kind: Literal[
        "exact", "hidden"
    ]  # a map that adds up to goodness; or 1 where hiding the pixels changes the answer
    image: str
    evidence: tuple[Evidence, ...]  # of the class asked for first; of kind `exact` then of its best rival


# --- learning


class Said(Struct, frozen=True):
    """An answer in short."""

    label: str
    sure: bool | None
    probability: float | None


class Change(Struct, frozen=True):
    """An update, a rehearsal or an applied state, judged."""

    version: int
    adopted: bool
    before: float | None  # share of the held-back images that the shipped weights classify rightly
    after: float | None  # and the new ones
    seconds: float
    reason: str | None  # why it was not adopted


class Fault(Struct, frozen=True):
    """What went wrong."""

    code: str
    message: str


class Job(Struct, frozen=True):
    """A piece of work of the one learner."""

    id: int
    kind: Literal["learn", "resume", "rehearse", "rollback", "forget", "reset", "import"]
    state: Literal["queued", "running", "done", "refused", "failed"]
    label: str | None  # of `learn`: the class
    new: bool  # the class was not known before
    examples: tuple[int, ...]  # of `learn`: ids, as soon as they are durable; of `forget`: those that are gone
    step: int
    steps: int  # of the update that runs; 0: none does
    changes: tuple[Change, ...]
    before: tuple[Said, ...]  # of `learn`: what was said of each picture
    after: tuple[Said, ...]  # and what is said now
    version: int | None  # that counts when it is done
    error: Fault | None


class Learned(Struct, frozen=True):
    """The answer to `learn`."""

    job: Job
    images: tuple[str, ...]  # what the network was shown


class Example(Struct, frozen=True):
    """A stored example that the device was taught."""

    id: int
    label: str
    status: Literal["pending", "learned", "refused", "judging"]
    at: str  # UTC, by the device's clock
    image: str


class Examples(Struct, frozen=True):
    """Stored examples, newest first."""

    examples: tuple[Example, ...]
    more: bool  # whether there are older ones: ask with `before` the last id


class Version(Struct, frozen=True):
    """A version of the weights."""

    id: int
    parent: int
    kind: str
    adopted: bool
    examples: int
    before: float | None
    after: float | None
    at: str
    kept: bool  # whether it can be gone back to
    current: bool


class Versions(Struct, frozen=True):
    """All versions, oldest first; version 0, the bundle's, is always there and not among them."""

    current: int
    versions: tuple[Version, ...]


class Jobs(Struct, frozen=True):
    """The last jobs, newest first."""

    jobs: tuple[Job, ...]


# --- how it is


class Class(Struct, frozen=True):
    """A class that the network knows."""

    name: str
    own: bool  # whether the device was taught it
    examples: int  # stored ones that the device was taught
    few: bool  # whether the network has seen few examples of it


class Limits(Struct, frozen=True):
    """What a request may have."""

    picture: int  # bytes
    pictures: int  # in one `learn`
    state: int  # bytes
    rate: float  # requests a second of one client
    waiting: int  # pictures
    jobs: int  # waiting for the learner


class Status(Struct, frozen=True):
    """How the server is."""

    name: str  # of the model
    version: int
    classes: tuple[Class, ...]
    spare: int  # how many more classes there is room for
    image: tuple[int, int, int]  # channels, height, width
    pictures: Literal["digit", "garment", "photo"]
    modes: tuple[str, ...]
    calibrated: bool  # whether answers have probabilities and may be unsure
    at_once: bool  # whether an example counts in the next answer, without an update
    learns: bool
    updates: int
    examples: int  # stored ones that the device was taught
    job: Job | None  # that runs
    queued: int  # jobs
    camera: bool
    limits: Limits


class Health(Struct, frozen=True):
    """That it answers at all."""

    status: Literal["ok"]


class Confirm(Struct, frozen=True):
    """To be sent back within a minute, as `confirm`, to have everything forgotten."""

    confirm: str
    examples: int
    versions: int


class ErrorBody(Struct, frozen=True):
    """Every answer that is no success."""

    error: Fault


# --- queries


class ClassifyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    unsure: Annotated[float, Meta(ge=0, le=0.5)] | None = None
    figures: Literal["one", "all"] = "one"


class ExplainQuery(Struct, frozen=True, forbid_unknown_fields=True):
    label: Name | None = None


class LearnQuery(Struct, frozen=True, forbid_unknown_fields=True):
    label: Name
    update: Literal["auto", "now", "rest"] = "auto"
    yes: bool = False
    new: bool = False


class RehearseQuery(Struct, frozen=True, forbid_unknown_fields=True):
    steps: Annotated[int, Meta(ge=1, le=10_000)] = 150


class RollbackQuery(Struct, frozen=True, forbid_unknown_fields=True):
    version: Count | None = None


class ForgetQuery(Struct, frozen=True, forbid_unknown_fields=True):
    id: tuple[Id, ...] = ()
    label: Name | None = None


class ResetQuery(Struct, frozen=True, forbid_unknown_fields=True):
    confirm: Annotated[str, Meta(max_length=64)] | None = None


class ImportQuery(Struct, frozen=True, forbid_unknown_fields=True):
    force: bool = False


class ExamplesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    before: Id | None = None
    most: Annotated[int, Meta(ge=1, le=100)] = 24
