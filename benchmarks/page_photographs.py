"""The part of `docs/results.md` on photographs."""

from __future__ import annotations

from page_text import measured, optional, table

KINDS = ("right sure", "right unsure", "wrong unsure", "wrong sure", "refused")


def section() -> str:
    """What is answered to photographs, scene by scene, and what a library would cost; nothing before that was
    measured."""
    found, libraries = optional("photographs"), optional("figure_libraries")
    if not (found and libraries):
        return ""
    return (
        "## Photographs\n\n"
        "[Where the figure is](device.md#pictures) in a photograph: the model that comes with ffruntime, "
        f"{found['count']} pictures of each scene, drawn around validation images of MNIST. The last two are "
        "to be refused.\n\n"
        '<img src="pictures/photographs.png" alt="A photograph of each scene; what was taken for a figure is '
        'red">\n\n'
        + table(
            ["scene", *KINDS],
            [[name, *(str(row[kind]) for kind in KINDS)] for name, row in found["scenes"].items()],
        )
        + "\n"
        + measured("photographs", "python benchmarks/photographs.py")
        + "\nA library is not used for it: with one, numpy and Pillow would have to give the same results without "
        "it, which is the same code again, and a device would load all of it. Importing each, after numpy and "
        "Pillow:\n\n"
        + table(
            ["import", "processor time", "memory", "wheel for aarch64"],
            [
                [f"`{name}`", f"{row['ms']:.0f} ms", f"{row['mib']:.0f} MiB", f"{row['wheel']:g} MB"]
                for name, row in libraries["libraries"].items()
            ],
        )
        + "\n"
        + measured("figure_libraries", "python benchmarks/figure_libraries.py")
    )
