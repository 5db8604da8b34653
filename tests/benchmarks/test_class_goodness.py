"""Class goodness, measured part by part: rows that stay, and pages of what has been measured so far."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import class_goodness
import learning
import page_blocks
import page_class
import page_results
import pytest
import torch
from training import class_recipe

from fftrain import network as net
from fftrain.dataset import Dataset
from fftrain.recipe import DEFAULT_RECIPE, FEWEST, QUICK_RECIPE
from fftrain.run import start

MACHINE = {"cpu": "2 cores of a processor", "python": "3.11.7", "torch": "2.15.0"}
TOTAL = {"name": "unit3 alone", "weights": [0, 0, 1], "accuracy": 0.99}


def run(command: str, validation: float, test: float) -> dict[str, Any]:
    return {
        "machine": MACHINE,
        "command": command,
        "seed": int(command.rpartition(" ")[2]),
        "steps": 12_345,
        "parameters": 79_518,
        "tflop": 41.6,
        "total": TOTAL,
        "accuracy": {"validation": {"goodness": validation}, "test": {"goodness": test}},
    }


MEASURED: dict[str, dict[str, Any]] = {
    "mnist-0": run("fftrain mnist --recipe class --minutes 15 --seed 0", 0.9930, 0.9940),
    "mnist-1": run("fftrain mnist --recipe class --minutes 15 --seed 1", 0.9940, 0.9950),
    "fashion-0": run("fftrain fashion-mnist --recipe class --minutes 30 --seed 0", 0.91, 0.905),
    "backpropagation-0": run("fftrain mnist --recipe class --steps 12345 --seed 0", 0.9950, 0.9961)
    | {"total": None},
    "time": {
        "machine": MACHINE,
        "recipe": "class",
        "steps": 1562,
        "seed": [0, 1],
        "target": 0.9902,
        "reached": True,
        "validation": {"1": [0.98, 0.99], "2": [0.9903, 0.9905]},
        "cpu_steps": 23_430,
        "time_of_a_step_over_cpu": 0.6,
        "time_over_cpu": 0.04,
        "share_of_convolution_peak": {"class": 0.5, "cpu": 0.8},
    },
    "weighing-0": {"machine": MACHINE, "accuracy": {"an interval of units": 0.9941}},
    "inference": {"machine": MACHINE, "threads": 2, "speed_over_cpu": 6.25},
    "exit-0": {
        "machine": MACHINE,
        "seed": 0,
        "images": 10_000,
        "accuracy": {"goodness": 0.9930, "exit": 0.9927},
        "points_from_goodness": -0.03,
        "mean_passes": 0.456,
        "most_passes": 1.0,
    },
    "int8-0": {
        "machine": MACHINE,
        "accuracy": {"fp32": 0.9930, "int8": 0.9929},
        "loss_points": 0.01,
        "weights_bytes": {"fp32": 320_000, "int8": 90_000},
    },
}
SAYS = {
    "mnist": "| MNIST | 2 | 79,518 | 99.35 ± 0.07 % | 99.45 ± 0.07 % |",
    "fashion": "| Fashion-MNIST | 1 | 79,518 | 91.00 % | 90.50 % |",
    "backpropagation": "| MNIST, by backpropagation | 1 | 79,518 | 99.50 % | 99.61 % |",
    "time": "98.50 % after 1, 99.04 % after 2 epochs",
    "weighing": "| an interval of units | 99.41 % |",
    "inference": "**6.2** times as fast",
    "exit": "| 0 | 99.30 % | 99.27 % | -0.03 | 0.46 | 1.00 |",
    "int8": "| int8 | 90 kB of 320 | 1 | 99.29 % | 0.01 | 0.01 |",
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results without those of class goodness."""
    folder = Path(shutil.copytree(class_goodness.record.__globals__["RESULTS"], tmp_path / "results"))
    for name in ("class_goodness", "continual_class", "learning_class", "short_trainings", "training_class"):
        (folder / f"{name}.json").unlink(missing_ok=True)
    monkeypatch.setattr("page_text.RESULTS", folder)
    monkeypatch.setattr("common.RESULTS", folder)
    return folder


def measured(results: Path, *parts: str) -> None:
    rows = {name: row for name, row in MEASURED.items() if name.partition("-")[0] in parts}
    (results / "class_goodness.json").write_text(json.dumps({"rows": rows}))


def test_nothing_measured_is_nothing_said(results: Path) -> None:
    assert results.is_dir()
    assert page_class.section() == ""
    assert "class goodness" not in page_blocks.highlights()
    assert "## Class goodness" not in page_results.page()
    assert "*behind:* passes to tell ten classes apart | 10 by" in page_blocks.comparison()


@pytest.mark.parametrize("part", SAYS)
def test_each_part_alone(results: Path, part: str) -> None:
    measured(results, part)
    section = page_class.section()
    assert SAYS[part] in section
    assert not any(said in section for other, said in SAYS.items() if other != part)
    assert f"FOLDER {part}` on 2 cores of a processor" in section.replace(
        "mnist clock fashion backpropagation", part
    )
    assert section in page_results.page()


