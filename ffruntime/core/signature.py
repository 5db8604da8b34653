"""Where the signature of a state file stands, and what it is of: `docs/state.md` specifies both.

Keys, and who is trusted, are the affair of `ffruntime/signing.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TypeAlias

Sign: TypeAlias = Callable[[bytes], bytes]  # message -> Ed25519 signature, 64 bytes

SIGNATURE = "signature"  # key of the file's metadata
UNSIGNED = "0" * 128  # its value while the file is hashed: as many digits as a signature has
KEY = f'"{SIGNATURE}":"'.encode()
DIGITS = re.compile(rb'([0-9a-f]{128})"')


def with_signature(data: bytes, sign: Sign) -> bytes:
    """A state file whose signature is `UNSIGNED`, with one in its place."""
    begin, end = _place(data)
    return data[:begin] + sign(_message(data, begin, end)).hex().encode() + data[end:]


def signed(data: bytes) -> tuple[bytes, bytes] | None:
    """The message that a state file's signature is of, and the signature; None where it has none.

    Nothing else of the file is looked at, or has to be well-formed. Raises `ValueError` where it has several, or
    what is no signature.
    """
    if data.find(KEY, 8, _header_end(data)) < 0:
        return None
    begin, end = _place(data)
    return _message(data, begin, end), bytes.fromhex(data[begin:end].decode())


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _place(data: bytes) -> tuple[int, int]:
    """Where the digits of the signature begin and end. Inside a string of JSON the key would be escaped."""
    end = _header_end(data)
    if data.count(KEY, 8, end) != 1:
        raise ValueError("it has several signatures")
    begin = data.index(KEY, 8, end) + len(KEY)
    digits = DIGITS.match(data, begin, end)
    if not digits:
        raise ValueError("its signature is no 128 hexadecimal digits")
    return digits.span(1)


def _message(data: bytes, begin: int, end: int) -> bytes:
    """A line that says what it is, and one of the SHA-256 of the whole file, with zeros for the signature."""
    whole = hashlib.sha256(data[:begin])
    whole.update(UNSIGNED.encode())
    whole.update(data[end:])
    return f"ffedge state signature 1\n{whole.hexdigest()}\n".encode()
