"""The report of a run: figures, arithmetic, and a page that stands by itself."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from msgspec import structs, to_builtins
from torch.utils.flop_counter import FlopCounterMode

from ffruntime.core.architecture import Conv, Image, Input, Label, Linear, Local, Network, Op, Relu, Steps, Unit
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.cost import unit_macs
from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError
from ffruntime.core.layers import tensor_shapes
from ffruntime.core.manifest import Manifest
from fftrain import network as net
from fftrain.commands.show import report
from fftrain.commands.train import _report
from fftrain.dataset import Dataset
from fftrain.epoch import Batch
from fftrain.evaluation import Scores, predict
from fftrain.figures import Figures, collect, training_macs
from fftrain.patterns import make_patterns
from fftrain.recipe import Recipe, build_network, load_recipe
from fftrain.report import filters, render, report_paths, si, write_report
from fftrain.run import Run
from fftrain.step import training_step
from fftrain.training import TrainingState, make_optimizers
from fftrain.ways import PLAIN

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Reads a page, and refuses what is not well-formed, loads something, or says nothing to who cannot see it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text, self.tags = "", dict[str, int]()
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"
        assert len(self.ids) == len(set(self.ids))
        assert "://" not in html  # which a picture in base64 cannot hold by chance
        assert "url(" not in html.replace("url(#", "")

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (given.get(name) or "#").startswith(("#", "data:image/png;base64,"))
        if tag == "img":
            assert given.get("alt")
        if tag == "svg":
            assert given.get("aria-label")
        if "id" in given:
            self.ids.append(str(given["id"]))
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def few(trained_run: Run) -> tuple[Dataset, dict[str, Scores]]:
    """A part of the data, and what the network said of it."""
    data = trained_run.dataset
    part = structs.replace(
        data,
        validation=Examples(data.validation.pixels[:120], data.validation.labels[:120]),
        test=Examples(data.test.pixels[:80], data.test.labels[:80]),
    )
    return part, {
        name: predict(trained_run.network, trained_run.tensors, getattr(part, name), 10)
        for name in ("validation", "test")
    }


@pytest.fixture(scope="module")
def with_report(
    exported: Path, few: tuple[Dataset, dict[str, Scores]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle with a report beside it. Shared: copy it with the fixture `reported`."""
    path = Path(shutil.copytree(exported, tmp_path_factory.mktemp("reported") / "model.ff"))
    assert write_report(path, *few, {}) == path.with_name("model.ff.report.html")
    return path


@pytest.fixture
def reported(with_report: Path, tmp_path: Path) -> Path:
    """The same, of one's own."""
    return Path(shutil.copytree(with_report.parent, tmp_path / "reported")) / with_report.name


@pytest.mark.slow
def test_the_page_shows_the_whole_run(reported: Path) -> None:
    page, file = report_paths(reported)
    read, figures = Page(page.read_text()), msgspec.json.decode(file.read_bytes(), type=Figures)
    assert read.tags["svg"] == 4 + 2  # curves, and the reliability of two splits
    assert read.tags["img"] == len(figures.mistakes) + 13 + 2  # patterns, and filters of two channels
    for heading in ("Learning", "Confusion", "Mistakes", "Calibration", "Label patterns", "What it cost"):
        assert heading in read.text
    for modes in figures.measured.values():
        for measured in modes.values():
            assert f"{100 * measured.accuracy:.2f} %" in read.text
            assert np.trace(measured.confusion) / np.sum(measured.confusion) == pytest.approx(measured.accuracy)
    assert json.dumps(Bundle(reported).manifest.training.recipe, indent=2) in read.text
    assert figures.weights in read.text


def test_mistakes_are_validation_images_that_were_wrong(
    reported: Path, few: tuple[Dataset, dict[str, Scores]]
) -> None:
    mistakes = msgspec.json.decode(report_paths(reported)[1].read_bytes(), type=Figures).mistakes
    answers = few[1]["validation"]["goodness"].argmax(1)
    assert mistakes
    sure = [m.answers["goodness"][1] for m in mistakes]
    assert sure == sorted(sure, reverse=True)
    for m in mistakes:
        assert int(m.true) == few[0].validation.labels[m.index] != answers[m.index] == int(m.answers["goodness"][0])


