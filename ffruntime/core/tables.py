"""Tables and lines for people in a terminal, of what the contract describes: bundles, device profiles, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .architecture import Network, Unit, class_goodness, named_ops, unit_name, unit_shapes
from .calibration import Calibration
from .devices import Profile
from .learning import STEP
from .manifest import EarlyExit, Manifest, Shortlist
from .plan import MARGIN, MIB, Calls, Plan


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, the first one to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def manifest_text(path: Path, manifest: Manifest) -> str:
    """A bundle's contents for people."""
    network, training, data = manifest.network, manifest.training, manifest.training.data
    lines = [
        f"{path}  (format {manifest.format}, made with {_pairs(manifest.made_with)})",
        f"image     {'×'.join(map(str, network.image.shape))}, prepared as a "
        f"{manifest.preprocessing.__struct_config__.tag}",
        f"classes   {', '.join(manifest.classes)}; {network.label.patterns - len(manifest.classes)} spare "
        f"{'rows' if class_goodness(network) else 'patterns'}",
        f"labels    {_pairs(manifest.labels)}; {network.label.placement}",
        f"training  recipe {training.recipe_name}, {training.epochs} epochs, seed {training.seed}, "
        f"{training.device}, {training.precision}",
        f"data      {data.source} ({data.train} / {data.validation} / {data.test})",
    ]
    if data.offline_sample:
        lines.append("          OFFLINE SAMPLE: its accuracies are not those of MNIST")
    if network.steps or network.goodness == "low":
        lines.append(f"network   {network_text(network)}")
    for split, modes in manifest.accuracy.items():
        lines.append(
            f"accuracy  {split}: " + ", ".join(f"{mode} {100 * share:.2f} %" for mode, share in modes.items())
        )
    if manifest.shortlist:
        lines.append(
            f"shortlist {shortlist_text(manifest.shortlist, len(manifest.classes), manifest.logit_weight)}"
        )
    if manifest.exit:
        lines.append(f"exit      {exit_text(manifest.exit)}")
    if manifest.calibration:
        lines.append(f"sure      {calibration_text(manifest.calibration)}")
    units = []
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        ops = " ".join((*inputs_text(unit), *(name for name, _ in named_ops(unit)), *outputs_text(unit)))
        shapes = ["×".join(map(str, shape)) for shape in (below, above)]
        yes = ["yes" if flag else "no" for flag in (unit.trained, unit.scored)]
        units.append((unit_name(index), ops, unit.inputs[0].normalise, *shapes, *yes))
    files = [(name, f"{entry.size:,}", entry.sha256[:12]) for name, entry in manifest.files.items()]
    return "\n\n".join(
        [
            "\n".join(lines),
            table(("unit", "operations", "input", "from", "to", "trained", "scored"), units),
            table(("file", "bytes", "sha256"), files),
        ]
    )


def calibration_text(calibration: Calibration) -> str:
    """How far an answer's probability can be trusted, by mode."""
    errors = (
        f"{mode} {100 * of.error:.2f} % (T = {of.temperature:.4g}; {100 * of.error_before:.2f} % without)"
        for mode, of in calibration.scores.items()
    )
    return f"calibration error on {calibration.images:,} validation images: {', '.join(errors)}"


def network_text(network: Network) -> str:
    """How a network differs from one pass with high goodness for right labels."""
    parts = []
    if network.steps:
        count, (first, last) = network.steps.count, network.steps.score
        parts.append(f"{count} synchronous steps, {100 * network.steps.damping:g} % of an activity kept")
        parts.append(f"goodness of steps {first} to {last}")
    if network.goodness == "low":
        parts.append("goodness low for right labels")
    return ", ".join(parts)


def inputs_text(unit: Unit) -> list[str]:
    """A recurrent unit's inputs, such as `below(linear1)`; of another, nothing."""
    of = {inputs.source: " ".join(name for name, _ in named_ops(inputs)) for inputs in unit.inputs}
    return [f"{source}({ops})" for source, ops in of.items()] if len(of) > 1 or of["below"] else []


