"""Predictions, accuracy, confusion, and `fftrain evaluate`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec import structs

from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import Examples
from ffruntime.core.errors import UsageError
from ffruntime.core.manifest import TRAINED_MODES
from fftrain.calibration import fit
from fftrain.commands.evaluate import evaluate
from fftrain.evaluation import (
    accuracies,
    accuracy,
    confusion_matrix,
    confusion_table,
    goodness_scores,
    measure,
    most_confused,
    passes,
    predict,
)
from fftrain.run import Run

VALIDATION, TEST = 250, 120


def part(split: Examples, count: int) -> Examples:
    return Examples(split.pixels[:count], split.labels[:count])


@pytest.fixture
def few(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A part of the data, which `fftrain evaluate` finds instead of all of it."""
    data = trained_run.dataset
    dataset = SimpleNamespace(
        validation=part(data.validation, VALIDATION), test=part(data.test, TEST), source=data.source
    )
    monkeypatch.setattr("fftrain.dataset.load_for_manifest", lambda *_: dataset)
    return dataset


def run_evaluate(*arguments: object) -> str:
    result = CliRunner().invoke(evaluate, [*map(str, arguments), "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("modes", [TRAINED_MODES, ("classifier",), ("goodness",)])
def test_accuracy_is_that_of_the_predictions(trained_run: Run, modes: tuple[str, ...]) -> None:
    split, made = part(trained_run.dataset.validation, VALIDATION), []
    scores = predict(trained_run.network, trained_run.tensors, split, 10, modes=modes, advance=made.append)
    right = {mode: float((rows.argmax(1) == split.labels.numpy()).mean()) for mode, rows in scores.items()}
    assert accuracies(scores, split.labels) == right
    assert accuracy(trained_run.network, trained_run.tensors, split, 10, torch.float32, modes) == right
    assert tuple(scores) == modes
    assert all(rows.shape == (VALIDATION, 10) for rows in scores.values())
    assert sum(made) == passes(trained_run.network, VALIDATION, 10, modes)
    assert min(right.values()) > 0.7  # it has learned


def test_scores_do_not_depend_on_how_the_images_are_split_up(
    trained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = trained_run.dataset.validation.pixels[:30]
    whole = goodness_scores(trained_run.network, trained_run.tensors, pixels, 10)
    monkeypatch.setattr("fftrain.evaluation.PASSES", 7)  # fewer than there are classes: an image at a time
    assert torch.allclose(whole, goodness_scores(trained_run.network, trained_run.tensors, pixels, 10), rtol=1e-4)


def test_what_is_measured_agrees_with_itself(trained_run: Run) -> None:
    split = part(trained_run.dataset.validation, VALIDATION)
    scores = predict(trained_run.network, trained_run.tensors, split, 10)
    for result in measure(scores, split.labels, fit(scores, split.labels.numpy(), 0.0)).values():
        matrix = np.array(result.confusion)
        assert np.trace(matrix) / VALIDATION == pytest.approx(result.accuracy)
        assert matrix.sum(axis=1).tolist() == torch.bincount(split.labels, minlength=10).tolist()
        assert sum(b.count for b in result.reliability) == VALIDATION
        assert result.calibration_error < 0.15  # fitted on these very images
        assert result.unsure <= 0.01


@given(arrays(np.int64, 60, elements=st.integers(0, 6)), arrays(np.int64, 60, elements=st.integers(0, 6)))
def test_confusion_counts_every_image_once(labels: np.ndarray, answers: np.ndarray) -> None:
    matrix = confusion_matrix(labels, answers, 7)
    assert matrix.sum() == 60
    assert matrix[2, 5] == ((labels == 2) & (answers == 5)).sum()
    pairs = most_confused(matrix, 100)
    assert sum(n for _, _, n in pairs) == (labels != answers).sum()
    assert all(true != answer and n == matrix[true, answer] for true, answer, n in pairs)
    assert [n for *_, n in pairs] == sorted((n for *_, n in pairs), reverse=True)


def test_a_table_names_classes_and_stays_narrow() -> None:
    text = confusion_table(np.array([[8, 2], [0, 5]]), ["cat", "dog"])
    assert text.splitlines()[1].split() == ["cat", "8", "2", "80.0", "%"]
    many = np.eye(100, dtype=int)
    many[3, 77] = 4
    text = confusion_table(many, [f"class {n}" for n in range(100)])
    assert text.splitlines()[1].split() == ["class", "3", "class", "77", "4"]
    assert max(map(len, text.splitlines())) < 80


def test_json_and_rows_say_the_same(exported: Path, few: SimpleNamespace, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    result = json.loads(run_evaluate(exported, "--split", "test", "--csv", file, "--json"))
    assert (result["split"], result["images"], result["calibration_in_sample"]) == ("test", TEST, False)
    rows = list(csv.DictReader(file.open()))
    assert [int(row["index"]) for row in rows] == list(range(TEST))
    assert [row["true"] for row in rows] == [str(int(label)) for label in few.test.labels]
    for mode in TRAINED_MODES:
        right = [row[f"{mode}_predicted"] == row["true"] for row in rows]
        assert right == [row[f"{mode}_correct"] == "1" for row in rows]
        assert np.mean(right) == pytest.approx(result["modes"][mode]["accuracy"])
        probability = [float(row[f"{mode}_probability"]) for row in rows]
        binned = result["modes"][mode]["reliability"]
        assert sum(probability) == pytest.approx(sum(b["count"] * b["probability"] for b in binned), abs=1e-3)


def test_the_test_images_are_left_alone_unless_asked_for(exported: Path, few: SimpleNamespace) -> None:
    del few.test
    text = run_evaluate(exported)
    assert f"of {VALIDATION} validation images" in text
    assert "in-sample" in text
    for mode in TRAINED_MODES:
        assert f"{mode}: " in text
    assert "true \\ answer" in text
    assert "test" not in text


@pytest.mark.usefixtures("few")
def test_only_modes_that_were_trained_are_evaluated(bundle: Path) -> None:
    write_bundle(bundle, structs.replace(Bundle(bundle).manifest, modes=("classifier",)), {})
    assert list(json.loads(run_evaluate(bundle, "--json"))["modes"]) == ["classifier"]
    with pytest.raises(UsageError, match="goodness"):
        run_evaluate(bundle, "--mode", "goodness")


@pytest.mark.slow
def test_the_whole_validation_split_through_the_command_line(exported: Path) -> None:
    command = [sys.executable, "-m", "fftrain", "evaluate", str(exported), "--mode", "classifier"]
    done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("classifier: ")
    missing = subprocess.run([*command[:4], "missing.ff"], capture_output=True, text=True)
    assert missing.returncode == 3
    assert missing.stderr.count("\n") == 1
