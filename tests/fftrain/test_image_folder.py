"""A user's own pictures: found, split, sized and refused by name; trained on, exported and classified."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from commands import in_process_text
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ffruntime.core.bundle import Bundle
from ffruntime.core.errors import DataError, UsageError
from ffruntime.core.manifest import Photo
from ffruntime.pictures.picture import prepare, read_picture
from ffruntime.pictures.picture_file import FORMATS
from ffruntime.pictures.sources import is_picture
from fftrain.checkpoint import Progress, load_checkpoint, save_checkpoint
from fftrain.dataset import load_folder, load_for_manifest
from fftrain.folder import open_tree
from fftrain.recipe import Recipe
from fftrain.run import Run, start
from fftrain.tree import SHARE, arrange, check, parse_parts, split

ROOT = Path(__file__).parents[2]
RED, GREEN, BLUE, GREY = (220, 30, 20), (20, 200, 40), (30, 20, 210), (90, 90, 90)


def picture(colour: tuple[int, int, int], number: int, side: int = 20) -> Image.Image:
    """A square of that colour on white, each number's somewhere else."""
    image = Image.new("RGB", (side, side), (255, 255, 255))
    image.paste(colour, (number % 8, number // 8 % 8, side - 6, side - 6))
    return image


def fill(folder: Path, colour: tuple[int, int, int], count: int, side: int = 20, suffix: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(colour, number, side).save(folder / f"{number}.{suffix}")


def pack(folder: Path, path: Path) -> Path:
    """A .zip of the folder, its name included; outside of it."""
    assert folder not in path.parents
    files = sorted(folder.rglob("*"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder.parent))
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three classes of 20, 10 and 3 pictures, one class with a name to stumble over."""
    fill(tmp_path / "pets" / "class 10", RED, 20)
    fill(tmp_path / "pets" / "class 2", GREEN, 10, suffix="jpg")
    fill(tmp_path / "pets" / "Maulwürfe", BLUE, 3, suffix="webp")
    return tmp_path / "pets"


def test_a_folder_in_three_splits(pets: Path) -> None:
    dataset = load_folder(pets)
    assert dataset.classes == ("class 2", "class 10", "Maulwürfe")
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[8, 16, 1], [1, 2, 1], [1, 2, 1]]
    assert dataset.train.pixels.shape == (25, 3, 20, 20)
    assert dataset.preprocessing == Photo()
    source = dataset.source
    assert (source.name, source.path) == ("folder", str(pets))
    assert source.source == (
        f"folder {pets}; 33 pictures of 3 classes; 20 × 20 pixels (the median of the shorter sides, at most 64), "
        "colour; validation: 10 % of each class; test: 10 % of each class"
    )
    reds = dataset.train.pixels[dataset.train.labels == 1]
    assert (reds[:, :, 10, 10] == torch.tensor(RED)).all()
    again = load_folder(pets)
    assert torch.equal(again.train.pixels, dataset.train.pixels)
    assert torch.equal(again.test.pixels, dataset.test.pixels)


def test_a_zip_is_a_folder(pets: Path, tmp_path: Path) -> None:
    """Wherever its pictures begin, and whatever macOS adds."""
    path = pack(pets, tmp_path / "pets.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/pets/class 2/._0.jpg", b"\0\5\26\7")
        archive.writestr("pets/.DS_Store", b"")
        archive.writestr("../outside/1.png", b"")
    zipped, folder = load_folder(path), load_folder(pets)
    assert zipped.classes == folder.classes
    assert torch.equal(zipped.train.pixels, folder.train.pixels)


def test_a_folder_that_has_its_parts(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("val", 4), ("test", 6)):
        fill(tmp_path / part / "a", RED, count)
        fill(tmp_path / part / "b", BLUE, count)
    (tmp_path / "train" / "notes.txt").write_text("mine")
    (tmp_path / "more").mkdir()
    picture(RED, 0).save(tmp_path / "more" / "1.png")
    dataset = load_folder(tmp_path)
    parts = (dataset.train, dataset.validation, dataset.test)
    assert [len(part.labels) for part in parts] == [40, 8, 12]
    assert dataset.source.source.endswith("validation: as the folder has it; test: as the folder has it")
    (tmp_path / "val").rename(tmp_path / ".val")
    dataset = load_folder(tmp_path)
    assert [len(part.labels) for part in (dataset.train, dataset.validation, dataset.test)] == [36, 4, 12]


def test_chosen_classes_are_split_as_among_all(pets: Path) -> None:
    whole, chosen = load_folder(pets), load_folder(pets, "Maulwürfe,class 10")
    assert chosen.classes == ("class 10", "Maulwürfe")
    whole_reds = whole.test.pixels[whole.test.labels == 1]
    assert torch.equal(whole_reds.sort(0)[0], chosen.test.pixels[chosen.test.labels == 0].sort(0)[0])
    fill(pets / "single", GREY, 1)
    assert load_folder(pets, "0,1").classes == ("class 2", "class 10")  # too few in another class do not matter


@pytest.mark.parametrize(("sides", "expected"), [((10, 30, 50), 30), ((100, 200, 300), 64), ((9, 9, 200), 9)])
def test_the_size_is_the_median_of_the_shorter_sides(sides: Sequence[int], expected: int, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number, side in enumerate(sides):
            Image.new("RGB", (side + 40, side), RED).save(tmp_path / name / f"{number}.png")
    assert load_folder(tmp_path).train.pixels.shape[2:] == (expected, expected)
    assert load_folder(tmp_path, size=12).train.pixels.shape[2:] == (12, 12)


def test_one_channel_where_every_picture_is_grey(tmp_path: Path) -> None:
    """Whether it is stored as grey or as colour."""
    fill(tmp_path / "a", GREY, 4)
    fill(tmp_path / "b", (0, 0, 0), 4)
    picture(GREY, 7).convert("LA").save(tmp_path / "b" / "grey.png")
    dataset = load_folder(tmp_path)
    assert dataset.train.pixels.shape[1] == 1
    assert dataset.source.source.split("; ")[2].endswith("grey")
    picture(RED, 3).save(tmp_path / "b" / "red.png")
    assert load_folder(tmp_path).train.pixels.shape[1] == 3


def test_links_are_followed_but_not_in_circles(pets: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", GREY, 3)
    (pets / "linked").symlink_to(tmp_path / "elsewhere")
    (pets / "class 2" / "up").symlink_to(pets)
    (pets / "class 2" / "self").symlink_to(pets / "class 2" / "self")
    (pets / ".hidden").mkdir()
    dataset = load_folder(pets)
    assert dataset.classes == ("class 2", "class 10", "linked", "Maulwürfe")
    assert dataset.source.source.split("; ")[1] == "36 pictures of 4 classes"


# What cannot be used -----------------------------------------------------------------------------


def only_one(folder: Path) -> None:
    for other in ("class 10", "Maulwürfe"):
        (folder / other).rename(folder / f".{other}")


def parts_that_differ(folder: Path) -> None:
    for name in ("a", "b"):
        fill(folder / "train" / name, RED, 3)
    fill(folder / "test" / "c", RED, 3)


def a_part_without_a_class(folder: Path) -> None:
    for name in ("a", "b"):
        fill(folder / "train" / name, RED, 3)
    fill(folder / "test" / "a", RED, 3)


def no_pictures(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        file.rename(file.with_suffix(".txt"))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "damaged": (
        lambda f: (f / "class 2" / "3.jpg").write_bytes((f / "class 2" / "3.jpg").read_bytes()[:300]),
        "pets/class 2/3.jpg: damaged image",
    ),
    "no image": (
        lambda f: (f / "class 2" / "3.jpg").write_text("text"),
        "pets/class 2/3.jpg: not an image that can be read .*; replace that picture",
    ),
    "empty file": (lambda f: (f / "class 2" / "3.jpg").write_text(""), "pets/class 2/3.jpg: empty file"),
    "broken link": (
        lambda f: (f / "class 2" / "x.jpg").symlink_to(f / "nowhere.jpg"),
        "pets/class 2/x.jpg: cannot be read: No such file",
    ),
    "few": (lambda f: (f / "Maulwürfe" / "2.webp").unlink(), "class 'Maulwürfe' has 2 pictures to train on"),
    "one class": (only_one, r"pictures of one class only \('class 2'\)"),
    "no class": (no_pictures, "no pictures of any class; expected"),
    "only in test": (parts_that_differ, "class 'c' is in test, and not in train"),
    "not in test": (a_part_without_a_class, "no picture of class 'b' in test"),
    "unprintable": (lambda f: fill(f / "a\nb", RED, 3), r"the class 'a\\nb' has a name that cannot be printed"),
}


@pytest.mark.parametrize("harm", BAD)
def test_what_cannot_be_used_is_named(harm: str, pets: Path) -> None:
    change, message = BAD[harm]
    change(pets)
    with pytest.raises(DataError, match=message) as caught:
        load_folder(pets)
    assert str(pets) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: no such folder, and no such \.zip"):
        load_folder(tmp_path / "nothing")
    (tmp_path / "text.zip").write_text("text")
    with pytest.raises(DataError, match=r"text\.zip: neither a folder nor a \.zip that can be read"):
        load_folder(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(DataError, match="no pictures of any class"):
        load_folder(tmp_path / "empty.zip")


def test_a_zip_that_is_damaged_names_the_picture(pets: Path, tmp_path: Path) -> None:
    path = pack(pets, tmp_path / "pets.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("pets/class 2/3.jpg").header_offset + 100
    data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"pets\.zip/pets/class 2/3\.jpg: cannot be unpacked: "):
        load_folder(path)


def test_a_member_of_a_zip_is_bounded(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file is: what unpacks to more is not unpacked to its end."""
    (pets / "class 2" / "bomb.png").write_bytes(bytes((1 << 20) + 100))
    path = pack(pets, tmp_path / "bomb.zip")
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr("ffruntime.pictures.picture.MAX_BYTES", 1 << 20)
    monkeypatch.setattr("fftrain.folder.MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"bomb\.zip/pets/class 2/bomb\.png: more than 1 MiB"):
        load_folder(path)


# What folders are called -------------------------------------------------------------------------


def in_folders(*folders: str, count: int = 3) -> list[tuple[str, ...]]:
    return [(*folder.split("/"), f"{number}.png") for folder in folders for number in range(count)]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Training", "valid", "Testing"),
        ("train_set", "val_set", "test_set"),
        ("TRAIN", "dev", "tests"),
        ("train", "eval", "test"),
        ("train", "validation", "Evaluation"),
        ("seg_train/seg_train", "val2017", "test-images"),
        ("trainset", "Valid Images", "holdout"),
    ],
)
def test_parts_by_many_names(train: str, validation: str, test: str) -> None:
    names = in_folders(*(f"pets/{part}/{label}" for part in (train, validation, test) for label in ("cat", "dog")))
    tree = arrange(names)
    assert {part: sorted(classes) for part, classes in tree.parts.items()} == {
        part: ["cat", "dog"] for part in ("train", "validation", "test")
    }
    assert not tree.left_out


def test_parts_below_classes() -> None:
    names = in_folders("cat/train", "cat/test", "dog/Train", "dog/test", "dog/more")
    tree = arrange(names)
    assert {part: sorted(classes) for part, classes in tree.parts.items()} == {
        "train": ["cat", "dog"],
        "test": ["cat", "dog"],
    }
    assert tree.left_out == ("3 in a class, but in none of its parts, such as train",)


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test"),  # pictures right in them: parts, or two classes?
        ("a", "b", "test/a", "test/b"),
        ("train/a", "train/b", "Training/a", "Training/b"),
        ("train/a", "train/b", "eval/a", "eval/b"),
        ("train/a", "train/b", "val/a", "valid/a"),
    ],
)
def test_in_doubt_a_line_asks(folders: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"parts of a data set.*--split none"):
        arrange(in_folders(*folders))


