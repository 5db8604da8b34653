"""Training speed and memory, side by side in one run, the same network and the same images:

(a) a plain PyTorch Forward-Forward loop as the paper describes it (Scodellaro et al.): a data loader, a pass for
    positive and one for negative data, autograd and an update layer by layer, fp32. Of class goodness, one pass
    and a local classifier in every layer instead;
(b) the step of fftrain, in the precision it chooses here;
(c) backpropagation through the same network, in the same precision as (b). Of class goodness, from the last
    layer's readout.

    python benchmarks/training.py [--goodness pair|class] [--width 128] [--kernel 7] [--batch 50] [--steps 6]
                                  [--device cpu|cuda]

Images a second (as ratios, but on a GPU), the share of the measured convolution peak, and transient memory: the
allocator's peak above what lives between steps (parameters, moments, data), for 3 and for 12 equal layers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import torch
from common import CELLS, record
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.functional import to_pil_image, to_tensor

from ffruntime.core.architecture import Conv, Input, Readout, Relu, Unit
from ffruntime.core.data import Examples, data_directory
from ffruntime.core.learning import Augment, ClassLoss, CrossEntropy
from fftrain.dataset import Dataset, load_dataset, on_device
from fftrain.epoch import epoch_batches
from fftrain.figures import training_macs
from fftrain.hardware import find_hardware
from fftrain.patterns import make_patterns
from fftrain.recipe import Fourier, Recipe, load_recipe
from fftrain.run import Run, start
from fftrain.step import training_step
from fftrain.ways import graphed

MakeRecipe: TypeAlias = Callable[[int, int, int, int], Recipe]  # width, kernel, layers, batch


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goodness", choices=MAKERS, default="pair")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", help="of the results; default: training or training_class")
    o = parser.parse_args(arguments)
    hardware = find_hardware(o.device)
    device, dtype = torch.device(hardware.device), hardware.dtype
    whole = load_dataset("mnist", data_directory(None))
    images = o.batch * o.steps
    data = msgspec.structs.replace(whole, train=Examples(whole.train.pixels[:images], whole.train.labels[:images]))

    make_plain, make_recipe = MAKERS[o.goodness]

    def loops(layers: int) -> dict[str, Callable[[], Loop]]:
        local, whole = (make(o.width, o.kernel, layers, o.batch) for make in (make_recipe, bp_recipe(make_recipe)))
        return {
            "plain": lambda: make_plain(data, o.width, o.kernel, layers, o.batch, device),
            "fftrain": lambda: fast_loop(data, local, device, dtype),
            "backpropagation": lambda: fast_loop(data, whole, device, dtype),
        }

    contestants = {name: loop() for name, loop in loops(3).items()}
    seconds = {name: min(times) for name, times in side_by_side(contestants, o.rounds, device).items()}
    speed = {name: images / s for name, s in seconds.items()}
    peak = convolution_peak(o.width, o.kernel, o.batch, device, dtype)
    work = images * flop_per_image(data, make_recipe(o.width, o.kernel, 3, o.batch))
    memory: dict[str, dict[str, float]] = {name: {} for name in contestants}
    for layers in (3, 12):
        for name, loop in loops(layers).items():
            memory[name][str(layers)] = transient(loop(), device)
    record(
        o.name or {"pair": "training", "class": "training_class"}[o.goodness],
        {
            "goodness": o.goodness,
            "hardware": hardware.name,
            "precision": {"plain": "fp32", "fftrain": hardware.precision, "backpropagation": hardware.precision},
            "network": f"3 x {o.width} filters of {o.kernel}x{o.kernel}, batch {o.batch}, {data.source.name}",
            "speed_over_plain": {name: round(s / speed["plain"], 2) for name, s in speed.items()},
            "fftrain_share_of_convolution_peak": round(work / seconds["fftrain"] / peak, 3),
            "transient_mb": {n: {k: round(v / 1e6, 1) for k, v in m.items()} for n, m in memory.items()},
            "fftrain_12_layers_over_3": round(memory["fftrain"]["12"] / memory["fftrain"]["3"], 3),
            "fftrain_over_backpropagation_at_12": round(
                memory["fftrain"]["12"] / memory["backpropagation"]["12"], 3
            ),
            **(
                {
                    "images_per_second": {name: round(s) for name, s in speed.items()},
                    "convolution_peak_tflops": round(peak / 1e12, 1),
                }
                if device.type == "cuda"
                else {}
            ),
        },
    )


def units(width: int, kernel: int, layers: int) -> tuple[Unit, ...]:
    """Equal layers; the first one stays random, the last one is scored."""
    ops = (Conv(width, kernel, padding=kernel // 2), Relu())
    first = Unit(ops, (Input("below", "none"),), trained=False, scored=False)
    return (first, *[Unit(ops, scored=k == layers - 2) for k in range(layers - 1)])


def ff_recipe(width: int, kernel: int, layers: int, batch: int) -> Recipe:
    """The paper's recipe; without the linear classifier, which the plain loop has not either."""
    paper = load_recipe("paper")
    schedule = msgspec.structs.replace(paper.schedule, batch=batch, head_lr=0)
    network = msgspec.structs.replace(paper.network, units=units(width, kernel, layers))
    return msgspec.structs.replace(paper, network=network, schedule=schedule)


