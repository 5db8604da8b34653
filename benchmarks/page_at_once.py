"""The part of `docs/results.md` on an example that counts in the very next answer."""

from __future__ import annotations

from page_text import measured, optional, table

PLACES = {"in_memory": "state in memory", "on_disk": "state on the disk, the sync included"}
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
        f"({found['classify_ms']:g} ms by the clock, {found['classify_processor_ms']:g} ms of the processor) in "
        f"the same turn, medians of {found['rounds']} turns. A sync of the medium alone took "
        f"{found['sync_ms']:g} ms, {found['sync_over_classify']:g} of classifying.\n\n"
        + table(
            ["over classifying", *(f"{where}, {by}" for where in PLACES.values() for by in ("clock", "processor"))],
            [
                [ROWS[name], *(f"{row[place + by]:.2f}" for place in PLACES for by in ("", "_processor"))]
                for name, row in times.items()
            ],
        )
        + f"\nOther programs ran on the machine (load {found['load'][0]:g} to {found['load'][1]:g}).\n\n"
        + measured("at_once", "python benchmarks/at_once.py")
    )