def test_doubt_is_ended_by_saying_which_is_which() -> None:
    assert arrange(in_folders("train", "test"), split=parse_parts("none")).classes == ("test", "train")
    tree = arrange(in_folders("a", "b", "test/a", "test/b"), split=parse_parts("test=test"))
    assert {part: sorted(classes) for part, classes in tree.parts.items()} == {
        "train": ["a", "b"],
        "test": ["a", "b"],
    }
    tree = arrange(in_folders("mine/a", "mine/b", "more/a", "x/a"), split=parse_parts("train=mine, train=more"))
    assert len(tree.parts["train"]["a"]) == 6
    assert tree.left_out == (
        "3 in x (neither for training, nor for validation or testing; --split says what it is)",
    )
    with pytest.raises(DataError, match="there is no folder 'tests' of pictures, but 'a', 'b'"):
        arrange(in_folders("a", "b"), split=parse_parts("test=tests"))
    for text in ("train", "train=", "training=a", ""):
        with pytest.raises(UsageError, match="--split"):
            parse_parts(text)


@pytest.mark.parametrize("junk", ["@eaDir", "$RECYCLE.BIN", "System Volume Information", "#recycle", "annotations"])
def test_what_programs_leave_is_no_class(junk: str) -> None:
    tree = arrange([*in_folders("cat", "dog"), *in_folders(junk, f"cat/{junk}")])
    assert tree.classes == ("cat", "dog")
    assert [len(names) for names in tree.parts["train"].values()] == [3, 3]
    assert tree.left_out == (f"6 in {junk} (looks like no class; --classes takes it)",)
    assert junk in arrange(in_folders("cat", "dog", junk), asked={junk}).classes


