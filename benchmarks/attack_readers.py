"""Every reader with something to read that is changed at random, hashes recomputed so that they hide nothing.

A reader takes what it is given, or refuses it by an error of `FFError`: anything else is a fault. `make` prepares a
folder and returns what tries once, given the dice; the same dice make the same try.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import sqlite3
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from mutations import altered, flipped, tensors_altered
from PIL import Image
from safetensors.numpy import load, save

from ffruntime.core import state as states
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import read_idx
from ffruntime.core.devices import Profile, profiles_folder, read_toml
from ffruntime.core.graphs import graphs
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, MANIFEST, STATISTICS, WEIGHTS, Photo, decode_manifest
from ffruntime.core.plan import UNLIMITED, plan
from ffruntime.core.shipped import MODEL
from ffruntime.core.state import Weights, read_state, write_state
from ffruntime.core.tables import manifest_text
from ffruntime.golden import check, read_golden
from ffruntime.learning.directory import reset
from ffruntime.learning.store import Store
from ffruntime.model import Model
from ffruntime.pictures.picture import decode_picture, prepare
from ffruntime.pictures.picture_file import FORMATS
from ffruntime.session import Session

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
TEXTS = ("P1", "P2", "P3")  # netpbm files that are written as text

Try: TypeAlias = Callable[[random.Random], object]


class Reader(NamedTuple):
    """`share`: of 1,000 tries of a campaign."""

    share: int
    make: Callable[[Path], Try]
    training: bool = False  # whether it is the workstation's: torch is imported


def _bundles() -> list[Path]:
    return [FIXTURES / "shapes.ff", FIXTURES / "classes.ff", MODEL]


def _manifests(_: Path) -> Try:
    def once(rng: random.Random) -> None:
        path = rng.choice(_bundles())
        text = (path / MANIFEST).read_bytes()
        data = json.dumps(altered(json.loads(text), rng)).encode() if rng.random() < 0.8 else flipped(text, rng)
        manifest = decode_manifest(path / MANIFEST, data)
        manifest_text(path, manifest)
        plan(manifest, len(manifest.classes), "fp32", UNLIMITED)

    return once


def _tensors(name: str, folder: Path) -> Try:
    """A file of tensors in a bundle, well hashed, and what uses it."""
    source = MODEL if name == STATISTICS else FIXTURES / "shapes.ff"
    path = Path(shutil.copytree(source, folder / "model.ff"))
    manifest, whole, images = Bundle(path).manifest, (path / name).read_bytes(), Bundle(path).some_images()[:1]

    def once(rng: random.Random) -> None:
        data = save(tensors_altered(load(whole), rng)) if rng.random() < 0.8 else flipped(whole, rng)
        (path / name).write_bytes(data)
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        text = json.loads((source / MANIFEST).read_bytes())
        text["files"][name] = entry
        (path / MANIFEST).write_text(json.dumps(text))
        written = Bundle(path)
        assert written.manifest.network == manifest.network
        if name == GOLDEN:
            check(Model(written, session=ONE, state=False)) if rng.random() < 0.05 else read_golden(written)
        elif name == EXEMPLARS:
            written.exemplars(0)
        elif name == STATISTICS:
            written.statistics()
        else:
            written.weights()
            if rng.random() < 0.1:
                Model(written, session=ONE, state=False).classify_batch(images)

    return once


ONE = Session(threads=1)


def _states(folder: Path) -> Try:
    bundle, file = Bundle(FIXTURES / "shapes.ff"), folder / "learned.state"
    write_state(file, bundle.manifest, Weights(bundle.weights(), bundle.manifest.classes), 1, 1)
    whole = file.read_bytes()

    def once(rng: random.Random) -> None:
        if rng.random() < 0.3:
            file.write_bytes(flipped(whole, rng))
        else:
            tensors, (text, _) = load(whole), states._metadata(whole)
            if rng.random() < 0.5:
                text = json.dumps(altered(json.loads(text), rng))
            else:
                tensors = tensors_altered(tensors, rng)
            told = {states.STATE: text, states.DIGEST: states._digest(text, tensors)}
            file.write_bytes(save(tensors, told))
        read_state(file, bundle.manifest)

    return once


def picture_bytes(form: str) -> bytes:
    """A small picture as a file of that format: of Pillow, or a netpbm file written as text."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    if form in TEXTS:
        grey = np.asarray(image.convert("L"))
        values = {"P1": grey.ravel() & 1, "P2": grey.ravel(), "P3": pixels.ravel()}[form]
        file.write(
            f"{form} 20 24{'' if form == 'P1' else ' 255'}\n".encode() + b" ".join(b"%d" % v for v in values)
        )
    elif form == "TIFF":
        image.save(file, form, compression="tiff_lzw")
    else:
        image.save(file, form)
    return file.getvalue()