def outputs_text(unit: Unit) -> list[str]:
    """What else is done with a unit's input and activation: a shortcut, and a readout of so many cells a side."""
    readout = [f"readout({unit.readout.cells})"] if unit.readout else []
    return [*(["shortcut"] if unit.shortcut else []), *readout]


def shortlist_text(shortlist: Shortlist, classes: int, logit_weight: float = 0.0) -> str:
    """What mode `shortlist` costs and keeps."""
    agree = f"{100 * shortlist.agree:.1f} % decided as by goodness of every label"
    cost = f"{shortlist.passes:.2f} passes on average, {1 + classes} at worst"
    logits = f", logits weighed {logit_weight:.3g}" if logit_weight else ""
    return f"{cost}, {agree} (exemplars; threshold {shortlist.threshold:.3g}{logits})"


def exit_text(early: EarlyExit) -> str:
    """What mode `exit` costs and keeps."""
    agree = f"{100 * early.agree:.1f} % decided as by a whole pass"
    thresholds = ", ".join(f"{threshold:.3g}" for threshold in early.thresholds) or "none"
    return f"{early.passes:.2f} passes on average, 1 at worst, {agree} (exemplars; thresholds {thresholds})"


def profile_table(profiles: Mapping[str, Profile]) -> str:
    """Device profiles side by side."""
    rows = [
        (
            name,
            f"{profile.memory.total_mib:,}",
            f"{profile.memory.usable_mib:,}",
            str(profile.cpu.cores),
            profile.gpu.name if profile.gpu else "–",
            " ".join(profile.inference.providers),
            " ".join(profile.inference.precision),
        )
        for name, profile in profiles.items()
    ]
    return table(("device", "MiB", "usable", "cores", "GPU", "engines, best first", "precision"), rows)


def profile_text(profile: Profile) -> str:
    """One device profile with the source of every figure."""
    lines = [profile.title]
    for kind in ("memory", "cpu", "gpu", "storage", "inference"):
        fact = getattr(profile, kind)
        if fact is None:
            continue
        figures = {f: getattr(fact, f) for f in fact.__struct_fields__ if f not in ("source", "note")}
        lines += [f"\n{kind}: {_pairs(figures)}", f"  source: {fact.source}"]
        if fact.note:
            lines.append(f"  note: {fact.note}")
    return "\n".join(lines)


def plan_text(plan: Plan) -> str:
    """What a bundle needs, in MiB: a row for each use, and flash; and what there is."""
    names = plan.needs[0].memory.__struct_fields__
    parts = [name for name in names if any(getattr(row.memory, name) for row in plan.needs)]
    rows = []
    for row in plan.needs:
        figures = [*(getattr(row.memory, part) for part in parts), row.memory.total]
        fits = "" if plan.memory is None else "fits" if row.fits else "does not fit"
        rows.append((row.use, _calls_text(row.use, row.calls), *(f"{size / MIB:,.1f}" for size in figures), fits))
    limit = "MiB" if plan.memory is None else f"of {plan.memory / MIB:,.0f} MiB"
    flash, there = plan.flash, "" if plan.storage is None else f" of {plan.storage / MIB:,.0f}"
    sizes = ", ".join(f"{name} {getattr(flash, name) / MIB:.1f}" for name in flash.__struct_fields__)
    lines = [
        ", ".join(filter(None, (plan.device, plan.precision))),
        table(("", "in one call", *parts, "in all", limit), rows),
        f"flash: {flash.total / MIB:,.1f}{there} MiB ({sizes})",
    ]
    if plan.memory is not None:
        lines.append(f"'fits' leaves a margin: the figures are off by up to {100 * (MARGIN - 1):.0f} %")
    return "\n".join(lines)


def _calls_text(use: str, calls: Calls) -> str:
    images = "1 image" if calls.batch == 1 else f"{calls.batch} images"
    labels = f" × {calls.labels} labels" if calls.labels > 1 else ""
    return f"{calls.micro_batch} of {STEP}, then {images}{labels}" if use == "update" else images + labels


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{k} {' '.join(v) if isinstance(v, tuple) else v}" for k, v in values.items())