def test_class_names_are_one_in_unicode_and_blanks() -> None:
    composed, parted = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    tree = arrange(in_folders(composed, parted, "dog", "dog ", "Dog"))
    assert tree.classes == (composed, "Dog", "dog")
    assert len(tree.parts["train"]["dog"]) == 6
    assert tree.notes == (
        f"of several folders, whose names are one in Unicode or but for blanks: '{composed}', 'dog'",
        "classes that differ in capitals alone: 'Dog', 'dog'",
    )


def test_what_is_left_out_is_said(pets: Path) -> None:
    (pets / "empty").mkdir()
    (pets / "class 2" / "notes.txt").write_text("mine")
    (pets / "class 2" / "1.HEIC").write_bytes(b"x")
    picture(RED, 0).save(pets / "cover.png")
    lines: list[str] = []
    load_folder(pets, "class 2,class 10", tell=lines.append)
    assert lines == [
        "classes, with pictures for training / validation / testing: class 2 8 / 1 / 1, class 10 16 / 2 / 2",
        "folders without a file: 'empty'",
        "classes that were not asked for: 'Maulwürfe'",
        "left out: 1 .heic in class 2 (a kind of picture that is not read here); 1 .txt (no pictures); "
        "1 in no class",
    ]


def test_a_class_of_pictures_that_are_not_read_does_not_vanish(pets: Path) -> None:
    (pets / "owl").mkdir()
    (pets / "owl" / "1.heic").write_bytes(b"x")
    with pytest.raises(DataError, match=r"class 'owl' has no picture .* \(1 \.heic\); convert them"):
        load_folder(pets)
    assert load_folder(pets, "0-2").classes == ("class 2", "class 10", "Maulwürfe")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "avif", "pfm"])
