"""`docs/results.md`: what was measured, from training to learning on the device."""

from __future__ import annotations

from typing import Any

import page_at_once
import page_attack
import page_class
import page_continual
import page_fleet
import page_gpu
import page_kills
import page_later
import page_photographs
import page_serve
import page_unsure
from page_steps import contention, learning_table, training_table
from page_text import machine, measured, optional, percent, result, shares, table

from ffruntime.core.manifest import MODES

COMMANDS = {  # the start of a data set's description in a results file, and how its run is made
    "MNIST": "fftrain mnist --recipe {recipe}",
    "offline sample": "fftrain mnist --offline --recipe {recipe}",
    "Fashion-MNIST": "fftrain fashion-mnist --recipe {recipe} --epochs {epochs}",
}
WORLDS = {
    "inverted": "inverted digits",
    "blurred": "blurred ones",
    "rotated": "turned by 45°",
    "thick": "thick ones",
    "speckled": "with salt and pepper",
    "tilted": "in perspective",
}
SHOWN = (0, 5, 20, 80)  # examples of the new class
INTRODUCTION = """# Results

Every figure on this page comes from a file in `benchmarks/results/`, which the command beside it wrote. Timings are
ratios, measured side by side in one run. Settings were chosen on validation images; test images were read once a
run. [systems.md](systems.md) has the systems of other papers, and [benchmarks/README.md](../benchmarks/README.md)
what was tried.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, accuracy(), page_class.section(), training(), page_gpu.section(), export(), precision()]
    parts += [classifying(), page_photographs.section(), page_unsure.section(), page_later.section(), memory()]
    parts += [page_at_once.section(), learning(), *scenes(), page_fleet.section(), page_kills.section()]
    parts += [page_attack.section(), page_serve.section()]
    return "\n".join(part for part in parts if part)


def accuracy() -> str:
    """With the label in the input: recipe `cpu`, and the paper's figure as the goal."""
    runs, goal = result("label_in_input")["runs"], result("time_to_accuracy_cpu")
    rows = []
    for run in runs:
        start = next(start for start in COMMANDS if run["data"].startswith(start))
        rows.append(
            [
                f"`{COMMANDS[start].format(**run)}`",
                run["data"],
                str(run["epochs"]),
                f"{shares(run['accuracy']['validation'])} %",
                f"{shares(run['accuracy']['test'])} %",
                run["device"],
            ]
        )
    rows.append(["*published:* Scodellaro et al. 2023, 3 × 128 filters of 7×7", "MNIST", "200"])
    rows[-1] += ["99.20 / 99.14 %", "99.16 / 99.00 %", "unstated"]
    weights = result("precision")["modes"]["goodness"]["fp32"]["weights_bytes"]
    inference = result("inference")
    more = inference["paper"]["gflop_per_image"] / inference["bundle"]["gflop_per_image"]
    reached = goal["median_test_accuracy"]
    misses = {mode: round(1e4 * (goal["target"] - share)) for mode, share in reached.items()}
    return (
        "## Accuracy with the label in the input\n\n"
        "Accuracy by goodness / by the linear classifier. One network and one seed a row. Recipe `cpu` was not "
        "tuned for Fashion-MNIST. The offline sample's test images are the 500 that are held out.\n\n"
        + table(["run", "data", "epochs", "validation", "test", "trained on"], rows)
        + f"\nThe network of recipe `cpu` has {weights / 4e6:.1f} M float32 values ({weights / 1e6:.1f} MB, label "
        f"patterns included). The published network has 3.6 M parameters, by its published shapes, and takes "
        f"{more:.0f} times the arithmetic to classify an image by goodness.\n\n"
        + measured("label_in_input", "python benchmarks/label_in_input.py FOLDER")
        + f"\nThe goal is the published {percent(goal['target'])} on the MNIST test images within a quarter of "
        f"an hour "
        f"on two cores. Recipe `cpu` took {goal['median_share_of_the_goals_time']:.2f} of that time and "
        f"reached "
        f"{percent(reached['goodness'])} by goodness and {percent(reached['classifier'])} by the classifier: "
        f"{misses['goodness']} and {misses['classifier']} images in ten thousand short.\n\n"
        + measured("time_to_accuracy_cpu", "python benchmarks/time_to_accuracy.py FOLDER")
    )


