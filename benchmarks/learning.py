"""An update on the device beside PyTorch's, the same network and batch, for 3, 6 and 12 equal units:

(a) the layer-local step of `ffruntime learn`: gradient graphs in ONNX Runtime, Adam in numpy, without torch;
(b) a Forward-Forward step in PyTorch as it is usually written, layer by layer, with autograd; of class goodness,
    the step of local classifiers, by the same rule;
(c) a backpropagation step in PyTorch through the same network, with a linear classifier on its last unit; of class
    goodness, with that unit's readout.

    python benchmarks/learning.py [--goodness pair|class] [--width 32] [--kernel 3] [--batch 32] [--micro-batch 2]
                                  [--threads 1]

(a) stands twice: as it is by default, and `limited`, as with `--memory` or `--device`, where freed blocks go back
to the system at once.

Each contender has a fresh process of its own. Transient memory is what the process has resident at most in its
first steps, above what it has before them and two moments for every parameter that learns. Then they take turns;
times are ratios to (b).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

DEPTHS = (3, 6, 12)
CONTENDERS = {
    "pair": ("learn", "limited", "torch_ff", "torch_bp"),
    "class": ("learn", "limited", "torch_local", "torch_bp"),
}
RESULTS = {"pair": "learning", "class": "learning_class"}
STEPS, ROUNDS = 3, 5
FLOAT = 4
Step = Callable[[int], None]  # do so many steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goodness", choices=CONTENDERS, default="pair")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--kernel", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.contender:
        take_part(o)
    else:
        compare(o)


def compare(o: argparse.Namespace) -> None:
    """Make the bundles, start the contenders, and write down what they needed."""
    from common import record

    contenders = CONTENDERS[o.goodness]
    plain = contenders[-2]
    memory: dict[str, dict[int, float]] = {name: {} for name in contenders}
    times: dict[str, dict[int, float]] = {name: {} for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for depth in DEPTHS:
            path = make_bundle(Path(folder) / f"{depth}.ff", o.goodness, o.width, o.kernel, depth, o.batch)
            processes = {name: contender(name, path) for name in contenders}
            for name, process in processes.items():
                memory[name][depth] = ask(process)
            seconds = {name: min(turn) for name, turn in turns(processes).items()}
            for name, process in processes.items():
                times[name][depth] = seconds[name] / seconds[plain]
                process.communicate()
    record(
        RESULTS[o.goodness],
        {
            "goodness": o.goodness,
            "network": f"{o.width} filters of {o.kernel}x{o.kernel} in each unit, 28x28, batch {o.batch}",
            "micro_batch": o.micro_batch,
            "threads": o.threads,
            "transient_mb": {name: {d: round(v / 1e6, 1) for d, v in m.items()} for name, m in memory.items()},
            f"time_over_{plain}": {name: {d: round(v, 2) for d, v in m.items()} for name, m in times.items()},
            **{f"{who}_12_units_over_3": round(memory[who][12] / memory[who][3], 2) for who in contenders[:2]},
            **{
                f"{who}_over_torch_bp_at_12": round(memory[who][12] / memory["torch_bp"][12], 2)
                for who in contenders[:2]
            },
            **{f"{who}_over_{plain}_time_at_12": round(times[who][12], 2) for who in contenders[:2]},
        },
    )


def contender(name: str, path: Path) -> subprocess.Popen[str]:
    """A fresh process: this script, with the options it was called with."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contender", name, "--bundle", str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str]) -> float:
    """The next number that a contender has for us."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


def turns(processes: dict[str, subprocess.Popen[str]]) -> dict[str, list[float]]:
    """Seconds of some steps of each contender, one after the other, in rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(ROUNDS):
        for name, process in processes.items():
            seconds[name].append(ask(process))
    return seconds


def take_part(o: argparse.Namespace) -> None:
    """Answer each line on standard input: first with transient bytes, then with the seconds of some steps."""
    makers: dict[str, dict[str, Callable[[argparse.Namespace], tuple[Step, int]]]] = {
        "pair": {"learn": learn, "limited": learn, "torch_ff": torch_ff, "torch_bp": torch_bp},
        "class": {
            "learn": learn_classes,
            "limited": learn_classes,
            "torch_local": torch_local,
            "torch_bp": torch_class_bp,
        },
    }
    step, parameters = makers[o.goodness][o.contender](o)
    sys.stdin.readline()
    idle = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins here
    step(STEPS)
    print(resident("VmHWM") - idle - 2 * FLOAT * parameters, flush=True)
    for _ in range(ROUNDS):
        sys.stdin.readline()
        begun = time.perf_counter()
        step(STEPS)
        print(time.perf_counter() - begun, flush=True)


