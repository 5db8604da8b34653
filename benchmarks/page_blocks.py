"""The generated blocks of hand-written pages, and the front page's picture."""

from __future__ import annotations

from typing import Any

import page_class
import page_continual
from page_text import NONE, optional, percent, result, table

from ffruntime.demo.page import WIDTH, lines_svg
from fftrain.recipe import load_recipe, recipe_names

DEEP, SHALLOW = "12", "3"  # layers


def highlights() -> str:
    """The front page's figures."""
    learning, parity = _learning(), result("parity")
    scenes = result("continual")
    points = {point["examples"]: point for point in scenes["new-class"]["points"]}
    split = scenes["split-mnist"]["summary"]
    cold = result("cold_start")["classify_over_import_torch"]
    return "\n".join(
        [
            f"- **Accuracy.** {_of_classes()}{_of_labels()}",
            f"- **Flat memory.** An update of {DEEP} units takes {learning['learn_12_units_over_3']:.2f} of the "
            f"memory that {SHALLOW} take, and {learning['learn_over_torch_bp_at_12']:.2f} of what a step of "
            "backpropagation in PyTorch takes.",
            f"- **Learning**, recipe `cpu`. A digit never seen: {percent(points[20]['new']['goodness'], 1)} after "
            f"20 examples, {percent(points[80]['new']['goodness'], 1)} after 80; the other digits fall from "
            f"{100 * points[0]['old']['goodness']:.1f} to {percent(points[80]['old']['goodness'], 1)}. "
            f"Split-MNIST from "
            f"nothing in one pass, 500 images stored: {percent(split['replay']['acc'][0])}."
            f"{page_continual.sentence()}",
            f"- **Proof.** ONNX Runtime takes the same decision as PyTorch on {parity['equal_decisions']:,} of "
            f"{parity['images']:,} images.",
            f"- **Start-up.** `ffruntime classify` of one image, start to exit, takes {cold:.2f} of the time of "
            '`python -c "import torch"`.',
        ]
    )


def _of_classes() -> str:
    """Accuracy of class goodness, as far as it has been measured."""
    told = []
    for part, name in (("mnist", "MNIST"), ("fashion", "Fashion-MNIST")):
        if runs := page_class.rows(part):
            command, share = runs[0]["command"].partition(" --seed")[0], page_class.mean_accuracy(part, "test")
            seeds = f" (mean of {len(runs)} seeds)" if len(runs) > 1 else ""
            told.append(f"`{command}`: {percent(share)} of the {name} test images{seeds}")
    return f"In one pass, by class goodness, {'; '.join(told)}. " if told else ""


def _of_labels() -> str:
    """Accuracy of recipe `cpu`, which puts the label into the image."""
    accuracy = result("time_to_accuracy_cpu")["median_test_accuracy"]
    short = result("shortlist")["test"]["modes"]["shortlist"]
    return (
        "With the label in the input, `fftrain mnist --recipe cpu` on two CPU cores: "
        f"{percent(accuracy['goodness'])} of the MNIST test images by goodness, "
        f"{percent(accuracy['classifier'])} by the linear classifier, {percent(short['accuracy'])} in mode "
        f"`shortlist`, in {short['mean_passes']:.2f} passes on average."
    )


def _learning() -> dict[str, Any]:
    """Steps on the device: of class goodness, where that has been measured."""
    return optional("learning_class") or result("learning")


def comparison() -> str:
    """ffedge beside what a user would pick instead; rows where it is behind come last, and say so."""
    learning, training = _learning(), optional("training_class") or result("training")
    memory = learning["transient_mb"]
    (plain,) = memory.keys() - {"learn", "limited", "torch_bp"}
    time = learning[f"time_over_{plain}"]
    better, worse = _of_classes_beside()
    ahead = [
        [
            "learns on the device",
            "yes, in an inference engine; no training framework",
            "no, retrained on a server, or with PyTorch there; ONNX Runtime's training wheels ended at 1.19.2, "
            "ExecuTorch's training is experimental",
            "with PyTorch there",
            "yes",
        ],
        [
            f"memory of a step, {DEEP} layers, over backpropagation's",
            *(f"{memory[who][DEEP] / memory['torch_bp'][DEEP]:.2f}" for who in ("learn", "torch_bp", plain)),
            NONE,
        ],
        [
            f"memory, {DEEP} layers over {SHALLOW}",
            f"{learning['learn_12_units_over_3']:.2f}; with `--memory` {learning['limited_12_units_over_3']:.2f}",
            *(f"{memory[who][DEEP] / memory[who][SHALLOW]:.2f}" for who in ("torch_bp", plain)),
            NONE,
        ],
        [
            "durable examples, versions, rollback; an update that costs accuracy is refused",
            "yes",
            "not by itself",
            "no",
            NONE,
        ],
        [
            "networks of your own",
            "yes, a TOML file",
            "yes",
            "yes",
            "TinyEngine: do not compile (issues 49, 65, 112)",
        ],
        [
            "runs on microcontrollers",
            "yes, and learns there, in 256 KB; so far on an emulated one",
            "with TensorFlow Lite Micro, which does not train",
            "no",
            "yes, and they train there; TinyEngine in 256 KB",
        ],
    ]
    step = [
        f"time of a learning step, {DEEP} layers, over a plain loop's",
        f"{time['learn'][DEEP]:.2f}; with `--memory` {time['limited'][DEEP]:.2f}",
        *(f"{time[who][DEEP]:.2f}" for who in ("torch_bp", plain)),
        "AIfES: 82 ms a training step on an ESP32-S3",
    ]
    fast = time["learn"][DEEP] <= min(time["torch_bp"][DEEP], 1.0)
    behind = [
        *([] if fast else [step]),
        [
            "training speed on a workstation",
            *(f"{training['speed_over_plain'][who]:.2f}" for who in ("fftrain", "backpropagation", "plain")),
            NONE,
        ],
        _locally_connected(),
        *worse,
        ["begins with a pretrained backbone", "no", "yes", "no", NONE],
        ["released", "no", "yes", "no", "TinyEngine's last commit is of 2024-11"],
    ]
    loop = {"torch_ff": "Forward-Forward", "torch_local": "layer-local"}[plain]
    head = ["", "ffedge", "backpropagation in PyTorch, exported", f"a plain {loop} loop in PyTorch"]
    lines = [
        *ahead,
        *([step] if fast else []),
        *better,
        *([f"*behind:* {what}", *cells] for what, *cells in behind),
    ]
    precisions = training["precision"]
    mixed = (
        f"; in the row of training speed the plain loop computes in {precisions['plain']}, the other two in "
        f"{precisions['fftrain']}"
    )
    notes = (
        "Memory, time and speed are ratios, measured side by side in one run ([results](docs/results.md))"
        f"{mixed if precisions['plain'] != precisions['fftrain'] else ''}. What is said of other tools is from "
        "their documentation, packages and issue lists: Teachable Machine, for one, does not work offline "
        "(teachablemachine-community issue 364). "
        "– was not "
        "measured, or is not known to us."
    )
    return table([*head, "TinyEngine, AIfES"], lines) + "\n" + notes