def training() -> str:
    """Speed and memory of a training step."""
    parts = [
        "## Training: speed and memory\n\n"
        "A training step of fftrain beside a plain Forward-Forward loop in PyTorch and beside backpropagation "
        "of the "
        "same layers. *Transient* is what a step needs beside parameters, moments and data.\n"
    ]
    small = "training.py --width 32 --kernel 5 --name training_small"
    parts += [
        training_table(name, command) for name, command in (("training", "training.py"), ("training_small", small))
    ]
    parts.append(contention())
    return "\n".join(parts)


def export() -> str:
    """What an export costs, and whether the decisions are the trainer's."""
    found, parity = result("export"), result("parity")
    ties = f", {parity['ties']:,} ties" if parity["ties"] else ""
    return (
        "## Export\n\n"
        f"ONNX Runtime takes the same decision as PyTorch on {parity['equal_decisions']:,} of {parity['images']:,} "
        f"validation images of the recipe `{parity['recipe']}` ({parity['other_differences']} other "
        f"decisions{ties}); the largest difference of a score is {parity['largest_score_difference']:.1e}.\n\n"
        + measured("parity", "python benchmarks/parity.py")
        + f"\nOf the recipe `{found['recipe']}`, in one run: writing {found['ffexport_graphs']} graphs, "
        f"{found['ffexport_graph_bytes'] / 1e3:.0f} kB that name the weights where they are, takes "
        f"{found['graphs_over_torch']:.2f} times as long as one `torch.onnx.export` of the goodness computation, a "
        f"file of {found['torch_bytes_one_graph_with_weights'] / 1e6:.1f} MB. Writing and proving them all takes "
        f"{found['graphs_with_all_checks_over_torch']:.0f} times as long as that export.\n\n"
        + measured("export", f"python benchmarks/export.py {found['recipe']}")
    )


def precision() -> str:
    """fp32, fp16 and int8."""
    found = result("precision")
    modes = found["modes"]
    rows = [
        [name, f"{row['weights_bytes'] / 1e6:.1f} MB"]
        + [percent(modes[mode][name]["accuracy"]) for mode in ("goodness", "classifier")]
        for name, row in modes["goodness"].items()
    ]
    return (
        "## Precisions\n\n"
        f"The recipe `{found['recipe']}` on all {found['images']:,} validation images.\n\n"
        + table(["", "weights", "by goodness", "by the classifier"], rows)
        + "\n"
        + measured("precision", "python benchmarks/precision.py cpu.ff")
    )


def modes_table(found: dict[str, Any]) -> str:
    """One run of `shortlist.py`."""
    rows = [
        [
            f"`{mode}`, {split}" if mode in MODES else f"{mode}, {split}",
            percent(row["accuracy"]),
            f"{row['mean_passes']:.2f}",
            str(row["most_passes"]),
            f"{row['as_goodness']:,}",
        ]
        for split in ("validation", "test")
        for mode, row in found[split]["modes"].items()
    ]
    head = ["mode, split", "accuracy", "passes on average", "passes at most", "decisions as goodness"]
    return table(head, rows) + "\n"


def shortlist_with_logits() -> str:
    """The classifier's logits weighed into the totals of labels in play, where that was measured."""
    name = "shortlist_logits"
    if not (found := optional(name)):
        return ""
    return (
        f"\nIn mode `shortlist` the classifier's logits count beside the goodness of labels in play, weighed "
        f"{found['logit_weight']:.3g} on validation images. Of a network that was trained for {found['epochs']} "
        "epochs:\n\n" + modes_table(found) + measured(name, f"python benchmarks/shortlist.py cpu.ff {name}")
    )


