"""A bundle, and what a device learned on it, as a new bundle; and the file that carries what was learned."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import in_process_text
from msgspec import structs
from safetensors.numpy import load, save

from ffexport import from_state
from ffexport.from_state import export_state, target_of
from ffruntime.core import state as state_file
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import to_unit_interval
from ffruntime.core.durable import sha256
from ffruntime.core.errors import BundleError, StorageError, UsageError
from ffruntime.core.graphs import unit_gradient
from ffruntime.core.layers import unit_parameters
from ffruntime.core.signature import Sign
from ffruntime.core.state import Weights, changed, read_state, write_state
from ffruntime.embedding import first_input
from ffruntime.golden import check, require
from ffruntime.learning import step as optimizer
from ffruntime.model import Model
from fftrain import network as net
from fftrain.pack import golden_gradient
from fftrain.run import Run

NEW = "inverted"  # the class that is learned: dark digits on white
UPDATES, BATCH = 30, 32


def ffexport(*arguments: object) -> subprocess.CompletedProcess:
    """Without any data set: exemplars alone are fast."""
    return in_process_text("ffexport", *arguments, env={"FF_DATA": "/nonexistent"})


def signer_of(keys: Path) -> Sign:
    """What signs with a new key, whose public one is written to that file."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, form = Ed25519PrivateKey.generate(), serialization.PublicFormat.SubjectPublicKeyInfo
    keys.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return key.sign


def contents(path: Path) -> dict[str, bytes]:
    """Every file, and every folder, below a path."""
    return {str(f.relative_to(path)): f.read_bytes() if f.is_file() else b"" for f in path.rglob("*")}


def learn(path: Path) -> dict[str, np.ndarray]:
    """All weights after some updates with the bundle's own gradient graphs, on exemplars, half of them inverted."""
    model, exemplars = Model(path), Bundle(path).tensors("exemplars.safetensors")
    network, generator = model.manifest.network, np.random.default_rng(0)
    weights = {name: tensor.copy() for name, tensor in Bundle(path).weights().items()}
    trainable = {name: tensor for name, tensor in weights.items() if name.endswith((".weight", ".bias"))}
    first, second = optimizer.zeros_like(trainable), optimizer.zeros_like(trainable)
    new = len(model.manifest.classes)
    for step in range(1, UPDATES + 1):
        chosen = generator.choice(len(exemplars["labels"]), BATCH, replace=False)
        images, labels = exemplars["images"][chosen].copy(), exemplars["labels"][chosen].copy()
        half = BATCH // 2
        images[:half], labels[:half] = 255 - images[:half], new
        wrong = (labels + generator.integers(1, new + 1, BATCH)) % (new + 1)
        pixels, n = to_unit_interval(images), len(images)
        patterns = weights["labels.patterns"][np.concatenate([labels, wrong])]
        x = first_input(network, weights, np.concatenate([pixels] * 2), patterns)
        y = first_input(network, weights, pixels, weights["labels.neutral"][None].repeat(n, 0))
        gradients, features = {}, []
        for index, unit in enumerate(network.units):
            graph = model.graph(f"gradient{index + 1}")
            tensors = {name: weights[name] for name in unit_gradient(network, index).takes}
            outputs = graph({"positive": x[:n], "negative": x[n:], **tensors})
            gradients |= {k.removeprefix("gradient."): v for k, v in outputs.items() if k.startswith("gradient.")}
            x = np.concatenate([outputs["next.positive"], outputs["next.negative"]])
            y = graph({"positive": y, "negative": y, **tensors})["next.positive"]
            if unit.scored:
                flat = y.reshape(n, -1)
                features.append(flat / np.sqrt((flat * flat).mean(1, keepdims=True) + 1e-8))
        head = {name: weights[name] for name in ("head.weight", "head.bias")}
        outputs = model.graph("gradient_head")({"features": np.hstack(features), "labels": labels, **head})
        gradients |= {name: outputs[f"gradient.{name}"] for name in head}
        optimizer.adam(trainable, gradients, first, second, step=step, lr=2e-3)
    return weights


