"""The README keeps its word: its numbers are those of the results files, its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from msgspec import convert
from msgspec.structs import replace
from systems import SYSTEMS

from fftrain.recipe import Recipe, load_recipe, with_epochs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def test_accuracies_are_those_that_the_benchmark_wrote() -> None:
    runs = json.loads((RESULTS / "default_recipe.json").read_text())["runs"]
    assert runs
    for run in runs:
        for modes in run["accuracy"].values():
            for share in modes.values():
                assert f"{100 * share:.2f} %" in README


def test_cold_start_is_what_the_benchmark_wrote() -> None:
    ratio = json.loads((RESULTS / "cold_start.json").read_text())["classify_over_import_torch"]
    assert ratio < 1
    assert f"{ratio:.2f}" in README


def test_parity_is_what_the_benchmark_wrote() -> None:
    result = json.loads((RESULTS / "parity.json").read_text())
    assert result["other_differences"] == 0
    assert result["equal_decisions"] + result["ties"] == result["images"] == 10_000
    assert f"{result['equal_decisions']:,} of 10,000" in README


def test_training_speed_and_memory_are_what_the_benchmark_wrote() -> None:
    result = json.loads((RESULTS / "training.json").read_text())
    figures = [result["speed_over_plain"]["fftrain"], result["fftrain_share_of_convolution_peak"]]
    figures += [result["fftrain_12_layers_over_3"], result["fftrain_over_backpropagation_at_12"]]
    for figure in figures:
        assert f"{figure:.2f}" in README


def test_time_to_accuracy_is_what_the_benchmark_wrote() -> None:
    result = json.loads((RESULTS / "time_to_accuracy_cpu.json").read_text())
    assert f"{result['median_share_of_the_goals_time']:.2f}" in README
    for share in result["median_test_accuracy"].values():
        assert f"{100 * share:.2f} %" in README


def test_precisions_are_what_the_benchmark_wrote() -> None:
    modes = json.loads((RESULTS / "precision.json").read_text())["modes"]
    for precision, row in modes["goodness"].items():
        figures = [100 * modes[mode][precision]["accuracy"] for mode in ("goodness", "classifier")]
        size = row["weights_bytes"] / 1e6
        assert f"| {precision} | {size:.1f} MB | {figures[0]:.2f} % | {figures[1]:.2f} % |" in README


def test_learning_on_the_device_is_what_the_benchmark_wrote() -> None:
    result = json.loads((RESULTS / "continual.json").read_text())
    assert not any(result[scene]["quick"] for scene in ("new-class", "changed-world", "split-mnist"))
    points = {point["examples"]: point for point in result["new-class"]["points"]}
    new, old = ([f"{100 * points[n][what]['goodness']:.1f}" for n in (0, 5, 20, 80)] for what in ("new", "old"))
    assert f"| 0 % | {' / '.join(new[1:])} % | {old[0]} → {' / '.join(old[1:])} % |" in README
    for world in result["changed-world"]["worlds"].values():
        first, learned, rehearsed = world[0], world[-2], world[-1]
        assert learned["examples"] == rehearsed["examples"] == 320
        after = f"{100 * learned['new']['goodness']:.1f}, then {100 * rehearsed['new']['goodness']:.1f} %"
        kept = f"{100 * first['old']['goodness']:.1f} → {100 * rehearsed['old']['goodness']:.1f} %"
        assert f"| {100 * first['new']['goodness']:.1f} % | {after} | {kept} |" in README
    scene = result["split-mnist"]
    assert len(scene["seeds"]) == 5
    for method in ("replay", "gdumb"):
        mean, deviation = (100 * figure for figure in scene["summary"][method]["acc"])
        assert f"{mean:.2f} ± {deviation:.2f} %" in README
    replay = scene["summary"]["replay"]
    assert f"BWT −{-100 * replay['bwt'][0]:.2f} %, forgetting {100 * replay['forgetting'][0]:.2f} %" in README
    assert f"{100 * scene['summary']['naive']['acc'][0]:.2f} %" in README


def test_shortlist_is_what_the_benchmark_wrote() -> None:
    modes = json.loads((RESULTS / "shortlist.json").read_text())["test"]["modes"]
    assert (
        f"**{100 * modes['shortlist']['accuracy']:.2f} %** in {modes['shortlist']['mean_passes']:.2f} passes"
        in README
    )
    for mode in ("goodness", "classifier"):
        assert f"{100 * modes[mode]['accuracy']:.2f} % in" in README


def test_learning_and_memory_are_what_the_benchmarks_wrote() -> None:
    learning = json.loads((RESULTS / "learning.json").read_text())
    for figure in ("learn_12_units_over_3", "learn_over_torch_bp_at_12", "learn_over_torch_ff_time_at_12"):
        assert f"{learning[figure]:.2f}" in README
    memory = json.loads((RESULTS / "memory.json").read_text())
    assert 0.85 < memory["lowest"] <= memory["highest"] < 1.15
    assert f"between {memory['lowest']:.2f} and {memory['highest']:.2f} of what a fresh process" in README


def test_export_and_inference_are_what_the_benchmarks_wrote() -> None:
    export = json.loads((RESULTS / "export.json").read_text())
    assert f"{export['graphs_over_torch']:.2f} times as long as one `torch.onnx.export`" in README
    assert f"{export['graphs_with_all_checks_over_torch']:.0f} times" in README
    inference = json.loads((RESULTS / "inference.json").read_text())
    default, paper = (inference[network]["batch_1"] for network in ("bundle", "paper"))
    speed = default["speed_of_goodness_over"]
    peak = paper["share_of_convolution_peak"]
    figures = [speed["eager_loop"], speed["compiled"], speed["classifier"], peak["goodness"], peak["eager_loop"]]
    for figure in figures:
        assert f"{figure:.2f}" in README
    assert f"{inference['classify_resident_mb_at_exit']:.1f} MB resident" in README


def test_systems_are_what_the_benchmark_wrote() -> None:
    for name, row in json.loads((RESULTS / "systems.json").read_text())["rows"].items():
        cells = [f"`{name}`", f"{row['epochs']} of {row['of_epochs']}"]
        for split in ("validation", "test"):
            cells.append(" / ".join(f"{100 * share:.2f}" for share in row["accuracy"][split].values()))
        cells.append("–" if row["published_test"] is None else f"{row['published_test']:.2f}")
        cells += [row["device"], f"`{row['command']}`"]
        assert f"| {' | '.join(cells)} |" in README


def test_systems_are_of_the_recipes_as_they_are() -> None:
    for name, row in json.loads((RESULTS / "systems.json").read_text())["rows"].items():
        assert convert(row["recipe"], Recipe) == replace(with_epochs(load_recipe(name), row["epochs"]), about=""), (
            name
        )


def test_systems_without_a_run_are_named() -> None:
    for name in SYSTEMS.keys() - json.loads((RESULTS / "systems.json").read_text())["rows"].keys():
        assert re.search(rf"`{name}`[^.|]* not been run", README), name


def test_robustness_is_what_the_benchmark_wrote() -> None:
    result = json.loads((RESULTS / "robustness.json").read_text())
    made_by, rows = result["corruption"], result["systems"].values()
    assert f"deviation is {made_by['gaussian_deviation']} of a pixel's range" in README
    assert f"{100 * made_by['dead_pixels']:.0f} % are dead" in README
    assert len(rows) == 4
    for row in rows:
        assert f"| {row['mean']:.2f} ± {row['deviation']:.2f} % | {row['chosen']} |" in README
        assert len(row["runs"]) == 3


def test_every_file_that_the_readme_links_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_command_of_the_readme() -> None:
    marked = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", README)
    assert marked
    assert marked[1].count("\n") == 0
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()