def class_recipe(width: int, kernel: int, layers: int, batch: int) -> Recipe:
    """Recipe `class` with equal layers, all of them trained, by its loss alone: images stay as they are."""
    base = load_recipe("class")
    ops = (Conv(width, kernel, padding=kernel // 2), Relu())
    unit = Unit(ops, (Input("below", "batch"),), readout=Readout(CELLS))
    return msgspec.structs.replace(
        base,
        network=msgspec.structs.replace(base.network, units=(unit,) * layers),
        schedule=msgspec.structs.replace(base.schedule, batch=batch),
        loss=ClassLoss(),
        augment=Augment(),
        dropout=0.0,
    )


def bp_recipe(make: MakeRecipe) -> MakeRecipe:
    """The same network under backpropagation: a linear classifier, or a readout, reads the last layer."""

    def make_baseline(width: int, kernel: int, layers: int, batch: int) -> Recipe:
        recipe = make(width, kernel, layers, batch)
        schedule = msgspec.structs.replace(recipe.schedule, head_lr=1e-3)
        return msgspec.structs.replace(recipe, loss=CrossEntropy(), schedule=schedule)

    return make_baseline


@dataclass
class Loop:
    """An epoch over the images, as often as it is called."""

    epoch: Callable[[], None]


def fast_loop(data: Dataset, recipe: Recipe, device: torch.device, dtype: torch.dtype) -> Loop:
    """fftrain's own step on data that live on the device."""
    run: Run = start(recipe, data, 0, device, dtype)
    split = on_device(data.train, device)
    step = graphed(training_step) if device.type == "cuda" else training_step
    hard = torch.tensor(recipe.negatives.hard, device=device)

    def epoch() -> None:
        for batch in epoch_batches(split, recipe, 0, 0, skip=0):
            step(run, batch, hard)

    return Loop(epoch)


class Pictures(TorchDataset):  # type: ignore[type-arg]
    """What torchvision's MNIST gives a data loader: a PIL image made into a tensor, one by one."""

    def __init__(self, split: Examples) -> None:
        self.pictures = [to_pil_image(image) for image in split.pixels]
        self.labels = split.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(self.pictures[index]), self.labels[index]


def plain_loop(data: Dataset, width: int, kernel: int, layers: int, batch: int, device: torch.device) -> Loop:
    """Forward-Forward as it is usually written: see (a) above."""
    convolutions = [
        nn.Conv2d(1 if k == 0 else width, width, kernel, padding=kernel // 2).to(device) for k in range(layers)
    ]
    optimizers = [torch.optim.Adam(convolution.parameters(), lr=5e-5) for convolution in convolutions]
    waves = make_patterns(Fourier(intensity=1.0), 10, 28, 28)["labels.patterns"].to(device)
    loader = DataLoader(Pictures(data.train), batch_size=batch, shuffle=True)

    def with_label(images: Tensor, labels: Tensor) -> Tensor:
        x = 0.65 * images + 0.35 * waves[labels]
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        return (x - low) / (high - low)

    def epoch() -> None:
        for loaded, right in loader:
            images, labels = loaded.to(device), right.to(device)
            wrong = (labels + torch.randint(1, 10, labels.shape, device=device)) % 10
            positive, negative = with_label(images, labels), with_label(images, wrong)
            for k, (convolution, optimizer) in enumerate(zip(convolutions, optimizers, strict=True)):
                positive, negative = convolution(positive).relu(), convolution(negative).relu()
                neurons = positive[0].numel()
                if k > 0:
                    loss = F.softplus(neurons - positive.square().sum((1, 2, 3))).mean()
                    loss = loss + F.softplus(negative.square().sum((1, 2, 3)) - neurons).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                positive, negative = divisive(positive.detach()), divisive(negative.detach())

    return Loop(epoch)


def divisive(x: Tensor) -> Tensor:
    return x / x.square().mean((1, 2, 3), keepdim=True).sqrt()


def plain_class_loop(data: Dataset, width: int, kernel: int, layers: int, batch: int, device: torch.device) -> Loop:
    """Local classifiers as they are usually written: a readout of its own in every layer, autograd within it."""
    parts: list[tuple[nn.Module, nn.Module, nn.Module, torch.optim.Optimizer]] = []
    for k in range(layers):
        channels = width if k else 1
        norm = nn.BatchNorm2d(channels, affine=False).to(device)
        convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2).to(device)
        readout = nn.Linear(width * CELLS**2, 10).to(device)
        learned = [*convolution.parameters(), *readout.parameters()]
        parts.append((norm, convolution, readout, torch.optim.Adam(learned, lr=3e-3)))
    loader = DataLoader(Pictures(data.train), batch_size=batch, shuffle=True)

    def epoch() -> None:
        for loaded, right in loader:
            x, labels = loaded.to(device), right.to(device)
            for norm, convolution, readout, optimizer in parts:
                y = convolution(norm(x)).relu()
                v = F.adaptive_avg_pool2d(y, CELLS)
                loss = F.cross_entropy(readout(divisive(v).flatten(1)), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                x = y.detach()

    return Loop(epoch)


def side_by_side(loops: dict[str, Loop], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of an epoch of each, in turns; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            synchronise(device)
            begun = time.perf_counter()
            loop.epoch()
            synchronise(device)
            if turn:
                times[name].append(time.perf_counter() - begun)
    return times


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def flop_per_image(data: Dataset, recipe: Recipe) -> float:
    """What training on an image costs: passes, and gradients of what is trained."""
    return 2 * training_macs(recipe, start(recipe, data, 0, torch.device("cpu"), torch.float32).network)


def convolution_peak(width: int, kernel: int, batch: int, device: torch.device, dtype: torch.dtype) -> float:
    """The best FLOP/s that a convolution of this shape reaches here, forward, batch twice the step's."""
    x = torch.rand(2 * batch, width, 28, 28, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    w = torch.rand(width, width, kernel, kernel, device=device, dtype=dtype)
    w = w.to(memory_format=torch.channels_last)
    best = float("inf")
    for _ in range(8):
        synchronise(device)
        begun = time.perf_counter()
        for _ in range(10 if device.type == "cuda" else 1):
            F.conv2d(x, w, padding=kernel // 2)
        synchronise(device)
        best = min(best, (time.perf_counter() - begun) / (10 if device.type == "cuda" else 1))
    return 2 * 2 * batch * 28 * 28 * width**2 * kernel**2 / best


def transient(loop: Loop, device: torch.device) -> float:
    """Bytes that the allocator held at most, above what it held before: in the second epoch, when moments exist."""
    loop.epoch()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loop.epoch()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loop.epoch()
    held, most = 0, 0
    for change in allocations(profile):
        held += change
        most = max(most, held)
    return most


def allocations(profile: torch.profiler.profile) -> Iterator[int]:
    """Bytes taken from the allocator (or given back, negative), in order."""
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return (e.nbytes() for e in memory)


MAKERS = {"pair": (plain_loop, ff_recipe), "class": (plain_class_loop, class_recipe)}


if __name__ == "__main__":
    main()
