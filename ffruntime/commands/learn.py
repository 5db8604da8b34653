"""`ffruntime learn`: examples are made durable, then learned from."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import THREADS, Count, Number, echo
from ..core.errors import printable
from .options import budget_options, json_option, model_option, state_option, within

if TYPE_CHECKING:
    import numpy as np

    from ..answers import Answer
    from ..learning.learner import Learner
    from ..learning.update import Outcome
    from ..model import Model
    from ..pictures.sources import PictureSource

EPILOG = """\b
Examples:
  ffruntime learn three.png --label 3           an example, durably; any number of pictures
  ffruntime learn photos --label cat            every picture in a folder; a label never seen is a new class
  ffruntime learn pets                          a folder with a folder for each class: pets/cat, pets/dog
  ffruntime learn                               what is stored and was not learned from, after Ctrl-C, say
  ffruntime learn --rehearse 150                that, and then rehearse what is stored
  ffruntime learn --update now                  that, in a model that answers by class statistics at once
  ffruntime learn --update units                the units, too: where the world has changed
  ffruntime learn --retry --lr 1e-4             refused examples, more gently
  ffruntime learn odd.png --label 3 --yes       although it looks like another class, very probably
  ffruntime history; ffruntime diff; ffruntime rollback; ffruntime forget; ffruntime reset

