"""`ffruntime demo`: learning on the device, shown and measured on MNIST."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..command import THREADS, Count, echo
from .options import json_option

if TYPE_CHECKING:
    from ..core.data import Examples
    from ..core.manifest import Manifest
    from ..demo.page import Scene
    from ..model import Model

EPILOG = """\b
Examples:
  ffruntime demo                                every scene whose bundle is here
  ffruntime demo --scene new-class              a digit never seen; the bundle:
      fftrain mnist --classes 0-8 --out nine.ff && ffexport --model nine.ff
  ffruntime demo --scene changed-world          inverted, blurred, rotated, … digits: six worlds; the bundle:
      fftrain mnist && ffexport
  ffruntime demo --scene split-mnist --seeds 5  five tasks, one pass, from nothing; the bundle:
      fftrain mnist --recipe stream --epochs 0 --out untrained.ff && ffexport --model untrained.ff
  ffruntime demo --nine nine.ff --nine class.ff  bundles beside each other, such as one of each kind of goodness
  ffruntime demo --quick                        a minute instead of many, and no figure to quote

\b
Nothing is learned into the bundles' own states. What is done in detail: docs/demo.md.

\b
Exit codes: 0 done, 2 usage, 3 bundle, 5 data set, 6 backend, 8 cannot write, 130 interrupted."""

Stepped = Callable[[], None]
Say = Callable[[str], None]


def bundle_option(option: str, default: str, scene: str):  # type: ignore[no-untyped-def]
    """The bundles that a scene is shown with."""
    text = f"Bundle of {scene}; may be given several times."
    return click.option(option, metavar="DIR", multiple=True, default=(default,), show_default=True, help=text)


@click.command(epilog=EPILOG)
@click.option(
    "--scene",
    "scenes",
    multiple=True,
    type=click.Choice(["new-class", "changed-world", "split-mnist"]),
    help="What is shown; may be given several times. Default: all whose bundle is there.",
)
@bundle_option("--nine", "nine.ff", "new-class")
@bundle_option("--model", "model.ff", "changed-world")
@bundle_option("--untrained", "untrained.ff", "split-mnist")
@click.option("--data", metavar="DIR", help="Holds MNIST/raw; also $FF_DATA.")
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Images to measure on; to try settings, validation.",
)
@click.option("--seeds", type=Count(1), default=1, show_default=True, help="Runs of split-mnist.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep there what is learned; must not exist. Default: forgotten in the end.",
)
@click.option("--out", type=click.Path(path_type=Path), default="demo.html", show_default=True, help="The page.")
@click.option("--quick", is_flag=True, help="Far fewer images and steps; everything is marked so.")
@click.option("--threads", type=THREADS, help="CPU threads; default: all cores.")
@json_option
def demo(
    scenes: tuple[str, ...],
    nine: tuple[str, ...],
    model: tuple[str, ...],
    untrained: tuple[str, ...],
    data: str | None,
    split: str,
    seeds: int,
    state: Path | None,
    out: Path,
    quick: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Show learning on the device: measure it on MNIST, draw it, and write a page with the curves.

    Writes demo.html, and its charts as a picture, demo.svg.
    """
    from ..core.data import data_directory
    from ..core.errors import UsageError
    from ..demo.digits import load
    from ..demo.page import QUICK, page, picture

    bundles = {"new-class": nine, "changed-world": model, "split-mnist": untrained}
    models = _models(bundles, scenes, threads or 0)
    if state and state.exists():
        raise UsageError(f"{state}: is there already; the demonstration begins anew: name another directory")
    training, tested = load(data_directory(data), split)
    shown = []
    if quick and not as_json:
        echo(QUICK)
    import tempfile

    with contextlib.ExitStack() as closing:
        states = state or Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="ffruntime-demo-")))
        for label, (name, opened) in models.items():
            stage = Stage(opened, training, tested, states / label, split, quick, seeds, draw=not as_json)
            scene, result = SCENES[name](stage)
            shown.append(scene)
            if as_json:
                row = {"scene": name, "bundle": str(opened.path), "split": split, "quick": quick}
                echo(json.dumps({**row, **result}))
            else:
                echo(_text(scene))
    facts = _facts(models, split)
    _write(out, page(shown, facts, quick))
    _write(out.with_suffix(".svg"), picture(shown, quick))
    if as_json:
        echo(json.dumps({"page": str(out), "picture": str(out.with_suffix(".svg")), "machine": facts}))
    else:
        echo(f"{out.with_suffix('.svg')}: the charts; {out.absolute().as_uri()}: the page")


