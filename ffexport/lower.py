"""fp16 and int8: every layer is lowered; where decisions do not bear it, all but the most harmful ones."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save

from ffruntime.core import transition as bundle
from ffruntime.core.architecture import Network
from ffruntime.core.data import Examples
from ffruntime.core.manifest import WEIGHTS, Manifest, Precision, in_folder
from ffruntime.model import Model
from ffruntime.session import Session

from .assess import Progress, Scores, faithful, harm, scores
from .calibrate import input_scales
from .external import read_places, tensor_places, use_external_weights
from .graphs import all_graphs
from .precision import layers, to_fp16, to_int8

Tensors = Mapping[str, np.ndarray]
Files = dict[str, bytes]  # name in the bundle -> content


def precision_files(network: Network, tensors: Tensors, precision: Precision) -> Files:
    """The weights of another precision than fp32, and the inference graphs that name them."""
    data = save(dict(tensors))
    types = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype != np.float32}
    places = read_places(io.BytesIO(data))
    graphs = {
        in_folder(f"{name}.onnx", precision): use_external_weights(model, places).SerializeToString(
            deterministic=True
        )
        for name, model in all_graphs(network, types).items()
    }
    return {in_folder(WEIGHTS, precision): data, **graphs}


class Lowering(msgspec.Struct, frozen=True):
    """One precision of a network in the making, in the bundle at `path`, a scratch copy whose graphs are fp32."""

    path: Path
    manifest: Manifest
    weights: Tensors
    precision: Precision
    exemplars: Examples
    reference: Scores  # fp32's, on the exemplars
    backend: str
    progress: Progress

    def attempt(self, lowered: Collection[str], scales: Mapping[str, float]) -> tuple[Files, Scores]:
        """The files with only those layers lowered, and their scores on the exemplars."""
        if self.precision == "fp16":
            tensors = to_fp16(self.weights, lowered)
        else:
            tensors = to_int8(self.weights, {layer: scales[layer] for layer in lowered})
        files = precision_files(self.manifest.network, tensors, self.precision)
        bundle.write(self.path, self.manifest, files)
        model = Model(self.path, session=Session(self.backend, self.precision))
        return files, scores(model, self.exemplars, self.progress, f"{len(lowered)} layers, exemplars")

    def run(self, calibration: Examples) -> Files:
        """The files of the precision, with as many layers lowered as decisions on the exemplars bear."""
        scales = self.calibrate(calibration) if self.precision == "int8" else {}
        lowered = layers(self.manifest.network)
        files, ours = self.attempt(lowered, scales)
        if not self.failing(ours):
            return files
        failing = {mode: self.reference[mode] for mode in self.failing(ours)}
        harms = {layer: harm(self.attempt([layer], scales)[1], failing) for layer in lowered}
        for layer in sorted(lowered, key=lambda layer: harms[layer], reverse=True):
            lowered.remove(layer)
            files, ours = self.attempt(lowered, scales)
            if not self.failing(ours):
                break
        return files

    def failing(self, ours: Scores) -> list[str]:
        """The inference modes whose decisions do not bear it."""
        labels, reference = self.exemplars.labels, self.reference
        return [m for m in reference if not faithful(ours[m], reference[m], labels, self.precision)]

    def calibrate(self, images: Examples) -> dict[str, float]:
        """Scale of every layer's input, from exemplars of part 0."""
        self.progress("int8: calibration", 0)
        places = tensor_places(self.path / WEIGHTS)
        graphs = all_graphs(self.manifest.network)
        models = {name: use_external_weights(graphs[name], places) for name in ("goodness", "classifier")}
        return input_scales(self.path, models, images.pixels, images.labels, len(self.manifest.classes))
