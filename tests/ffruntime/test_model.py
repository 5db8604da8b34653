"""The Python interface."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from shapes import PATTERNS, SHAPE

from ffruntime import Model, Session
from ffruntime.core.errors import BackendError, BundleError, UsageError
from ffruntime.core.state import Weights


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return Model(exported)


def test_a_batch_is_its_images_one_by_one(model: Model, images: np.ndarray) -> None:
    pixels = images[:37]
    together = model.scores(pixels)
    alone = np.concatenate([model.scores(image[None]) for image in pixels])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_threads_share_a_model(exported: Path, images: np.ndarray) -> None:
    model = Model(exported)  # nothing loaded yet: threads race for that too
    pixels = images[:24]
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda image: model.classify(image).label, pixels))
    assert labels == [answer.label for answer in model.classify_batch(pixels)]


def test_files_and_arrays(model: Model, picture_files: list[Path], images: np.ndarray) -> None:
    assert model.classify(picture_files[0], preprocess=False).scores == model.classify(images[0]).scores


def test_unknown_mode(model: Model) -> None:
    with pytest.raises(UsageError, match="unknown mode 'fast'"):
        model.scores(np.zeros((1, *SHAPE), np.uint8), "fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 1, 16, 16), np.float32),
        np.zeros((2, 16, 16), np.uint8),
        np.zeros((2, 1, 16, 15), np.uint8),
        np.zeros((0, 1, 16, 16), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
def test_arrays_that_are_no_images(images: np.ndarray, model: Model) -> None:
    for use in (model.scores, model.scores_and_passes, model.classify_batch):
        with pytest.raises(UsageError, match=r"must be uint8 \(N, 1, 16, 16\)") as caught:
            use(images)
        assert "\n" not in str(caught.value)


def test_a_graph_that_is_not_there(model: Model) -> None:
    with pytest.raises(BundleError, match=r"holds no unit9\.onnx"):
        model.with_weights(replaced(model, {"head.bias": np.zeros(PATTERNS, np.float32)})).graph("unit9")


def replaced(model: Model, tensors: dict[str, np.ndarray], classes: tuple[str, ...] | None = None) -> Weights:
    """Tensors in place of those of the model's bundle, by default with its classes."""
    return Weights(tensors, classes or model.classes)


def test_a_model_made_of_another_shares_nothing_stale(bundle: Path, images: np.ndarray) -> None:
    pixels = images[:20]
    shipped = Model(bundle)
    before = shipped.scores(pixels)
    gradient, classifier = shipped.graph("gradient1"), shipped.graph("classifier")
    learned = {"unit2.conv1.bias": np.full(10, 0.5, np.float32)}
    once = shipped.with_weights(replaced(shipped, learned, (*shipped.classes, "new")))
    assert once.graph("gradient1") is gradient  # it holds no weights
    assert once.graph("classifier") is not classifier
    assert once.scores(pixels).shape == (20, 7)
    assert "new" in once.classify(pixels[0]).scores
    assert np.abs(once.scores(pixels)[:, :6] - before).max() > 1e-3
    np.testing.assert_array_equal(shipped.scores(pixels), before)
    np.testing.assert_array_equal(once.with_weights(shipped.weights).scores(pixels), before)
    assert once.with_weights(once.weights).graph("goodness") is once.graph("goodness")


def test_a_model_made_of_another_runs_as_its_session_says(bundle: Path, images: np.ndarray) -> None:
    pixels, shipped = images[:20], Model(bundle)
    small = shipped.with_session(structs.replace(shipped.session, batch=3, labels_per_call=4, arena=False))
    sizes: list[tuple[int, ...]] = []
    graph = small.graph("goodness")

    def counted(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append((len(inputs["images"]), len(inputs["labels"])))
        return graph(inputs)

    small._graphs["goodness"] = counted  # type: ignore[assignment]
    np.testing.assert_allclose(small.scores(pixels), shipped.scores(pixels), rtol=1e-5)
    assert np.max(sizes, 0).tolist() == [3, 4]
    assert len(sizes) == 7 * 2
    assert (small.classes, small.session.batch, shipped.session.batch) == (shipped.classes, 3, 16)


@pytest.mark.parametrize("name", ["bundle", "weights", "session", "classes", "undertrained", "path", "precision"])
def test_a_model_does_not_change(name: str, model: Model) -> None:
    with pytest.raises(AttributeError):
        setattr(model, name, getattr(model, name))


def test_a_model_made_while_another_thread_loads_a_graph_shares_nothing_stale(bundle: Path) -> None:
    model, learned = Model(bundle), {"head.bias": np.zeros(PATTERNS, np.float32)}
    lock = threading.Lock()

    class Late:
        """A lock that another thread held until just now."""

        def __enter__(self) -> None:
            lock.acquire()
            model._graphs.update(classifier=lambda _: {}, gradient1=lambda _: {})

        def __exit__(self, *_: object) -> None:
            lock.release()

    model._lock = Late()  # type: ignore[assignment]
    other = model.with_weights(replaced(model, learned, (*model.classes, "new")))
    assert other._graphs.keys() == {"gradient1"}
    assert other.classes[-1] == "new"


def test_hashes_are_computed_once(bundle: Path) -> None:
    shipped = Model(bundle)
    shipped.graph("goodness")
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    shipped.with_weights(replaced(shipped, {"head.bias": np.zeros(PATTERNS, np.float32)})).graph("classifier")
    with pytest.raises(BundleError, match="damaged"):
        Model(bundle).graph("goodness")


def test_learned_weights_are_fp32(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r"runs in fp32, not in fp16: .*ffexport --state"):
        Model(bundle, Weights({"head.bias": np.zeros(PATTERNS, np.float32)}, ("a",)), Session(precision="fp16"))


def test_learned_weights_of_another_shape(bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"cannot load it: .*dimensions do not match"):
        Model(bundle, Weights({"head.bias": np.zeros(3, np.float32)}, ("a",))).graph("classifier")


@pytest.mark.parametrize("labels", [0, -1])
def test_no_labels_to_try_is_an_error(labels: int, model: Model, images: np.ndarray) -> None:
    with pytest.raises(UsageError, match="one at least"):
        model.classify_batch(images[:1], labels=labels)
