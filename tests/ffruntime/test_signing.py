"""Signed state files: whose are taken, and that nothing of one can be changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("cryptography", reason="the extra `sign` is not installed")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ffruntime import signing
from ffruntime.cli import cli
from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError, FFError, MissingExtra, UsageError
from ffruntime.core.signature import KEY, with_signature
from ffruntime.core.state import Weights, read_state, write_state
from ffruntime.signing import required, signer

PRIVATE = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_files(folder: Path, name: str, key: Ed25519PrivateKey | X25519PrivateKey) -> tuple[Path, Path]:
    """A private key and its public one as OpenSSL writes them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(*PRIVATE))
    public.write_bytes(key.public_key().public_bytes(*PUBLIC))
    return private, public


@pytest.fixture(autouse=True)
def of_no_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the variable nor the file of the machine that tests run on."""
    monkeypatch.delenv(signing.TRUSTED, raising=False)
    monkeypatch.setattr(signing, "MACHINE", tmp_path / "machine.pem")


@pytest.fixture
def ours(tmp_path: Path) -> tuple[Path, Path]:
    return key_files(tmp_path, "ours", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[Path, Path]:
    return key_files(tmp_path, "theirs", Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
def state(exported: Path, ours: tuple[Path, Path], tmp_path: Path) -> Path:
    """A state file that `ours` has signed."""
    manifest, file = Bundle(exported).manifest, tmp_path / "learned.state"
    tensors = {"head.bias": np.arange(len(manifest.classes) + 2, dtype=np.float32)}
    write_state(file, manifest, Weights(tensors, manifest.classes), 3, 30, sign=signer(ours[0]))
    return file


def refused(check: Callable[[Path, bytes], None], file: Path, data: bytes) -> str:
    with pytest.raises(BundleError) as error:
        check(file, data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_signed_state_is_a_state(state: Path, exported: Path, ours: tuple[Path, Path]) -> None:
    manifest = Bundle(exported).manifest
    for check in (None, required(ours[1])):
        weights, found = read_state(state, manifest, check)
        assert list(weights.tensors) == ["head.bias"]
        assert found.updates == 3


def test_no_byte_of_it_can_be_changed(state: Path, ours: tuple[Path, Path]) -> None:
    """Neither one of it, nor how many there are."""
    check, data = required(ours[1]), state.read_bytes()
    assert check
    for place in range(len(data)):
        refused(check, state, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        refused(check, state, data[:place])
    refused(check, state, data + b"\0")


def test_whose_signature_counts(
    state: Path, exported: Path, ours: tuple[Path, Path], theirs: tuple[Path, Path], tmp_path: Path
) -> None:
    data, manifest = state.read_bytes(), Bundle(exported).manifest
    foreign = required(theirs[1])
    assert foreign
    assert "signed by none of the keys" in refused(foreign, state, data)
    both = tmp_path / "both.pem"
    both.write_bytes(b"# the fleet's\r\n" + theirs[1].read_bytes() + b"# ours\n" + ours[1].read_bytes())
    check = required(both)
    assert check
    check(state, data)
    unsigned = tmp_path / "unsigned.state"
    write_state(unsigned, manifest, Weights({}, manifest.classes), 0, 0)
    assert "not signed, as is required" in refused(check, unsigned, unsigned.read_bytes())
    again = with_signature(data.replace(data[data.index(KEY) + len(KEY) :][:128], b"0" * 128), signer(theirs[0]))
    check(unsigned, again)


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("several signatures", b'"signature":"' + b"0" * 128 + b'","signature":"'),
        ("128 hexadecimal digits", b'"signature":"x'),
        ("128 hexadecimal digits", b'"signature":"A'),
    ],
)
def test_what_is_no_signature(said: str, place: bytes, state: Path, ours: tuple[Path, Path]) -> None:
    check, data = required(ours[1]), state.read_bytes()
    assert check
    assert said in refused(check, state, data.replace(KEY, place))


def test_hostile_headers(ours: tuple[Path, Path], tmp_path: Path) -> None:
    check = required(ours[1])
    assert check
    for data in (b"", b"\xff" * 8, b"\xff" * 8 + KEY * 1000, bytes(8) + KEY, (1 << 62).to_bytes(8, "little") + KEY):
        refused(check, tmp_path / "some.state", data)


def test_who_says_which_keys_count(
    ours: tuple[Path, Path], theirs: tuple[Path, Path], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is named, else the variable, else the machine's file; without any, no signature is asked for."""
    data = state.read_bytes()

    def taken(named: Path | None = None) -> bool:
        check = required(named)
        assert check
        try:
            check(state, data)
        except BundleError:
            return False
        return True

    assert required(None) is None
    signing.MACHINE.write_bytes(theirs[1].read_bytes())
    assert not taken()
    monkeypatch.setenv(signing.TRUSTED, str(ours[1]))
    assert taken()
    assert not taken(theirs[1])
    monkeypatch.setenv(signing.TRUSTED, "")
    signing.MACHINE.unlink()
    signing.MACHINE.symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot be read"):  # and does not count as none
        required(None)


