"""The part of `docs/results.md` on the campaign against everything that reads."""

from __future__ import annotations

from page_text import measured, optional, table

FAULTS = {
    "traceback": "tracebacks",
    "hang": "tries of more than 10 s",
    "memory": "processes of more than 1 GB",
    "outside": "files written outside",
    "crash": "crashes",
    "stderr": "processes with a word on stderr",
    "lines": "messages of more than a line",
}


def section() -> str:
    """What was tried, and what was found; nothing before that was measured."""
    found = optional("attack")
    if not found:
        return ""
    races, kills, asked = found["races"], found["kills"], found["asked"]
    some = "" if found["tries"] >= asked else f" of {asked:,} that the campaign has"
    return (
        "## Under attack\n\n"
        f"{found['tries']:,} tries{some}: what a reader is given was changed at random, with hashes recomputed so "
        "that they hide nothing. It is taken, or refused in one line.\n\n"
        + table(
            ["reader", "tries", "refused", "faults"],
            [
                [kind, f"{one['tries']:,}", f"{one['refused']:,}", f"{sum(one['faults'].values()):,}"]
                for kind, one in found["readers"].items()
            ],
        )
        + "\n"
        + ", ".join(f"{name}: {found['faults'][key]}" for key, name in FAULTS.items())
        + f". {races['races']} races of two processes that add, one that forgets and one that resets: of "
        f"{races['acknowledged']:,} examples acknowledged after the last reset {races['lost']} were lost. "
        f"{kills['kills']} learning processes were killed: of {kills['acknowledged']:,} acknowledged examples "
        f"{kills['lost']} were lost, and {kills['damaged']} states damaged.\n\n"
        + measured("attack", "python benchmarks/attack.py WORK --write")
    )
