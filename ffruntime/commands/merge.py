"""Several devices' states as one: `ffruntime merge-states`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..command import echo
from .options import json_option, model_option

EPILOG = """\b
Examples:
  ffruntime export-state --own a.state                         on each device: what it was shown itself
  ffruntime merge-states a.state b.state c.state --out all.state
  ffruntime merge-states *.state --robust --out all.state      one of them may lie
  ffruntime apply-state all.state --own a.state                on the device that a.state is of
  ffruntime apply-state all.state                              on a device that is in none of them
  ffexport --model model.ff --state all.state --out all.ff     a bundle that knows it all

\b
Exit codes: 0 merged, 2 examples would count twice or there are too many classes, 3 a file that is damaged or of
another bundle, 8 cannot write."""


@click.command("merge-states", epilog=EPILOG)
@click.argument("files", metavar="FILE…", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", metavar="FILE", required=True, type=click.Path(path_type=Path), help="The state to write.")
@click.option(
    "--average",
    type=click.Choice(["nothing", "readouts", "units"]),
    help="What is averaged beside class statistics, which add up: nothing, readouts (or the linear classifier), or "
    "units, too.  [default: nothing, where the bundle has class statistics]",
)
@click.option(
    "--robust", is_flag=True, help="Some may lie: trimmed means, bounded norms; contradictions are left out."
)
@click.option("--sign", metavar="KEY", type=click.Path(path_type=Path), help="Sign it, as 'export-state' does.")
@click.option(
    "--trusted",
    metavar="KEYS",
    type=click.Path(path_type=Path),
    help="Refuse files that none of these public keys has signed, as 'apply-state' does; also $FF_TRUSTED, else "
    "/etc/ffedge/trusted.pem.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@model_option
@json_option
def merge_states(
    files: tuple[Path, ...],
    out: Path,
    average: str | None,
    robust: bool,
    sign: Path | None,
    trusted: Path | None,
    force: bool,
    model_path: str,
    as_json: bool,
) -> None:
    """Make one state of what several devices learned on the same bundle (FILEs of 'ffruntime export-state').

    Class statistics are added up, exactly; readouts are averaged as differences from the bundle's, weighed by
    examples; classes are the same where their names are. What cannot be merged is left out, and why is said.
    """
    from msgspec import to_builtins

    from ..core.bundle import Bundle
    from ..core.errors import UsageError
    from ..core.merge import merge
    from ..core.state import write_state
    from ..learning.elsewhere import member_of
    from ..signing import required, signer

    if out.exists() and not (force and out.is_file()):
        raise UsageError(f"{out}: is there already; {'--force replaces it' if out.is_file() else 'it is no file'}")
    signs, check = signer(sign) if sign else None, required(trusted)
    bundle = Bundle(model_path)
    members = [member_of(file, bundle, check) for file in files]
    prior = bundle.statistics() if robust and bundle.manifest.counted else None
    found = merge(bundle.manifest, bundle.weights(), members, average, robust, prior)  # type: ignore[arg-type]
    written = write_state(
        *(out, bundle.manifest, found.weights, found.updates, found.examples, found.origins, signs, found.members)
    )
    if as_json:
        left, tensors = to_builtins(found.left_out), list(found.weights.tensors)
        result = {"files": len(files), "tensors": tensors, "left_out": left, "members": found.members}
        echo(json.dumps({**result, **to_builtins(written)}))
        return
    for one in found.left_out:
        echo(f"{one.member}: {one.part} left out: {one.reason}", err=True)
    told, new = found.weights.statistics, found.weights.classes[len(bundle.manifest.classes) :]
    counted = f"; class statistics of {told.counts.sum()} examples" if told else ""
    learned = f"; new classes: {', '.join(new)}" if new else ""
    echo(f"{out}: {len(files)} states; {found.examples} examples of updates{counted}{learned}")
