"""What a network in C has learned, as a state file: the one that ffruntime reads and writes, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chip import CLASSES, Chip, needs_compiler
from counting import with_statistics
from msgspec import structs
from safetensors.numpy import save

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import KNOWN
from ffruntime.core.manifest import WEIGHTS
from ffruntime.core.state import Weights, changed, read_state, write_state

pytestmark = [pytest.mark.slow, needs_compiler]
TRIES = int(os.environ.get("FF_FUZZ", "100"))  # 10,000 by hand
NEW = 'Stern "★" \\'  # a name that needs escapes


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CLASSES)


@pytest.fixture
def chip(tmp_path: Path, bundle: Bundle) -> Iterator[Chip]:
    with Chip.of(tmp_path / "chip", bundle) as chip:
        chip.settings(0.1)
        yield chip


def learn_something(chip: Chip, bundle: Bundle) -> None:
    """A new class, and five images, one of them of it."""
    examples = bundle.exemplars()
    assert chip.new_class(NEW) == ("OK", 6)
    for image, label in zip(examples.pixels[:5], [6, *examples.labels[1:5]], strict=True):
        assert chip.learn(image, int(label)) == "OK"


def read(tmp_path: Path, bundle: Bundle, data: bytes) -> tuple[Weights, Any]:
    path = tmp_path / "some.state"
    path.write_bytes(data)
    return read_state(path, bundle.manifest)


def state_file(
    bundle: Bundle, tensors: Mapping[str, np.ndarray], digest: str | None = None, **fields: Any
) -> bytes:
    """A state file of those tensors and of other fields than usual; its hash is right but for `digest`."""
    state = {
        "format": 1,
        "weights": bundle.manifest.files[WEIGHTS].sha256,
        "classes": list(bundle.manifest.classes),
        "undertrained": [],
        "updates": 3,
        "examples": 4,
        "ffedge": "0",
        "statistics": None,
        **fields,
    }
    text = json.dumps({name: value for name, value in state.items() if value != "left out"})
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sha.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return save(dict(tensors), {"state": text, "sha256": digest or sha.hexdigest()})


def test_nothing_learned_is_a_state(tmp_path: Path, bundle: Bundle, chip: Chip) -> None:
    error, data = chip.save()
    assert error == "OK"
    weights, state = read(tmp_path, bundle, data)
    assert (weights.tensors, weights.classes, state.updates) == ({}, bundle.manifest.classes, 0)
    assert chip.load(data) == "OK"
    assert chip.golden()[0] == "OK"


def test_ffruntime_reads_what_the_chip_saves(tmp_path: Path, bundle: Bundle, chip: Chip) -> None:
    learn_something(chip, bundle)
    error, data = chip.save()
    assert error == "OK"
    weights, state = read(tmp_path, bundle, data)
    assert (state.updates, state.examples) == (5, 5)
    assert weights.classes == (*bundle.manifest.classes, NEW)
    assert weights.undertrained == {NEW}
    own = changed(bundle.weights(), chip.weights())
    assert len(own) > 8
    assert weights.tensors.keys() == own.keys()
    for name, tensor in own.items():
        np.testing.assert_array_equal(weights.tensors[name], tensor, err_msg=name)


def test_the_largest_state_file_has_the_room_that_is_planned(tmp_path: Path) -> None:
    """All has changed, all rows are taken, and names are of what takes the most: the chip loads it again."""
    bundle = Bundle(with_statistics(CLASSES, tmp_path / "model.ff"))
    images, labels = bundle.exemplars().pixels, bundle.exemplars().labels
    with Chip.of(tmp_path / "chip", bundle) as chip:
        chip.settings(0.1)
        for label, letter in enumerate('"\\', 6):
            assert chip.new_class(63 * letter) == ("OK", label)
            assert chip.count(images[label], label) == "OK"
        for image, label in zip(images[:8], [*labels[:6], 6, 7], strict=True):
            assert chip.learn(image, int(label)) == "OK"
        error, data = chip.save()
        assert error == "OK"
        assert chip.arena.state_bytes - 4096 < len(data) <= chip.arena.state_bytes
        assert chip.load(data) == "OK"
        assert chip.told()[2][6:] == [63 * '"', 63 * "\\"]


def test_from_chip_to_ffruntime_to_another_chip_and_back(tmp_path: Path, bundle: Bundle, chip: Chip) -> None:
    """Equal at every stop: weights, names, counts, and what is answered."""
    learn_something(chip, bundle)
    image = bundle.exemplars().pixels[9]
    first, told, answer = chip.weights(), chip.told(), chip.classify(image)
    weights, state = read(tmp_path, bundle, chip.save()[1])
    path = tmp_path / "pc.state"
    write_state(path, bundle.manifest, weights, state.updates, state.examples, sign=lambda _message: bytes(64))
    with Chip.of(tmp_path / "other", bundle) as other:  # to which a signature says nothing
        learn_something(other, bundle)  # of which nothing must stay
        assert other.load(path.read_bytes()) == "OK"
        assert other.told() == told
        label, goodness = other.classify(image)
        assert label == answer[0]
        np.testing.assert_array_equal(goodness, answer[1])
        for name, tensor in other.weights().items():
            np.testing.assert_array_equal(tensor, first[name], err_msg=name)
        data = other.save()[1]
    again, same = read(tmp_path, bundle, data)
    assert (again.classes, again.undertrained) == (weights.classes, weights.undertrained)
    assert structs.replace(same, ffedge="") == structs.replace(state, ffedge="")
    for name, tensor in again.tensors.items():
        np.testing.assert_array_equal(tensor, weights.tensors[name], err_msg=name)


def test_class_statistics_are_passed_over(bundle: Bundle, chip: Chip) -> None:
    """Those of a device that counts: hashed and checked, and the weights beside them are taken."""
    counted = {
        "statistics.counts": np.arange(6),
        "statistics.sums": np.zeros((6, 3), np.int32),
        "statistics.moment": np.zeros(6, np.int32),
    }
    bias = {"unit1.readout.bias": np.ones(8, np.float32)}
    how = {"dimension": 3, "seed": 5}
    assert chip.load(state_file(bundle, {**bias, **counted}, statistics=how)) == "OK"
    each = {**counted, "statistics.moment": np.zeros((6, 6), np.int32)}
    other = {**how, "moment": "each", "root": True}
    assert chip.load(state_file(bundle, {**bias, **each}, statistics=other)) == "OK"
    np.testing.assert_array_equal(chip.weights()["unit1.readout.bias"], bias["unit1.readout.bias"])
    assert chip.load(state_file(bundle, bias, statistics=how)) == "FORMAT"
    assert chip.load(state_file(bundle, {**bias, **counted})) == "FORMAT"


def refusals(bundle: Bundle) -> dict[str, tuple[bytes, str]]:
    """Files by what is wrong with them, and the errors."""
    names, ones = list(bundle.manifest.classes), np.ones(8, np.float32)
    known = {KNOWN: np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)}

    def row(index: int, value: float) -> dict[str, np.ndarray]:
        rows = known[KNOWN].copy()
        rows[index] = value
        return {KNOWN: rows}

    good = state_file(bundle, {"unit1.readout.bias": ones})
    header = int.from_bytes(good[:8], "little")
    return {
        "empty": (b"", "FORMAT"),
        "seven bytes": (good[:7], "FORMAT"),
        "cut short": (good[:-1], "FORMAT"),
        "one byte more": (good + b"\0", "FORMAT"),
        "a header that is longer than the file": (len(good).to_bytes(8, "little") + good[8:], "FORMAT"),
        "a header of 2^63": (b"\xff" * 8 + good[8:], "FORMAT"),
        "a header of no JSON": (good[:8] + b"[" * header + good[8 + header :], "FORMAT"),
        "a newer format": (state_file(bundle, {}, format=2), "NEWER"),
        "format 0": (state_file(bundle, {}, format=0), "FORMAT"),
        "format as text": (state_file(bundle, {}, format="1"), "FORMAT"),
        "another hash": (state_file(bundle, {"unit1.readout.bias": ones}, digest="0" * 64), "HASH"),
        "a changed byte": (good[:-1] + b"\x3e", "HASH"),
        "other weights": (state_file(bundle, {}, weights="0" * 64), "OTHER"),
        "a field more": (state_file(bundle, {}, more=1), "FORMAT"),
        "a field less": (state_file(bundle, {}, updates="left out"), "FORMAT"),
        "a negative number": (state_file(bundle, {}, updates=-1), "FORMAT"),
        "a fraction": (state_file(bundle, {}, updates=1.5), "FORMAT"),
        "a number of 33 bits": (state_file(bundle, {}, updates=1 << 32), "FORMAT"),
        "too many classes": (state_file(bundle, {}, classes=[*names, "a", "b", "c"]), "FORMAT"),
        "too few classes": (state_file(bundle, {}, classes=names[:-1]), "FORMAT"),
        "other classes": (state_file(bundle, {}, classes=["x", *names[1:]]), "FORMAT"),
        "a class twice": (state_file(bundle, {}, classes=[*names, "a", "a"]), "FORMAT"),
        "a class of the bundle twice": (state_file(bundle, {}, classes=[*names, names[0]]), "FORMAT"),
        "a name that is too long": (state_file(bundle, {}, classes=[*names, "x" * 64]), "FORMAT"),
        "a name with a line end": (state_file(bundle, {}, classes=[*names, "a\nb"]), "FORMAT"),
        "an undertrained class of none": (state_file(bundle, {}, undertrained=["x"]), "FORMAT"),
        "not in their order": (state_file(bundle, {}, undertrained=[names[1], names[0]]), "FORMAT"),
        "a tensor of another name": (state_file(bundle, {"unit9.conv1.bias": ones}), "FORMAT"),
        "another shape": (state_file(bundle, {"unit1.readout.bias": ones[:7]}), "FORMAT"),
        "a shape of as many": (state_file(bundle, {"unit1.readout.bias": ones.reshape(2, 4)}), "FORMAT"),
        "another type": (state_file(bundle, {"unit1.readout.bias": ones.astype(np.int32)}), "FORMAT"),
        "NaN": (state_file(bundle, {"unit1.readout.bias": ones * np.nan}), "FORMAT"),
        "infinite": (state_file(bundle, {"unit1.readout.bias": ones * np.inf}), "FORMAT"),
        "half known": (state_file(bundle, row(6, 0.5), classes=[*names, "a"]), "FORMAT"),
        "a class not known": (state_file(bundle, row(0, 0)), "FORMAT"),
        "a row of no class": (state_file(bundle, row(6, 1)), "FORMAT"),
        "in flash here": (state_file(bundle, {"total.weights": ones[:3]}), "FIXED"),
    }


def test_what_is_refused(tmp_path: Path, bundle: Bundle, chip: Chip) -> None:
    """With its own error, and nothing has changed; but for the last two, ffruntime refuses it, too."""
    learn_something(chip, bundle)
    before, told = chip.weights(), chip.told()
    for what, (data, error) in refusals(bundle).items():
        assert (what, chip.load(data)) == (what, error)
        if what not in ("in flash here", "a name that is too long", "a number of 33 bits"):
            with pytest.raises(BundleError):
                read(tmp_path, bundle, data)
    assert chip.told() == told
    for name, tensor in chip.weights().items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)


def test_escapes_and_spaces_are_read(bundle: Bundle, chip: Chip) -> None:
    """What another writer may do: json.dumps escapes what is not ASCII, with spaces between."""
    names = [*bundle.manifest.classes, "Ä ★ 𝄞 \\u0041"]
    assert chip.load(state_file(bundle, {}, classes=names, undertrained=names[-1:])) == "OK"
    assert chip.told()[2] == names


def test_a_callback_that_fails(bundle: Bundle, chip: Chip) -> None:
    """While a file is written it is an error; while it is read nothing changes before all of it was checked, and
    after that nothing is learned any more."""
    learn_something(chip, bundle)
    error, data = chip.save()
    assert error == "OK"
    assert {chip.save(calls)[0] for calls in (0, 1, 7, 100)} == {"IO"}
    before, learned, begun = chip.weights(), list[bool](), bundle.weights()
    for calls in range(400):
        error = chip.load(data, calls)
        now = chip.weights()
        learned.append(all((now[name] == before[name]).all() for name in now))
        if error == "OK":
            break
        assert error == "IO"
        assert learned[-1] or all((now[name] == begun[name]).all() for name in now)
    assert error == "OK"
    assert learned[-1]
    assert learned[:5] == [True] * 5
    assert not all(learned)


def test_hostile_files(tmp_path: Path, bundle: Bundle, chip: Chip) -> None:
    """Changed at random, half of them in their header with everything behind it right: refused or, where ffruntime
    takes the file, too, taken. The sanitizers watch."""
    learn_something(chip, bundle)
    data, rng, taken = chip.save()[1], np.random.default_rng(0), 0
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(TRIES):
        bad = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, header if rng.integers(2) else len(bad)))
            kind = rng.integers(5)
            if kind == 0:
                bad[at] = int(rng.integers(256))
            elif kind == 1:
                bad[at] = int(rng.choice(list(b'"\\{}[],:0123456789nu')))
            elif kind == 2:
                del bad[at : at + int(rng.integers(1, 9))]
            elif kind == 3:
                bad[at:at] = bytes(rng.integers(32, 127, int(rng.integers(1, 9))).tolist())
            else:
                bad = bad[: len(bad) if at < header else at]
            if not bad:
                break
        error = chip.load(bytes(bad))
        if error == "OK":
            read(tmp_path, bundle, bytes(bad))
            taken += 1
    assert taken < TRIES / 2
    assert chip.load(data) == "OK"


ODD = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**64,
    1.5,
    "",
    "x" * 300,
    "\0",
    "\ud83d\ude00",
    [],
    [""],
    {},
    [[[]]],
    ["a", "a"],
)


def test_hostile_fields(tmp_path: Path, bundle: Bundle, chip: Chip) -> None:
    """The same with odd values in place of a field's, and hashes that are right."""
    rng, names = np.random.default_rng(1), list(bundle.manifest.classes)
    fields = (
        "format",
        "weights",
        "classes",
        "undertrained",
        "updates",
        "examples",
        "ffedge",
        "statistics",
        "other",
    )
    for _ in range(TRIES):
        odd: Any = ODD[int(rng.integers(len(ODD)))]
        field = fields[int(rng.integers(len(fields)))]
        if field in ("classes", "undertrained") and isinstance(odd, list) and rng.integers(2):
            odd = names + odd
        data = state_file(bundle, {}, **{field: odd})
        if chip.load(data) == "OK":
            read(tmp_path, bundle, data)
