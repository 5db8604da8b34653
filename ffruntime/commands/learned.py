"""What was learned, as a whole: `ffruntime history`, `rollback`, `forget`, `reset`, `diff`, `export-state`,
`apply-state`, and `renormalise`, which learns no labels."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..command import Count, echo, printable
from .options import backend_options, json_option, model_option, session_of, state_option

if TYPE_CHECKING:
    import numpy as np

    from ..core.bundle import Bundle
    from ..learning.store import Store
    from ..learning.versions import Version
    from ..model import Model

EPILOG = """\b
Examples:
  ffruntime history                             versions of the weights, and which one counts
  ffruntime rollback                            back to the one before
  ffruntime rollback 0                          back to the bundle's own weights; examples stay
  ffruntime diff 0                              what changed since the bundle's weights
  ffruntime export-state learned.state          for another device, or for 'ffexport --state'
  ffruntime apply-state learned.state           on the other device
  ffruntime export-state --sign key.pem learned.state       with a signature
  ffruntime apply-state --trusted keys.pem learned.state    if one of these keys has signed it
  ffruntime export-state --own mine.state       for a merge: without what came from other devices
  ffruntime apply-state all.state --own mine.state   what the others have learned, of a merge with mine in it
  ffruntime forget 17 18                        without these two examples, as if they had never been shown
  ffruntime forget --label cat                  without all examples of a class
  ffruntime renormalise photos/                 normalisation statistics of unlabelled pictures as they are now
  ffruntime reset                               forget everything, examples too

\b
Exit codes: those of 'ffruntime learn'; 10 is a state or normalisation that was not adopted."""


@click.command(epilog=EPILOG)
@model_option
@state_option
@json_option
def history(model_path: str, state: Path | None, as_json: bool) -> None:
    """Every version of the weights, the refused ones too; version 0 is the bundle's own."""
    from msgspec import to_builtins

    from ..core.bundle import Bundle
    from ..core.tables import table

    with _opened(Bundle(model_path), state) as store:
        versions, current = store.history(), store.current_version()
    if as_json:
        for version in versions:
            row = {**to_builtins(version), "kept": version.kept, "current": version.id == current}
            echo(json.dumps(row))
        return
    header = ("version", "from", "kind", "when", "examples", "held back", "weights", "")
    shipped = ("0", "", "bundle", "", "", "", "kept", "" if current else "current")
    rows = [shipped, *(_history_row(version, current) for version in versions)]
    echo(table(header, rows))


@click.command(epilog=EPILOG)
@click.argument("version", type=Count(0), required=False)
@model_option
@state_option
@json_option
def rollback(version: int | None, model_path: str, state: Path | None, as_json: bool) -> None:
    """Make an earlier VERSION count again; default: the one that the current one was made from. Examples stay."""
    from ..core.bundle import Bundle

    bundle = Bundle(model_path)
    with _opened(bundle, state, writing=True) as store:
        number = store.rollback(version)
        missing = store.counted is not None and store.counted.without(number)
    if missing:  # features by the units that count now
        from ..learning.learner import Learner
        from ..model import Model

        Learner(Model(bundle, state=False), state).close()
    echo(json.dumps({"version": number}) if as_json else f"version {number} is current")


@click.command(epilog=EPILOG)
@click.argument("ids", metavar="[ID…]", type=Count(1), nargs=-1)
@click.option("--label", metavar="CLASS", help="All examples of a class, in place of some by their ids.")
@model_option
@state_option
@json_option
def forget(ids: tuple[int, ...], label: str | None, model_path: str, state: Path | None, as_json: bool) -> None:
    """Take back examples that were learned: by the ids that 'learn' said, or all of a class.

    Picture and features are deleted, class statistics are those without them, to the bit, and weights that may
    have learned from them are dropped: the newest version from before them counts. Of examples that are no longer
    stored, count and mean of their class can be taken back; how they were spread about it stays in a moment that
    classes share.
    """
    from msgspec.structs import asdict

    from ..core.errors import UsageError
    from ..learning.learner import Learner
    from ..model import Model

    if bool(ids) == (label is not None):
        raise UsageError("forget: name examples by their ids, or a class with --label")
    with contextlib.closing(Learner(Model(model_path, state=False), state)) as learner:
        before = learner.version
        found = learner.forget(ids, label)
        after, how = learner.version, learner.model.manifest.counted
    if as_json:
        echo(json.dumps({**asdict(found), "version": after}))
        return
    count = len(found.examples)
    said = [f"forgot {count} example{'' if count == 1 else 's'}"]
    if found.evicted:
        spread = "their count and mean; how they were spread about it stays"
        counted_for = "all that they counted for" if how and how.moment == "each" else spread
        said.append(f"of {found.evicted} no longer stored, {counted_for}")
    if found.freed:
        said.append("its pattern or row is free for another class")
    said.append(f"version {after} counts" if after == before else f"back from version {before} to {after}")
    echo("; ".join(said))