def test_kinds_of_pictures(suffix: str, pets: Path) -> None:
    if suffix == "avif" and "AVIF" not in FORMATS:
        pytest.skip("Pillow reads no AVIF")
    kind = {"avif": "AVIF", "pfm": "PPM"}.get(suffix, "JPEG")
    for number in range(3):
        image = picture(GREY, number)
        if kind == "PPM":
            image = image.convert("F").point(lambda value: value * (1 / 255))  # full scale of a floating-point file
        image.save(pets / "Maulwürfe" / f"more{number}.{suffix}", kind)
    assert load_folder(pets).source.source.split("; ")[1] == "36 pictures of 3 classes"
    assert is_picture(pets / "Maulwürfe" / f"more0.{suffix}")  # to a device, too


def test_all_damaged_pictures_are_named_in_one_run(pets: Path) -> None:
    for number in (1, 3):
        (pets / "class 2" / f"{number}.jpg").write_text("text")
    (pets / "Maulwürfe" / "0.webp").write_text("")
    lines: list[str] = []
    with pytest.raises(DataError, match=r"3 of 33 pictures cannot be used: .*; replace or remove them") as caught:
        load_folder(pets, tell=lines.append)
    for name in ("1.jpg", "3.jpg", "0.webp"):
        assert name in str(caught.value)
        assert any(f"/{name}: " in line for line in lines)