@pytest.mark.slow
def test_fftrain_report_draws_the_same_page(reported: Path, tmp_path: Path) -> None:
    target = tmp_path / "again.html"
    done = CliRunner().invoke(report, [str(reported), "--out", str(target)], catch_exceptions=False)
    assert str(target) in done.output
    assert target.read_text() == report_paths(reported)[0].read_text()


def test_figures_that_do_not_belong_to_the_bundle_are_refused(reported: Path) -> None:
    _, file = report_paths(reported)

    def refused(words: str) -> None:
        with pytest.raises(BundleError, match=words):
            CliRunner().invoke(report, [str(reported)], catch_exceptions=False)

    file.write_text(file.read_text().replace('"weights": "', '"weights": "0'))
    refused("other weights")
    file.write_text(file.read_text()[:100])
    refused("damaged")
    file.unlink()
    refused("missing")


def test_a_report_that_fails_is_one_line_and_the_bundle_stays(
    bundle: Path, few: tuple[Dataset, dict[str, Scores]], capsys: pytest.CaptureFixture[str]
) -> None:
    report_paths(bundle)[1].mkdir()  # in the way of the figures
    _report(bundle, *few, {})
    said = capsys.readouterr().err
    assert said.startswith("warning: no report: ")
    assert said.count("\n") == 1
    Bundle(bundle).weights()


def without_training(manifest: Manifest) -> Manifest:
    return structs.replace(
        manifest, training=structs.replace(manifest.training, epochs=0, seconds=0.0, history=()), accuracy={}
    )


def test_an_untrained_bundle_has_a_report(bundle: Path, few: tuple[Dataset, dict[str, Scores]]) -> None:
    write_bundle(bundle, without_training(Bundle(bundle).manifest), {})
    page = Page(write_report(bundle, few[0], {}, {}).read_text())
    assert "untrained" in page.text
    assert "svg" not in page.tags
    assert "Confusion" not in page.text


def test_one_mode_and_missing_values_and_the_offline_sample(
    bundle: Path, few: tuple[Dataset, dict[str, Scores]]
) -> None:
    """A backpropagation baseline: no goodness, no loss of a unit; and an epoch that diverged."""
    manifest = Bundle(bundle).manifest
    row = {"epoch": 1, "loss": [None] * 3, "discrimination_accuracy": [None] * 3, "classifier_loss": None}
    rows = tuple({**row, "validation": {"classifier": share}} for share in (0.5, 0.7))
    source = structs.replace(manifest.training.data, offline_sample=True)
    training = structs.replace(manifest.training, history=rows, data=source)
    write_bundle(bundle, structs.replace(manifest, modes=("classifier",), training=training), {})
    dataset = structs.replace(few[0], source=source)
    scores = {split: {"classifier": modes["classifier"]} for split, modes in few[1].items()}
    page = Page(write_report(bundle, dataset, scores, {}).read_text())
    assert page.tags["svg"] == 1 + 2  # accuracy, and reliability
    assert page.text.count("goodness") == 1  # a field of the recipe, which is shown whole
    assert page.text.count("OFFLINE SAMPLE") > 8


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["add", "channel"])
def test_colours_and_a_hundred_classes(
    exported: Path, placement: Any, few: tuple[Dataset, dict[str, Scores]]
) -> None:
    units = (Unit((Conv(6, 3, padding=1), Relu()), (Input(normalise="none"),)),)
    network = Network(Image((3, 32, 32)), Label(placement, 102), units)
    random = np.random.default_rng(0)
    shapes = tensor_shapes(network)
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    classes = tuple(f"class & <{n}>" for n in range(100))
    manifest = without_training(structs.replace(Bundle(exported).manifest, network=network, classes=classes))
    labels = torch.arange(300) % 100
    split = Examples(torch.from_numpy(random.integers(0, 256, (300, 3, 32, 32), np.uint8)), labels)
    dataset = structs.replace(few[0], validation=split, test=split, classes=classes)
    scores = {mode: random.normal(size=(300, 100)) + 3 * np.eye(100)[labels] for mode in ("goodness", "classifier")}
    figures = collect(manifest, dataset, {"validation": scores, "test": scores}, {})
    page = Page(render("colours.ff", manifest, weights, figures))
    assert page.tags["img"] == 4 + 24 + 49 + (4 if placement == "channel" else 3)
    assert "54 more are not drawn" in page.text
    assert "class & <7>" in page.text


