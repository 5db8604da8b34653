"""Export of the paper's network, all checks included, beside torch.onnx.export of its goodness alone.

    python benchmarks/export.py [recipe] [width]

The network is untrained; `width` narrows its convolutions, to try the script. Both write what one needs to compute
goodness of any images and labels; ours adds the unit, classifier and gradient graphs and proves them all, which
takes most of the time: the graphs alone are timed, too. All take turns in one run; the result is the ratios of
their best times, and the sizes of what they write. (torch's tracer, used here, fixes the batch of its example.)
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from common import record

from ffexport.export import export_onnx, fp32_graphs
from ffruntime.core.bundle import Bundle
from ffruntime.core.data import data_directory
from fftrain import network as net
from fftrain.dataset import load_dataset
from fftrain.pack import pack_run
from fftrain.recipe import Recipe, load_recipe, with_epochs
from fftrain.run import start

ROUNDS = 3


class Goodness(torch.nn.Module):
    """The goodness computation as a module: images (N, C, H, W) × labels (L,) -> (N, L, U)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        bundle = Bundle(path)
        weights = bundle.weights()
        self.network = bundle.manifest.network
        self.names = {name: name.replace(".", "_") for name in weights}
        for name, tensor in weights.items():
            self.register_buffer(self.names[name], torch.from_numpy(tensor))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        tensors = {name: getattr(self, attribute) for name, attribute in self.names.items()}
        standardised = (images - self.network.image.mean) / self.network.image.std
        return net.label_goodness(self.network, tensors, standardised, labels)


def seconds(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def narrowed(recipe: Recipe, width: int | None) -> Recipe:
    """The recipe with so many channels in every convolution."""
    plain = msgspec.to_builtins(recipe)
    for unit in plain["network"]["units"]:
        unit["ops"] = [op | {"out": width} if width and op["op"] == "conv" else op for op in unit["ops"]]
    return msgspec.convert(plain, Recipe)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "paper"
    recipe = narrowed(with_epochs(load_recipe(name), 0), int(sys.argv[2]) if len(sys.argv) > 2 else None)
    dataset = load_dataset("mnist", data_directory(None))
    with tempfile.TemporaryDirectory() as folder:
        path, theirs = Path(folder) / "model.ff", Path(folder) / "torch.onnx"
        run = start(recipe, dataset, 0, torch.device("cpu"), torch.float32)
        pack_run(path, run, name, "cpu", "fp32", {})
        module = Goodness(path).eval()
        example = (torch.zeros(2, *module.network.image.shape), torch.arange(3))

        def torch_export() -> None:
            torch.onnx.export(
                module,
                example,
                str(theirs),
                dynamo=False,
                opset_version=18,
                input_names=["images", "labels"],
                dynamic_axes={"images": {0: "N"}, "labels": {0: "L"}},
            )

        actions = {
            "ffexport": lambda: export_onnx(path),
            "graphs": lambda: fp32_graphs(Bundle(path)),
            "torch": torch_export,
        }
        times: dict[str, list[float]] = {what: [] for what in actions}
        for _ in range(ROUNDS):
            for what, action in actions.items():
                times[what].append(seconds(action))
        best = {what: min(measured) for what, measured in times.items()}
        files = Bundle(path).manifest.files
        record(
            "export",
            {
                "recipe": name,
                "graphs_over_torch": round(best["graphs"] / best["torch"], 2),
                "graphs_with_all_checks_over_torch": round(best["ffexport"] / best["torch"], 1),
                "ffexport_graphs": sum(file.endswith(".onnx") for file in files),
                "ffexport_graph_bytes": sum(entry.size for file, entry in files.items() if file.endswith(".onnx")),
                "weights_bytes": files["weights.safetensors"].size,
                "torch_bytes_one_graph_with_weights": theirs.stat().st_size,
            },
        )


if __name__ == "__main__":
    main()