def test_identical_files_are_said(pets: Path) -> None:
    shutil.copy(pets / "class 2" / "1.jpg", pets / "class 10" / "odd.jpg")
    for number in range(20, 60):
        shutil.copy(pets / "class 10" / "1.png", pets / "class 10" / f"{number}.png")
    lines: list[str] = []
    load_folder(pets, tell=lines.append)
    assert any(
        line.startswith("identical files in two classes, of which one at most is right: 1,") for line in lines
    )
    assert any(line.startswith("identical files in two of the parts") for line in lines)


def test_a_folder_is_known_by_its_content(pets: Path, tmp_path: Path) -> None:
    before = load_folder(pets).source
    shutil.copytree(pets, tmp_path / "moved")
    assert load_folder(tmp_path / "moved").source.content == before.content
    one, two = pets / "class 2" / "1.jpg", pets / "class 2" / "2.jpg"
    one.rename(pets / "x"), two.rename(one), (pets / "x").rename(two)
    after = load_folder(pets).source
    assert (after.train, after.validation, after.test) == (before.train, before.validation, before.test)
    assert after.content != before.content


@pytest.mark.slow
def test_a_changed_folder_is_not_evaluated(pets: Path, exported: Path) -> None:
    manifest, data = Bundle(exported).manifest, load_folder(pets, size=28, channels=1).source
    structs = msgspec.structs
    trained = structs.replace(
        manifest,
        classes=("class 2", "class 10", "Maulwürfe"),
        training=structs.replace(manifest.training, data=data),
    )
    load_for_manifest(trained)
    (pets / "class 2" / "1.jpg").rename(pets / "class 2" / "zzz.jpg")
    with pytest.raises(DataError, match="has as many pictures as the model was trained on, but others"):
        load_for_manifest(trained)


