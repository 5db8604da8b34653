"""Every reader, on inputs that were changed at random, hashes recomputed: they are taken, or refused in one line.

`FF_FUZZ=100000 pytest tests/ffruntime/test_fuzz.py` makes so many of each kind instead of a hundred.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from ffruntime import Model
from ffruntime.core import state as states
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import read_idx
from ffruntime.core.devices import Profile, profiles_folder, read_toml
from ffruntime.core.errors import BundleError, FFError
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, MANIFEST, WEIGHTS, decode_manifest
from ffruntime.core.plan import UNLIMITED, plan
from ffruntime.core.state import Weights, read_state, write_state
from ffruntime.core.tables import manifest_text
from ffruntime.golden import check, read_golden
from ffruntime.picture import decode_picture
from ffruntime.picture_file import FORMATS

TRIES = int(os.environ.get("FF_FUZZ", "100"))
ODD = (
    None,
    True,
    -1,
    0,
    1,
    10**6,
    10**18,
    1e308,
    -0.5,
    "",
    "x",
    "\x1b[2J",
    "9" * 5000,
    [],
    {},
    [[]],
    {"kind": "x"},
)


def tries(seed: int) -> Iterator[random.Random]:
    yield from (random.Random(1000 * seed + number) for number in range(TRIES))


def refused_at_most(use: Callable[[], object]) -> None:
    try:
        use()
    except FFError as error:
        assert "\n" not in str(error)  # noqa: PT017


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, a part left out, doubled, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) or 1)
        kind = rng.randrange(4)
        if kind == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[at : at + rng.randint(1, 30)]
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.randint(1, 30)]
        else:
            changed[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
    return bytes(changed if rng.random() < 0.8 else changed[: rng.randrange(len(changed) + 1)])


def altered(value: object, rng: random.Random) -> object:
    """JSON with one field of another value, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        rest = {name: part for name, part in value.items() if name != key}
        choice = rng.random()
        if choice < 0.05:
            return rest
        return {**rest, ("odd" if choice < 0.1 else key): altered(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], altered(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def tensors_altered(tensors: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """One tensor of another type or shape, with other values, left out, or one more."""
    name = rng.choice(list(tensors))
    tensor, changed = tensors[name], dict(tensors)
    kind = rng.randrange(6)
    if kind == 0:
        changed[name] = tensor.astype(rng.choice(["float16", "float64", "int64", "uint8", "bool"]))
    elif kind == 1:
        changed[name] = np.ascontiguousarray(tensor.reshape(-1)[: rng.randrange(tensor.size + 1)])
    elif kind == 2 and tensor.size:
        odd = rng.choice([np.nan, np.inf, -1, 10**9]) if tensor.dtype.kind == "f" else rng.choice([0, 99, 127])
        changed[name] = tensor.copy()
        changed[name].reshape(-1)[rng.randrange(tensor.size)] = odd
    elif kind == 3:
        del changed[name]
    elif kind == 4:
        changed[f"{name}.odd"] = tensor
    else:
        changed[name] = tensor[None]
    return changed


def test_manifests(exported: Path, class_bundle: Path) -> None:
    for rng in tries(1):
        path = rng.choice((exported, class_bundle))
        text = (path / MANIFEST).read_bytes()
        data = json.dumps(altered(json.loads(text), rng)).encode() if rng.random() < 0.8 else flipped(text, rng)

        def use(path: Path = path, data: bytes = data) -> None:
            manifest = decode_manifest(path / MANIFEST, data)
            manifest_text(path, manifest)
            plan(manifest, len(manifest.classes), "fp32", UNLIMITED)

        refused_at_most(use)


@pytest.mark.slow
@pytest.mark.parametrize("name", [GOLDEN, EXEMPLARS, WEIGHTS])
def test_tensors_of_a_bundle(name: str, exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "model.ff"))
    manifest, whole = Bundle(path).manifest, (path / name).read_bytes()
    images = Bundle(path).some_images()[:1]
    for number, rng in enumerate(tries(2)):
        data = save(tensors_altered(load(whole), rng)) if rng.random() < 0.8 else flipped(whole, rng)

        def use(data: bytes = data, whole_check: bool = number % 20 == 0) -> None:
            written = write_bundle(path, manifest, {name: data})
            if name == GOLDEN:
                check(Model(written, state=False)) if whole_check else read_golden(written)
            elif name == EXEMPLARS:
                written.exemplars(0)
            else:
                written.weights()
                Model(written, state=False).classify_batch(images)

        refused_at_most(use)


def test_states(exported: Path, tmp_path: Path) -> None:
    bundle, file = Bundle(exported), tmp_path / "learned.state"
    write_state(file, bundle.manifest, Weights(bundle.weights(), bundle.manifest.classes), 1, 1)
    whole = file.read_bytes()
    digest = states._digest
    for rng in tries(3):
        tensors, (text, _) = load(whole), states._metadata(whole)
        if rng.random() < 0.5:
            text = json.dumps(altered(json.loads(text), rng))
        else:
            tensors = tensors_altered(tensors, rng)
        file.write_bytes(save(tensors, {states.STATE: text, states.DIGEST: digest(text, tensors)}))
        refused_at_most(lambda: read_state(file, bundle.manifest))
        file.write_bytes(flipped(whole, rng))
        refused_at_most(lambda: read_state(file, bundle.manifest))


@pytest.mark.parametrize("form", [*FORMATS, "P2", "P3"])
def test_pictures(form: str, images: np.ndarray) -> None:
    image, file = Image.fromarray(images[0, 0]).convert("RGB" if form != "P2" else "L"), io.BytesIO()
    if form in ("P2", "P3"):
        file.write(f"{form} 16 16 255\n".encode() + b" ".join(b"%d" % value for value in image.tobytes()))
    else:
        image.save(file, form)
    for rng in tries(4):
        data = flipped(file.getvalue(), rng)
        refused_at_most(lambda data=data: decode_picture(data, "changed"))


def test_idx_files(tmp_path: Path) -> None:
    whole = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(24)
    for rng in tries(5):
        (tmp_path / "some").write_bytes(flipped(whole, rng))
        refused_at_most(lambda: read_idx(tmp_path / "some"))


def test_toml_files(tmp_path: Path) -> None:
    whole = (profiles_folder() / "jetson-orin-nano.toml").read_bytes()
    for rng in tries(6):
        (tmp_path / "some.toml").write_bytes(flipped(whole, rng))
        refused_at_most(lambda: read_toml(tmp_path / "some.toml", Profile))


def test_what_is_refused_stays_a_bundle_error(exported: Path) -> None:
    """Not every line that ends a command will do: a manifest's is the bundle's, with exit code 3."""
    with pytest.raises(BundleError):
        decode_manifest(exported / MANIFEST, b"{}")
