"""Of `docs/results.md`: processes killed while they learn and forget."""

from __future__ import annotations

from page_text import measured, optional


def section() -> str:
    """The section, or nothing where it has not been measured."""
    found = optional("kills")
    if not found:
        return ""
    return (
        "## Killed while it learns and forgets\n\n"
        f"{found['kills']} processes that store examples, learn from them, count them and take some back were "
        f"killed with SIGKILL, {found['lived']} of them after there was a state. They had acknowledged "
        f"{found['acknowledged']:,} examples and forgotten {found['forgotten']:,}. After every kill nothing "
        "acknowledged was lost, nothing forgotten was there, every version was whole, and class statistics were, "
        "bit for bit, those recomputed from the rows, and of what was evicted those of the snapshot.\n\n"
        + measured("kills", "python benchmarks/kills.py")
    )
