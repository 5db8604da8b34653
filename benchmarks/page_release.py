"""Tables of what a release was installed by and of how it was deployed, from `results/release.json` and
`results/deployment.json`."""

from __future__ import annotations

from typing import Any

from page_text import measured, result, table

NAME, DEPLOYMENT = "release", "deployment"


def block() -> str:
    """The wheel, and what each Python did with it, or would be given."""
    found = result(NAME)
    wheel, pythons = found["wheel"], found["pythons"]
    same = "the same bytes" if wheel["sha256"] == wheel["again"] else "other bytes"
    return "\n".join(
        [
            f"`{wheel['name']}` of a clean checkout, {wheel['bytes'] / 1e6:.1f} MB; built again: {same}.\n",
            table(["Python", "x86-64, `ffedge[cpu]`", "every extra, from wheels alone"], _rows(found, pythons)),
            f"The commands: {', '.join(f'`{name}`' for name in _names(pythons))}; in an empty folder, with the "
            "model that comes with ffruntime. *Resolved*: the package index has a wheel of each package that would "
            "be installed; no compiler is needed. `gpu` and `rtx` are for x86-64 alone.\n",
            measured(NAME, "python benchmarks/release.py").strip(),
        ]
    )


def _names(pythons: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(name for used in pythons.values() if used for name, _ in used["commands"]))


def _rows(found: dict[str, Any], pythons: dict[str, Any]) -> list[list[str]]:
    return [[python, _used(used), _resolved(found["resolved"], python)] for python, used in pythons.items()]


def _used(used: dict[str, Any] | None) -> str:
    if used is None:
        return "not executed: this Python is not on the machine"
    failed = [name for name, code in used["commands"] if code]
    outcome = f"failed: {', '.join(failed)}" if failed else "each command exits with 0"
    return f"*executed*: {used['version']}, onnxruntime {used['onnxruntime']}, numpy {used['numpy']}: {outcome}"


def _resolved(found: dict[str, dict[str, int | str]], python: str) -> str:
    there = {(extra, where.split()[0]) for extra, row in found.items() for where in row if where.endswith(python)}
    failed = [f"`{e}` on {m}" for e, m in sorted(there) if isinstance(found[e][f"{m} {python}"], str)]
    machines = " and ".join(sorted({machine.replace("_", "-") for _, machine in there}))
    return f"not for {', '.join(failed)}" if failed else f"*resolved* for {machines}"


def deployment() -> str:
    """What was run in the image, and what the unit met."""
    found = result(DEPLOYMENT)
    image, unit = found["image"], found["unit"]
    return "\n".join(
        [
            f"The image, made by buildah {image['buildah']} of `deploy/Dockerfile` ({image['bytes'] / 1e6:.0f} MB "
            f"with Debian), its root then run as process 1 of its namespace: read-only, user {image['user']}, no "
            "capabilities, no network, 64 MB of temporary files.\n",
            table(["what was run", "exit code"], _codes(image["rows"])),
            f"The unit, by systemd {unit['systemd']} that was booted in namespaces of its own; `systemd-analyze "
            f"security` calls its exposure {unit['exposure']} (0 is best, 10 worst).\n",
            table(["what was done", "exit code"], _codes(unit["rows"])),
            measured(DEPLOYMENT, "python benchmarks/deployment.py FOLDER").strip(),
        ]
    )


def _codes(rows: list[list[Any]]) -> list[list[str]]:
    return [[what, str(code)] for what, code in rows]
