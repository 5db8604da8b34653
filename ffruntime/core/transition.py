"""Former names, while the rooms move over to `Bundle`, `Layer` and `Tensor`. To be deleted."""

from pathlib import Path

from ffruntime.core.bundle import *  # noqa: F403
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.data import SPLIT
from ffruntime.core.durable import *  # noqa: F403
from ffruntime.core.layers import unit_parameters as _unit_parameters
from ffruntime.core.manifest import *  # noqa: F403

SPLIT_SEED = SPLIT.seed


def read_manifest(path):
    return Bundle(path).manifest


def _b(path, manifest):
    b = Bundle.__new__(Bundle)
    b.path, b.manifest, b._verified = Path(path), manifest, set()
    return b


def verified(path, manifest, name):
    return _b(path, manifest).verified(name)


def read_tensors(path, manifest, name):
    return _b(path, manifest).tensors(name)


def read_weights(path, manifest):
    return _b(path, manifest).weights()


def write(path, manifest, files):
    return write_bundle(path, manifest, files).manifest


def unit_parameters(network, index):
    return {t.name: t.shape for t in _unit_parameters(network, index)}


def from_below(name):
    return ".above." not in name and ".self." not in name
