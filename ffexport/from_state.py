"""A bundle and what a device learned on it, as a new bundle: with its own golden vectors, graphs and precisions.

The trainer's golden vectors are those of the old weights. The new ones come from the new fp32 graphs on ONNX
Runtime's CPU provider, and the manifest says so. The export then proves the graphs against each other: the unit
graphs, as a chain, have to reproduce what the goodness graph computes in one piece.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from msgspec import structs
from safetensors.numpy import save

from ffruntime.core.architecture import Network, class_goodness, unit_name
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import to_unit_interval
from ffruntime.core.durable import sha256
from ffruntime.core.errors import BundleError, StorageError, UsageError
from ffruntime.core.graphs import unit_gradient
from ffruntime.core.layers import KNOWN, unit_parameters
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, MANIFEST, STATISTICS, TYPICALITY, WEIGHTS, Manifest
from ffruntime.core.plan import Plan
from ffruntime.core.precision import Precision
from ffruntime.core.state import Check, State, Weights, read_state
from ffruntime.core.statistics import (
    Statistics,
    added,
    encode,
    units_hash,
    with_classes,
    without_class,
)
from ffruntime.embedding import class_input
from ffruntime.golden import golden_pairs, read_golden
from ffruntime.lock import writing
from ffruntime.model import Model
from ffruntime.session import Session

from .artefacts import ExportReport
from .decisions import Progress
from .export import export_onnx, fp32_graphs, silent
from .prove import scratch_folder

Arrays: TypeAlias = dict[str, np.ndarray]  # by name

REFERENCE = "onnxruntime-cpu"  # what computes the golden vectors


def target_of(source: Path, out: Path | None, force: bool) -> Path:
    """Where the new bundle goes: `out`, by default `model-learned.ff` beside `model.ff`.

    Raises `UsageError` where something is there that must not be replaced.
    """
    named = source if source.name not in ("", "..") else source.resolve()
    target = out or named.with_name(f"{named.name.removesuffix('.ff')}-learned.ff")
    here, there = source.resolve(), target.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise UsageError(f"{target}: would change the bundle {source}; name another place with --out")
    if not _occupied(target):
        return target
    if not (target / MANIFEST).is_file():
        raise UsageError(f"{target}: is there, and no bundle; name another place with --out")
    if not force:
        raise UsageError(f"{target}: is there already; replace it with --force, or name another place with --out")
    return target


def _occupied(target: Path) -> bool:
    try:
        return target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir())))
    except OSError as error:
        raise StorageError(f"{target}: cannot be looked into: {error.strerror}") from error


def export_state(
    bundle: Bundle,
    state: Path,
    target: Path,
    precisions: Sequence[Precision] = (),
    data: Path | None = None,
    device: Plan | None = None,
    progress: Progress = silent,
    check: Check | None = None,
) -> ExportReport:
    """Write the bundle, with what `state` has learned, to `target`, exported in fp32 and `precisions`.

    All is made and proven in a scratch bundle and then written at once: whatever fails, `target` is as it was, and
    `bundle` is only read. `check`: as for `read_state`. Raises `BundleError` where either cannot be used, and what
    `export_onnx` raises.
    """
    with writing(target):
        return _export_state(bundle, state, target, precisions, data, device, progress, check)


def _export_state(
    bundle: Bundle,
    state: Path,
    target: Path,
    precisions: Sequence[Precision],
    data: Path | None,
    device: Plan | None,
    progress: Progress,
    check: Check | None,
) -> ExportReport:
    learned, origin = read_state(state, bundle.manifest, check)
    weights = {**bundle.weights(), **learned.tensors}
    old = read_golden(bundle)
    exemplars = {EXEMPLARS: bundle.read(EXEMPLARS)} if EXEMPLARS in bundle else {}
    whole = _statistics(bundle, weights, learned)
    if class_goodness(bundle.manifest.network):
        learned = structs.replace(learned, classes=told_apart(state, learned.classes, weights[KNOWN], whole))
    manifest = new_manifest(bundle.manifest, learned, origin, sha256(state))
    told = _encoded(bundle, whole, len(learned.classes)) if whole else {}
    if told and TYPICALITY in bundle:  # of the same units
        told[TYPICALITY] = bundle.read(TYPICALITY)
    manifest = structs.replace(manifest, statistics=bundle.manifest.statistics if told else None)
    with scratch_folder() as folder:
        copy = write_bundle(folder / "model.ff", manifest, {WEIGHTS: save(weights), **exemplars, **told})
        with_graphs = write_bundle(copy.path, copy.manifest, fp32_graphs(copy))
        golden = golden_vectors(Model(with_graphs, session=Session(REFERENCE)), weights, old)
        if not all(np.isfinite(array).all() for array in golden.values()):
            raise BundleError(f"{state}: with it the network computes no finite numbers; roll the learning back")
        write_bundle(copy.path, copy.manifest, {GOLDEN: save(golden)})  # without graphs: the export adds them
        report = export_onnx(copy.path, precisions, data=data, device=device, progress=progress)
        copy = Bundle(copy.path)
        files = {name: copy.read(name) for name in copy.manifest.files}
    final = _with_undertrained(copy.manifest, bundle.manifest, learned)
    _commit(target, structs.replace(final, files={}), files)
    return report


def _statistics(bundle: Bundle, weights: Arrays, learned: Weights) -> Statistics | None:
    """Class statistics, the bundle's and the device's together; None where the bundle has none, or the device's
    units are others."""
    how = bundle.manifest.statistics
    if not how or units_hash(bundle.manifest.network, weights) != bundle.units_hash:
        return None
    return added(bundle.statistics(), learned.statistics or how.none(0))


def _encoded(bundle: Bundle, whole: Statistics, count: int) -> dict[str, bytes]:
    """The file of class statistics, of the first classes, so many."""
    how = bundle.manifest.statistics
    assert how
    whole = with_classes(whole, max(whole.classes, count))
    for label in range(count, whole.classes):
        whole = without_class(whole, label)
    return {STATISTICS: encode(with_classes(whole, count), how.origin(bundle.units_hash))}


def told_apart(
    state: Path, classes: tuple[str, ...], known: np.ndarray, statistics: Statistics | None
) -> tuple[str, ...]:
    """The classes that the readouts have rows of, or class statistics examples; a class that was stored, and not
    learned from yet, may have neither.

    Raises `BundleError` where one is before others that have: a label is the number of a row.
    """
    told = known[: len(classes)] > 0
    if statistics:
        told = told | (with_classes(statistics, max(statistics.classes, len(classes))).counts[: len(classes)] > 0)
    count = int(np.flatnonzero(told)[-1]) + 1
    for name, one in zip(classes[:count], told[:count], strict=True):
        if not one:
            raise BundleError(f"{state}: class '{name}' has no row yet: learn from its examples first")
    return classes[:count]


def left_out(bundle: Bundle, state: Path, check: Check | None = None) -> tuple[str, ...]:
    """Classes of a state that the bundle made of it will not have: neither readouts nor statistics know them."""
    learned, _ = read_state(state, bundle.manifest, check)
    if not class_goodness(bundle.manifest.network):
        return ()
    weights = {**bundle.weights(), **learned.tensors}
    whole = _statistics(bundle, weights, learned)
    return learned.classes[len(told_apart(state, learned.classes, weights[KNOWN], whole)) :]


def new_manifest(manifest: Manifest, learned: Weights, state: State, digest: str) -> Manifest:
    """The old manifest with the classes learned; accuracies were the old one's. `digest` is the state file's."""
    from onnxruntime import __version__ as version

    origin = f"{state.updates} updates on {state.examples} examples, from state {digest[:12]}"
    origins = [manifest.made_with["learned"]] if "learned" in manifest.made_with else []
    golden = f"ONNX Runtime {version}, CPU, fp32, of the weights after learning"
    made_with = {**manifest.made_with, "learned": "; ".join([*origins, origin]), "golden": golden}
    return structs.replace(manifest, classes=learned.classes, accuracy={}, made_with=made_with, files={})


def _with_undertrained(new: Manifest, old: Manifest, learned: Weights) -> Manifest:
    """The new manifest, whose shortlist always tries the classes that the classifier hardly knows."""
    if not new.shortlist:
        return new
    unsure = learned.undertrained.union(old.shortlist.always if old.shortlist else ())
    always = tuple(name for name in new.classes if name in unsure)
    return structs.replace(new, shortlist=structs.replace(new.shortlist, always=always))


def golden_vectors(model: Model, weights: Arrays, old: Arrays) -> Arrays:
    """What the model's fp32 graphs make of the old golden images, in the types of `docs/bundle.md`."""
    network, images = model.manifest.network, to_unit_interval(old["images"])
    scored = model.graph("goodness")({"images": images, "labels": np.arange(network.label.patterns)})
    vectors: Arrays = {name: old[name] for name in ("images", "labels", "hybrids") if name in old}
    vectors |= {name: scored[name].astype(np.float64) for name in ("goodness", "total")}
    if not class_goodness(network):
        vectors["logits"] = model.graph("classifier")({"images": images})["logits"].astype(np.float64)
        vectors["negatives"] = (old["labels"] + 1) % len(model.manifest.classes)
    return vectors | _golden_gradient(model, weights, {**old, **vectors})


