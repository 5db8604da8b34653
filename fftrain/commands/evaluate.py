"""`fftrain evaluate`: how good a bundle is on any split, in every mode that it was trained for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ffruntime.command import echo
from ffruntime.core.errors import unknown

from ..display import csv_cell, evaluation_bar, percent, say
from .shared import data_option, device_option, import_torch, json_option, model_argument, threads_option

if TYPE_CHECKING:
    import numpy as np

    from ffruntime.core.calibration import Calibration

    from ..evaluation import Measured, Scores

EPILOG = """\b
Examples:
  fftrain evaluate                                 model.ff on the validation images
  fftrain evaluate my.ff --split test --json       on the test images: read them once, when all is decided
  fftrain evaluate --mode goodness --csv rows.csv  a row for every image

\b
Exit codes: 0 done, 1 other errors and missing packages, 2 usage, 3 damaged bundle, 5 data set,
6 no such device, 8 cannot write, 130 interrupted."""


@click.command(epilog=EPILOG)
@model_argument
@click.option(
    "--split",
    type=click.Choice(["validation", "test", "train"]),
    default="validation",
    show_default=True,
    help="The test images are read only when they are asked for.",
)
@data_option
@click.option(
    "--mode",
    type=click.Choice(["goodness", "classifier", "both"]),
    default="both",
    show_default=True,
    help="By the goodness of every label, by the linear classifier, or all that the model was trained for.",
)
@click.option("--csv", "csv_file", metavar="FILE", help="Write a row for every image.")
@device_option
@threads_option
@json_option
def evaluate(
    model: str,
    split: str,
    data: str | None,
    mode: str,
    csv_file: str | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Accuracy, confusion and calibration of MODEL (default: $FF_MODEL, else model.ff) on a split.

    An answer's probability is softmax(score / T). T is one number for each mode, fitted on the validation images.
    """
    torch = import_torch(threads)
    from ffruntime.core.bundle import Bundle
    from ffruntime.core.durable import write_atomically

    from ..class_statistics import of_bundle, with_statistics
    from ..dataset import load_for_manifest, on_device
    from ..evaluation import calibrate, load_tensors, measure, passes, predict
    from ..hardware import compute_exactly, find_hardware

    bundle = Bundle(model)
    manifest = bundle.manifest
    if mode != "both" and mode not in manifest.modes:
        raise unknown("mode of this model", mode, manifest.modes)
    modes = manifest.modes if mode == "both" else (mode,)
    where = torch.device(find_hardware(device).device)
    compute_exactly()
    tensors = load_tensors(bundle, where)
    dataset = load_for_manifest(manifest, data)
    needed = (split,) if manifest.calibration else dict.fromkeys(("validation", split))
    parts = {name: on_device(getattr(dataset, name), where) for name in needed}
    classes = len(manifest.classes)
    total = sum(passes(manifest.network, len(part.labels), classes, modes) for part in parts.values())
    with evaluation_bar(total) as advance:
        scores = {
            name: predict(manifest.network, tensors, part, classes, modes=modes, advance=advance)
            for name, part in parts.items()
        }
    far: dict[str, np.ndarray] = {}
    if made := of_bundle(bundle):
        for name, part in parts.items():
            scores[name], found = with_statistics(made, manifest.network, tensors, part, scores[name])
            if found is not None:
                far[name] = found
    calibration = manifest.calibration or calibrate(
        manifest.network,
        tensors,
        parts["validation"],
        scores["validation"],
        manifest.logit_weight,
        far.get("validation"),
    )
    measured = measure(scores[split], parts[split].labels, calibration, far.get(split))
    if csv_file:
        rows = csv_rows(scores[split], parts[split].labels.cpu().numpy(), calibration, manifest.classes)
        write_atomically(Path(csv_file), rows.encode())
        say(f"{csv_file}: {len(parts[split].labels):,} images")
    offline = dataset.source.offline_sample
    if as_json:
        echo(_json(model, split, len(parts[split].labels), offline, manifest.classes, measured))
    else:
        images = f"{len(parts[split].labels):,} {split} images{' of the OFFLINE SAMPLE' if offline else ''}"
        for name, result in measured.items():
            echo(_text(name, images, split, result, manifest.classes))


def csv_rows(scores: Scores, labels: np.ndarray, calibration: Calibration, classes: tuple[str, ...]) -> str:
    """A row for every image: its index in the split, its class, and for each mode the answer and all scores."""
    from ffruntime.core.calibration import probabilities

    per_mode = ("predicted", "probability", "correct", *(f"score_{name}" for name in classes))
    header = ["index", "true", *(f"{mode}_{column}" for mode in scores for column in per_mode)]
    columns: list[list[object]] = [list(range(len(labels))), [classes[label] for label in labels]]
    for mode, rows in scores.items():
        answers = rows.argmax(axis=1)
        columns += [
            [classes[answer] for answer in answers],
            probabilities(rows, calibration.scores[mode].temperature).max(axis=1).round(6).tolist(),
            (answers == labels).astype(int).tolist(),
            *rows.T.tolist(),
        ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, header))
    writer.writerows(map(csv_cell, row) for row in zip(*columns, strict=True))
    return text.getvalue()


def _json(
    model: str, split: str, images: int, offline: bool, classes: tuple[str, ...], measured: dict[str, Measured]
) -> str:
    from msgspec import to_builtins

    return json.dumps(
        {
            "model": model,
            "split": split,
            "images": images,
            "offline_sample": offline,
            "classes": classes,
            "temperature_fitted_on": "validation",
            "calibration_in_sample": split == "validation",
            "modes": to_builtins(measured),
        }
    )


def _text(mode: str, images: str, split: str, measured: Measured, classes: tuple[str, ...]) -> str:
    import numpy as np

    from ffruntime.core.calibration import UNSURE

    from ..evaluation import confusion_table

    sample = "in-sample: fitted on these images" if split == "validation" else "fitted on the validation images"
    return (
        f"{mode}: {percent(measured.accuracy)} right, of {images}\n"
        f"calibration: softmax(score / T), T = {measured.temperature:.4g} ({sample}); "
        f"expected calibration error {percent(measured.calibration_error)}, "
        f"{percent(measured.calibration_error_before)} of softmax(score); "
        f"unsure at a rate of {percent(UNSURE)}: {percent(measured.unsure)}\n\n"
        f"{confusion_table(np.array(measured.confusion), classes)}\n"
    )
