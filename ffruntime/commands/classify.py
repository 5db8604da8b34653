"""`ffruntime classify`: what images show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import Count, Number, echo
from ..core.errors import printable
from .options import RunOptions, budget_options, json_option, running_options, within

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..model import Answer, Model
    from ..pictures.picture import Prepared
    from ..pictures.sources import PictureSource

EPILOG = """\b
Examples:
  ffruntime classify three.png                  the answer, how sure, how fast
  ffruntime classify --json --mode classifier *.png
  ffruntime classify --mode shortlist photos    most of the accuracy, at a fraction of the passes
  ffruntime classify photos                     every picture in a folder, by name; not in folders in it
  ffruntime classify --watch inbox --json       every picture that appears there, until Ctrl-C
  ffruntime classify --camera                   every frame of a camera
  curl … | ffruntime classify -                 from standard input
  ffruntime classify --show photo.jpg           and what was taken for the figure, and what the network was shown
  ffruntime classify --figures all sum.jpg      every figure of a picture, from left to right
  ffruntime classify --unsure 0.05 photo.jpg    "I don't know" sooner: of 5 % of ordinary pictures, too
  ffruntime classify --only-sure *.png          sure answers alone; exit code 11 where one is not
  ffruntime info; ffruntime verify; ffruntime devices

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 bundle, 4 image (the others are classified
all the same), 6 backend, 7 a backend that fails the golden check, 9 learned state, 11 an answer is not sure, where
--only-sure asked for sure ones, 130 interrupted."""


@click.command(epilog=EPILOG)
@click.argument("images", nargs=-1, metavar="[IMAGE…]")
@running_options
@click.option(
    "--mode",
    help="goodness (every label), classifier (one pass), shortlist (the classifier, then goodness of the labels "
    "still in play), or of class goodness exit (as far as the first unit that is sure); default: the model's best.",
)
@click.option("--labels", type=Count(1), help="Mode shortlist: try so many, the most plausible ones.")
@click.option("--top", type=Count(1), default=1, show_default=True, help="How many classes to print.")
@click.option(
    "--unsure",
    type=Number(0, 0.5),
    metavar="RATE",
    help='Say "I don\'t know" where an answer is as improbable, or an image as untypical, as of this share of '
    "the validation images. 0: never.  [default: 0.01]",
)
@click.option(
    "--only-sure", is_flag=True, help="Print sure answers alone, name the others on stderr, and exit with 11."
)
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@click.option(
    "--watch",
    metavar="DIR",
    help="Every picture that appears there or changes, once it is written. What is learned meanwhile counts from "
    "the next picture on.",
)
@click.option(
    "--camera",
    metavar="[N]",
    is_flag=False,
    flag_value="0",
    help="Every frame of camera N (default: 0); or of a video, a file or an address.",
)
@click.option(
    "--figures",
    type=click.Choice(("one", "all")),
    default="one",
    show_default=True,
    help="A picture of several figures is refused, or each of them is answered: of digits, which are taken out of "
    "their pictures.",
)
@click.option(
    "--show",
    is_flag=True,
    help="Draw what was taken for the figure, on the picture, and what the network was shown.",
)
@budget_options
@json_option
def classify(
    options: RunOptions,
    images: tuple[str, ...],
    mode: str | None,
    labels: int | None,
    top: int,
    unsure: float | None,
    only_sure: bool,
    no_preprocess: bool,
    watch: str | None,
    camera: str | None,
    figures: str,
    show: bool,
    device: str | None,
    memory: int | None,
    as_json: bool,
) -> None:
    """Say what IMAGE… show: files, folders, `-` for standard input. Any size, colour and polarity."""
    if not (images or watch or camera):
        raise click.UsageError("Missing argument 'IMAGE…', or --watch, or --camera.")
    if watch and camera:
        raise click.UsageError("--watch and --camera both go on: ask for one of them")
    from ..core.errors import ImageError, NotSure
    from ..core.manifest import EXIT, SHORTLIST
    from ..pictures.picture import display_name, several

    model = options.model()
    chosen, rate = model.mode(mode, labels), _rate(model, unsure, only_sure)
    model, budget = within(model, chosen, device, memory)
    costs: Counter[float] = Counter()  # how many images took so many passes
    failed, not_sure = False, 0
    newest = _newest(model, options) if (watch or camera) and not options.shipped else None
    try:
        for path, get in _stream(images, watch, camera, budget.picture):
            model = newest() if newest else model
            try:
                found = _prepared(model, get(), display_name(path), not no_preprocess)
                if show:
                    _show(found, as_json)
                if len(found) > 1 and figures == "one":
                    raise several(display_name(path), found)
            except ImageError as error:  # say so, and go on with the others
                echo(f"error: {printable(str(error))}", err=True)
                failed = True
                continue
            for number, figure in enumerate(found, 1):
                for doubt in figure.doubts:
                    echo(f"warning: {printable(display_name(path))}: {doubt}", err=True)
                (answer,) = model.classify_batch(figure.image[None], chosen, labels, rate)
                costs[answer.passes] += 1
                line = _answer_line(path, answer, top, f", figure {number}" if len(found) > 1 else "")
                if only_sure and not answer.sure:
                    not_sure += 1
                    echo(line, err=True)
                else:
                    echo(_answer_json(path, answer, top, figure) if as_json else line)
    finally:  # also after Ctrl-C, which ends a stream
        if costs.total() > 1 and not as_json and chosen in (SHORTLIST, EXIT):
            classes, undertrained = len(model.classes), len(model.undertrained)
            worst = 1 if chosen == EXIT else 1 + min((labels or classes) + undertrained, classes)
            echo(_cost_line(costs, worst, 1 if chosen == EXIT else classes))
    if failed:
        raise click.exceptions.Exit(ImageError.exit_code)
    if not_sure:
        raise click.exceptions.Exit(NotSure.exit_code)


def _prepared(model: Model, picture: Image, name: str, preprocess: bool) -> list[Prepared]:
    """The images that a picture gives: one, or one for each figure. Raises `ImageError` with its name."""
    from ..pictures.picture import Prepared, prepare_all

    if preprocess:
        return prepare_all(picture, name, model.manifest.preprocessing, model.manifest.network.image.shape)
    return [Prepared(model.prepare(picture, name, preprocess=False), None)]


def _show(found: Sequence[Prepared], as_json: bool) -> None:
    """Draw a picture with what was taken for its figures, and what the network is shown of each."""
    from ..terminal import draw, mark

    inks, paper = [figure.ink for figure in found if figure.ink is not None], found[0].paper
    if inks and paper is not None:
        click.echo(draw(mark(paper, inks)), err=as_json)
    for figure in found:
        click.echo(draw(figure.image), err=as_json)


def _rate(model: Model, asked: float | None, only_sure: bool) -> float:
    """How often ordinary images may be called unsure. Raises `UsageError` where nothing can tell."""
    from ..core.calibration import UNSURE
    from ..core.errors import UsageError

    option = "--only-sure" if only_sure else "--unsure"
    if (only_sure or asked) and not model.manifest.calibration:
        raise UsageError(
            f"{option}: {model.path} has no calibration to be sure by; train it again, or leave that out"
        )
    if only_sure and asked == 0:
        raise UsageError("--only-sure and --unsure 0 exclude each other")
    return UNSURE if asked is None else asked


def _newest(model: Model, options: RunOptions) -> Callable[[], Model]:
    """The model with what another process has learned meanwhile."""
    from ..learning.watch import watching

    directory = options.state or model.bundle.state_directory
    return watching(model, directory, lambda problem: echo(f"warning: {problem}", err=True))


def _cost_line(costs: Counter[float], worst: float, every_label: int) -> str:
    count = costs.total()
    average = sum(passes * times for passes, times in costs.items()) / count
    cost = f"{average:.2f} passes on average, {_number(max(costs))} at most; worst case {_number(worst)}"
    return f"{count} images, {cost}, goodness of every label {every_label}"


def _number(passes: float) -> str:
    return f"{passes:.2f}".removesuffix(".00")


def _stream(
    images: tuple[str, ...], watch: str | None, camera: str | None, memory_limit: int | None
) -> Iterator[PictureSource]:
    from ..pictures.sources import arrivals, frames, pictures

    # What appears while the others are classified, too.
    appearing = arrivals(Path(watch), memory_limit=memory_limit) if watch else iter(())
    yield from pictures(images, memory_limit)
    if watch:
        echo(f"watching {watch}; Ctrl-C ends it", err=True)
    yield from frames(camera) if camera else appearing


def _answer_json(path: str, answer: Answer, top: int, figure: Prepared) -> str:
    return json.dumps(
        {
            "path": path,
            "box": figure.box,
            "label": answer.label,
            "probability": answer.probability,
            "typicality": answer.typicality,
            "sure": answer.sure,
            "scores": answer.scores,
            "top": list(answer.scores)[:top],
            "mode": answer.mode,
            "passes": answer.passes,
            "backend": answer.backend,
            "ms": answer.ms,
        }
    )


def _answer_line(path: str, answer: Answer, top: int, which: str) -> str:
    cost = "1 pass" if answer.passes == 1 else f"{_number(answer.passes)} passes"
    how = f"{answer.mode}, {cost}, {answer.backend}, {answer.ms:.1f} ms"
    return f"{printable(path)}{which}: {_said(answer, top)}  [{how}]"


def _said(answer: Answer, top: int) -> str:
    """`3, 99.1 % sure`, or `I don't know; most likely 3 (41.0 %)`, and how typical the image is, which may be why;
    without a calibration, `3  score 3.07`."""
    from ..terminal import percent

    if answer.probabilities is None:
        (_, best), *others = list(answer.scores.items())[:top]
        return f"{answer.label}  score {best:.4g}" + "".join(f", {name} (−{best - s:.3g})" for name, s in others)
    (_, best), *others = list(answer.probabilities.items())[:top]
    rest = "".join(f", {name} ({percent(share)})" for name, share in others)
    if answer.sure is not False:
        return f"{answer.label}, {percent(best)} sure{rest}"
    typical = "" if answer.typicality is None else f"; typicality {answer.typicality:.2g}"
    return f"I don't know; most likely {answer.label} ({percent(best)}){rest}{typical}"
