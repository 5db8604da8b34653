"""Who signs state files, and whose signatures are trusted: Ed25519 keys as PEM files, as OpenSSL writes them.

`cryptography` does it, the extra `sign`; it is imported where a key is used.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .core.errors import BundleError, MissingExtra, UsageError
from .core.reading import read_regular
from .core.signature import Sign, signed
from .core.state import Check

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TRUSTED = "FF_TRUSTED"  # the variable that names the file of trusted keys
MACHINE = Path("/etc/ffedge/trusted.pem")  # that of a machine, where nobody names one
LARGEST = 1 << 20  # bytes of a file of keys
PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def signer(file: Path) -> Sign:
    """What signs with the private key in that file. Raises `UsageError`, `MissingExtra`."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(file, "--sign"), None)
    except TypeError as error:  # there is a password
        remedy = f"'openssl pkey -in {file} -out FILE' writes it without a password"
        raise UsageError(f"--sign {file}: is encrypted; {remedy}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"--sign {file}: no private key in PEM; {_made(file)}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"--sign {file}: a key of another algorithm than Ed25519; {_made(file)}")
    return key.sign


def required(named: Path | None) -> Check | None:
    """The check that state files have to pass here, by the file of public keys that is `named`, else by that of
    `$FF_TRUSTED`, else by `/etc/ffedge/trusted.pem`; None where there is none of them.

    It takes the path of a file and its content, and raises `BundleError` where no trusted key has signed it. Raises
    `UsageError` for a file of keys that cannot be used, `MissingExtra`.
    """
    said = "--trusted"
    if named is None and (set_to := os.environ.get(TRUSTED)):
        named, said = Path(set_to), f"${TRUSTED}"
    if named is None:
        if not _is_there(MACHINE):
            return None
        named, said = MACHINE, "trusted keys"
    keys = _public_keys(named, said)

    def check(path: Path, data: bytes) -> None:
        try:
            found = signed(data)
        except ValueError as error:
            raise BundleError(f"{path}: damaged: {error}; copy it again") from error
        if found is None:
            raise BundleError(
                f"{path}: not signed, as is required here: 'ffruntime export-state --sign KEY' does it"
            )
        if not any(_verifies(key, *found) for key in keys):
            raise BundleError(f"{path}: signed by none of the keys that are trusted here, or changed since")

    return check


def _is_there(file: Path) -> bool:
    """Whether there is such a name; what cannot be known counts as yes, and then cannot be read."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _public_keys(file: Path, said: str) -> list[Ed25519PublicKey]:
    """All keys of a file; one that cannot be used is an error, and so is a file without any."""
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text, keys = _read(file, said), []
    blocks = PUBLIC.findall(text)
    if not blocks or len(blocks) != text.count(b"-----BEGIN"):
        public = f"'openssl pkey -in KEY -pubout >> {file}' adds one"
        raise UsageError(f"{said} {file}: holds no public keys in PEM, or other things than these; {public}")
    for number, block in enumerate(blocks, 1):
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"{said} {file}: key {number} is damaged") from error
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{said} {file}: key {number} is of another algorithm than Ed25519")
        keys.append(key)
    return keys


def _verifies(key: Ed25519PublicKey, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _read(file: Path, said: str) -> bytes:
    try:
        return read_regular(file, LARGEST)
    except OSError as error:
        raise UsageError(f"{said} {file}: cannot be read: {error.strerror}") from error


def _made(file: Path) -> str:
    return f"'openssl genpkey -algorithm ed25519 -out {file}' makes one"


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingExtra("cryptography", "sign") from error
