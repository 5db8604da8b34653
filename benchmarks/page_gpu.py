"""The part of `docs/results.md` on what was run on a GPU: nothing of what has no results."""

from __future__ import annotations

from typing import Any

from page_text import link, machine, measured, optional, percent, shares, table

TRAININGS = {
    "paper": "`fftrain mnist --recipe paper`",
    "fashion": "`fftrain fashion-mnist --recipe class`",
    "cifar": "`fftrain cifar10 --recipe class`",
    "jitter": "`fftrain mnist --recipe hinton-mlp-jitter`",
}
ENGINES = ("onnxruntime", "tensorrt-rtx", "tensorrt")


def section() -> str:
    """What `gpu.py` has written; nothing before it has written something on a GPU."""
    parts = [ways(), trainings(), time_to_accuracy(), *map(engine, ENGINES)]
    found = "\n".join(part for part in parts if part)
    return f"## On a GPU\n\nBy `python benchmarks/gpu.py`, part by part.\n\n{found}" if found else ""


def ways() -> str:
    """Ways to run the step of recipe `paper`."""
    found = optional("gpu_steps")
    if not found:
        return ""
    rows = []
    for name, row in found["ways"].items():
        if "failed" in row:
            rows.append([f"`{name}`", "–", "–", row["failed"]])
        else:
            note = "" if row["alike"] else "not the same result"
            rows.append([f"`{name}`", f"{row['ms']:.3f} ms", f"{row['share_of_product_peak']:.2f}", note])
    return (
        f"Ways (`--step`) to run the step of recipe `paper` on {found['gpu']}, {found['precision']}, "
        f"{found['gflop_of_a_step']:.0f} GFLOP. The peak is that of a product of two large matrices, measured in "
        f"the same run: {found['product_peak_tflops']:.0f} TFLOP/s; a convolution of the step's shape reaches "
        f"{found['convolution_peak_tflops']:.0f}.\n\n"
        + table(["way", "a step", "share of the peak", ""], rows)
        + "\n"
        + measured("gpu_steps", "python benchmarks/gpu.py --only steps")
    )


def trainings() -> str:
    """Whole trainings, or how far they are."""
    rows, names, where = [], [], ""
    for name, what in TRAININGS.items():
        if not (found := optional(f"gpu_{name}")):
            continue
        names.append(name)
        where = f"{found['gpu']}, {machine(found['machine'])}"
        row = [what, str(found["epochs"]), f"{found['seconds']:.0f} s"]
        if found["finished"]:
            rows.append([*row, *(f"{shares(found['accuracy'][split])} %" for split in ("validation", "test"))])
        else:
            rows.append([*row, "not finished", ""])
    if not rows:
        return ""
    links = ", ".join(f"[`gpu_{name}.json`]({link(f'gpu_{name}')})" for name in names)
    head = ["training", "epochs", "time", "validation", "test"]
    return f"Accuracy by goodness / by the classifier.\n\n{table(head, rows)}\nMeasured on {where}: {links}.\n"


def time_to_accuracy() -> str:
    """Recipe `gpu`: is the paper's figure reached, and when?"""
    found = optional("gpu_time")
    if not found:
        return ""
    rows = []
    for run in found["runs"]:
        row = [str(run["seed"]), f"{run['seconds']:.0f} s", f"{shares(run['accuracy']['test'])} %"]
        rows.append([*row, "yes" if run["reached"] else "no"])
    return (
        f"Recipe `gpu` and the published {percent(found['target'])} of the MNIST test images, by goodness / by the "
        f"classifier; the goal is {found['goal_seconds']:.0f} s.\n\n"
        + table(["seed", "time of the training", "test", "reached"], rows)
        + "\n"
        + measured("gpu_time", "python benchmarks/gpu.py --only time")
    )


def engine(name: str) -> str:
    """An inference engine on the GPU beside ONNX Runtime on the processor."""
    found = optional(f"gpu_{name}")
    if not found:
        return ""
    running: dict[str, Any] | None = found if name == "onnxruntime" else found.get("running")
    if not running:
        said = found.get("refused", "not run: no GPU was there")
        text = f"{name}: {len(found['engines'])} engines built in {found['seconds_of_building']:.0f} s; {said}.\n"
    else:
        worst, times = max(running["golden_errors"].values()), running["ms_of_an_image"]
        text = (
            f"`{running['backend']}`, the network that comes with ffruntime: golden error {worst:.0e} at most, "
            f"{running['equal_decisions']:,} of {running['images']:,} decisions as by the processor, an image in "
            f"{times['gpu']:.2f} ms ({times['cpu']:.2f} by the processor).\n"
        )
        if other := found.get("other_weights"):
            text += (
                f"With other weights (refit): {other['equal_decisions']:,} of {other['images']:,} decisions as by "
                f"the processor with the same, scores off by {other['largest_score_difference']:.0e} at most.\n"
            )
    return text + "\n" + measured(f"gpu_{name}", f"python benchmarks/gpu.py --only {name}")
