"""What a program for a Cortex-M has in it of the network's code and of libc, by the linker's map."""

from __future__ import annotations

import re

SOURCES = ("ffedge", "ffcount", "ffint8", "ffstate")  # what classifies, learns, saves and loads
MAP = "program.map"
MORE = f"-save-temps -Wl,-Map={MAP}"  # with make: objects have the names of their sources
_SECTION = re.compile(r"^ \.(?:text|rodata)\S*\s+0x[0-9a-f]+\s+0x([0-9a-f]+) (\S+)$", re.MULTILINE)
_ASKED = re.compile(r"^(\S+\.a\(\S+\))\s+(\S+) \(\S+\)$", re.MULTILINE)


def code_bytes(linker_map: str) -> tuple[int, int]:
    """Bytes of the network's functions, constants and texts, without its tables, and of what they ask of libc and
    of the compiler's library. What the example alone asks for does not count."""
    head, _, body = linker_map.partition("Linker script and memory map")
    asked = dict(_ASKED.findall(head))
    own = libc = 0
    for size, name in _SECTION.findall(body):
        first = name
        while first in asked:
            first = asked[first]
        if not re.search(rf"-(?:{'|'.join(SOURCES)})\.o$", first):
            continue
        if first == name:
            own += int(size, 16)
        else:
            libc += int(size, 16)
    return own, libc