@pytest.fixture(scope="module")
def state(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was learned on the shared bundle: an eleventh class."""
    path, manifest = tmp_path_factory.mktemp("state") / "learned.state", Bundle(exported).manifest
    tensors = changed(Bundle(exported).weights(), learn(exported))
    write_state(path, manifest, Weights(tensors, (*manifest.classes, NEW)), UPDATES, BATCH * UPDATES)
    return path


@pytest.fixture(scope="module")
def learned(exported: Path, state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new bundle. Shared: read it only."""
    path = tmp_path_factory.mktemp("learned") / "model-learned.ff"
    before = contents(exported)
    export_state(Bundle(exported), state, path)
    assert contents(exported) == before
    return path


# ---------------------------------------- the new bundle ----------------------------------------


@pytest.mark.slow
def test_the_new_bundle_proves_itself_and_knows_the_new_class(exported: Path, state: Path, learned: Path) -> None:
    old, model = Bundle(exported).manifest, Model(learned)
    new = model.manifest
    require(check(model), model.backend)
    assert new.classes == (*old.classes, NEW)
    assert old.accuracy
    assert new.accuracy == {}
    origin = f"{UPDATES} updates on {BATCH * UPDATES} examples, from state {sha256(state)[:12]}"
    assert new.made_with["learned"] == origin
    assert "ONNX Runtime" in new.made_with["golden"]
    assert "fp32" in new.made_with["golden"]
    same = {"classes": (), "accuracy": {}, "made_with": {}, "files": {}, "shortlist": None}
    assert structs.replace(new, **same) == structs.replace(old, **same)
    assert new.files.keys() == old.files.keys()
    assert new.files["exemplars.safetensors"] == old.files["exemplars.safetensors"]

    images = Bundle(learned).tensors("golden.safetensors")["images"]
    for mode in new.modes:
        answers = [answer.label for answer in model.classify_batch(np.concatenate([images, 255 - images]), mode)]
        assert answers[: len(images)].count(NEW) <= 1, mode
        assert answers[len(images) :].count(NEW) >= len(images) - 1, mode


@pytest.mark.slow
def test_classes_that_the_classifier_hardly_knows_are_always_tried(
    exported: Path, learned: Path, tmp_path: Path
) -> None:
    """The bundle says so, and so does one made of it by another state; else the classifier's word counts."""
    (image,) = Bundle(learned).tensors("golden.safetensors")["images"][:1]
    for place, classes in ((exported, (*"0123456789", "a")), (tmp_path / "a.ff", (*"0123456789", "a", "b"))):
        manifest, target = Bundle(place).manifest, tmp_path / f"{classes[-1]}.ff"
        write_state(tmp_path / "s", manifest, Weights({}, classes, frozenset(classes[-1:])), 1, 1)
        export_state(Bundle(place), tmp_path / "s", target)
        model = Model(target)
        assert model.manifest.shortlist
        assert model.manifest.shortlist.always == classes[10:]
        assert model.undertrained == {*classes[10:]}
        assert model.classify(image, "shortlist", labels=1).passes == len(classes) - 10 + 2
    shortlist = structs.replace(model.manifest.shortlist, always=model.manifest.classes)
    write_bundle(target, structs.replace(model.manifest, shortlist=shortlist), {})
    with pytest.raises(BundleError, match="no class to judge by"):
        Model(target)


def test_weights_are_the_bundles_with_the_states_in_them(exported: Path, state: Path, learned: Path) -> None:
    before, after = (Bundle(path).weights() for path in (exported, learned))
    tensors = read_state(state, Bundle(exported).manifest)[0].tensors
    assert "labels.neutral" not in tensors
    assert {"unit1.conv1.weight", "unit3.linear1.bias", "head.weight"} <= tensors.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], tensors.get(name, before[name]))