class Stage(NamedTuple):
    """What a scene is shown with."""

    model: Model
    training: Examples
    tested: Examples
    state: Path  # of this scene alone
    split: str  # what `tested` is of
    quick: bool
    seeds: int
    draw: bool  # whether pictures may be drawn in the terminal


def _new_class(stage: Stage) -> tuple[Scene, dict[str, Any]]:
    from msgspec import to_builtins

    from ..demo import teach
    from ..demo.page import percent, show_new_class

    model, plan = stage.model, teach.QUICK_NEW_CLASS if stage.quick else teach.NewClassPlan()
    digit, points = teach.new_digit(model.bundle), []
    fourier = teach.fourier_statistics(model, stage.training)
    taught = teach.new_class_portions(model.bundle, stage.training, plan, 0)
    _draw(stage, f"a digit never seen: {digit}", taught[0])
    with _watched("new-class", teach.new_class_steps(model.manifest.network, plan)) as (stepped, say):
        for point in teach.teach_new_class(model, taught, stage.tested, plan, stage.state, stepped, fourier):
            points.append(point)
            mode = next(iter(point.new))
            say(f"{point.examples} learned: {percent(point.new[mode])}, others {percent(point.old[mode])}")
    result = {"digit": digit, "plan": to_builtins(plan), "points": to_builtins(points)}
    return show_new_class(digit, points, taught, plan, stage.split, _of_classes(model)), result


def _changed_world(stage: Stage) -> tuple[Scene, dict[str, Any]]:
    from msgspec import to_builtins

    from ..demo import teach
    from ..demo.page import percent, show_changed_world

    model = stage.model
    whole = teach.CLASS_CHANGED_WORLD if _of_classes(model) else teach.ChangedWorldPlan()
    plan = teach.QUICK_CHANGED_WORLD if stage.quick else whole
    bundle, training = model.bundle, stage.training
    taught = {world: teach.changed_world_portions(bundle, training, world, plan, 0) for world in teach.WORLDS}
    for world, portions in taught.items():
        _draw(stage, f"the world is {world}", portions[0])
    fourier = teach.fourier_statistics(model, training)
    worlds: dict[str, list[teach.Measurement]] = {world: [] for world in teach.WORLDS}
    with _watched("changed-world", teach.changed_world_steps(model.manifest.network, plan)) as (stepped, say):
        for world, points in worlds.items():
            state, portions = stage.state / world, taught[world]
            for point in teach.teach_changed_world(
                model, world, portions, stage.tested, plan, state, stepped, fourier
            ):
                points.append(point)
                say(f"{world}, {point.examples} learned: {percent(next(iter(point.new.values())))}")
    result = {"plan": to_builtins(plan), "worlds": to_builtins(worlds)}
    return show_changed_world(worlds, taught, plan, stage.split, _of_classes(model)), result


def _split_mnist(stage: Stage) -> tuple[Scene, dict[str, Any]]:
    from msgspec import to_builtins

    from ..demo import split_mnist
    from ..demo.digits import showing
    from ..demo.page import METHODS, percent, show_split_mnist

    training, plan = stage.training, split_mnist.QUICK if stage.quick else split_mnist.SplitPlan()
    found: dict[int, dict[str, split_mnist.Method]] = {seed: {} for seed in range(stage.seeds)}
    _draw(stage, "two digits after two others", showing(training, *split_mnist.TASKS[0]))
    with _watched("split-mnist", stage.seeds * split_mnist.steps(training, plan)) as (stepped, say):
        for seed, methods in found.items():
            for name, method in split_mnist.run(stage.model, training, stage.tested, plan, seed, stepped):
                methods[name] = method
                say(f"seed {seed}, {METHODS[name]}: ACC {percent(method.acc)}")
    summary = {name: split_mnist.summary([methods[name] for methods in found.values()]) for name in METHODS}
    mode = split_mnist.mode(stage.model.manifest.network)
    result = {"plan": to_builtins(plan), "mode": mode, "summary": summary, "seeds": to_builtins(found)}
    return show_split_mnist(found, plan, stage.split, _of_classes(stage.model)), result