def resident(what: str) -> int:
    """Bytes that this process has resident now (VmRSS) or had at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1]) << 10


def some_images(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (B, 1, 28, 28) and labels (B,): noise, which costs what pictures cost."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, 1, 28, 28), np.uint8), rng.integers(0, 10, batch)


def learn(o: argparse.Namespace) -> tuple[Step, int]:
    """(a), and how many parameters learn."""
    from ffruntime.core.data import to_unit_interval
    from ffruntime.core.learning import WrongLabels
    from ffruntime.learning.step import UnitSteps

    (model, weights, settings, parameters), (images, labels) = opened(o), some_images(o.batch)
    rng = np.random.default_rng(0)

    def step(count: int) -> None:
        scores = np.zeros((o.batch, 10), np.float32)
        steps = UnitSteps(model, weights, settings, WrongLabels(), rng)
        for _ in range(count):
            steps.step(to_unit_interval(images), labels, lambda _: scores)

    return step, parameters


def learn_classes(o: argparse.Namespace) -> tuple[Step, int]:
    """(a) of class goodness, and how many parameters learn."""
    from ffruntime.core.data import to_unit_interval
    from ffruntime.learning.step import ClassSteps

    (model, weights, settings, parameters), (images, labels) = opened(o), some_images(o.batch)

    def step(count: int) -> None:
        steps = ClassSteps(model, weights, settings)
        for _ in range(count):
            steps.step(to_unit_interval(images), labels)

    return step, parameters


def opened(o: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The bundle's model, with its gradient graphs; its weights, of which those that learn may be changed; settings
    of a step; and how many parameters learn."""
    from ffruntime.core.layers import unit_parameters
    from ffruntime.learning.step import Settings, learning_units
    from ffruntime.model import Model
    from ffruntime.session import ALL_LABELS, Session, limited

    session = Session(threads=o.threads, arena=False)
    if o.contender == "limited":
        session = limited(session, o.micro_batch, ALL_LABELS, o.threads)
    model = Model(o.bundle, session=session, state=False)
    network = model.manifest.network
    units = learning_units(network, model.manifest.files)
    weights = model.bundle.weights()
    names = [tensor.name for index in units for tensor in unit_parameters(network, index)]
    weights |= {name: weights[name].copy() for name in names}
    for index in units:
        model.graph(f"gradient{index + 1}")
    settings = Settings(batch=o.batch, micro_batch=o.micro_batch, hard=0.0, lr=1e-5)
    return model, weights, settings, sum(weights[name].size for name in names)


def torch_ff(o: argparse.Namespace) -> tuple[Step, int]:
    """(b), and how many parameters learn."""
    import torch
    from torch.nn import functional as F

    layers, with_label, images, labels = torch_network(o)
    optimizers = [torch.optim.Adam(layer.parameters(), lr=1e-5) for layer in layers[1:]]

    def step(count: int) -> None:
        for _ in range(count):
            wrong = (labels + torch.randint(1, 10, labels.shape)) % 10
            positive, negative = with_label(images, labels), with_label(images, wrong)
            for k, layer in enumerate(layers):
                positive, negative = layer(positive).relu(), layer(negative).relu()
                if k > 0:
                    good, bad = (y.square().mean((1, 2, 3)) for y in (positive, negative))
                    loss = F.softplus(4 * (bad - good)).mean()
                    optimizers[k - 1].zero_grad()
                    loss.backward()
                    optimizers[k - 1].step()
                positive, negative = divisive(positive.detach()), divisive(negative.detach())

    return step, sum(p.numel() for layer in layers[1:] for p in layer.parameters())