@pytest.mark.parametrize(
    ("below", "own"),
    [((Local(2, 3, padding=1),), ()), ((Linear(128),), ()), ((), (Conv(3, 3),)), ((), (Linear(9),))],
)
def test_a_label_at_the_top_is_no_picture(
    exported: Path, below: tuple[Op, ...], own: tuple[Op, ...], few: tuple[Dataset, dict[str, Scores]]
) -> None:
    """Nor are the weights that bring it in: the filters are those that look at the image."""
    size = 128 if below else 64
    inputs = (Input(ops=below), Input("above", ops=(Linear(size),)))
    units, steps = (Unit((*own, Relu()), inputs),), Steps(2, 0.3, (1, 2))
    network = Network(Image((1, 8, 8)), Label("top", 10, 10), units, steps=steps)
    random = np.random.default_rng(0)
    weights = {n: random.normal(size=s).astype(np.float32) for n, s in tensor_shapes(network).items()}
    assert [channel for channel, _ in filters(network, weights)] == ["image"]
    manifest = without_training(structs.replace(Bundle(exported).manifest, network=network))
    page = Page(render("top.ff", manifest, weights, collect(manifest, few[0], {}, {})))
    assert page.tags["img"] == 1
    assert "10 numbers) stands above its topmost unit" in page.text
    assert "neutral" not in page.text


def test_the_arithmetic_of_the_paper() -> None:
    """Scodellaro et al.'s network, 28·28·128·128·49 for a layer, and ten GFLOP to train on an image."""
    recipe = load_recipe("paper")
    network = build_network(recipe, Image((1, 28, 28)), 12)
    assert unit_macs(network) == [28 * 28 * 128 * 49, *[28 * 28 * 128 * 128 * 49] * 2]
    alone = structs.replace(recipe, schedule=structs.replace(recipe.schedule, head_lr=0.0))
    assert 2 * training_macs(alone, network) == pytest.approx(10e9, rel=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"negatives": {"count": 3}},
        {"negatives": {"hard": 0.5, "source": "goodness"}},
        {"gradient": "crossing"},
        {"loss": {"kind": "cross_entropy"}},
        {"schedule": {"epochs": 1, "head_lr": 0.0}, "negatives": {}},
        {"negatives": {"source": "hybrid", "count": 2}, "patterns": {"kind": "none"}},
    ],
)
def test_the_arithmetic_that_is_counted_is_what_torch_does(tiny_recipe: Recipe, change: dict[str, Any]) -> None:
    recipe = msgspec.convert({**to_builtins(tiny_recipe), **change}, Recipe)
    patterns = make_patterns(recipe.patterns, 10, 28, 28)
    network = build_network(recipe, Image((1, 28, 28)), len(patterns["labels.patterns"]))
    tensors = net.initialise(network, patterns, torch.Generator().manual_seed(0))
    optimizers = make_optimizers(recipe, network, tensors)
    state = TrainingState(
        recipe, network, tensors, optimizers, {}, frozenset(optimizers), torch.device("cpu"), torch.float32, PLAIN
    )
    count, pixels = recipe.negatives.count, torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    hybrids = pixels[:, None].repeat(1, count, 1, 1, 1) if recipe.negatives.source == "hybrid" else None
    with FlopCounterMode(display=False) as counter:
        training_step(state, Batch(pixels, torch.arange(4), torch.rand(4, count, 2), hybrids), torch.tensor(0.5))
    assert counter.get_total_flops() == 2 * 4 * training_macs(recipe, network)


def test_numbers_for_people() -> None:
    assert [si(n) for n in (0, 7, 1234, 629_407_744, 1e17)] == ["0", "7", "1.23 k", "629 M", "100 P"]
