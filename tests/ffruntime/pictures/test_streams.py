"""Folders, a folder that is watched and a camera: real files, some written while they are waited for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.errors import ImageError, MissingExtra
from ffruntime.core.manifest import Digit
from ffruntime.model import Model
from ffruntime.pictures import sources as streams
from ffruntime.pictures.picture import prepare
from ffruntime.pictures.sources import arrivals, frames, pictures

CLASSIFY = [sys.executable, "-m", "ffruntime", "classify"]


def classify(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([*CLASSIFY, *map(str, arguments)], capture_output=True, text=True)


def test_a_folder_is_its_pictures_by_name(picture_files: list[Path], tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", ".hidden.png", "deeper/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(picture_files[0], tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    stream = list(pictures(["first.png", str(tmp_path), "-"]))
    assert [name for name, _ in stream] == ["first.png", f"{tmp_path}/a.PNG", f"{tmp_path}/b.png", "-"]
    assert stream[1][1]().size == (16, 16)
    [(_, get)] = pictures([str(tmp_path / "deeper" / "nothing")])
    with pytest.raises(ImageError, match="nothing: cannot be read: No such file"):
        get()


def test_a_folder_without_pictures_does_not_stop_the_others(
    exported: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    done = classify("--model", exported, "--json", tmp_path, picture_files[0].parent)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "no pictures" in done.stderr
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == list(map(str, picture_files))


def test_a_picture_that_is_still_being_written_is_waited_for(
    picture_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes come between any two looks: no clock decides."""
    data = picture_files[0].read_bytes()
    shutil.copy(picture_files[1], tmp_path / "was-there.png")
    parts = iter([data[start : start + 32] for start in range(0, len(data), 32)])
    with (tmp_path / "slow.png").open("wb", buffering=0) as file:
        monkeypatch.setattr(streams, "time", SimpleNamespace(sleep=lambda _: file.write(next(parts, b""))))
        name, get = next(arrivals(tmp_path))
    assert next(parts, None) is None
    assert name == f"{tmp_path}/slow.png"
    assert np.array_equal(np.asarray(get()), np.asarray(Image.open(picture_files[0])))


def test_a_picture_whose_writer_pauses_is_seen_again_when_it_is_complete(
    picture_files: list[Path], tmp_path: Path
) -> None:
    data, stream = picture_files[0].read_bytes(), arrivals(tmp_path, interval=0.02)
    with (tmp_path / "a.png").open("wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        _, get = next(stream)
        with pytest.raises(ImageError, match="damaged"):
            get()
        file.write(data[len(data) // 2 :])
    assert next(stream)[1]().size == (16, 16)


def test_a_picture_that_is_replaced_or_comes_again_is_new(picture_files: list[Path], tmp_path: Path) -> None:
    place, beside = tmp_path / "a.png", tmp_path / ".a.new"
    stream = arrivals(tmp_path, interval=0.02)
    for digit in picture_files[:3]:  # of the same size and time: only the file is another
        shutil.copy(digit, beside)
        os.truncate(beside, 100)
        os.utime(beside, (1, 1))
        beside.replace(place)
        assert next(stream)[0] == str(place)
    place.unlink()
    (tmp_path / "b.png").touch()  # no picture yet
    (tmp_path / "link.png").symlink_to("nothing")
    shutil.copy(picture_files[0], tmp_path / "c.png")
    assert next(stream)[0] == f"{tmp_path}/c.png"  # and by now the other is known to be gone
    shutil.copy(picture_files[0], place)
    assert next(stream)[0] == str(place)
    shutil.rmtree(tmp_path)
    with pytest.raises(ImageError, match="cannot be watched"):
        next(stream)


@pytest.mark.slow
@pytest.mark.posix
def test_watching_a_folder_until_it_is_interrupted(
    exported: Path, picture_files: list[Path], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    shutil.copy(picture_files[0], inbox / "was-there.png")
    command = [*CLASSIFY, "--model", str(exported), "--json", "--watch", str(inbox)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    assert "Ctrl-C ends it" in process.stderr.readline()
    for digit in picture_files[1:4]:
        shutil.copy(digit, tmp_path / digit.name)
        (tmp_path / digit.name).replace(inbox / digit.name)
        assert json.loads(process.stdout.readline())["path"] == str(inbox / digit.name)
        (inbox / digit.name).unlink()
    (inbox / "bad.png").write_text("text")
    assert "bad.png: not an image" in process.stderr.readline()
    shutil.copy(picture_files[5], inbox / "last.png")
    assert json.loads(process.stdout.readline())["path"] == str(inbox / "last.png")
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors.strip()) == (130, "", "interrupted")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--watch", "nowhere"), 4, "nowhere: cannot be watched: No such file"),
        (("--watch", ".", "--camera"), 2, "one of them"),
        (("--camera", "nothing.avi"), 4, "nothing.avi: cannot be opened"),
        (("",), 4, "'': no name of a picture"),
    ],
)
def test_streams_that_cannot_be(arguments: tuple[str, ...], code: int, words: str, exported: Path) -> None:
    if "nothing.avi" in arguments:
        pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ffedge[camera]'")
    done = classify("--model", exported, *arguments)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_without_opencv_a_camera_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ffedge\[camera\]'"):
        next(frames("0"))


@pytest.mark.slow
def test_frames_of_a_video(bundle: Path, picture_files: list[Path], tmp_path: Path) -> None:
    """A video stands in for a camera, of which there is none here: the same functions of OpenCV give its frames."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install 'ffedge[camera]'")
    kind = Digit(box=12)  # which refuses a picture without a figure
    write_bundle(bundle, structs.replace(Bundle(bundle).manifest, preprocessing=kind), {})
    model, shape = Model(bundle), Bundle(bundle).manifest.network.image.shape
    single = [file for file in picture_files if "dots" not in file.name]  # dots are several figures
    large = [np.asarray(Image.open(file).resize((112, 112)).convert("RGB")) for file in single]
    answers = [model.classify(prepare(Image.fromarray(frame), "frame", kind, shape)) for frame in large]
    margins = [float(np.subtract(*list(answer.scores.values())[:2])) for answer in answers]
    surest = sorted(range(len(large)), key=lambda index: -margins[index])[:3]
    file = str(tmp_path / "pictures.avi")
    shown = [large[index] for index in surest]
    shown.append(np.full((112, 112, 3), (200, 30, 10), np.uint8))  # red, and no figure
    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), 10, (112, 112))
    for frame in shown:
        writer.write(frame[..., ::-1])
    writer.release()
    seen = [get() for _, get in islice(frames(file), 4)]
    for frame, original in zip(seen, shown, strict=True):
        assert np.abs(np.asarray(frame, np.float32) - original).mean() < 8  # of 255: JPEG
    done = classify("--model", bundle, "--json", "--camera", file)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["path"] for answer in found] == [f"{file} frame {n}" for n in (1, 2, 3)]
    for answer, frame, index in zip(found, seen, surest, strict=False):
        exact = model.classify(prepare(frame, "frame", kind, shape))
        assert answer["scores"] == pytest.approx(exact.scores, rel=1e-4)
        named = answers[index]
        changed = max(abs(exact.scores[label] - score) for label, score in named.scores.items())
        assert margins[index] > 2 * changed  # so what JPEG does to a frame cannot decide
        assert answer["label"] == named.label
    assert done.returncode == 4
    assert f"{file} frame 4: no figure" in done.stderr
