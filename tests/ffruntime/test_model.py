"""The Python interface."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ffexport.gradients import all_gradient_graphs
from ffexport.graphs import all_graphs
from ffruntime import Model
from ffruntime.architecture import (
    Conv,
    Image,
    Input,
    Label,
    Linear,
    Local,
    Network,
    Relu,
    Unit,
    parameter_shapes,
)
from ffruntime.bundle import read_manifest, read_weights
from ffruntime.errors import BackendError, BundleError, UsageError
from ffruntime.losses import Symmetric
from ffruntime.model import graph_tensors
from fftrain.evaluate import classifier_scores, goodness_scores
from fftrain.train import Run


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported)


@pytest.mark.parametrize("mode", ["goodness", "classifier"])
def test_scores_are_the_trainers(mode: str, model: Model, trained_run: Run) -> None:
    pixels = trained_run.dataset.validation.pixels[:50]
    score = {"goodness": goodness_scores, "classifier": classifier_scores}[mode]
    expected = score(trained_run.network, trained_run.tensors, pixels, 10).numpy()
    np.testing.assert_allclose(model.scores(pixels.numpy(), mode), expected, rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_images_one_by_one(model: Model, trained_run: Run) -> None:
    pixels = trained_run.dataset.validation.pixels[:37].numpy()
    together = model.scores(pixels)
    alone = np.concatenate([model.scores(image[None]) for image in pixels])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_threads_share_a_model(exported: Path, trained_run: Run) -> None:
    model = Model(exported)  # nothing loaded yet: threads race for that too
    pixels = trained_run.dataset.validation.pixels[:24].numpy()
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda image: model.classify(image).label, pixels))
    assert labels == [answer.label for answer in model.classify_batch(pixels)]


def test_files_and_arrays(model: Model, picture_files: list[Path], trained_run: Run) -> None:
    image = trained_run.dataset.validation.pixels[0].numpy()
    assert model.classify(picture_files[0], preprocess=False).scores == model.classify(image).scores


def test_unknown_mode(model: Model) -> None:
    with pytest.raises(UsageError, match="unknown mode 'fast'"):
        model.scores(np.zeros((1, 1, 28, 28), np.uint8), "fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 1, 28, 28), np.float32),
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((2, 1, 28, 27), np.uint8),
        np.zeros((0, 1, 28, 28), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
def test_arrays_that_are_no_images(images: np.ndarray, model: Model) -> None:
    for use in (model.scores, model.scores_and_passes, model.classify_batch):
        with pytest.raises(UsageError, match=r"must be uint8 \(N, 1, 28, 28\)") as caught:
            use(images)
        assert "\n" not in str(caught.value)


def test_a_graph_that_is_not_there(model: Model) -> None:
    with pytest.raises(BundleError, match=r"holds no unit9\.onnx"):
        model.relearned({"head.bias": np.zeros(12, np.float32)}).graph("unit9")


UNITS = (
    Unit((Conv(3, 3, padding=1), Relu()), (Input(normalise="batch"),), scored=False),
    Unit((Local(2, 3), Relu()), (Input(normalise="batch"),)),
    Unit((Linear(5, bias=False), Relu())),
    Unit((Linear(4), Relu()), scored=False),
)


@pytest.mark.parametrize(
    "label", [Label("add", 3), Label("channel", 3, 2), Label("morphology", 3, element=3)], ids=lambda x: x.placement
)
def test_tensors_of_a_graph_are_its_initializers(label: Label) -> None:
    """What the graphs take before `external.py` turns it into initializers; gradients keep them as inputs."""
    network = Network(Image((1, 8, 8)), label, UNITS)
    names = parameter_shapes(network).keys()
    for name, graph in all_graphs(network).items():
        assert graph_tensors(network, name) == names & {value.name for value in graph.graph.input}, name
    for name in all_gradient_graphs(network, Symmetric()):
        assert graph_tensors(network, name) == set()


def rewritten(path: Path, factor: float) -> dict[str, np.ndarray]:
    """Every weight and bias of the bundle, changed."""
    weights = read_weights(path, read_manifest(path))
    return {name: tensor * np.float32(factor) for name, tensor in weights.items() if "labels" not in name}


@pytest.mark.parametrize("arena", [True, False])
@pytest.mark.parametrize("mode", ["goodness", "classifier"])
def test_learned_weights_are_those_of_a_bundle_that_has_them(
    arena: bool, mode: str, bundle: Path, trained_run: Run
) -> None:
    pixels = trained_run.dataset.validation.pixels[:20]
    learned = rewritten(bundle, 1.1)
    before = Model(bundle).scores(pixels.numpy(), mode)
    after = Model(bundle, learned=learned, arena=arena).scores(pixels.numpy(), mode)
    score = {"goodness": goodness_scores, "classifier": classifier_scores}[mode]
    tensors = {**trained_run.tensors, **{name: torch.from_numpy(tensor) for name, tensor in learned.items()}}
    expected = score(trained_run.network, tensors, pixels, 10).numpy()
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(after - before).max() > 1e-2


def test_a_model_made_of_another_shares_nothing_stale(bundle: Path, trained_run: Run) -> None:
    pixels = trained_run.dataset.validation.pixels[:20].numpy()
    shipped = Model(bundle)
    before = shipped.scores(pixels)
    gradient, classifier = shipped.graph("gradient1"), shipped.graph("classifier")
    learned = {"unit2.conv1.bias": np.full(32, 0.5, np.float32)}
    once = shipped.relearned(learned, (*shipped.classes, "new"))
    assert once.graph("gradient1") is gradient  # it holds no weights
    assert once.graph("classifier") is not classifier
    assert once.scores(pixels).shape == (20, 11)
    assert "new" in once.classify(pixels[0]).scores
    assert np.abs(once.scores(pixels)[:, :10] - before).max() > 1e-3
    np.testing.assert_array_equal(shipped.scores(pixels), before)
    np.testing.assert_array_equal(once.relearned({}, shipped.classes).scores(pixels), before)
    assert once.relearned(learned).graph("goodness") is once.graph("goodness")


def test_a_model_made_while_another_thread_ends_its_learning_shares_nothing_stale(bundle: Path) -> None:
    model, learned = Model(bundle), {"head.bias": np.zeros(12, np.float32)}
    lock = threading.Lock()

    class Late:
        """A lock that another thread held until just now."""

        def __enter__(self) -> None:
            lock.acquire()
            model._graphs = {"classifier": lambda _: {}}
            model._learn(learned, (*model.manifest.classes, "new"), frozenset())

        def __exit__(self, *_: object) -> None:
            lock.release()

    model._lock = Late()  # type: ignore[assignment]
    other = model.relearned({})
    assert other._graphs == {}
    assert other.classes[-1] == "new"


def test_hashes_are_computed_once(bundle: Path) -> None:
    shipped = Model(bundle)
    shipped.graph("goodness")
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    shipped.relearned({"head.bias": np.zeros(12, np.float32)}).graph("classifier")
    with pytest.raises(BundleError, match="damaged"):
        Model(bundle).graph("goodness")


def test_learned_weights_are_fp32(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"runs in fp32, not in fp16: .*ffexport --state"):
        Model(bundle, precision="fp16", learned={"head.bias": np.zeros(12, np.float32)})


def test_learned_weights_of_another_shape(bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"cannot load it: .*dimensions do not match"):
        Model(bundle, learned={"head.bias": np.zeros(3, np.float32)}).graph("classifier")