@click.command(epilog=EPILOG)
@model_option
@state_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(model_path: str, state: Path | None, yes: bool) -> None:
    """Forget all that was learned, examples too, damaged or not. Other files in the directory stay."""
    from ..core.bundle import state_directory, state_there
    from ..learning.directory import reset as delete

    directory = state or state_directory(Path(model_path))
    if not state_there(directory):
        echo(f"{directory}: nothing was learned there")
        return
    if not yes:
        click.confirm(f"Delete all that was learned in {directory}?", abort=True, err=True)
    delete(directory)
    echo(f"{directory}: reset")


@click.command(epilog=EPILOG)
@click.argument("first", metavar="[A]", type=Count(0), required=False)
@click.argument("second", metavar="[B]", type=Count(0), required=False)
@model_option
@state_option
@backend_options
@json_option
def diff(
    first: int | None,
    second: int | None,
    model_path: str,
    state: Path | None,
    backend: str,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """How version B differs from A: tensor by tensor, ‖B − A‖ / ‖A‖, and in decisions on the bundle's exemplars.

    By default B is the current version, and A the one that it was made from. 0 is the bundle.
    """
    from ..core.errors import UsageError
    from ..core.state import Weights
    from ..core.tables import table
    from ..model import Model

    model = Model(model_path, session=session_of(backend, precision, threads), state=False)
    with _opened(model.bundle, state) as store:
        if second is None:
            second = store.current_version()
        if first is None:
            parents = {version.id: version.parent for version in store.history()}
            if second not in parents:
                raise UsageError("the bundle's own weights are current: name the versions to compare")
            first = parents[second]
        before, after, classes = store.weights(first), store.weights(second), store.classes()
    shipped = model.bundle.weights()
    changes = _changes({**shipped, **before}, {**shipped, **after})
    differ, count = _decisions(*(model.with_weights(Weights(tensors, classes)) for tensors in (before, after)))
    if as_json:
        decisions = {"differ": differ, "of": count}
        echo(json.dumps({"first": first, "second": second, "tensors": changes, "decisions": decisions}))
        return
    rows = [(name, "new" if change is None else f"{change:.2e}") for name, change in changes.items()]
    echo(table(("tensor", f"change from {first} to {second}"), rows))
    echo(f"{differ} of {count} decisions on exemplars differ")


@click.command("export-state", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@model_option
@state_option
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--sign",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign it with this private key: Ed25519, in PEM.",
)
@click.option("--own", is_flag=True, help="Class statistics of its own examples alone, for a merge.")
@json_option
def export_state(
    file: Path, model_path: str, state: Path | None, force: bool, sign: Path | None, own: bool, as_json: bool
) -> None:
    """Write the current version as one portable FILE, for another device or for `ffexport --state`."""
    from msgspec import to_builtins

    from ..core.bundle import Bundle
    from ..core.errors import UsageError
    from ..learning.directory import export

    if file.exists() and not (force and file.is_file()):
        raise UsageError(
            f"{file}: is there already; {'--force replaces it' if file.is_file() else 'it is no file'}"
        )
    signs = None
    if sign:
        from ..signing import signer

        signs = signer(sign)
    bundle = Bundle(model_path)
    with _opened(bundle, state) as store:
        now, written, tensors = export(store, bundle, file, signs, own)
    told = now.weights.statistics
    if now.weights.alone:
        echo("warning: class statistics of units that were taught here are left out", err=True)
    if as_json:
        echo(json.dumps({"version": now.version, "tensors": tensors, **to_builtins(written)}))
    else:
        counted = f"; class statistics of {told.counts.sum()} examples" if told and written.statistics else ""
        how = "; signed" if signs else ""
        echo(f"{file}: version {now.version}; updates: {now.updates}, examples: {now.examples}{counted}{how}")


@click.command("apply-state", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@model_option
@state_option
@click.option("--force", is_flag=True, help="Whatever it costs on images that were held back.")
@click.option(
    "--trusted",
    metavar="KEYS",
    type=click.Path(path_type=Path),
    help="Refuse a file that none of these public keys has signed: Ed25519, in PEM, one after another; also "
    "$FF_TRUSTED, else /etc/ffedge/trusted.pem. Without any of them, signatures are not looked at.",
)
@click.option(
    "--own",
    metavar="OWN",
    type=click.Path(path_type=Path),
    help="The file of this state that was merged into FILE: what it counts is not counted twice.",
)
@json_option
def apply_state(
    file: Path,
    model_path: str,
    state: Path | None,
    force: bool,
    trusted: Path | None,
    own: Path | None,
    as_json: bool,
) -> None:
    """Take what another device has learned on the same bundle (FILE) as a new version, and make it current.

    It is judged by held-back images, as an update is.
    """
    from ..core.errors import UpdateRefused
    from ..learning.learner import Learner
    from ..model import Model
    from ..signing import required
    from ..terminal import held_back_text

    check = required(trusted)
    with contextlib.closing(Learner(Model(model_path, state=False), state)) as learner:
        outcome = learner.apply(file, force, check, own)
    judged = held_back_text(outcome.before, outcome.after)
    if as_json:
        result = {"version": outcome.version, "adopted": outcome.adopted}
        echo(json.dumps({**result, "before": outcome.before, "after": outcome.after, "own": outcome.own}))
    elif outcome.adopted:
        left_out = "; its class statistics were left out: examples of this very state are among them"
        echo(f"version {outcome.version} is current: {judged}{left_out if outcome.own else ''}")
        if outcome.own and own is None:
            echo("--own FILE, the file of this state that was merged into it, keeps those of the others", err=True)
    if not outcome.adopted:
        raise UpdateRefused(f"{file}: costs more than is tolerated: {judged}; --force takes it all the same")


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, required=True, metavar="IMAGE… | FOLDER…")
@model_option
@state_option
@click.option("--force", is_flag=True, help="Whatever it costs on images that were held back: of the old world.")
@click.option("--no-preprocess", is_flag=True, help="The images are ready: as the network was trained on.")
@json_option
def renormalise(
    paths: tuple[str, ...], model_path: str, state: Path | None, force: bool, no_preprocess: bool, as_json: bool
) -> None:
    """Take normalisation statistics anew from pictures as they arrive now, of whatever classes, without labels.

    Mean and variance of what units receive become those of these pictures: some dozens, of all classes. That is a
    new version, judged by held-back images, as an update is, and 'ffruntime rollback' goes back. Class statistics
    are of the units as they were: they begin anew, of the examples that are stored.
    """
    import numpy as np
    from msgspec.json import encode

    from ..core.errors import ImageError, UpdateRefused
    from ..learning.learner import Learner
    from ..learning.normalisation import require_normalised
    from ..model import Model
    from ..pictures.sources import pictures
    from ..terminal import held_back_text

    model, images, failed = Model(model_path, state=False), [], 0
    require_normalised(model)
    for name, get in pictures(paths):
        try:
            images.append(model.prepare(get(), name, not no_preprocess))
        except ImageError as error:  # say so, and go on with the others
            echo(f"error: {printable(str(error))}", err=True)
            failed += 1
    if not images:
        raise click.exceptions.Exit(ImageError.exit_code)
    with contextlib.closing(Learner(model, state)) as learner:
        outcome = learner.renormalise(np.stack(images), force)
    judged = held_back_text(outcome.before, outcome.after)
    if as_json:
        facts = {"version": outcome.version, "adopted": outcome.adopted, "pictures": len(images)}
        more = {name: getattr(outcome, name) for name in ("before", "after", "judged", "dropped", "seconds")}
        echo(encode({**facts, **more}).decode())
    elif outcome.adopted:
        of = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
        said = f"version {outcome.version} is current: normalisation statistics of {of}, {judged}"
        if outcome.dropped is not None:
            said += f"; class statistics anew, {outcome.dropped} examples no longer count"
        echo(said)
    if not outcome.adopted:
        raise UpdateRefused(f"version {outcome.version}: costs more than is tolerated: {judged}; --force takes it")
    if failed:
        raise click.exceptions.Exit(ImageError.exit_code)


@contextlib.contextmanager
def _opened(bundle: Bundle, state: Path | None, writing: bool = False) -> Iterator[Store]:
    """The store of a bundle's state; one that is to be written to has to be there."""
    from ..core.bundle import REPLAY
    from ..core.errors import StateError
    from ..learning.database import DATABASE
    from ..learning.store import Store

    directory = state or bundle.state_directory
    if writing and not (directory / DATABASE).exists():
        raise StateError(f"{directory}: nothing was learned yet")
    store = Store(directory, bundle.manifest, writing, seeds=lambda: bundle.exemplars(REPLAY))
    with contextlib.closing(store):
        yield store


def _history_row(version: Version, current: int) -> tuple[str, ...]:
    kind = version.kind if version.adopted else "refused"
    held_back = ""
    if version.before is not None and version.after is not None:
        held_back = f"{100 * version.before:.1f} → {100 * version.after:.1f} %"
    kept, mark = "kept" if version.kept else "", "current" if version.id == current else ""
    return (str(version.id), str(version.parent), kind, version.at, str(version.examples), held_back, kept, mark)


def _changes(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, float | None]:
    """‖after − before‖ / ‖before‖ of every tensor that changed; None where it was all zeros."""
    import numpy as np

    changes: dict[str, float | None] = {}
    for name in sorted(before):
        if change := float(np.linalg.norm(after[name] - before[name])):
            size = float(np.linalg.norm(before[name]))
            changes[name] = change / size if size else None
    return changes


def _decisions(before: Model, after: Model) -> tuple[int, int]:
    """On how many of the bundle's exemplars two models differ, and how many there are."""
    import numpy as np

    images = before.bundle.exemplars().pixels
    if not len(images):
        return 0, 0
    differ = before.scores(images).argmax(1) != after.scores(images).argmax(1)
    return int(np.sum(differ)), len(images)