def test_golden_vectors_are_what_the_trainer_would_compute(learned: Path, trained_run: Run) -> None:
    """Against torch in float64: computed in ONNX Runtime's float32, and right."""
    manifest = Bundle(learned).manifest
    golden, network = Bundle(learned).tensors("golden.safetensors"), manifest.network
    weights = {n: torch.from_numpy(t).double() for n, t in Bundle(learned).weights().items()}
    images = net.to_images(torch.from_numpy(golden["images"]), network, torch.float64)
    with torch.no_grad():
        goodness = net.label_goodness(network, weights, images, torch.arange(network.label.patterns))
        expected = {"goodness": goodness, "total": net.total_goodness(network, weights, goodness)}
        expected["logits"] = net.classify_linear(network, weights, images)[1]
    gradient = next(name for name in golden if name.startswith("gradient."))
    index = int(gradient.removeprefix("gradient.unit").partition(".")[0]) - 1
    labels = torch.from_numpy(np.stack([golden["labels"], golden["negatives"]]))
    loss = trained_run.recipe.loss
    x = net.embed_copies(network, weights, images, labels)
    gradients = golden_gradient(network, weights, x, labels[0], loss)  # type: ignore[arg-type]
    expected |= gradients
    assert gradients.keys() == {f"gradient.{parameter.name}" for parameter in unit_parameters(network, index)}
    assert golden.keys() == {"images", "labels", "negatives", *expected}
    np.testing.assert_array_equal(golden["negatives"], (golden["labels"] + 1) % 11)
    for name, value in expected.items():
        assert golden[name].dtype == (np.float32 if name.startswith("gradient.") else np.float64)
        assert np.abs(golden[name] - value.numpy()).max() <= 1e-4 * np.abs(golden[name]).max(), name


@pytest.mark.slow
def test_learning_goes_on_from_the_new_bundle(learned: Path, tmp_path: Path) -> None:
    """A bundle of a state is a bundle: a second state makes a third one, which says where it comes from."""
    manifest = Bundle(learned).manifest
    bias = Bundle(learned).weights()["head.bias"] + np.float32(0.125)
    write_state(tmp_path / "second.state", manifest, Weights({"head.bias": bias}, manifest.classes), 1, 2)
    export_state(Bundle(learned), tmp_path / "second.state", tmp_path / "third.ff")
    first, _, second = Bundle(tmp_path / "third.ff").manifest.made_with["learned"].partition("; ")
    assert first == manifest.made_with["learned"]
    assert second.startswith("1 updates on 2 examples")


@pytest.mark.slow
def test_on_the_command_line(bundle: Path, state: Path, tmp_path: Path) -> None:
    """Beside the old bundle by default, in the precision asked for; replaced only when asked to."""
    done = ffexport("--model", bundle, "--state", state, "--precision", "fp16", "--json")
    assert done.returncode == 0, done.stderr
    target, report = tmp_path / "model-learned.ff", json.loads(done.stdout)
    assert report["model"] == str(target)
    assert {"unit1.onnx", "gradient1.onnx", "fp16/goodness.onnx"} <= {
        row["artefact"] for row in report["artefacts"]
    }
    assert "fp16/weights.safetensors" in Bundle(target).manifest.files

    before = contents(target)
    done = ffexport("--model", bundle, "--state", state)
    assert (done.returncode, done.stderr.count("\n"), "--force" in done.stderr) == (2, 1, True), done.stderr
    assert contents(target) == before
    signed, manifest = tmp_path / "signed.state", Bundle(bundle).manifest
    write_state(signed, manifest, read_state(state, manifest)[0], 1, 1, sign=signer_of(tmp_path / "keys.pem"))
    arguments = ("--force", "--device", "raspberry-pi-5", "--precision", "fp32", "--trusted", tmp_path / "keys.pem")
    done = ffexport("--model", bundle, "--state", signed, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{target}: every graph reproduces its own golden vectors")
    assert {name for name in contents(target) if name.startswith("fp16/")} <= {"fp16"}  # an empty folder at most
    assert json.loads((target / "export.json").read_text())["device"]["device"] == "raspberry-pi-5"


# ---------------------------------------- what is refused ----------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--out", "b.ff"), "--state"),
        (("--force",), "--state"),
        (("--trusted", "keys.pem"), "--state"),
        (("--state", "x.state", "--check"), "--check"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...], word: str, exported: Path) -> None:
    done = ffexport("--model", exported, *arguments)
    assert (done.returncode, done.stderr.count("\n"), word in done.stderr) == (2, 1, True), done.stderr