def test_front_page_tells_of_class_goodness(results: Path) -> None:
    measured(results, *SAYS)
    page = page_blocks.highlights() + page_blocks.comparison()
    assert "`fftrain mnist --recipe class --minutes 15`: 99.45 % of the MNIST test images (mean of 2 seeds)" in page
    assert "`fftrain mnist --recipe cpu` on two CPU cores: 99.10 %" in page
    assert "| passes to tell ten classes apart | 1; with the label in the input 10 by goodness" in page
    assert "| *behind:* accuracy, MNIST, the same network and steps | 99.40 % | 99.61 % |" in page  # of seed 0


def test_steps_of_class_goodness_are_on_the_front_page(results: Path) -> None:
    found = json.loads((results / "learning.json").read_text())
    for name in ("transient_mb", "time_over_torch_ff"):
        found[name]["torch_local"] = found[name].pop("torch_ff")
    found["time_over_torch_local"] = found.pop("time_over_torch_ff")
    for who in ("learn", "limited"):
        found[f"{who}_over_torch_local_time_at_12"] = found.pop(f"{who}_over_torch_ff_time_at_12")
    found["learn_12_units_over_3"] = 1.01
    (results / "learning_class.json").write_text(json.dumps(found))
    shutil.copy(results / "training.json", results / "training_class.json")
    assert "takes 1.01 of the memory that 3 take" in page_blocks.highlights()
    assert "a plain layer-local loop in PyTorch" in page_blocks.comparison()
    assert "PyTorch, a step of local classifiers" in page_class.section()
    assert "python benchmarks/training.py --goodness class" in page_class.section()


def test_the_default_recipe_is_the_one_that_was_measured_to_tell_most() -> None:
    """After each of the short times, by how many steps of the default recipe there was time for."""
    found = page_class.short_trainings()
    assert found
    for of_recipes in found.values():
        means = {name: statistics.mean(shares) for name, (_, shares) in of_recipes.items()}
        steps, _ = of_recipes[DEFAULT_RECIPE]
        assert max(means, key=means.__getitem__) == (QUICK_RECIPE if steps < FEWEST else DEFAULT_RECIPE)


def test_a_part_leaves_the_other_rows(results: Path, tmp_path: Path) -> None:
    measured(results, "mnist", "time")
    class_goodness.keep(tmp_path, "inference", {"speed_over_cpu": 5.0})
    class_goodness.keep(tmp_path, "time", {"time_over_cpu": 0.5})
    rows = json.loads((results / "class_goodness.json").read_text())["rows"]
    assert rows.keys() == {"mnist-0", "mnist-1", "time", "inference"}
    assert rows["mnist-0"] == MEASURED["mnist-0"]
    assert rows["time"].keys() == {"machine", "time_over_cpu"}


def test_a_trainings_row_is_of_the_machine_that_trained(results: Path, tmp_path: Path) -> None:
    row = {"weights": "abc", "command": "fftrain mnist --minutes 15"}
    (results / "class_goodness.json").write_text(json.dumps({"rows": {"mnist-0": {"machine": MACHINE, **row}}}))
    for weights, kept in (("abc", True), ("def", False)):
        class_goodness.keep(tmp_path, "mnist-0", {**row, "weights": weights, "command": "fftrain mnist --steps 9"})
        found = json.loads((results / "class_goodness.json").read_text())["rows"]["mnist-0"]
        assert (found["machine"] == MACHINE) == kept
        assert (found["command"] == row["command"]) == kept


def test_a_busy_machine_is_told_steps() -> None:
    options = argparse.Namespace(steps=None, minutes=None)
    assert class_goodness.how_long(options, "mnist") == ("--minutes", "15")
    assert class_goodness.how_long(options, "fashion") == ("--minutes", "30")
    options.steps = 700
    assert class_goodness.how_long(options, "mnist") == ("--steps", "700")


def test_the_step_in_pytorch_is_of_the_same_rule(dataset: Dataset) -> None:
    """The compared units compute what fftrain's network does with the same weights."""
    begun = start(class_recipe(4, 3, 2, 8), dataset, 0, torch.device("cpu"), torch.float32)
    options = argparse.Namespace(width=4, kernel=3, batch=8, threads=1, bundle=Path("2.ff"))
    units, images, _ = learning.torch_units(options)
    generator = torch.Generator().manual_seed(1)
    for name in ("unit1.readout.weight", "unit2.readout.weight"):
        begun.tensors[name] = torch.randn(begun.tensors[name].shape, generator=generator)
    for index, unit in enumerate(units, 1):
        rows = begun.tensors[f"unit{index}.readout.weight"][:10]
        for parameter, tensor in (
            (unit.conv.weight, begun.tensors[f"unit{index}.conv1.weight"]),
            (unit.conv.bias, begun.tensors[f"unit{index}.conv1.bias"]),
            (unit.readout.weight, rows),
            (unit.readout.bias, torch.zeros(10)),
        ):
            parameter.data.copy_(tensor)
    x, expected = images, []
    for unit in units:
        x = unit.activation(x)
        expected.append(unit.goodness(x))
    found = net.goodness_of_classes(begun.network, begun.tensors, images)[:, :10]
    torch.testing.assert_close(found, torch.stack(expected, 2), rtol=1e-4, atol=1e-4)
