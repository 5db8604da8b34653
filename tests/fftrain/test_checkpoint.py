"""A checkpoint vouches for itself, and holds what its run has: nothing else is gone on with."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from ffruntime.core.data import Examples
from ffruntime.core.errors import BundleError
from fftrain import checkpoint
from fftrain.checkpoint import Progress, checkpoint_path
from fftrain.dataset import Dataset
from fftrain.functional import Tensors
from fftrain.recipe import load_recipe
from fftrain.run import Interrupted, Run, start, train

TINY = Path(__file__).parents[1] / "tiny.toml"


def new_run(dataset: Dataset) -> Run:
    few = Examples(dataset.train.pixels[:128], dataset.train.labels[:128])
    some = msgspec.structs.replace(dataset, train=few, validation=few)
    recipe = load_recipe(str(TINY), [(f"network.units.{unit}.ops.0.out", 8) for unit in range(3)])
    return start(recipe, some, 0, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def written(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a run after one step."""
    out = tmp_path_factory.mktemp("run") / "model.ff"
    with pytest.raises(Interrupted):
        list(train(new_run(dataset), out, False, lambda: True))
    return checkpoint_path(out).read_bytes()


def resume(dataset: Dataset, data: bytes, folder: Path) -> None:
    out = folder / "model.ff"
    checkpoint_path(out).write_bytes(data)
    next(train(new_run(dataset), out, True, lambda: False))


def changed(
    data: bytes, folder: Path, change: Callable[[Tensors], object], progress: Progress | None = None
) -> bytes:
    """Another checkpoint, whose hash fits."""
    file = folder / "before"
    file.write_bytes(data)
    with safe_open(file, framework="pt") as opened:
        metadata, content = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    change(content)
    if progress:
        metadata["progress"] = msgspec.json.encode(progress).decode()
    metadata["sha256"] = checkpoint._digest(metadata["identity"], metadata["progress"], content)
    return save(content, metadata)


def test_a_whole_one_goes_on(written: bytes, dataset: Dataset, tmp_path: Path) -> None:
    resume(dataset, changed(written, tmp_path, lambda _: None), tmp_path)


@pytest.mark.parametrize("place", [-1, -5000, 3000, 100])
def test_a_flipped_bit_is_found(place: int, written: bytes, dataset: Dataset, tmp_path: Path) -> None:
    flipped = bytearray(written)
    flipped[place] ^= 1
    with pytest.raises(BundleError, match="damaged checkpoint"):
        resume(dataset, bytes(flipped), tmp_path)


def first(content: Tensors, ending: str) -> str:
    return next(name for name in content if name.endswith(ending))


HARM: dict[str, Callable[[Tensors], object]] = {
    "no number": lambda t: t[first(t, "weight")].fill_(torch.nan),
    "another shape": lambda t: t.update({first(t, "bias"): torch.zeros(3)}),
    "a tensor less": lambda t: t.pop(first(t, "bias")),
    "a tensor more": lambda t: t.update({"network.x": torch.zeros(3)}),
    "no sums": lambda t: t.pop("sums"),
    "a moment less": lambda t: t.pop(next(name for name in t if name.startswith("optimizer."))),
    "a moment of another shape": lambda t: t.update(
        {next(n for n in t if n.startswith("optimizer.")): torch.zeros(9)}
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_not_of_the_run_is_refused(harm: str, written: bytes, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.ff\.checkpoint: "):
        resume(dataset, changed(written, tmp_path, HARM[harm]), tmp_path)


@pytest.mark.parametrize("progress", [Progress(epoch=10**9), Progress(step=10**6), Progress(epoch=-1)])
def test_a_place_past_the_end_is_refused(
    progress: Progress, written: bytes, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="damaged checkpoint"):
        resume(dataset, changed(written, tmp_path, lambda _: None, progress), tmp_path)


@pytest.mark.posix
def test_a_pipe_is_not_waited_for(dataset: Dataset, tmp_path: Path) -> None:
    checkpoint_path(tmp_path / "model.ff").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="no regular file"):
        next(train(new_run(dataset), tmp_path / "model.ff", True, lambda: False))


def test_too_many_open_files_are_no_damage(
    written: bytes, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(checkpoint, "open_regular", refuse)
    with pytest.raises(BundleError, match=r"checkpoint: cannot be read: Too many open files$"):
        resume(dataset, written, tmp_path)