def _golden_gradient(model: Model, weights: Arrays, old: Arrays) -> Arrays:
    """The gradient of the unit that the old golden vectors have one of; nothing where they have none."""
    network, index = model.manifest.network, _unit_of_gradient(model.manifest.network, old)
    if index is None or unit_gradient(network, index).file not in model.manifest.files:
        return {}
    of_classes, n, graph = class_goodness(network), len(old["images"]), unit_gradient(network, index)
    if of_classes:
        x = class_input(network, weights, to_unit_interval(old["images"]))
    else:
        x = golden_pairs(network, weights, old)
    for below in range(index):
        x = model.graph(unit_name(below))({"input": x})["output"]
    shown = {"input": x, "labels": old["labels"]} if of_classes else {"positive": x[:n], "negative": x[n:]}
    outputs = model.graph(graph.name)({**shown, **{name: weights[name] for name in graph.takes}})
    names = [parameter.gradient for parameter in unit_parameters(network, index)]
    return {name: outputs[name] for name in names}


def _unit_of_gradient(network: Network, golden: Arrays) -> int | None:
    """Index of the unit that golden vectors have the gradient of."""
    for index in range(len(network.units)):
        if any(parameter.gradient in golden for parameter in unit_parameters(network, index)):
            return index
    return None


def _commit(target: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write all of a bundle; where there was none, an interrupted one is removed."""
    present = target.exists()
    try:
        write_bundle(target, manifest, files)
    except BaseException:
        if not present:
            shutil.rmtree(target, ignore_errors=True)
        raise