\b
As soon as 'stored' is printed, no lost power supply takes the examples away. An update is adopted only if it does
not cost more than --tolerance on images that were held back; what is adopted is what 'classify' uses.

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image (the others are learned from
all the same), 6 backend, 8 cannot write, 9 learned state, or another process is learning, 10 the last update was
refused, 12 a picture looks like another class (the others are learned from all the same), 130 interrupted (what is
stored stays)."""


def byte_count(text: str) -> int:
    """`500k` -> 512000: bytes, or k (1024 of them) or M."""
    factor = {"k": 1 << 10, "m": 1 << 20}.get(text[-1:].lower())
    digits = text[:-1] if factor else text
    if not digits.isdecimal() or int(digits) * (factor or 1) > 1 << 62:
        raise click.BadParameter(f"'{text}' is no number of bytes, such as 500k or 4M")
    return int(digits) * (factor or 1)


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, metavar="[IMAGE… | FOLDER…]")
@model_option
@state_option
@click.option("--label", help="What all of the pictures show. Default: the name of the folder that each is in.")
@click.option("--retry", is_flag=True, help="Learn from the examples of refused updates once more.")
@click.option(
    "--rehearse",
    type=Count(1),
    metavar="STEPS",
    help="Afterwards, so many steps on stored examples: what a device at rest is good for.",
)
@click.option(
    "--update",
    type=click.Choice(["now", "rest", "units"]),
    help="When gradients learn from the pictures: now, or at rest, with --rehearse; units: now, and the units, "
    "too, which class statistics otherwise leave as they are. Default: now; at rest where the model has class "
    "statistics, in which they count at once.",
)
@click.option("--steps", type=Count(1), help="Steps in an update, and as many of the classifier.")
@click.option("--lr", type=Number(min=0, min_open=True), help="Learning rate of the units.")
@click.option(
    "--micro-batch",
    type=Count(1),
    help="Images at once; fewer need less memory.",
)
@click.option(
    "--tolerance",
    type=Number(0, 1),
    help="Share of the held-back images that an update may cost. Default: 0.05.",
)
@click.option(
    "--replay-bytes",
    type=byte_count,
    metavar="BYTES",
    help="What stored images may take from now on, such as 500k or 4M.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Teach pictures that look like another class to the model, too. Without it, whoever is at the terminal is "
    "asked; else they are left out. With --json there is a warning, and they are taught.",
)
@click.option(
    "--new-class",
    is_flag=True,
    help="A label that is nearly that of a known class is a new class. Without it, whoever is at the terminal is "
    "asked; else it is an error.",
)
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@click.option("--backend", default="onnxruntime-cpu", show_default=True, help="An ONNX Runtime backend.")
@click.option("--threads", type=THREADS, help="CPU threads; default: all cores.")
@budget_options
@json_option
def learn(
    paths: tuple[str, ...],
    model_path: str,
    state: Path | None,
    label: str | None,
    retry: bool,
    rehearse: int | None,
    update: str | None,
    steps: int | None,
    lr: float | None,
    micro_batch: int | None,
    tolerance: float | None,
    replay_bytes: int | None,
    yes: bool,
    new_class: bool,
    no_preprocess: bool,
    backend: str,
    threads: int | None,
    device: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Learn what pictures show, durably: they are stored, then counted, or the network is updated.

    Where the model has class statistics, these count a picture in the next answer, and --update says when the
    network is updated, layer by layer; else it is at once. Without pictures, learn from examples that are stored
    and pending.
    """
    labelled = _labelled(paths, label)
    from ..core.errors import BackendError, Contradicted, ImageError, UpdateRefused
    from ..core.learning import PORTION
    from ..learning.learner import TOLERANCE, Learner
    from ..learning.step import Settings
    from ..model import Model
    from ..session import Session

    model = Model(model_path, session=Session(backend, threads=threads or 0), state=False)
    model, (calls, picture_limit) = within(model, "update", device, memory, micro_batch)
    if calls and micro_batch and micro_batch > calls.micro_batch:
        raise BackendError(
            f"--micro-batch {micro_batch}: no more than {calls.micro_batch} keep to the memory allowed"
        )
    micro_batch = micro_batch or (calls.micro_batch if calls else None)
    asked = {"steps": steps, "head_steps": steps, "lr": lr, "micro_batch": micro_batch}
    settings = Settings(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    tolerated = TOLERANCE if tolerance is None else tolerance
    learner = Learner(model, state, settings, tolerated, replay_bytes, units=update == "units")
    _ask_about_new(learner, labelled, new_class)
    pictures = _Pictures(model, labelled, picture_limit, not no_preprocess)
    doubt = None if yes else _Doubt(learner, as_json)

    known = learner.store.classes()

    def stored(ids: Sequence[int]) -> None:
        nonlocal known
        pictures.stored = pictures.read
        echo(json.dumps({"event": "stored", "ids": ids}) if as_json else f"stored {_examples(ids)}")
        now, left = learner.store.classes(), learner.store.names.spare()
        for name in (name for name in now if name not in known):
            if as_json:
                echo(json.dumps({"event": "new_class", "label": name, "spare": left}))
            else:
                echo(f"new class {name}; room for {left} more (a mistyped one: ffruntime forget --label)", err=True)
        known = now

    def progress(kind: str, length: int) -> AbstractContextManager[Callable[[], None]]:
        how_far = f"learning, {pictures.read} of {pictures.count}" if pictures.count > PORTION else "learning"
        return _bar("rehearsing" if kind == "rehearsal" else how_far, length)

    last = None
    with contextlib.closing(learner), _hint_on_interrupt(learner, pictures):
        if retry:
            learner.store.retry()
        now = None if update is None else update != "rest"
        for last in learner.updates(pictures.portions(PORTION, doubt), rehearse or 0, stored, progress, now):
            echo(_outcome_json(last) if as_json else _outcome_line(last))
    if last and not last.adopted:
        raise UpdateRefused(
            f"version {last.version}: the update cost more than is tolerated; its examples are kept: "
            "'ffruntime learn --retry' learns from them again"
        )
    if pictures.failed:
        raise click.exceptions.Exit(ImageError.exit_code)
    if doubt and doubt.left_out:
        raise click.exceptions.Exit(Contradicted.exit_code)


def _labelled(paths: tuple[str, ...], label: str | None) -> list[tuple[str, str]]:
    """What is shown, and a picture or a folder that shows it; a bundle or a state among the folders is none. Raises
    `UsageError` where nothing says so."""
    from ..core.errors import UsageError
    from ..core.folders import class_name, is_hidden, is_left_behind, part_of
    from ..core.manifest import MANIFEST
    from ..learning.database import DATABASE

    if label is not None:
        if not paths:
            raise UsageError("--label: of which pictures?")
        return [(class_name(label), path) for path in paths]
    folders = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        below = sorted(f for f in path.iterdir() if f.is_dir() and not is_hidden(f.name)) if path.is_dir() else []
        ours = {folder for folder in below if (folder / MANIFEST).is_file() or (folder / DATABASE).is_file()}
        classes = [folder for folder in below if folder not in ours and not is_left_behind(folder.name)]
        for folder in below:
            if folder in ours:
                echo(f"left out: {folder} (a model, or what one has learned)", err=True)
            elif folder not in classes:
                echo(f"left out: {folder} (looks like no class; --label teaches it)", err=True)
        if not classes:
            raise UsageError(
                f"{path}: say with --label what it shows, or name a folder with a folder for each class"
            )
        if all(part_of(folder.name) for folder in classes):
            raise UsageError(f"{path}: {classes[0].name} looks like a part of a data set: name {classes[0]}")
        folders += classes
    return [(class_name(folder.name), str(folder)) for folder in folders]


def _ask_about_new(learner: Learner, labelled: Sequence[tuple[str, str]], new_class: bool) -> None:
    """Raise `UsageError` for a label that is nearly that of a class, unless whoever is at the terminal means it."""
    from ..core.errors import UsageError
    from ..learning.names import by_name, near_miss

    known = by_name(learner.store.classes())
    for name in dict.fromkeys(label for label, _ in labelled):
        near = None if new_class or name in known else near_miss(name, list(known))
        if near is None:
            continue
        said = f"'{name}' is no class yet, and nearly '{near}'"
        if not (sys.stdin.isatty() and click.confirm(f"{printable(said)}; teach a new class?", err=True)):
            raise UsageError(f"{said}: say '{near}', or --new-class to mean another one")


class _Pictures:
    """Pictures to be learned from, read a portion at a time, so that what is pending does not grow beyond one."""

    def __init__(
        self, model: Model, labelled: Sequence[tuple[str, str]], memory_limit: int | None, preprocess: bool
    ) -> None:
        from ..pictures.sources import pictures

        self.count = sum(1 for _, path in labelled for _ in pictures([path]))
        self.read = self.stored = 0  # so many of them; those that cannot be read count as stored
        self.failed = False  # whether there were such
        self._model, self._preprocess = model, preprocess
        self._rest = ((label, picture) for label, path in labelled for picture in pictures([path], memory_limit))

    def portions(self, size: int, doubt: _Doubt | None) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Images as the network takes them, and what they show; one portion without any where there are none."""
        import numpy as np

        for start in range(0, max(self.count, 1), size):
            images, labels = self._prepared(islice(self._rest, size), doubt)
            self.read = min(start + size, self.count)
            yield np.stack(images) if images else np.empty(0), labels
            self.stored = self.read

    def _prepared(
        self, some: Iterable[tuple[str, PictureSource]], doubt: _Doubt | None
    ) -> tuple[list[np.ndarray], list[str]]:
        from ..core.errors import ImageError

        read = []
        for label, (name, get) in some:
            try:
                read.append((name, self._model.prepare(get(), name, self._preprocess), label))
            except ImageError as error:  # say so, and go on with the others
                echo(f"error: {printable(str(error))}", err=True)
                self.failed = True
        taken = doubt.allowed(read) if doubt else read
        return [image for _, image, _ in taken], [label for _, _, label in taken]


class _Doubt:
    """Asks before a picture is taught that looks like another class to the model: a wrong label, most often."""

    def __init__(self, learner: Learner, as_json: bool) -> None:
        self.left_out = 0  # pictures
        self._learner, self._as_json = learner, as_json

    def allowed(self, read: list[tuple[str, np.ndarray, str]]) -> list[tuple[str, np.ndarray, str]]:
        """Those of some pictures (name, image, label) that are taught; what speaks against one is said."""
        import numpy as np

        from ..answers import contradicts

        model = self._learner.model
        if not read or not model.manifest.calibration:
            return read
        if not self._learner.counted:
            model = model.with_weights(model.weights)  # a copy, whose graphs are not kept
        answers = model.classify_batch(np.stack([image for _, image, _ in read]))
        return [
            one
            for one, answer in zip(read, answers, strict=True)
            if not contradicts(answer, one[2], model.manifest.classes) or self._allows(one[0], one[2], answer)
        ]

    def _allows(self, name: str, label: str, answer: Answer) -> bool:
        from ..terminal import percent

        if self._as_json:
            facts = {"path": name, "label": label, "looks_like": answer.label, "probability": answer.probability}
            echo(json.dumps({"event": "warning", **facts}))
            return True
        said = f"{name}: this looks like {answer.label} to me, {percent(answer.probability or 0)}"
        if sys.stdin.isatty() and click.confirm(f"{said}; teach it as {label}?", err=True):
            return True
        self.left_out += 1
        echo(f"error: {said}; left out: --yes teaches it as {label}", err=True)
        return False


@contextlib.contextmanager
def _bar(label: str, length: int) -> Iterator[Callable[[], None]]:
    """A bar where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield partial(bar.update, 1)


@contextlib.contextmanager
def _hint_on_interrupt(learner: Learner, pictures: _Pictures) -> Iterator[None]:
    """Say what an interrupted command, or one ended by SIGTERM, leaves to be done."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if pending := len(learner.store.pending()):
            echo(f"stored and pending: {pending}; 'ffruntime learn' goes on", err=True)
        if others := pictures.count - pictures.stored:
            echo(f"pictures that were not stored, the last ones named: {others}", err=True)
        raise


def _examples(ids: Sequence[int]) -> str:
    return f"1 example, id {ids[0]}" if len(ids) == 1 else f"{len(ids)} examples, ids {ids[0]}–{ids[-1]}"


def _outcome_json(outcome: Outcome) -> str:
    from msgspec.json import encode
    from msgspec.structs import asdict

    event = "adopted" if outcome.adopted else "refused"
    facts = {name: value for name, value in asdict(outcome).items() if name != "own"}  # which is of states
    return encode({"event": event, **facts}).decode()  # what is no number is null


def _outcome_line(outcome: Outcome) -> str:
    from ..terminal import held_back_text

    what = "adopted" if outcome.adopted else "refused"
    held_back = held_back_text(outcome.before, outcome.after)
    of = _examples(outcome.examples) if outcome.examples else "rehearsal"
    if ours := outcome.judged:
        held_back += f", of {ours.images} set aside {ours.before} → {ours.after} right"
    if outcome.dropped is not None:
        held_back += f", class statistics anew, {outcome.dropped} examples no longer count"
    return f"version {outcome.version} {what}: {of}, {held_back}, {outcome.seconds:.1f} s"
