"""`ffruntime bench`: every mode by itself, on the bundle's own images. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from ffruntime.backend import DEFAULT_BACKEND, open_session
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.energy import Meter
from ffruntime.measure import BATCHES, FEWEST, measure, peak_mib, repeat
from ffruntime.model import Model


def bench(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ffruntime", "bench", "--seconds", "0.05", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exported", "class_bundle"])
def test_every_mode_is_an_object(kind: str, request: pytest.FixtureRequest) -> None:
    """With the label in the input, and with class goodness, which has mode `exit`."""
    bundle = request.getfixturevalue(kind)
    done = bench("--model", bundle, "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["mode"] for row in rows] == Model(bundle).modes()
    for row in rows:
        assert row["images"] >= FEWEST
        assert 0 < row["median_ms"] <= row["p99_ms"]
        assert set(row["images_per_second"]) == set(map(str, BATCHES))
        assert 20 < row["peak_mib"]["1"] <= row["peak_mib"]["16"] < 1000
        assert (row["joules_per_image"] is None) == (row["meters"] == [])
        assert row["meters"] or row["no_energy"]
        assert (row["threads"], row["precision"], row["seconds"]) == (1, "fp32", 0.05)


@pytest.mark.slow
def test_a_budget_is_kept_in_every_mode(exported: Path) -> None:
    """By smaller calls, or with the numbers; what is measured is the process that keeps to it."""
    refused = bench("--model", exported, "--memory", 5)
    assert (refused.returncode, refused.stdout) == (6, "")
    assert refused.stderr.count("\n") == 1
    enough = 8 + int(refused.stderr.rsplit("allow ", 1)[1].split()[0].replace(",", ""))
    done = bench("--model", exported, "--json", "--memory", enough, "--device", "raspberry-pi-zero-2w")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["mode"] for row in rows] == Model(exported).modes()
    assert {(row["memory"], row["device"]) for row in rows} == {(enough, "raspberry-pi-zero-2w")}
    assert max(row["peak_mib"]["16"] for row in rows) <= enough


@pytest.mark.slow
def test_a_table_for_people(exported: Path) -> None:
    done = bench("--model", exported)
    header, *rows, legend, energy = done.stdout.splitlines()
    assert [row.split()[0] for row in rows] == Model(exported).modes()
    assert header.split()[:3] == ["mode", "median", "ms"]
    assert legend.startswith("×16")
    assert energy.startswith("energy: ")


@pytest.mark.slow
def test_a_mode_that_fails_says_so_once(bundle: Path) -> None:
    manifest, graph = Bundle(bundle).manifest, bundle / "classifier.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    done = bench("--model", bundle)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "classifier.onnx" in done.stderr
    assert bench("--model", bundle, "--mode", "goodness").returncode == 0
    write_bundle(bundle, structs.replace(manifest, modes=("goodness",)), {})
    assert Model(bundle).modes() == ["goodness"]
    assert "did you mean 'goodness'" in bench("--model", bundle, "--mode", "godness").stderr


def test_energy_is_of_one_image_at_a_time(exported: Path) -> None:
    model = Model(exported)
    starts: list[int] = []

    def start():  # type: ignore[no-untyped-def]
        starts.append(len(starts))
        return lambda: 12.0

    result = measure(model, "classifier", 0.02, [Meter("a meter", start)])
    assert len(starts) == len(BATCHES)
    assert result.joules_per_image == pytest.approx(12 / result.images)
    assert result.meters == ("a meter",)


def test_images_are_the_bundles_exemplars_or_its_golden_ones(bundle: Path) -> None:
    model = Model(bundle)
    exemplars = model.bundle.some_images()
    assert exemplars.dtype == np.uint8
    assert exemplars.shape[1:] == model.manifest.network.image.shape
    files = {name: entry for name, entry in model.manifest.files.items() if name != "exemplars.safetensors"}
    write_bundle(bundle, structs.replace(model.manifest, files=files), {})
    assert 0 < len(Bundle(bundle).some_images()) < len(exemplars)


def test_between_calls_threads_do_not_spin(exported: Path) -> None:
    options = open_session(exported / "classifier.onnx", DEFAULT_BACKEND).get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_calls_are_counted() -> None:
    seen: list[int] = []
    assert len(repeat(seen.append, 0)) == FEWEST
    assert seen == list(range(FEWEST))


@pytest.mark.slow
def test_the_peak_is_of_this_process() -> None:
    code = """
from ffruntime.measure import peak_mib
before = peak_mib()
large = b"x" * (64 << 20)
print(peak_mib() - before)
"""
    large = b"x" * (256 << 20)  # of the process that starts it
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60 < float(done.stdout) < 70
    assert (peak_mib() or 0) > len(large) >> 20