def torch_bp(o: argparse.Namespace) -> tuple[Step, int]:
    """(c), and how many parameters learn."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    layers, with_label, images, labels = torch_network(o)
    head = nn.Linear(o.width * 28 * 28, 10)
    learned = [p for layer in (*layers[1:], head) for p in layer.parameters()]
    optimizer = torch.optim.Adam(learned, lr=1e-5)

    def step(count: int) -> None:
        for _ in range(count):
            x = with_label(images, labels)
            for layer in layers:
                x = divisive(layer(x).relu())
            optimizer.zero_grad()
            F.cross_entropy(head(x.flatten(1)), labels).backward()
            optimizer.step()

    return step, sum(p.numel() for p in learned)


def torch_local(o: argparse.Namespace) -> tuple[Step, int]:
    """(b) of class goodness, and how many parameters learn."""
    import torch
    from torch.nn import functional as F

    units, images, labels = torch_units(o)
    optimizers = [torch.optim.Adam(unit.parameters(), lr=1e-5) for unit in units]

    def step(count: int) -> None:
        for _ in range(count):
            x = images
            for unit, optimizer in zip(units, optimizers, strict=True):
                y = unit.activation(x)
                loss = F.cross_entropy(unit.goodness(y), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                x = y.detach()

    return step, sum(p.numel() for unit in units for p in unit.parameters())


def torch_class_bp(o: argparse.Namespace) -> tuple[Step, int]:
    """(c) of class goodness, and how many parameters learn."""
    import torch
    from torch.nn import functional as F

    units, images, labels = torch_units(o)
    for unit in units[:-1]:
        unit.readout.requires_grad_(False)
    learned = [p for unit in units for p in unit.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-5)

    def step(count: int) -> None:
        for _ in range(count):
            x = images
            for unit in units:
                x = unit.activation(x)
            optimizer.zero_grad()
            F.cross_entropy(units[-1].goodness(x), labels).backward()
            optimizer.step()

    return step, sum(p.numel() for p in learned)


def torch_units(o: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The bundle's units with their readouts, all of which learn; images and labels."""
    import torch
    from common import CELLS
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(o.threads)

    class Unit(nn.Module):
        """Frozen batch statistics, as on a device, a convolution, and a readout of averaged cells."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(channels, affine=False).eval()
            self.conv = nn.Conv2d(channels, o.width, o.kernel, padding=o.kernel // 2)
            self.readout = nn.Linear(o.width * CELLS**2, 10)

        def activation(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(x)).relu()

        def goodness(self, y: torch.Tensor) -> torch.Tensor:
            return self.readout(divisive(F.adaptive_avg_pool2d(y, CELLS)).flatten(1))

    units = [Unit(o.width if k else 1) for k in range(int(o.bundle.stem))]
    pixels, right = some_images(o.batch)
    return units, torch.from_numpy(pixels).float() / 255, torch.from_numpy(right)


def torch_network(o: argparse.Namespace):  # type: ignore[no-untyped-def]
    """The bundle's convolutions (the first one does not learn), a label put into images, images and labels."""
    import torch
    from torch import nn

    torch.set_num_threads(o.threads)
    depth = int(o.bundle.stem)
    layers = [nn.Conv2d(o.width if k else 1, o.width, o.kernel, padding=o.kernel // 2) for k in range(depth)]
    layers[0].requires_grad_(False)
    pixels, right = some_images(o.batch)
    patterns = torch.rand(10, 1, 28, 28)

    def with_label(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0.65 * images + 0.35 * patterns[labels]

    return layers, with_label, torch.from_numpy(pixels).float() / 255, torch.from_numpy(right)


def divisive(x):  # type: ignore[no-untyped-def]
    """x / √mean(x²), sample by sample."""
    return x / (x.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt()


def make_bundle(path: Path, goodness: str, width: int, kernel: int, depth: int, batch: int) -> Path:
    """A bundle with so many equal units, which have not trained; its gradient graphs."""
    import msgspec
    import torch
    from training import class_recipe, ff_recipe

    from ffexport.export import export_onnx
    from ffruntime.core.data import data_directory
    from ffruntime.core.learning import Symmetric
    from fftrain.dataset import load_dataset
    from fftrain.pack import pack_run
    from fftrain.recipe import with_epochs
    from fftrain.run import start

    if goodness == "class":
        recipe = class_recipe(width, kernel, depth, batch)
    else:
        recipe = msgspec.structs.replace(ff_recipe(width, kernel, depth, batch), loss=Symmetric())
    data = load_dataset("mnist", data_directory(None))
    run = start(with_epochs(recipe, 0), data, 0, torch.device("cpu"), torch.float32)
    pack_run(path, run, "equal units", "cpu", "fp32", {})
    export_onnx(path)
    return path


if __name__ == "__main__":
    main()