def test_where_the_new_bundle_may_go(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep")
    (tmp_path / "other.ff").symlink_to(bundle)
    assert target_of(bundle, None, False) == tmp_path / "model-learned.ff"
    assert target_of(bundle, tmp_path / "empty", False) == tmp_path / "empty"
    for place in (
        bundle,
        bundle / "inside",
        tmp_path,
        tmp_path / "other.ff",
        tmp_path / "full",
        *bundle.glob("*.json"),
    ):
        with pytest.raises(UsageError, match="--out"):
            target_of(bundle, place, True)
    monkeypatch.chdir(bundle)
    assert target_of(Path(), None, False) == tmp_path / "model-learned.ff"


def rewritten(state: Path, tensors: dict[str, np.ndarray] | None = None, **fields: object) -> bytes:
    """A state file with other fields or tensors, whose hash is right."""
    data = state.read_bytes()
    text, _ = state_file._metadata(data)
    text = json.dumps({**json.loads(text), **fields})
    tensors = {**load(data), **(tensors or {})}
    return save(tensors, {"state": text, "sha256": state_file._digest(text, tensors)})


DIGITS = tuple("0123456789")
BAD_STATES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "not a state file"),
    "truncated": (lambda s: s.read_bytes()[:-1], "not a state file"),
    "cut in the header": (lambda s: s.read_bytes()[:100], "not a state file"),
    "longer": (lambda s: s.read_bytes() + b"\0", "not a state file"),
    "no safetensors": (lambda _: b"PK\3\4" * 100, "not a state file"),
    "without metadata": (lambda s: save(load(s.read_bytes())), "metadata lack"),
    "a flipped bit": (lambda s: s.read_bytes()[:-1] + bytes([s.read_bytes()[-1] ^ 1]), "damaged"),
    "another name": (lambda s: s.read_bytes().replace(NEW.encode(), b"INVERTED"), "damaged"),
    "huge": (lambda s: s.read_bytes() + bytes(40 << 20), "are expected"),
    "newer": (lambda s: rewritten(s, format=2), "newer"),
    "no format": (lambda s: rewritten(s, format=True), "format True"),
    "unknown field": (lambda s: rewritten(s, more=1), "unknown field"),
    "negative": (lambda s: rewritten(s, updates=-1), "updates"),
    "of another bundle": (lambda s: rewritten(s, weights="0" * 64), "another bundle"),
    "too many classes": (lambda s: rewritten(s, classes=[*DIGITS, *map(str, range(10, 40))]), "40 classes"),
    "named twice": (lambda s: rewritten(s, classes=[*DIGITS, "3"]), "twice"),
    "renamed": (lambda s: rewritten(s, classes=["zero", *DIGITS[1:]]), "do not begin"),
    "undertrained of none": (lambda s: rewritten(s, undertrained=["x"]), "undertrained"),
    "undertrained twice": (lambda s: rewritten(s, undertrained=[NEW, NEW]), "undertrained"),
    "forgotten": (lambda s: rewritten(s, classes=DIGITS[:9]), "do not begin"),
    "unknown tensor": (lambda s: rewritten(s, {"unit9.conv1.bias": np.zeros(3, "f4")}), "unit9.conv1.bias"),
    "other shape": (lambda s: rewritten(s, {"head.bias": np.zeros(3, "f4")}), "head.bias"),
    "other type": (lambda s: rewritten(s, {"head.bias": np.zeros(12, "f8")}), "head.bias"),
    "no numbers": (lambda s: rewritten(s, {"unit1.conv1.bias": np.full(16, np.nan, "f4")}), "finite"),
    "overflows": (lambda s: rewritten(s, {"unit1.conv1.bias": np.full(16, 3e38, "f4")}), "finite"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_STATES)
def test_a_state_that_cannot_be_used(name: str, exported: Path, state: Path, tmp_path: Path) -> None:
    make, words = BAD_STATES[name]
    bad, target = tmp_path / "bad.state", tmp_path / "new.ff"
    bad.write_bytes(make(state))
    with pytest.raises(BundleError, match=words) as raised:
        export_state(Bundle(exported), bad, target)
    assert str(raised.value).startswith(f"{bad}: ")
    assert "\n" not in str(raised.value)
    assert not target.exists()


def test_a_state_that_nobody_trusted_has_signed(exported: Path, tmp_path: Path) -> None:
    manifest, state = Bundle(exported).manifest, tmp_path / "unsigned.state"
    write_state(state, manifest, Weights({}, manifest.classes), 0, 0)
    signer_of(tmp_path / "keys.pem")
    for place in ((), ("--device", "raspberry-pi-5")):
        arguments = ("--model", exported, "--state", state, "--out", tmp_path / "new.ff", *place)
        done = ffexport(*arguments, "--trusted", tmp_path / "keys.pem")
        assert (done.returncode, done.stderr.count("\n"), "not signed" in done.stderr) == (3, 1, True), done.stderr
    assert not (tmp_path / "new.ff").exists()


