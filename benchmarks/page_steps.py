"""Tables of steps, of either kind of goodness: in training, and on the device."""

from __future__ import annotations

from page_text import measured, result, table


def training_table(name: str, command: str) -> str:
    """Speed and memory of one run of `training.py`."""
    found = result(name)
    layers = list(found["transient_mb"]["fftrain"])
    rows = [
        [what, found["precision"][what], f"{speed:.2f}"]
        + [f"{found['transient_mb'][what][depth]:.1f} MB" for depth in layers]
        for what, speed in found["speed_over_plain"].items()
    ]
    deepest = layers[-1]
    return (
        f"{found['network']}, on {found['hardware']}:\n\n"
        + table(["", "precision", "speed", *(f"transient, {depth} layers" for depth in layers)], rows)
        + f"\nfftrain reaches {found['fftrain_share_of_convolution_peak']:.2f} of the measured convolution peak. "
        f"{deepest} layers take {found[f'fftrain_{deepest}_layers_over_{layers[0]}']:.2f} times the transient "
        f"memory of {layers[0]}, and {found[f'fftrain_over_backpropagation_at_{deepest}']:.2f} of what "
        "backpropagation takes.\n\n" + measured(name, f"python benchmarks/{command}")
    )


def contention() -> str:
    """How much longer a training step takes beside a program that keeps a core busy."""
    found = result("contention")["rows"]
    alone = {row["recipe"]: row["step_ms_alone"] for row in found if not row["environment"]}
    rows = [
        [f"`{row['recipe']}`", row["setting"], " ".join(f"`{k}={v}`" for k, v in row["environment"].items())]
        + [f"{row[time] / alone[row['recipe']]:.2f}" for time in ("step_ms_alone", "step_ms_beside_another")]
        for row in found
    ]
    return (
        "A training step while another program keeps one of the two cores busy, by how the threads wait for each "
        "other; over a step alone as torch comes:\n\n"
        + table(["recipe", "threads wait", "environment", "alone", "beside another program"], rows)
        + "\n"
        + measured("contention", "python benchmarks/contention.py")
    )


def learning_table(name: str, command: str) -> str:
    """One run of `learning.py`."""
    found = result(name)
    memories = found["transient_mb"]
    (plain,) = memories.keys() - {"learn", "limited", "torch_bp"}
    times, depths = found[f"time_over_{plain}"], list(memories["learn"])
    step = {"torch_ff": "Forward-Forward step", "torch_local": "step of local classifiers"}[plain]
    names = {
        "learn": "`ffruntime`, an update",
        "limited": "the same with `--memory`",
        plain: f"PyTorch, a {step}",
        "torch_bp": "PyTorch, a backpropagation step",
    }
    rows = [
        [names[who]]
        + [f"{memories[who][depth]:.1f} MB" for depth in depths]
        + [f"{times[who][depth]:.2f}" for depth in depths]
        for who in memories
    ]
    head = ["", *(f"memory, {depth} units" for depth in depths), *(f"time, {depth} units" for depth in depths)]
    return (
        f"{found['network']}; micro-batches of {found['micro_batch']}, {found['threads']} thread. Memory is what a "
        f"step needs beside parameters and moments; time is over that of PyTorch's {step}.\n\n"
        + table(head, rows)
        + f"\nBeside parameters and moments, {depths[-1]} units take {found['learn_12_units_over_3']:.2f} of the "
        f"memory that {depths[0]} take, and {found['learn_over_torch_bp_at_12']:.2f} of what a backpropagation "
        f"step of PyTorch takes. An update takes {found[f'learn_over_{plain}_time_at_12']:.2f} times as long as "
        f"PyTorch's own {step}. With a memory limit they take {found['limited_12_units_over_3']:.2f} and "
        f"{found['limited_over_torch_bp_at_12']:.2f} of the memory, in "
        f"{found[f'limited_over_{plain}_time_at_12']:.2f} times the time: pages that go back are mapped anew.\n\n"
        + measured(name, f"python benchmarks/{command}")
    )
