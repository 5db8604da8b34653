"""What was learned, as classify, info, verify and the Python interface use it; and states that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import in_process_text
from pictures import CLASSES
from shapes import SHAPE

from ffruntime import Model
from ffruntime.core.bundle import Bundle, state_directory, write_bundle
from ffruntime.core.errors import StateError
from ffruntime.core.state import Weights
from ffruntime.learning.store import Store

ffruntime = partial(in_process_text, "ffruntime")


@pytest.fixture
def learned(bundle: Path) -> dict[str, np.ndarray]:
    """A state beside the bundle: version 1, with one tensor changed and a new class of one example."""
    manifest = Bundle(bundle).manifest
    tensors = {"unit2.conv1.bias": Bundle(bundle).weights()["unit2.conv1.bias"] + np.float32(0.2)}
    with closing(Store(state_directory(bundle), manifest)) as store:
        ids = store.add(np.zeros((1, *SHAPE), np.uint8), ["ten"])
        store.adopt(0, "update", tensors, ids)
    return tensors


def classify(bundle: Path, image: Path, *options: object) -> dict:
    done = ffruntime("classify", "--model", bundle, "--json", *options, image)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_classify_uses_what_was_learned(
    learned: dict[str, np.ndarray], bundle: Path, picture_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, shipped = classify(bundle, picture_files[0]), classify(bundle, picture_files[0], "--shipped")
    assert set(now["scores"]) - set(shipped["scores"]) == {"ten"}
    assert now["passes"] == 7
    assert now["scores"]["bar"] != shipped["scores"]["bar"]
    exact = Model(bundle, Weights(learned, (*CLASSES, "ten"))).classify(picture_files[0])
    assert now["scores"] == pytest.approx(exact.scores, rel=1e-5)
    elsewhere = Bundle(bundle).state_directory.rename(bundle.parent / "elsewhere")
    assert classify(bundle, picture_files[0])["scores"] == shipped["scores"]
    assert classify(bundle, picture_files[0], "--state", elsewhere)["scores"] == now["scores"]
    monkeypatch.setenv("FF_STATE", str(elsewhere))
    assert classify(bundle, picture_files[0])["scores"] == now["scores"]


@pytest.mark.usefixtures("learned")
def test_a_class_of_few_examples_is_always_tried(bundle: Path, picture_files: list[Path]) -> None:
    costs = {classify(bundle, file, "--mode", "shortlist")["passes"] for file in picture_files[:6]}
    assert min(costs) == 3
    assert "ten" in classify(bundle, picture_files[0], "--mode", "shortlist")["scores"]


def test_the_python_interface_finds_it(learned: dict[str, np.ndarray], bundle: Path) -> None:
    model = Model(bundle)
    assert model.weights.tensors.keys() == learned.keys()
    assert (model.classes[-1], model.undertrained) == ("ten", {"ten"})
    assert Model(bundle, state=False).classes == model.manifest.classes
    assert Model(bundle, state=bundle.parent / "nothing").weights.tensors == {}
    assert Model(bundle, Weights({}, model.manifest.classes)).weights.tensors == {}


@pytest.mark.usefixtures("learned")
def test_info_and_verify_say_what_was_learned(bundle: Path) -> None:
    text = "version 1 (updates: 1, examples: 1); new classes: ten (from few examples yet)"
    assert text in ffruntime("info", "--model", bundle).stdout
    assert "new classes" not in ffruntime("info", "--model", bundle, "--shipped").stdout
    facts = {"version": 1, "updates": 1, "examples": 1}
    found = json.loads(ffruntime("info", "--json", "--model", bundle).stdout)["learned"]
    assert found == {**facts, "classes": [*CLASSES, "ten"]}
    done = ffruntime("verify", "--model", bundle)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()[-2:]
    assert "reproduces the trainer's golden vectors" in first
    assert second.startswith(f"learned since: {text}; ")
    assert second.endswith(" of 16 golden images decided as shipped")
    found = json.loads(ffruntime("verify", "--json", "--model", bundle).stdout)["learned"]
    assert 0 < found.pop("as_shipped") <= found.pop("images") == 16
    assert found == {**facts, "classes": ["ten"]}
    assert json.loads(ffruntime("verify", "--json", "--shipped", "--model", bundle).stdout)["learned"] is None


def of_another_bundle(bundle: Path, state: Path) -> None:
    other = shutil.copytree(bundle, bundle.parent / "other.ff")
    weights = bytearray((other / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    write_bundle(other, Bundle(other).manifest, {"weights.safetensors": bytes(weights)})
    other.rename(bundle.rename(bundle.parent / "former.ff").with_name(bundle.name))
    assert state.is_dir()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (of_another_bundle, "learned on another bundle"),
        (lambda _bundle, state: flip(state / "versions" / "1.state"), "ffruntime rollback"),
        (lambda _bundle, state: (state / "versions" / "1.state").unlink(), "ffruntime rollback"),
        (lambda _bundle, state: (state / "learning.db").write_bytes(b"no database" * 99), "not a database"),
    ],
    ids=["another bundle", "damaged version", "missing version", "damaged database"],
)
@pytest.mark.usefixtures("learned")
def test_a_state_that_cannot_be_used(
    harm: Callable[[Path, Path], object], words: str, bundle: Path, picture_files: list[Path]
) -> None:
    harm(bundle, Bundle(bundle).state_directory)
    for command in (("classify", picture_files[0]), ("info",)):
        done = ffruntime(*command, "--model", bundle)
        assert done.returncode == 9, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
        assert ffruntime(*command, "--model", bundle, "--shipped").returncode == 0
    with pytest.raises(StateError, match=words):
        Model(bundle)


@pytest.mark.usefixtures("learned")
def test_what_was_learned_runs_in_fp32(bundle: Path, picture_files: list[Path]) -> None:
    done = ffruntime("classify", "--model", bundle, "--precision", "int8", picture_files[0])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for word in ("runs in fp32, not in int8", "ffexport --state", "--shipped"):
        assert word in done.stderr


def test_a_named_directory_that_is_not_there_is_a_warning(exported: Path, picture_files: list[Path]) -> None:
    done = ffruntime("classify", "--model", exported, "--state", "/nothing/there", picture_files[0])
    assert done.returncode == 0
    assert done.stderr == "warning: /nothing/there: not there, so nothing was learned yet\n"