def classifying() -> str:
    """Start-up, modes and the speed of inference."""
    short, inference = result("shortlist"), result("inference")
    best = short["test"]["modes"]["shortlist"]
    ratio = result("cold_start")["classify_over_import_torch"]
    rows = []
    for network in ("bundle", "paper"):
        for size in (1, 16):
            row = inference[network][f"batch_{size}"]
            speed, peak = row["speed_of_goodness_over"], row["share_of_convolution_peak"]
            rows.append(
                [f"recipe `{inference[network]['recipe']}`, {size} image{'s' if size > 1 else ''}"]
                + [f"{speed[other]:.2f}" for other in ("eager_loop", "batched", "compiled", "classifier")]
                + [f"{peak['goodness']:.2f}", f"{peak['eager_loop']:.2f}"]
            )
    head = [
        "",
        "PyTorch, label by label",
        "PyTorch, all labels in one pass",
        "the same, compiled",
        "the classifier",
    ]
    head += ["share of the convolution peak", "PyTorch label by label, share of it"]
    return (
        "## Classifying\n\n"
        "With the label in the input, mode `goodness` asks every label, ten passes for a digit. Mode "
        "`shortlist` asks the classifier first, then "
        f"goodness of the labels still in play. On the MNIST test images that is "
        f"**{percent(best['accuracy'])}** in "
        f"{best['mean_passes']:.2f} passes on average, {best['most_passes']} at most.\n\n"
        + modes_table(short)
        + measured("shortlist", "python benchmarks/shortlist.py cpu.ff")
        + shortlist_with_logits()
        + f"\n`ffruntime classify` of one image, from process start to exit, takes {ratio:.2f} of the time that "
        '`python -c "import torch"` takes.\n\n'
        + measured("cold_start", "python benchmarks/cold_start.py")
        + f"\nSpeed of ffruntime's goodness of ten labels over that of others, on {inference['threads']} threads "
        "(above 1, ffruntime is faster; of the classifier it is the price of goodness):\n\n"
        + table(head, rows)
        + f"\nA process that classifies with the network of recipe `{inference['bundle']['recipe']}` has "
        f"{inference['classify_resident_mb_at_exit']:.1f} MB resident when it exits.\n\n"
        + measured("inference", "python benchmarks/inference.py cpu.ff")
    )


def memory() -> str:
    """The planner's figures beside what was measured."""
    found = result("memory")
    planned, resident = found["planned_over_measured"], found["measured_mib"]
    networks = {case.partition(":")[0] for case in planned}
    rows = [[case, f"{resident[case]:.1f} MiB", f"{share:.2f}"] for case, share in planned.items()]
    return (
        "## The memory plan\n\n"
        f"What the planner says is between {found['lowest']:.2f} and {found['highest']:.2f} of what a fresh "
        f"process "
        f"has resident at most, over {len(networks)} networks, every mode and whole updates. A case is a "
        f"network, a "
        "mode with images and labels in a call, or an update with images and labels in a call and images in "
        "a call of a gradient graph.\n\n"
        + table(["case", "measured, at most", "planned over measured"], rows)
        + "\n"
        + measured("memory", "python benchmarks/memory.py")
    )


def learning() -> str:
    """An update on the device beside steps in PyTorch."""
    return "## Learning on the device: memory and time\n\n" + learning_table("learning", "learning.py")


def scenes() -> list[str]:
    """What the demonstration measures, with labels in the input, and by class goodness where that was measured."""
    title = "Learning on the device: what is learned, and what is forgotten"
    parts = [continual("continual", title, "nine.ff model.ff untrained.ff --goodness pair")]
    return [*parts, page_continual.section()]