def _of_classes_beside() -> tuple[list[list[str]], list[list[str]]]:
    """Passes, and accuracy of class goodness beside backpropagation of the same network: where it is not behind,
    and where it is."""
    short = result("shortlist")["test"]["modes"]["shortlist"]["mean_passes"]
    of_labels = f"10 by goodness, {short:.2f} by shortlist, 1 by the classifier"
    passes = "passes to tell ten classes apart"
    if not page_class.rows("mnist"):
        return [], [[passes, of_labels, "1", "10", "1"]]
    better = [[passes, f"1; with the label in the input {of_labels}", "1", "1 or 10", "1"]]
    worse: list[list[str]] = []
    others = {row["seed"]: row["accuracy"]["test"]["goodness"] for row in page_class.rows("backpropagation")}
    same = {row["seed"]: row["accuracy"]["test"]["goodness"] for row in page_class.rows("mnist")}
    if seeds := others.keys() & same.keys():
        ours, other = (sum(found[seed] for seed in seeds) / len(seeds) for found in (same, others))
        row = ["accuracy, MNIST, the same network and steps", percent(ours), percent(other), NONE, NONE]
        (better if ours >= other else worse).append(row)
    return better, worse


def _locally_connected() -> list[str]:
    """Backpropagation's lead in one form of network, where both were run."""
    rows = result("systems")["rows"]
    ours, other = rows["hinton-local"], rows["hinton-local-bp"]
    epochs = f" ({ours['epochs']} of {ours['of_epochs']} epochs)" if ours["epochs"] < ours["of_epochs"] else ""
    return [
        "accuracy, CIFAR-10 (JPEG copy), locally connected layers",
        percent(ours["accuracy"]["test"]["goodness"]) + epochs,
        percent(other["accuracy"]["test"]["classifier"]),
        NONE,
        NONE,
    ]


def recipes() -> str:
    """The shipped recipes."""
    loaded = {name: load_recipe(name) for name in recipe_names()}
    return table(
        ["recipe", "epochs", "what"],
        [[f"`{name}`", str(recipe.schedule.epochs), recipe.about] for name, recipe in loaded.items()],
    )


def picture() -> str:
    """Two charts side by side as one SVG file, dark on white: a class never seen, and Split-MNIST."""
    found = result("continual")
    points = found["new-class"]["points"]
    new = {
        name: [(point["examples"], point[what]["goodness"]) for point in points]
        for name, what in (("the new digit", "new"), ("the nine others", "old"))
    }
    seeds = found["split-mnist"]["seeds"].values()
    split = {name: _after_each_task([seed[who]["r"] for seed in seeds]) for name, who in METHODS}
    charts = [
        lines_svg("A digit never seen, learned on the device", "examples learned", new),
        lines_svg(f"Split-MNIST, mean of {len(seeds)} seeds", "tasks learned", split),
    ]
    heights = [int(chart.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1]) for chart in charts]
    drawn = "".join(
        chart.replace("<svg ", f'<svg x="{index * WIDTH}" width="{WIDTH}" height="{height}" ', 1)
        for index, (chart, height) in enumerate(zip(charts, heights, strict=True))
    )
    size = f'viewBox="0 0 {2 * WIDTH} {max(heights)}" width="{2 * WIDTH}" height="{max(heights)}"'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    style = 'color="#1b1f24" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{ground}{drawn}</svg>\n'


METHODS = (("replay and rehearsal", "replay"), ("without replay", "naive"))


def _after_each_task(seeds: list[list[list[float]]]) -> list[tuple[float, float]]:
    """(tasks learned, accuracy on the tasks so far, mean over seeds) of R[task][task] (`docs/demo.md`)."""
    return [
        (task, sum(sum(r[task - 1][:task]) / task for r in seeds) / len(seeds))
        for task in range(1, len(seeds[0]) + 1)
    ]