def test_what_is_not_there(bundle: Path, state: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such state"):
        export_state(Bundle(bundle), tmp_path / "nothing.state", tmp_path / "new.ff")
    with pytest.raises(BundleError, match="Is a directory"):
        export_state(Bundle(bundle), tmp_path, tmp_path / "new.ff")
    done = ffexport("--model", bundle, "--state", tmp_path / "nothing.state", "--device", "raspberry-pi-5")
    assert (done.returncode, done.stderr.count("\n"), "nothing.state" in done.stderr) == (3, 1, True), done.stderr
    manifest = Bundle(bundle).manifest
    files = {name: entry for name, entry in manifest.files.items() if name != "golden.safetensors"}
    write_bundle(bundle, structs.replace(manifest, files=files), {})
    with pytest.raises(BundleError, match=r"golden\.safetensors"):
        export_state(Bundle(bundle), state, tmp_path / "new.ff")
    assert not (tmp_path / "new.ff").exists()


@pytest.mark.slow
def test_what_the_device_has_learned_meanwhile_does_not_matter(bundle: Path, state: Path, tmp_path: Path) -> None:
    """Its state directory beside the bundle is not read, damaged or not."""
    (tmp_path / "model.state").mkdir()
    (tmp_path / "model.state" / "learning.db").write_bytes(b"no database" * 99)
    export_state(Bundle(bundle), state, tmp_path / "new.ff")
    assert Bundle(tmp_path / "new.ff").manifest.classes[-1] == NEW


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "exemplars.safetensors"])
def test_a_damaged_bundle(name: str, bundle: Path, state: Path, tmp_path: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[-1] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        export_state(Bundle(bundle), state, tmp_path / "new.ff")
    assert not (tmp_path / "new.ff").exists()


# ---------------------------------------- all or nothing ----------------------------------------


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(exported: Path, state: Path, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("512k")
    done = ffexport("--model", exported, "--state", state, "--out", disk / "new.ff")
    assert done.returncode == 8, done.stderr
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr
    assert list(disk.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_what_was_there(
    failure: type[BaseException], exported: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the new bundle is exported, and while the last files of it are written; with and without one there."""

    def stop(*_arguments: object, **_options: object) -> None:
        raise failure

    existing = Path(shutil.copytree(exported, tmp_path / "old.ff"))
    before = contents(tmp_path)
    for target in (existing, tmp_path / "new.ff"):
        with monkeypatch.context() as patched:
            patched.setattr(from_state, "export_onnx", stop)
            with pytest.raises(failure):
                export_state(Bundle(exported), state, target)
        assert contents(tmp_path) == before
        with monkeypatch.context() as patched:
            patched.setattr("ffruntime.core.bundle._stage_withdrawal", stop)
            with pytest.raises(failure):
                from_state._commit(target, Bundle(exported).manifest, {"a": b"new"})
        assert contents(tmp_path) == before
    empty = structs.replace(Bundle(exported).manifest, files={})
    monkeypatch.setattr("ffruntime.core.bundle.sync_directory", stop)  # files are in place, the manifest is not
    with pytest.raises(failure):
        from_state._commit(tmp_path / "new.ff", empty, {"a": b"new"})
    assert contents(tmp_path) == before


def test_a_state_that_cannot_be_written(exported: Path, state: Path, tmp_path: Path) -> None:
    """What reading would refuse is not written; what was there stays."""
    manifest, path = Bundle(exported).manifest, tmp_path / "learned.state"
    path.write_bytes(state.read_bytes())
    with pytest.raises(BundleError, match=r"head\.bias"):
        write_state(path, manifest, Weights({"head.bias": np.zeros(3, np.float32)}, manifest.classes), 1, 1)
    with pytest.raises(StorageError, match="cannot be written"):
        write_state(path / "below", manifest, Weights({}, manifest.classes), 0, 0)
    assert path.read_bytes() == state.read_bytes()
    write_state(path, manifest, Weights({}, manifest.classes), 0, 0)
    assert read_state(path, manifest)[0].tensors == {}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["learned.state"]
