"""The part of `docs/results.md` on `ffruntime serve`: under load, and under attack."""

from __future__ import annotations

from page_text import measured, optional, table

KINDS = {
    "rest": "8 clients classify",
    "teaching": "and one teaches, an example after the other",
    "updating": "and an update never stops",
}


def section() -> str:
    """Both; nothing before they were measured."""
    load, attack = optional("serve"), optional("attack_serve")
    parts = [_load(load) if load else "", _attack(attack) if attack else ""]
    return "## Served\n\n" + "\n".join(filter(None, parts)) if any(parts) else ""


def _load(found: dict) -> str:
    memory = found["resident_mib"]
    return (
        f"`ffruntime serve` with the model that comes with it, {found['clients']} clients on the same machine, "
        f"{found['seconds']} s of slices that take turns. Beside it, the same files one after the other through "
        "`Model.classify` in a process of its own.\n\n"
        + table(
            ["", "pictures a second over the loop's"],
            [[KINDS[kind], f"{ratio:.2f}"] for kind, ratio in found["over_loop"].items()],
        )
        + f"\nErrors: {found['errors']}. Taught meanwhile: {found['examples_taught']} examples, "
        f"{found['updates_adopted']} updates adopted. Resident memory: {memory['first']:g} MiB in the beginning, "
        f"{memory['last']:g} MiB in the end; peak {found['peak_mib']:g} MiB, {found['planned_mib']:g} planned.\n\n"
        + measured("serve", "python benchmarks/serve.py --write")
    )


def _attack(found: dict) -> str:
    told = ", ".join(f"{status}: {count:,}" for status, count in found["statuses"].items())
    pictures = ", ".join(f"{status}: {count:,}" for status, count in found["picture_statuses"].items())
    longest = found["longest_s"]
    return (
        f"{found['requests']:,} requests made from the OpenAPI document, right and wrong ones, and "
        f"{found['pictures']:,} damaged or huge pictures. Answers by status: {told}; of pictures {pictures}. "
        f"Faults (a 500, a hang, an answer that the document does not have, a path of the device): "
        f"{len(found['faults'])}. The longest answer took {longest['request']:g} s, of a picture "
        f"{longest['picture']:g} s. Peak of the process {found['peak_mib']:g} MiB, with `--memory "
        f"{found['limit_mib']}`.\n\n" + measured("attack_serve", "python benchmarks/attack_serve.py --write")
    )
