"""`docs/systems.md`: the other papers' systems, rows of the paper's tables, and robustness."""

from __future__ import annotations

import re

from page_text import NONE, machine, measured, percent, result, shares, table
from systems import SYSTEMS

ROBUSTNESS = {
    "intff": "Integrated FF, (784, (200, 200, 200), (50, 50))",
    "ff": "FF, the same layers, one in a unit",
    "ff-cnn": "FF-CNN, `cpu` narrowed to 8, 16 and 100, without augmentation",
    "bp": "backpropagation, the same layers as FF",
}


def page() -> str:
    """The whole page."""
    return "\n".join(["# Systems of the papers, beside what was published\n", _systems(), _paper(), _robustness()])


def _systems() -> str:
    found = result("systems")["rows"]
    rows = []
    for name, row in found.items():
        published = NONE if row["published_test"] is None else f"{row['published_test']:.2f}"
        cells = [f"`{name}`", f"{row['epochs']} of {row['of_epochs']}"]
        cells += [shares(row["accuracy"][split]) for split in ("validation", "test")]
        rows.append([*cells, published, row["device"], f"`{row['command']}`"])
    missing = sorted(SYSTEMS.keys() - found.keys())
    without = f"{', '.join(f'`{name}`' for name in missing)} have not been run.\n\n" if missing else ""
    copies = [name for name, row in found.items() if "JPEG" in row["data"]]
    return (
        "## Each system, and its published figure\n\n"
        "[Recipes](recipes.md) says what each one is. Settings were chosen on validation images; test images were "
        "read once a run. Accuracies are in per cent, by goodness / by the linear classifier where there are both; "
        f"of {_names(found)} by the classifier alone. Published figures are after all epochs, of goodness where "
        "there are two. A row that says fewer epochs had fewer.\n\n"
        f"{', '.join(f'`{name}`' for name in copies)}: of the lossy JPEG copy of CIFAR-10, with shifted and "
        f"mirrored "
        "images. These rows are not comparable with published figures for CIFAR-10.\n\n"
        f"{without}"
        + table(["recipe", "epochs", "validation", "test", "published, test", "trained on", "command"], rows)
        + "\n`python benchmarks/systems.py FOLDER SYSTEM…` gives these commands, and wrote "
        "[`systems.json`](../benchmarks/results/systems.json). What was tried stands in "
        "[benchmarks/README.md](../benchmarks/README.md). Each system is, narrowed, trained, exported, proven and "
        "asked about a picture in a test, and all but the recurrent ones and backpropagation go on learning on the "
        "device there (`tests/fftrain/test_systems.py`).\n\n"
        + table(
            ["recipe", "data", "precision", "machine"],
            [[f"`{name}`", row["data"], row["precision"], machine(row["machine"])] for name, row in found.items()],
        )
    )


def _names(rows: dict[str, dict]) -> str:
    only = [f"`{name}`" for name, row in rows.items() if list(row["accuracy"]["test"]) == ["classifier"]]
    return " and ".join(only)


def _paper() -> str:
    found = result("paper_rows")
    rows = []
    for row in found["rows"]:
        name = row["recipe"]
        about = found["published"][name]
        published = re.search(r"published (.+ %)", about)
        assert published, about
        figures = f"{100 * row['classifier']:.2f} / {100 * row['goodness']:.2f} %"
        rows.append([f"`{name}`", about.partition(":")[0], figures, published[1]])
    names, epochs = ",".join(row["recipe"] for row in found["rows"]), found["epochs"]
    one = "epoch" if epochs == 1 else "epochs"
    return (
        "## Rows of the tables of Scodellaro et al. (2023)\n\n"
        f"Rows that two cores can run, here after **{epochs} of 200 epochs**, on all 10,000 validation images.\n\n"
        + table(
            ["recipe", "row", f"linear classifier / goodness after {epochs} {one}", "published, after 200"], rows
        )
        + "\n"
        + measured("paper_rows", f"python benchmarks/paper_rows.py FOLDER --epochs {epochs} --recipes {names}")
    )


def _robustness() -> str:
    found = result("robustness")
    made_by, systems = found["corruption"], found["systems"]
    rows = []
    for name, row in systems.items():
        published = NONE if row["published"] is None else f"{row['published']:.2f}"
        rows.append([ROBUSTNESS[name], f"{row['mean']:.2f} ± {row['deviation']:.2f} %", row["chosen"], published])
    seeds = len(next(iter(systems.values()))["runs"])
    trials = [
        [ROBUSTNESS[name], "; ".join(f"{trial}: {percent(share)}" for trial, share in row["trials"].items())]
        for name, row in systems.items()
    ]
    integrated, backpropagation = systems["intff"]["mean"], systems["bp"]["mean"]
    behind = "behind" if integrated < backpropagation else "ahead of"
    beside = "behind" if integrated < systems["ff"]["mean"] else "ahead of"
    return (
        "## Trained on a corrupted set\n\n"
        "As in Tang (2023): a quarter of the training images each is clean, has Gaussian noise, has dead pixels, "
        "and is pure noise with any label; test images are clean. The paper says neither how strong the noise is "
        f"nor how many pixels are dead: here the noise's deviation is {made_by['gaussian_deviation']} of a pixel's "
        f"range, and {100 * made_by['dead_pixels']:.0f} % are dead.\n\n"
        f"Integrated FF is {beside} FF here, and ahead of it as published. It is {behind} backpropagation here, "
        f"and "
        "ahead of it as published. The published figures of the table are of other networks: Integrated FF "
        "(784, (100, 100), "
        "(100, 100)), FF (784, 100, 100, 100, 100), backpropagation (784, 100, 100, 100, 100, 10).\n\n"
        + table(["", f"test accuracy, mean ± deviation of {seeds} seeds", "chosen", "published"], rows)
        + "\nLearning rate and epochs were chosen on validation images, with another seed. Where the largest "
        "values "
        "that were tried were chosen, longer training may well change the figures. What was tried, in validation "
        "accuracy:\n\n"
        + table(["", "trials"], trials)
        + "\n"
        + measured("robustness", "python benchmarks/robustness.py FOLDER")
    )