def _pictures(form: str, _: Path) -> Try:
    whole, digit = picture_bytes(form), Bundle(MODEL).manifest.preprocessing

    def once(rng: random.Random) -> None:
        how, shape = rng.choice(((digit, (1, 28, 28)), (Photo(), (3, 16, 16))))
        prepare(decode_picture(flipped(whole, rng), "changed"), "changed", how, shape)

    return once


def _idx(folder: Path) -> Try:
    whole = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(24)

    def once(rng: random.Random) -> None:
        (folder / "some").write_bytes(flipped(whole, rng))
        read_idx(folder / "some")

    return once


def _profiles(folder: Path) -> Try:
    whole = (profiles_folder() / "jetson-orin-nano.toml").read_bytes()

    def once(rng: random.Random) -> None:
        (folder / "some.toml").write_bytes(flipped(whole, rng))
        read_toml(folder / "some.toml", Profile)

    return once


def _graphs(folder: Path) -> Try:
    """A graph of a bundle, well hashed, loaded as any other; what passes runs."""
    source = FIXTURES / "shapes.ff"
    path = Path(shutil.copytree(source, folder / "model.ff"))
    bundle = Bundle(path)
    names = sorted(name for name in bundle.manifest.files if name.endswith(".onnx"))
    known, images = graphs(bundle.manifest.network), bundle.some_images()[:1]
    whole = {name: (source / name).read_bytes() for name in names}

    def once(rng: random.Random) -> None:
        name = rng.choice(names)
        written = write_bundle(path, bundle.manifest, {name: flipped(whole[name], rng)})
        model = Model(written, session=ONE, state=False)
        try:
            if Path(name).stem in known:
                model.graph(Path(name).stem)
            if name == "goodness.onnx":
                model.classify_batch(images)
        finally:
            (path / name).write_bytes(whole[name])

    return once


def _databases(folder: Path) -> Try:
    """A state's database with bytes changed: opened, read, and reset, which always works."""
    bundle, place = Bundle(FIXTURES / "shapes.ff"), folder / "model.state"
    images = bundle.exemplars(0).pixels[:8]
    with closing(Store(place, bundle.manifest)) as store:
        store.add(images, ["new", *bundle.manifest.classes[:1]] * 4)
    with closing(sqlite3.connect(place / "learning.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = (place / "learning.db").read_bytes()

    def once(rng: random.Random) -> None:
        place.mkdir(exist_ok=True)
        (place / "learning.db").write_bytes(flipped(whole, rng))
        try:
            with closing(Store(place, bundle.manifest, writing=rng.random() < 0.5)) as store:
                store.current(), store.history(), store.seen(), store.read(store.pending())
        finally:
            reset(place)
            assert not (place / "learning.db").exists()

    return once


# --- the workstation's


def _recipes(folder: Path) -> Try:
    from fftrain.recipe import load_recipe

    shipped = sorted((Path(__file__).parents[1] / "fftrain" / "recipes").glob("*.toml"))

    def once(rng: random.Random) -> None:
        (folder / "some.toml").write_bytes(flipped(rng.choice(shipped).read_bytes(), rng))
        load_recipe(str(folder / "some.toml"))

    return once


def _checkpoints(folder: Path) -> Try:
    import msgspec
    import torch
    from safetensors.torch import load as load_torch
    from safetensors.torch import save as save_torch

    from ffruntime.core.data import Examples
    from ffruntime.core.manifest import DataSource, Photo
    from fftrain import checkpoint
    from fftrain.dataset import Dataset
    from fftrain.recipe import load_recipe
    from fftrain.run import Interrupted, start, train

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (64, 1, 16, 16), generator=generator, dtype=torch.uint8)
    part = Examples(pixels, torch.arange(64) % 4)
    data = Dataset(part, part, part, ("a", "b", "c", "d"), DataSource("folder", "x", False, 64, 64, 64), Photo())
    recipe = load_recipe(str(Path(__file__).parents[1] / "tests" / "classes.toml"))
    run = start(recipe, data, 0, torch.device("cpu"), torch.float32)
    file = checkpoint.checkpoint_path(folder / "model.ff")
    with suppress(Interrupted):
        list(train(run, folder / "model.ff", False, lambda: True))
    whole = file.read_bytes()
    told = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]

    def once(rng: random.Random) -> None:
        if rng.random() < 0.2:
            file.write_bytes(flipped(whole, rng))
        else:
            content, metadata = load_torch(whole), dict(told)
            if rng.random() < 0.4:
                name = rng.choice(("identity", "progress"))
                metadata[name] = json.dumps(altered(json.loads(metadata[name]), rng))
            else:
                changed = tensors_altered({n: t.numpy() for n, t in content.items()}, rng)
                content = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in changed.items()}
            metadata["sha256"] = checkpoint._digest(metadata["identity"], metadata["progress"], content)
            file.write_bytes(save_torch(content, metadata))
        checkpoint.load_checkpoint(file, run.identity, run)
        assert msgspec.json.encode(run.identity)

    return once