def _of_classes(model: Model) -> bool:
    from ..core.architecture import class_goodness

    return class_goodness(model.manifest.network)


SCENES = {"new-class": _new_class, "changed-world": _changed_world, "split-mnist": _split_mnist}


def _models(
    bundles: Mapping[str, Sequence[str]], asked: Sequence[str], threads: int
) -> dict[str, tuple[str, Model]]:
    """Every scene with each of its bundles, by the scene's name, and of a second one `new-class-2`. They are
    checked before anything is learned; of scenes not asked for, those there are."""
    from ..core.errors import BundleError
    from ..demo import split_mnist, teach
    from ..model import Model
    from ..session import Session

    scenes = {
        "new-class": (teach.require_new_class, teach.NEW_CLASS_REMEDY),
        "changed-world": (teach.require_changed_world, teach.CHANGED_WORLD_REMEDY),
        "split-mnist": (split_mnist.require, split_mnist.REMEDY),
    }
    models, missing = dict[str, tuple[str, Model]](), []
    chosen = [name for name in scenes if not asked or name in asked]
    for name, number, path in ((n, k, Path(path)) for n in chosen for k, path in enumerate(bundles[n], 1)):
        require, remedy = scenes[name]
        if not path.exists():
            missing.append(f"{name}: {path} is not there; make it: {remedy}")
            continue
        model = Model(path, session=Session(threads=threads), state=False)
        require(model.bundle)
        models[name if number == 1 else f"{name}-{number}"] = name, model
    if missing and (asked or not models):
        raise BundleError("; ".join(missing))
    for line in missing:
        echo(f"left out: {line}", err=True)
    return models


@contextlib.contextmanager
def _watched(label: str, length: int) -> Iterator[tuple[Stepped, Say]]:
    """A bar with the time that is left where somebody watches, else a line on stderr for each thing said."""
    if not sys.stderr.isatty():
        yield (lambda: None), lambda text: echo(f"{label}: {text}", err=True)
        return
    said = [""]
    bar: Any
    with click.progressbar(
        length=length, label=label, file=sys.stderr, item_show_func=lambda _: said[0], width=24
    ) as bar:

        def say(text: str) -> None:
            said[0] = text
            bar.render_progress()

        yield (lambda: bar.update(1)), say


def _draw(stage: Stage, what: str, examples: Examples) -> None:
    """Two of the images that will be learned, where they can be seen."""
    import numpy as np

    from ..terminal import draw

    if stage.draw and sys.stdout.isatty():
        echo(what)
        click.echo(draw(np.concatenate(list(examples.pixels[:2]), axis=2)))


def _text(scene: Scene) -> str:
    from ..core.tables import table

    tables = (f"{shown.caption}\n{table(shown.header, shown.rows)}" for shown in scene.tables)
    return "\n\n".join([f"{scene.title}\n{scene.about}", *tables, ""])


def _facts(models: Mapping[str, tuple[str, Model]], split: str) -> dict[str, str]:
    """Where it was measured, and with what."""
    import os
    import platform
    from importlib.metadata import version

    import numpy as np
    import onnxruntime

    from ..core.manifest import WEIGHTS

    def bundle(manifest: Manifest) -> str:
        trained = f"recipe {manifest.training.recipe_name}, {manifest.training.epochs} epochs"
        return f"{trained}, weights {manifest.files[WEIGHTS].sha256[:16]}"

    return {
        "images": f"MNIST (LeCun, Cortes); learned from training images, measured on {split} images",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "made with": f"ffedge {version('ffedge')}, onnxruntime {onnxruntime.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}",
        **{f"bundle of {label}": bundle(model.manifest) for label, (_, model) in models.items()},
    }


def _write(path: Path, text: str) -> None:
    from ..core.errors import StorageError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
