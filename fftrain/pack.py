"""What a finished run leaves: the model bundle, with its golden vectors and exemplars."""

from __future__ import annotations

import math
import platform
from pathlib import Path

import torch
from msgspec import structs, to_builtins
from safetensors.torch import save
from torch import Tensor

from ffruntime.core import __version__
from ffruntime.core.architecture import Network, class_goodness
from ffruntime.core.bundle import CALIBRATION, HELD_BACK, REPLAY, Bundle, write_bundle
from ffruntime.core.calibration import Calibration
from ffruntime.core.data import Examples
from ffruntime.core.errors import UsageError
from ffruntime.core.layers import unit_parameters
from ffruntime.core.learning import ClassLoss, Hybrids, Learning, LocalLoss
from ffruntime.core.manifest import (
    EXEMPLARS,
    FORMAT,
    GOLDEN,
    MANIFEST,
    STATISTICS,
    TYPICALITY,
    WEIGHTS,
    Accuracies,
    Manifest,
    Training,
)

from . import network as net
from .checkpoint import checkpoint_path
from .class_statistics import Made, encoded, gather, of_bundle, with_statistics
from .class_step import class_gradient
from .dataset import Dataset
from .epoch import hybrids
from .evaluation import calibrate, load_tensors, predict
from .functional import Tensors
from .recipe import PLAIN, Kind, learning_of
from .run import Run
from .step import local_gradient
from .typicality import Typical, gather_units

GOLDEN_IMAGES = 16
EXEMPLAR_IMAGES = 500
PARTS = {CALIBRATION: 200, REPLAY: 200, HELD_BACK: 100}  # of the exemplars


def pick_balanced(split: Examples, count: int, seed: int) -> Tensor:
    """Indices of `count` images, as evenly over the classes as they come; the classes take turns."""
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))
    labels = split.labels[order]
    turn = torch.zeros_like(labels)
    for label in labels.unique():
        mine = labels == label
        turn[mine] = torch.arange(int(mine.sum()))
    return order[turn.argsort(stable=True)][:count]


def exemplars(train: Examples, seed: int) -> Tensors:
    """Training images as uint8, in three disjoint parts (`docs/bundle.md`)."""
    chosen = pick_balanced(train, EXEMPLAR_IMAGES, seed)
    part = torch.repeat_interleave(torch.tensor(list(PARTS), dtype=torch.uint8), torch.tensor([*PARTS.values()]))
    if len(chosen) < EXEMPLAR_IMAGES:  # a small data set: the same proportions
        part = part[torch.linspace(0, EXEMPLAR_IMAGES - 1, len(chosen)).round().long()]
    return {"images": train.pixels[chosen], "labels": train.labels[chosen], "part": part}


@torch.no_grad()
def golden(
    network: Network,
    tensors: Tensors,
    train: Examples,
    classes: int,
    learning: Learning | None,
    seed: int,
) -> Tensors:
    """What this network makes of a few training images, computed in float64 (`docs/bundle.md`).

    `learning`: what its units learn by; None: no gradient is among it.
    """
    chosen = pick_balanced(train, GOLDEN_IMAGES, seed + 1)
    pixels, labels = train.pixels[chosen], train.labels[chosen]
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    images = net.to_images(pixels, network, torch.float64)
    goodness = net.label_goodness(network, exact, images, torch.arange(network.label.patterns))  # (N, P, U)
    if class_goodness(network):
        x, others = images, Tensors()
    else:
        x, others = _golden_pairs(network, exact, pixels, labels, classes, learning, seed)
    return {
        "images": pixels,
        "labels": labels,
        "goodness": goodness,
        "total": net.total_goodness(network, exact, goodness),
        **others,
        **(golden_gradient(network, exact, x, labels, learning.loss) if learning else {}),
    }


def _golden_pairs(
    network: Network,
    exact: Tensors,
    pixels: Tensor,
    labels: Tensor,
    classes: int,
    learning: Learning | None,
    seed: int,
) -> tuple[Tensor, Tensors]:
    """Where the label is in the input: the first unit's input, the positive copies first, and what the vectors hold
    besides: logits and negatives."""
    images = net.to_images(pixels, network, torch.float64)
    _, logits = net.classify_linear(network, exact, images)
    others = {"logits": logits, "negatives": (labels + 1) % classes}
    if not (learning and isinstance(learning.negatives, Hybrids)):
        return net.embed_copies(network, exact, images, torch.stack([labels, others["negatives"]])), others
    mixed = hybrids(pixels, 1, learning.negatives.blur, torch.Generator().manual_seed(seed))[:, 0]
    both = torch.cat([images, net.to_images(mixed, network, torch.float64)])
    return net.embed(network, exact, both, exact["labels.neutral"][None]), {**others, "hybrids": mixed}