def _npy(folder: Path) -> Try:
    from fftrain.patterns import read_patterns
    from fftrain.recipe import PatternFile

    files = []
    for fortran in (False, True):
        held = io.BytesIO()
        np.save(held, np.asarray(np.zeros((3, 1, 4, 4), np.float32), order="F" if fortran else "C"))
        files.append(held.getvalue())
    held = io.BytesIO()
    np.savez(held, x=np.zeros((3, 1, 4, 4)))
    files.append(held.getvalue())
    kind = PatternFile(path=str(folder / "some.npy"))

    def once(rng: random.Random) -> None:
        (folder / "some.npy").write_bytes(flipped(rng.choice(files), rng))
        read_patterns(kind, (3, 1, 4, 4))

    return once


def _zips(folder: Path) -> Try:
    """A zip of pictures: bytes changed, or names that nobody expects; it is never unpacked anywhere."""
    from fftrain.folder import read_folder

    picture = picture_bytes("PNG")
    names = [f"pets/{part}/{label}/{i}.png" for part in ("train", "test") for label in "ab" for i in range(3)]
    odd = (
        "../../outside/1.png",
        "/etc/1.png",
        "pets/train/a/../../../x.png",
        "a\\..\\b.png",
        "x" * 3000,
        "pets/\0/1.png",
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, picture)
    whole = packed.getvalue()

    def once(rng: random.Random) -> None:
        if rng.random() < 0.6:
            data = flipped(whole, rng)
        else:
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w") as archive, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that are there twice
                for name in names:
                    member = zipfile.ZipInfo(rng.choice(odd) if rng.random() < 0.1 else name)
                    archive.writestr(member, flipped(picture, rng) if rng.random() < 0.05 else picture)
            data = made.getvalue()
        (folder / "some.zip").write_bytes(data)
        read_folder(folder / "some.zip", 0, size=8)

    return once


READERS: dict[str, Reader] = {
    "manifests": Reader(130, _manifests),
    "states": Reader(110, _states),
    "golden vectors": Reader(40, partial(_tensors, GOLDEN)),
    "exemplars": Reader(40, partial(_tensors, EXEMPLARS)),
    "weights": Reader(40, partial(_tensors, WEIGHTS)),
    "class statistics": Reader(20, partial(_tensors, STATISTICS)),
    "graphs": Reader(60, _graphs),
    "databases": Reader(30, _databases),
    **{f"pictures, {form}": Reader(25, partial(_pictures, form)) for form in (*FORMATS, *TEXTS)},
    "IDX files": Reader(95, _idx),
    "device profiles": Reader(50, _profiles),
    "recipes": Reader(30, _recipes, training=True),
    "checkpoints": Reader(15, _checkpoints, training=True),
    "npy and npz files": Reader(50, _npy, training=True),
    "zips of pictures": Reader(15, _zips, training=True),
}
