"""The part of `docs/results.md` on an example that counts in the very next answer."""

from __future__ import annotations

from page_text import measured, optional, table

ROWS = {
    "learn_then_classify": "learn an image, classify another",
    "classify_learn_classify": "classify an image, learn it, classify another",
}


def section() -> str:
    """Learning by class statistics over classifying; nothing before that was measured."""
    found = optional("at_once")
    if not found:
        return ""
    times = {name: found[f"{name}_over_classify"] for name in ROWS}
    return (
        "## At once\n\n"
        "An example of a class never seen, learned by class statistics in a process that runs: durable, and in the "
        f"very next answer. Dimension {found['dimension']}, one thread, over classifying an image "
        f"({found['classify_ms']:g} ms). A sync of the medium alone took {found['sync_ms']:g} ms.\n\n"
        + table(
            ["time over classifying", "state in memory", "state on the disk, the sync included"],
            [[ROWS[name], f"{row['in_memory']:.2f}", f"{row['on_disk']:.2f}"] for name, row in times.items()],
        )
        + "\n"
        + measured("at_once", "python benchmarks/at_once.py")
    )