def continual(results: str, heading: str, command: str) -> str:
    """The demonstration's scenes, with bundles of one kind of goodness."""
    found = result(results)
    facts = found["measured"]
    points = {point["examples"]: point for point in found["new-class"]["points"]}
    new, old = ([f"{100 * points[n][what]['goodness']:.1f}" for n in SHOWN] for what in ("new", "old"))
    taught = " / ".join(map(str, SHOWN[1:]))
    row = [f"a digit never seen, from {taught} examples", "0 %", f"{' / '.join(new[1:])} %"]
    rows = [[*row, f"{old[0]} → {' / '.join(old[1:])} %"]]
    for name, world in found["changed-world"]["worlds"].items():
        first, learned, rehearsed = world[0], world[-2], world[-1]
        rows.append(
            [
                f"{WORLDS[name]}, {learned['examples']} examples, then rehearsed at rest",
                percent(first["new"]["goodness"], 1),
                f"{100 * learned['new']['goodness']:.1f}, then {100 * rehearsed['new']['goodness']:.1f} %",
                f"{100 * first['old']['goodness']:.1f} → {100 * rehearsed['old']['goodness']:.1f} %",
            ]
        )
    split = found["split-mnist"]
    summary, plan, seeds = split["summary"], split["plan"], len(split["seeds"])
    accs = {who: (100 * acc["acc"][0], 100 * acc["acc"][1]) for who, acc in summary.items()}
    replay = summary["replay"]
    methods = []
    for who, name in (("replay", "replay and rehearsal"), ("gdumb", "GDumb"), ("naive", "without replay")):
        values = [accs[who], [100 * figure for figure in summary[who]["acc_by_goodness"]]]
        cells = [f"{mean:.2f} ± {deviation:.2f} %" for mean, deviation in values]
        cells = cells if split.get("mode", "classifier") != "goodness" else cells[:1]
        for measure in ("bwt", "forgetting"):
            known = summary[who][measure]
            cells.append(f"{100 * known[0]:.2f} %".replace("-", "−") if known else "–")
        methods.append([name, *cells])
    apart = abs(accs["replay"][0] - accs["gdumb"][0])
    verdict = (
        "no difference that these seeds show"
        if apart < max(accs["replay"][1], accs["gdumb"][1])
        else f"{apart:.2f} points {'less' if accs['replay'][0] > accs['gdumb'][0] else 'more'}"
    )
    bundles = "; ".join(
        f"`{scene.removeprefix('bundle of ')}`: {what}"
        for scene, what in facts.items()
        if scene.startswith("bundle of ")
    )
    curves = (
        "The [curves of all three](pictures/demo.svg), of every method that a device can run and with six worlds, "
        "are as `ffruntime demo` drew them of networks with class goodness: recipes `class` (without the nine 4 "
        "epochs, with all digits 20) and `class-stream`, one seed.\n\n"
        if results == "continual"
        else ""
    )
    return (
        f"## {heading}\n\n"
        "Accuracy by goodness on the MNIST test images. The bundles are "
        f"{bundles}. [demo.md](demo.md) says how it is measured.\n\n"
        + table(["what the device learns", "before", "after", "and what it knew"], rows)
        + f"\nFrom nothing, in one pass over Split-MNIST (five tasks of two digits, one ten-way answer, "
        f"{plan['stored']} images stored, {seeds} seeds): ACC **{accs['replay'][0]:.2f} ± "
        f"{accs['replay'][1]:.2f} %**, "
        f"BWT −{-100 * replay['bwt'][0]:.2f} %, forgetting {100 * replay['forgetting'][0]:.2f} %. Without "
        f"replay it is "
        f"{accs['naive'][0]:.2f} %. GDumb, which learns only the {plan['stored']} stored images, reaches "
        f"{accs['gdumb'][0]:.2f} ± {accs['gdumb'][1]:.2f} % with the same network: {verdict}. Published for "
        f"GDumb with "
        "500 images and a multi-layer perceptron of width 400: 91.9 % (Prabhu et al. 2020).\n\n"
        + table(
            ["", *(["ACC, classifier"] if len(methods[0]) == 5 else []), "ACC, goodness", "BWT", "forgetting"],
            methods,
        )
        + f"\n{curves}Measured by `python benchmarks/continual.py {command}` on {machine(found['machine'])}: "
        f"[`{results}.json`](../benchmarks/results/{results}.json).\n"
    )