def test_keys_that_cannot_be_used(ours: tuple[Path, Path], tmp_path: Path) -> None:
    other = key_files(tmp_path, "other", X25519PrivateKey.from_private_bytes(bytes(32)))
    cut, locked, none = (tmp_path / name for name in ("cut.pem", "locked.pem", "none.pem"))
    cut.write_bytes(ours[1].read_bytes()[:60])
    locked.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(*PRIVATE[:2], BestAvailableEncryption(b"a password"))
    )
    none.write_bytes(b"no keys")
    for use, file, said in (
        (signer, tmp_path / "missing.pem", "cannot be read"),
        (signer, tmp_path, "cannot be read"),
        (signer, ours[1], "no private key"),
        (signer, none, "no private key"),
        (signer, locked, "is encrypted"),
        (signer, other[0], "another algorithm"),
        (required, tmp_path / "missing.pem", "cannot be read"),
        (required, ours[0], "no public keys"),
        (required, none, "no public keys"),
        (required, cut, "no public keys"),
        (required, other[1], "key 1 is of another algorithm"),
    ):
        with pytest.raises(UsageError, match=said) as error:
            use(file)
        assert "\n" not in str(error.value)
    ours[1].write_bytes(ours[1].read_bytes().replace(b"MC", b"MD"))
    with pytest.raises(UsageError, match="key 1 is damaged"):
        required(ours[1])


def test_without_the_package_one_line_names_it(ours: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for use, file in ((signer, ours[0]), (required, ours[1])):
        with pytest.raises(MissingExtra, match=r"pip install 'ffedge\[sign\]'"):
            use(file)
    assert required(None) is None


@pytest.mark.slow
def test_from_device_to_device(
    exported: Path, ours: tuple[Path, Path], theirs: tuple[Path, Path], tmp_path: Path
) -> None:
    def run(command: str, place: str, *arguments: object, **variables: str) -> Result:
        words = [command, "--model", exported, "--state", tmp_path / place, *arguments]
        return CliRunner().invoke(cli, list(map(str, words)), env=variables)

    def code(done: Result) -> int:
        return done.exception.exit_code if isinstance(done.exception, FFError) else done.exit_code

    file, plain = tmp_path / "signed.state", tmp_path / "plain.state"
    assert run("export-state", "one", "--sign", ours[0], file).stdout.endswith("; signed\n")
    assert run("export-state", "one", plain).exit_code == 0
    assert code(run("export-state", "one", "--sign", ours[1], tmp_path / "third.state")) == 2
    assert not (tmp_path / "third.state").exists()
    assert run("apply-state", "two", "--trusted", ours[1], file).exit_code == 0
    assert run("apply-state", "two", file).exit_code == run("apply-state", "two", plain).exit_code == 0
    for arguments in (("--trusted", theirs[1], file), ("--trusted", ours[1], plain)):
        assert code(run("apply-state", "three", *arguments)) == 3
        assert code(run("apply-state", "three", "--force", *arguments)) == 3
    assert code(run("apply-state", "three", plain, FF_TRUSTED=str(ours[1]))) == 3
    assert run("history", "three", "--json").stdout == ""