def test_a_changed_folder_is_not_gone_on_with(pets: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    def started() -> Run:
        dataset = load_folder(pets, size=28, channels=1)
        return start(tiny_recipe, dataset, 0, torch.device("cpu"), torch.float32)

    run, file = started(), tmp_path / "run.checkpoint"
    save_checkpoint(file, run.identity, Progress(), run, torch.zeros(len(run.network.units) + 1, 2))
    load_checkpoint(file, started().identity, run)
    (pets / "class 2" / "1.jpg").rename(pets / "class 2" / "zzz.jpg")
    with pytest.raises(UsageError, match="of a run with other pictures in that folder"):
        load_checkpoint(file, started().identity, run)


def test_names_in_a_zip(tmp_path: Path) -> None:
    """With Windows' separators, with `./`, in UTF-8 that is not marked so."""
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for number in range(3):
            data = io.BytesIO()
            picture(RED, number).save(data, "PNG")
            for name in (f"pets\\cat\\{number}.png", f"./pets/dog/{number}.png"):
                archive.writestr(zipfile.ZipInfo(name), data.getvalue())
            archive.writestr(f"pets/éé/{number}.png", data.getvalue())
    packed = (tmp_path / "odd.zip").read_bytes()
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        at = 6 if mark == b"PK\x03\x04" else 8
        parts = packed.split(mark)
        packed = mark.join([parts[0], *(p[: at - 4] + bytes(2) + p[at - 2 :] for p in parts[1:])])
    (tmp_path / "odd.zip").write_bytes(packed)
    with open_tree(tmp_path / "odd.zip") as files:
        assert arrange(files.names).classes == ("cat", "dog", "éé")
        assert all(files.read(name).startswith(b"\x89PNG") for name in files.names)


def test_thousands_of_classes_take_a_moment_or_are_refused() -> None:
    names = in_folders(*(f"c{number}" for number in range(5000)))
    tree = arrange(names)
    check(tree, Path("x"))
    assert len(split(tree, tree.classes[:4096], Path("x"), 0)[0]) == 4096
    with pytest.raises(DataError, match=r"5,000 classes; at most 4,096"):
        split(tree, tree.classes, Path("x"), 0)


# Any tree ----------------------------------------------------------------------------------------

COUNTS = st.dictionaries(st.sampled_from(["a", "b", "c", "train", "10"]), st.integers(3, 40), min_size=2)


@given(counts=COUNTS, depth=st.integers(0, 2), seed=st.integers(0, 9))
def test_any_split_loses_nothing_and_shares_nothing(counts: dict[str, int], depth: int, seed: int) -> None:
    above = ("outer", "inner")[:depth]
    names = [(*above, name, f"{number}.png") for name, count in counts.items() for number in range(count)]
    tree = arrange(names)
    assert tree.parts == {"train": {n: [(*above, n, f"{i}.png") for i in range(c)] for n, c in counts.items()}}
    assert (tree.left_out, tree.notes, tree.unread) == ((), (), {})
    parts = split(tree, tree.classes, Path("x"), seed)
    assert sorted(file for part in parts for file, _ in part) == sorted(names)
    for label, name in enumerate(tree.classes):
        share = max(1, round(SHARE * counts[name]))
        assert [sum(of == label for _, of in part) for part in parts[1:]] == [share, share]


def test_classes_are_in_natural_order() -> None:
    names = ["10", "2", "a10", "a2", "B1", "9" * 5000]
    tree = arrange([(name, f"{number}.png") for name in names for number in range(3)])
    assert tree.classes == ("2", "10", "9" * 5000, "a2", "a10", "B1")


# From training to the device ---------------------------------------------------------------------


def run(program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    return done


QUICK = ("--recipe", ROOT / "tests" / "tiny.toml", "--device", "cpu", "--threads", 1)


@pytest.mark.slow
def test_a_folder_is_trained_exported_and_classified(tmp_path: Path) -> None:
    """Three colours, in 36 × 36 pixels, by names with spaces and letters of all kinds."""
    for name, colour in (("deep red", RED), ("grün", GREEN), ("青", BLUE)):
        fill(tmp_path / "colours" / name, colour, 80, side=36)
    (tmp_path / "colours" / "grün" / "notes.txt").write_text("mine")
    done = run("fftrain", "folder", "colours", *QUICK, "--epochs", 6, cwd=tmp_path)
    assert "left out: 1 .txt (no pictures)\n" in done.stderr
    assert "36 × 36 pixels" in done.stderr
    assert f"of folder {tmp_path / 'colours'}: goodness" in done.stdout
    assert "FAILED" not in run("ffexport", cwd=tmp_path).stdout
    info = run("ffruntime", "info", cwd=tmp_path).stdout
    assert "deep red, grün, 青; " in info
    assert "3×36×36, prepared as a photo" in info
    picture(BLUE, 5, 300).save(tmp_path / "new.png")
    line = run("ffruntime", "classify", "--show", "new.png", cwd=tmp_path).stdout
    assert "new.png: 青, " in line
    assert line.count("▀") == 18 * 36
    picture(RED, 5, 36).save(tmp_path / "ready.png")
    answer = json.loads(run("ffruntime", "classify", "--json", "--no-preprocess", "ready.png", cwd=tmp_path).stdout)
    assert answer["label"] == "deep red"
    assert set(answer["scores"]) == {"deep red", "grün", "青"}

    manifest = Bundle(tmp_path / "model.ff").manifest
    again = load_for_manifest(manifest)
    assert msgspec.structs.replace(again.source, source="") == msgspec.structs.replace(
        manifest.training.data, source=""
    )
    (tmp_path / "colours").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no such folder"):
        load_for_manifest(manifest)
    assert torch.equal(load_for_manifest(manifest, str(tmp_path / "moved")).test.pixels, again.test.pixels)
    (tmp_path / "moved" / "青" / "0.png").unlink()
    with pytest.raises(DataError, match="trained on 192 / 24 / 24 pictures, and here is: 191"):
        load_for_manifest(manifest, str(tmp_path / "moved"))


@pytest.mark.slow
def test_cifar_is_trained_exported_and_classified(small_cifar: Path, tmp_path: Path) -> None:
    """Real pictures of CIFAR-10's JPEG copy: a folder in a .zip, with a part of its own to test with."""
    done = run("fftrain", "folder", small_cifar, *QUICK, "--classes", "frog,ship", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["accuracy"]["test"]["goodness"] >= 0.5
    manifest = Bundle(tmp_path / "model.ff").manifest
    assert manifest.network.image.shape == (3, 32, 32)
    data = manifest.training.data
    assert (data.train, data.validation, data.test) == (54, 6, 10)
    assert "FAILED" not in run("ffexport", cwd=tmp_path).stdout
    with zipfile.ZipFile(small_cifar) as archive:
        (tmp_path / "frog.jpg").write_bytes(archive.read("cifar10-jpeg/train/frog/0003.jpg"))
    answer = json.loads(run("ffruntime", "classify", "--json", "frog.jpg", cwd=tmp_path).stdout)
    assert set(answer["scores"]) == {"frog", "ship"}
    prepared = run("ffruntime", "classify", "--json", "--no-preprocess", "frog.jpg", cwd=tmp_path).stdout
    assert json.loads(prepared)["scores"] == answer["scores"]  # of its size: nothing to prepare


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("folder",), 2, "PATH"),
        (("folder", "nothing"), 5, "no such folder"),
        (("folder", "nothing", "--size", "2"), 2, "--size"),
        (("folder", "nothing", "--offline"), 2, "--offline"),
        (("cifar10", "--size", "32"), 2, "--size"),
        (("cifar10", "--classes", "cat,dgo"), 2, "did you mean 'dog'"),
        (("fashion-mnist", "--classes", "8-12"), 2, "there are 10 classes, 0 to 9"),
        (("cifar1000",), 2, "cifar1000"),
    ],
)
def test_wrong_words(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    done = in_process_text("fftrain", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


def test_what_is_trained_on_is_what_the_device_sees(pets: Path) -> None:
    """Every picture goes through the same function, whatever its size and mode."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 4), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(np.roll(noise, number * 9, 0)).save(pets / "Maulwürfe" / f"{number}.png")
    dataset = load_folder(pets, "Maulwürfe,class 2", size=24)
    images = {bytes(i.numpy()) for s in (dataset.train, dataset.validation, dataset.test) for i in s.pixels}
    for file in (pets / "Maulwürfe").iterdir():
        seen = prepare(read_picture(str(file)), str(file), Photo(), (3, 24, 24))
        assert np.ascontiguousarray(seen).tobytes() in images
