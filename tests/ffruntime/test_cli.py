"""`ffruntime` as a user types it: answers, JSON, one clear line for whatever is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process
from msgspec import structs
from pictures import CLASSES
from PIL import Image

from ffruntime import cuda
from ffruntime.backend import ENGINES, PROVIDERS
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.terminal import draw

ffruntime = partial(in_process, "ffruntime")


def test_a_process_of_its_own_does_the_same(exported: Path, picture_files: list[Path]) -> None:
    """`python -m ffruntime`, with a picture through a real pipe; and what is wrong, in one line."""
    command = [sys.executable, "-m", "ffruntime", "classify", "--model", str(exported), "--json"]
    done = subprocess.run([*command, "-"], input=picture_files[0].read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    here = ffruntime("classify", "--model", exported, "--json", picture_files[0])
    assert json.loads(done.stdout)["scores"] == pytest.approx(json.loads(here.stdout)["scores"], rel=1e-5)
    assert_one_line(subprocess.run([*command, "no.png"], capture_output=True), 4, "no.png", "No such file")


def assert_one_line(done: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """Failed with `code`, saying all `words` in one line on stderr, and nothing on stdout."""
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert done.stdout == b""
    assert text.count("\n") == 1, text
    for word in words:
        assert word in text


def test_classify_prints_a_json_object_for_every_file(exported: Path, picture_files: list[Path]) -> None:
    done = ffruntime("classify", "--model", exported, "--json", *picture_files)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["path"] for answer in answers] == [str(file) for file in picture_files]
    for answer in answers:
        assert set(answer) >= {"path", "label", "probability", "sure", "scores", "mode", "backend", "ms"}
        assert set(answer["scores"]) == set(CLASSES)
        assert answer["scores"][answer["label"]] == max(answer["scores"].values())
        assert (answer["mode"], answer["backend"]) == ("goodness", "onnxruntime-cpu")
        assert answer["ms"] > 0
    named = [file.stem.partition("-")[2] for file in picture_files]
    assert [answer["label"] for answer in answers] == named  # each by a wide margin, as the bundle was made
    assert min(answer["probability"] for answer in answers) > 0.9


@pytest.mark.parametrize("mode", ["goodness", "classifier", "shortlist"])
def test_classify_prints_a_line_for_people(mode: str, exported: Path, picture_files: list[Path]) -> None:
    done = ffruntime("classify", "--model", exported, "--mode", mode, "--top", 3, picture_files[0])
    line = done.stdout.decode()
    assert line.count("\n") == 1
    assert line.startswith(f"{picture_files[0]}: ")
    assert re.search(rf": {CLASSES[0]}, .* % sure, \w+ \(.* %\), \w+ \(.* %\)  \[", line)
    assert mode in line


def test_a_shortlist_says_what_it_cost(exported: Path, picture_files: list[Path]) -> None:
    done = ffruntime("classify", "--model", exported, "--mode", "shortlist", *picture_files)
    *lines, summary = done.stdout.decode().splitlines()
    costs = [int(re.findall(r"shortlist, (\d+) pass", line)[0]) for line in lines]
    assert len(costs) == 20
    assert 2 not in costs  # one label needs no goodness
    assert summary.startswith(
        f"20 images, {np.mean(costs):.2f} passes on average, {max(costs)} at most; worst case 7"
    )
    done = ffruntime("classify", "--model", exported, "--labels", 3, "--json", *picture_files)
    assert {json.loads(line)["passes"] for line in done.stdout.splitlines()} == {4}


def test_a_shortlist_needs_a_threshold(bundle: Path, picture_files: list[Path]) -> None:
    write_bundle(bundle, structs.replace(Bundle(bundle).manifest, shortlist=None), {})
    done = ffruntime("classify", "--model", bundle, "--mode", "shortlist", picture_files[0])
    assert_one_line(done, 2, "no threshold", f"ffexport --model {bundle}", "--labels")
    assert ffruntime("classify", "--model", bundle, "--labels", 2, picture_files[0]).returncode == 0


def test_a_network_of_one_mode_has_no_shortlist(bundle: Path, picture_files: list[Path]) -> None:
    write_bundle(bundle, structs.replace(Bundle(bundle).manifest, modes=("classifier",)), {})
    done = ffruntime("classify", "--model", bundle, "--mode", "shortlist", picture_files[0])
    assert_one_line(done, 2, "unknown mode 'shortlist'", "known: classifier")


def test_help_names_every_backend() -> None:
    text = re.sub(r"\s+", "", ffruntime("classify", "--help").stdout.decode())
    assert all(name in text for name in (*PROVIDERS, *ENGINES))


def test_standard_input_and_the_model_from_the_environment(
    exported: Path, picture_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FF_MODEL", str(exported))
    piped = json.loads(ffruntime("classify", "--json", "-", stdin=picture_files[0].read_bytes()).stdout)
    named = json.loads(ffruntime("classify", "--json", picture_files[0]).stdout)
    assert piped["scores"] == named["scores"]
    assert piped["path"] == "-"
    assert_one_line(ffruntime("classify", "--no-preprocess", "-", stdin=b"text"), 4, "standard input")


def test_model_ff_of_the_working_directory_is_the_default(bundle: Path, picture_files: list[Path]) -> None:
    assert ffruntime("classify", picture_files[0], cwd=bundle.parent).returncode == 0


def test_ready_images_are_taken_as_they_are(exported: Path, picture_files: list[Path], tmp_path: Path) -> None:
    assert ffruntime("classify", "--model", exported, "--no-preprocess", picture_files[0]).returncode == 0
    Image.new("L", (20, 16)).save(tmp_path / "wide.png")
    done = ffruntime("classify", "--model", exported, "--no-preprocess", tmp_path / "wide.png")
    assert_one_line(done, 4, "wide.png", "16 × 16")


def test_show_draws_what_the_network_was_shown(exported: Path, picture_files: list[Path]) -> None:
    done = ffruntime("classify", "--model", exported, "--show", picture_files[0])
    assert done.stdout.decode().count("▀") == 8 * 16


def test_colours_and_odd_heights_are_drawn() -> None:
    pixels = np.zeros((3, 3, 2), np.uint8)
    pixels[:, :, 1] = [[1, 4, 7], [2, 5, 8], [3, 6, 9]]
    first, second = draw(pixels).splitlines()
    assert "38;2;1;2;3;48;2;4;5;6m▀" in first
    assert "38;2;7;8;9m▀" in second
    assert "38;2;5;5;5;48;2;5;5;5m▀" in draw(np.full((1, 2, 2), 5, np.uint8))


def test_a_bad_image_does_not_stop_the_others(exported: Path, picture_files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "notes.png"
    bad.write_text("this is text")
    done = ffruntime("classify", "--model", exported, "--json", picture_files[0], bad, picture_files[1])
    assert done.returncode == 4
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.decode().count("\n") == 1
    assert str(bad) in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("classify", "--model", "{bundle}", "--mode", "godness", "{image}"), 2, ("did you mean 'goodness'",)),
        (("classify", "--model", "{bundle}", "--mode", "goodness", "--labels", "2", "{image}"), 2, ("--labels",)),
        (("classify", "--model", "{bundle}", "--backend", "onnxruntime-cpx", "{image}"), 2, ("onnxruntime-cpu",)),
        (("classify", "--model", "nothing.ff", "{image}"), 3, ("nothing.ff", "no such bundle", "fftrain")),
        (("classify", "--model", "{bundle}", "nothing.png"), 4, ("nothing.png", "No such file")),
        (("info", "--model", "/tmp"), 3, ("/tmp", "not a model bundle")),
        (("devices", "raspberry-pi-6"), 2, ("raspberry-pi-6", "did you mean 'raspberry-pi-5'")),
        (("devices", "mine.toml"), 2, ("mine.toml", "No such file")),
        (("clasify", "{image}"), 2, ("clasify", "ffruntime --help")),
        (("classify", "--model", "{bundle}"), 2, ("IMAGE", "ffruntime classify --help")),
        (("classify", "--labels", "0", "{image}"), 2, ("--labels", "ffruntime classify --help")),
        (("classify", "--top", "0", "{image}"), 2, ("--top", "ffruntime classify --help")),
    ],
)
def test_wrong_words(
    arguments: tuple[str, ...], code: int, words: tuple[str, ...], exported: Path, picture_files: list[Path]
) -> None:
    filled = [word.format(bundle=exported, image=picture_files[0]) for word in arguments]
    assert_one_line(ffruntime(*filled), code, *words)


def test_a_backend_that_cannot_run_here_is_an_error(exported: Path, picture_files: list[Path]) -> None:
    """Whether onnxruntime was built without CUDA, or with it and there is no driver: never a silent fallback."""
    if cuda.missing() is None:
        pytest.skip("there is a CUDA GPU here")
    done = ffruntime("classify", "--model", exported, "--backend", "onnxruntime-cuda", picture_files[0])
    assert_one_line(done, 6, "onnxruntime-cuda", "CUDAExecutionProvider")


def test_a_flipped_byte_is_found_before_anything_runs(bundle: Path, picture_files: list[Path]) -> None:
    weights = bundle / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for command in (("classify", picture_files[0]), ("verify",)):
        done = ffruntime(command[0], "--model", bundle, *command[1:])
        assert_one_line(done, 3, "weights.safetensors", "damaged")


def test_a_bundle_without_graphs_says_how_to_make_them(bundle: Path, picture_files: list[Path]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.endswith("onnx")}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = ffruntime("classify", "--model", bundle, picture_files[0])
    assert_one_line(done, 3, "goodness.onnx", f"ffexport --model {bundle}")


def test_info(exported: Path) -> None:
    text = ffruntime("info", "--model", exported).stdout.decode()
    for word in ("unit3", "weights.safetensors", "2 spare patterns", "validation: goodness", "recipe shapes"):
        assert word in text
    assert json.loads(ffruntime("info", "--json", "--model", exported).stdout)["format"] == 1


def test_verify_proves_the_backend(exported: Path) -> None:
    done = ffruntime("verify", "--model", exported)
    assert done.returncode == 0, done.stderr
    assert "reproduces the trainer's golden vectors" in done.stdout.decode()
    rows = json.loads(ffruntime("verify", "--json", "--model", exported).stdout)["checks"]
    graphs = [row["graph"] for row in rows]
    assert graphs[:8] == ["unit1", "unit2", "unit3"] + ["goodness"] * 4 + ["classifier"]
    assert set(graphs[8:]) == {"gradient1", "gradient2", "gradient3", "gradient_head"}


def test_verify_fails_where_a_graph_computes_something_else(bundle: Path) -> None:
    """Other weights under the same graphs, with a manifest that vouches for them."""
    weights, manifest = (bundle / "weights.safetensors").read_bytes(), Bundle(bundle).manifest
    before = Bundle(bundle).weights()["unit2.conv1.bias"]
    assert weights.count(before.tobytes()) == 1  # tensors stay where the graphs look for them
    weights = weights.replace(before.tobytes(), np.full_like(before, 0.5).tobytes())
    write_bundle(bundle, manifest, {"weights.safetensors": weights})
    done = ffruntime("verify", "--model", bundle)
    assert done.returncode == 7
    assert done.stderr.decode().count("\n") == 1
    assert "do not trust" in done.stderr.decode()
    assert b"FAILED" in done.stdout


def test_devices(tmp_path: Path) -> None:
    listed = [json.loads(line) for line in ffruntime("devices", "--json").stdout.splitlines()]
    names = {device["name"] for device in listed}
    assert names >= {
        "raspberry-pi-zero-2w",
        "raspberry-pi-5",
        "jetson-orin-nano",
        "jetson-agx-thor",
        "x86-64-cpu",
        "rtx-workstation",
        "h100-h200-server",
    }
    for device in listed:
        for figure in ("memory", "cpu", "inference"):
            assert device[figure]["source"]
        assert device["memory"]["usable_mib"] < device["memory"]["total_mib"]
    table = ffruntime("devices").stdout.decode()
    assert all(name in table for name in names)
    root = Path(__file__).parents[2]
    mine = tmp_path / "mine.toml"
    mine.write_text((root / "devices" / "raspberry-pi-5.toml").read_text().replace("Raspberry Pi 5", "Mine"))
    assert b"Mine" in ffruntime("devices", mine).stdout
    mine.write_text(mine.read_text().replace("cores = 4", "cores = 0"))
    assert_one_line(ffruntime("devices", mine), 2, "mine.toml", "$.cpu.cores")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_output_is_one_line() -> None:
    done = subprocess.run(
        f"{sys.executable} -m ffruntime devices > /dev/full", shell=True, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_name_that_is_no_file_name(picture_files: list[Path]) -> None:
    assert_one_line(ffruntime("classify", "--model", "x" * 300, picture_files[0]), 3, "File name too long")


def test_output_into_a_closed_pipe_is_no_traceback(exported: Path, picture_files: list[Path]) -> None:
    command = (
        f"{sys.executable} -m ffruntime classify --model {exported} {' '.join(map(str, picture_files))} | true"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["", "classify", "info", "verify", "devices"])
def test_help_of_every_command(command: str) -> None:
    done = ffruntime(*command.split(), "--help")
    assert done.returncode == 0
    assert b"Usage" in done.stdout
