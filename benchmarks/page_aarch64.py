"""The table of `docs/support.md` of what an emulated aarch64 ran, from `results/aarch64.json`."""

from __future__ import annotations

from typing import Any

from page_text import measured, result, table

NAME, HERE = "aarch64", "x86_64"
SHIPPED = "the network that comes with ffruntime"


def block() -> str:
    """What was run, on which processors; errors beside this machine's, and decisions."""
    found = result(NAME)
    parts, versions = found["processors"], found["versions"]
    emulated = [name for name in parts if name.startswith("cortex")]
    others = len(parts[emulated[0]]["decisions"]) > 1
    command = "python benchmarks/aarch64.py" + (" --model cpu.ff" if others else "")
    qemu, python = (versions[name] for name in ("qemu-user", "python3.13"))
    return "\n".join(
        [
            f"*Executed under emulation*: QEMU {qemu} as {' and '.join(emulated)}, Debian 13's Python {python} and "
            f"libc {versions['libc6']}, the wheels of onnxruntime {versions['onnxruntime']} and numpy "
            f"{versions['numpy']}. It hides some faults of real boards, and says nothing of speed.\n",
            table(["what was run", "on", "outcome"], [*_runs(parts, emulated), *_tests(found), *_slim(found)]),
            "Golden errors, as shares of the golden values (1e-4 is tolerated), the largest of each graph:\n",
            _errors(parts, emulated),
            measured(NAME, command).strip(),
        ]
    )


def _runs(parts: dict[str, Any], emulated: list[str]) -> list[list[str]]:
    commands = ", ".join(f"`{command}`" for command in parts[emulated[0]]["commands"])
    rows = [[commands, ", ".join(emulated), "each exits with 0; a class never seen is learned, and answered"]]
    for name in parts[emulated[0]]["decisions"]:
        rows += [_decided(name, cpu, parts[cpu]["decisions"][name]) for cpu in emulated]
    for state in parts["states"].values():
        what = "a state, an update on each architecture in turn"
        outcome = (
            f"{state['updates']} updates adopted, the new class answered; so by one that began under emulation, "
            "and after what was exported there was applied on x86-64"
        )
        rows.append([what, " → ".join(state["on"]), outcome])
    return rows


def _decided(name: str, cpu: str, found: dict[str, Any]) -> list[str]:
    network = SHIPPED if name == "shipped" else f"recipe `{name}`"
    equal = found["clear"] - found["clear_and_different"]
    rest = found["images"] - found["clear"]
    outcome = f"{equal:,} of {found['clear']:,} decisions with a margin above 1e-4 are those of x86-64"
    if rest:
        outcome += f"; of the other {rest}, {rest - found['unclear_and_different']}"
    what = f"decisions on {found['images']:,} validation images, {network}"
    return [what, cpu, f"{outcome}; scores differ by {found['largest_difference']:.0e} at most"]


def _tests(found: dict[str, Any]) -> list[list[str]]:
    if "tests" not in found:
        return []
    part = found["tests"]
    outcome = ", ".join(f"{part[word]} {word}" for word in ("passed", "failed", "skipped") if word in part)
    return [[f"fast tests of `ffruntime`, {len(part['files'])} files", part["processor"], outcome]]


def _slim(found: dict[str, Any]) -> list[list[str]]:
    if "slim" not in found:
        return []
    part = found["slim"]
    where = (
        "in a root of Debian's packages alone, read-only; one core by affinity, 64 MB of temporary files, no "
        "privileges: "
    )
    commands = ", ".join(dict.fromkeys(f"`{command}`" for command, _ in part["commands"]))
    outcome = "each exits with 0" if not any(code for _, code in part["commands"]) else "failed"
    return [[where + commands, part["processor"], outcome]]


def _errors(parts: dict[str, Any], emulated: list[str]) -> str:
    processors = [HERE, *emulated]
    rows = [
        [f"`{graph}`", *(f"{parts[name]['golden'][graph]:.1e}" for name in processors)]
        for graph in parts[HERE]["golden"]
    ]
    return table(["graph", "x86-64", *emulated], rows)