def golden_gradient(network: Network, tensors: Tensors, x: Tensor, labels: Tensor, loss: LocalLoss) -> Tensors:
    """The local gradient of the smallest trained unit, statistics frozen, from the first unit's input x: of images
    with these labels, or of the copies of a pair's loss, the positive ones first."""
    trained = [i for i, unit in enumerate(network.units) if unit.trained]
    index = min(trained, key=lambda i: sum(math.prod(t.shape) for t in unit_parameters(network, i)))
    for below in range(index + 1):
        x = net.normalise(network, below, tensors, x, training=False)
        if below < index:
            x = net.activation(network, below, tensors, {"below": x})
    if isinstance(loss, ClassLoss):
        gradients = class_gradient(network, index, tensors, x, labels, loss)[0]
    else:
        gradients = local_gradient(network, index, tensors, {"below": x}, loss)[0]
    return {t.gradient: gradients[t.name].float() for t in unit_parameters(network, index)}


def pack_run(
    out: Path,
    run: Run,
    recipe_name: str,
    device: str,
    precision: str,
    accuracy: Accuracies,
    logit_weight: float = 0.0,
    calibration: Calibration | None = None,
    statistics: Made | None = None,
    typical: Typical | None = None,
) -> Bundle:
    """Write the bundle of a run that has ended, with class `statistics` where there are any, and with what is
    `typical` to each unit.

    Raises `StorageError`, with what was at `out` unchanged.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in run.tensors.items()}
    classes = run.dataset.classes
    manifest = Manifest(
        format=FORMAT,
        network=run.network,
        classes=classes,
        labels=to_builtins(run.recipe.patterns),
        preprocessing=run.dataset.preprocessing,
        training=Training(
            recipe_name,
            to_builtins(run.recipe),
            run.seed,
            run.epochs,
            device,
            precision,
            round(run.seconds, 1),
            run.dataset.source,
            run.history,
            run.cut,
        ),
        accuracy=accuracy,
        made_with={
            "ffedge": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        },
        files={},
        modes=run.modes,
        learning=learning_of(run.recipe),
        logit_weight=logit_weight,
        calibration=calibration,
        statistics=statistics and statistics.how,
    )
    counted = statistics is not None and statistics.statistics.counts.any()
    more = {STATISTICS: encoded(statistics, run.network, tensors)} if statistics and counted else {}
    more |= {TYPICALITY: typical.encoded} if typical and calibration else {}
    vectors = golden(run.network, tensors, run.dataset.train, len(classes), manifest.learning, run.seed)
    return write_bundle(
        out,
        manifest,
        {
            WEIGHTS: save(tensors),
            GOLDEN: save({name: tensor.contiguous() for name, tensor in vectors.items()}),
            EXEMPLARS: save(exemplars(run.dataset.train, run.seed)),
            **more,
        },
    )


def completed(bundle: Bundle, dataset: Dataset, kind: Kind = PLAIN) -> Bundle:
    """A bundle without class statistics or calibration, with those that training would give it now, from its data
    set; statistics of that `kind`. Its graphs are left out: export it again. Raises `StorageError`.
    """
    manifest, tensors = bundle.manifest, load_tensors(bundle, torch.device("cpu"))
    network, validation, classes = manifest.network, dataset.validation, len(manifest.classes)
    scores, far = predict(network, tensors, validation, classes, modes=manifest.modes), None
    made = of_bundle(bundle)
    if manifest.learning and not made:
        made = gather(network, tensors, dataset.train, validation, scores, classes, kind)
    if made:
        scores, far = with_statistics(made, network, tensors, validation, scores)
    typical = None
    if far is not None and made and made.how.together:
        typical = gather_units(network, tensors, dataset.train, validation, classes, made.how.dimension)
    own = (typical.distances, typical.known) if typical else ()
    found = calibrate(network, tensors, validation, scores, manifest.logit_weight, far, *own)
    kept = {name: entry for name, entry in manifest.files.items() if name in (WEIGHTS, GOLDEN, EXEMPLARS)}
    after = structs.replace(
        manifest, files=kept, calibration=found, statistics=made and made.how, exit=None, shortlist=None
    )
    files = {STATISTICS: encoded(made, network, tensors)} if made else {}
    return write_bundle(bundle.path, after, files | ({TYPICALITY: typical.encoded} if typical else {}))


def check_target(target: Path, resume: bool, force: bool) -> None:
    """Raise `UsageError` where a bundle at `target` would replace what the user may want to keep."""
    if resume and force:
        raise UsageError("--resume and --force exclude each other")
    if not target.name:
        raise UsageError(f"--out {target}: is no name for a bundle; choose another")
    checkpoint = checkpoint_path(target)
    if target.exists() and not (target / MANIFEST).exists():
        ours = {WEIGHTS, GOLDEN, EXEMPLARS, STATISTICS, TYPICALITY}  # what a first write that was cut short leaves
        if not target.is_dir() or any(f.name not in ours and not f.name.startswith(".") for f in target.iterdir()):
            raise UsageError(f"--out {target}: exists and is no model bundle; choose another name")
    if resume:
        if not checkpoint.exists():
            raise UsageError(f"--resume: there is no {checkpoint}; leave the option out to start anew")
    elif force:
        return  # the new run's first checkpoint replaces the old one, its bundle the old bundle
    elif checkpoint.exists():
        raise UsageError(f"{checkpoint}: a run was interrupted; --resume goes on with it, --force starts again")
    elif (target / MANIFEST).exists():
        raise UsageError(f"{target}: there is a model already; --force replaces it, --out NAME keeps both")
