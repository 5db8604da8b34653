"""What a person reads in a terminal: tables, and pictures in half blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .architecture import named_ops, unit_name, unit_shapes

if TYPE_CHECKING:
    import numpy as np

    from .bundle import Manifest
    from .golden import Check
    from .profile import Profile


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


def check_table(checks: Sequence[Check]) -> str:
    """The golden check as a table."""
    rows = [
        (
            row.graph,
            row.output,
            f"{row.max_error:.1e}",
            f"{row.relative:.1e}",
            "" if row.agree is None else f"{row.agree}/{row.decisions}",
            "ok" if row.passed else "FAILED",
        )
        for row in checks
    ]
    return table(("graph", "output", "max error", "relative", "decisions", ""), rows)


def manifest_text(path: Path, manifest: Manifest) -> str:
    """A bundle's contents for people."""
    network, training, data = manifest.network, manifest.training, manifest.training.data
    lines = [
        f"{path}  (format {manifest.format}, made with {_pairs(manifest.made_with)})",
        f"classes   {' '.join(manifest.classes)}; {network.label.patterns - len(manifest.classes)} spare patterns",
        f"labels    {_pairs(manifest.labels)}; {network.label.placement}",
        f"training  recipe {training.recipe_name}, {training.epochs} epochs, seed {training.seed}, "
        f"{training.device}, {training.precision}",
        f"data      {data.source} ({data.train} / {data.validation} / {data.test})",
    ]
    if data.offline_sample:
        lines.append("          OFFLINE SAMPLE: its accuracies are not those of MNIST")
    for split, modes in manifest.accuracy.items():
        lines.append(
            f"accuracy  {split}: " + ", ".join(f"{mode} {100 * share:.2f} %" for mode, share in modes.items())
        )
    units = []
    for index, (unit, (below, above)) in enumerate(zip(network.units, unit_shapes(network), strict=True)):
        ops = " ".join(name for name, _ in named_ops(unit))
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
    for kind in ("memory", "cpu", "gpu", "inference"):
        fact = getattr(profile, kind)
        if fact is None:
            continue
        figures = {f: getattr(fact, f) for f in fact.__struct_fields__ if f not in ("source", "note")}
        lines += [f"\n{kind}: {_pairs(figures)}", f"  source: {fact.source}"]
        if fact.note:
            lines.append(f"  note: {fact.note}")
    return "\n".join(lines)


def draw(pixels: np.ndarray) -> str:
    """An image uint8 (C, H, W) in half blocks with 24-bit grey: two rows of pixels in a line of text."""
    grey = pixels.mean(axis=0).astype(int)
    lines = []
    for top, bottom in zip(grey[::2], grey[1::2], strict=False):
        cells = (f"\x1b[38;2;{t};{t};{t};48;2;{b};{b};{b}m▀" for t, b in zip(top, bottom, strict=True))
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{k} {' '.join(v) if isinstance(v, tuple) else v}" for k, v in values.items())
