"""Results as text: what the generated pages share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common import RESULTS

NONE = "–"


def result(name: str) -> dict[str, Any]:
    """What `results/<name>.json` says. Raises `FileNotFoundError` where it is not there."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def optional(name: str) -> dict[str, Any]:
    """What `results/<name>.json` says; nothing where it is not there."""
    return result(name) if (RESULTS / f"{name}.json").exists() else {}


def percent(share: float, digits: int = 2) -> str:
    """`0.991` -> `99.10 %`."""
    return f"{100 * share:.{digits}f} %"


def shares(modes: Mapping[str, float], digits: int = 2) -> str:
    """Accuracies of one split in per cent: by goodness / by the classifier, or of the only mode there is."""
    return " / ".join(f"{100 * share:.{digits}f}" for share in modes.values())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    assert all(len(line) == len(head) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def measured(name: str, command: str) -> str:
    """Where a result comes from: the command, the file, the machine and the packages."""
    return where(name, command, [result(name)["machine"]])


def where(name: str, command: str, machines: Iterable[Mapping[str, str]]) -> str:
    """The same of a result whose parts come from several machines."""
    found = dict.fromkeys(map(machine, machines))
    return f"Measured by `{command}` on {'; on '.join(found)}: [`{name}.json`]({link(name)}).\n"


def machine(found: Mapping[str, str]) -> str:
    """A machine and its packages in words."""
    packages = [f"{package} {version}" for package, version in found.items() if package not in ("cpu", "python")]
    return f"{found['cpu']} (Python {found['python']}, {', '.join(packages)})"


def link(name: str) -> str:
    """The results file, from a page in `docs/`."""
    return f"../benchmarks/results/{name}.json"
