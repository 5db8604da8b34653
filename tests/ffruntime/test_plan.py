"""The memory plan: what is larger needs more, nothing is negative, and a verdict has its numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffruntime.architecture import Conv, Image, Input, Label, Linear, MaxPool, Network, Relu, Unit, parameter_shapes
from ffruntime.errors import BackendError
from ffruntime.learning.store import KEPT, REPLAY_BYTES
from ffruntime.plan import (
    KINDS,
    MARGIN,
    MIB,
    REPLAY,
    STEP,
    VERSIONS,
    Room,
    Use,
    choose,
    inference_memory,
    learned_bytes,
    need,
    plan,
    require_fit,
    update_memory,
    weights_bytes,
)
from ffruntime.precision import PRECISIONS, Precision
from ffruntime.profile import Profile, load_profile, profile_names


def network(width: int, size: int = 16, placement: str = "channel", trained: bool = True) -> Network:
    """Two convolutions and a linear layer, all `width` wide."""
    units = (
        Unit((Conv(width, 3, padding=1), MaxPool(), Relu()), (Input(normalise="batch"),), trained=trained),
        Unit((Conv(width, 3), Relu())),
        Unit((Linear(width), Relu()), trained=trained),
    )
    element = 3 if placement == "morphology" else 1
    label = Label(placement, 12, element=element)  # type: ignore[arg-type]
    return Network(Image((1, size, size)), label, units)


widths, calls = st.integers(1, 64), st.integers(1, 64)
precisions = st.sampled_from(PRECISIONS)
placements = st.sampled_from(["add", "channel", "morphology"])


@given(widths, calls, calls, precisions, placements)
def test_more_needs_more(width: int, batch: int, labels: int, precision: Precision, placement: str) -> None:
    """Monotone in batch, labels, width and size of the image; every part is counted and none is negative."""
    here = inference_memory(network(width, placement=placement), precision, batch, labels)
    assert min(msgspec.structs.astuple(here)) >= 0
    for more in (
        inference_memory(network(width, placement=placement), precision, batch + 1, labels),
        inference_memory(network(width, placement=placement), precision, batch, labels + 1),
        inference_memory(network(width + 1, placement=placement), precision, batch, labels),
        inference_memory(network(width, 18, placement), precision, batch, labels),
    ):
        assert more.total >= here.total
    assert inference_memory(network(width, placement=placement), precision, 1000 * batch, labels).total > here.total


@given(widths, st.integers(1, STEP - 1))
def test_an_update_grows_with_pairs_and_width(width: int, pairs: int) -> None:
    here = update_memory(network(width), pairs)
    assert min(msgspec.structs.astuple(here)) >= 0
    assert update_memory(network(width), pairs + 1).total > here.total
    assert update_memory(network(width + 1), pairs).total > here.total
    assert update_memory(network(width), pairs, moments=0).moments == 0
    # What a unit needs does not grow with the depth of the network, but for its parameters.
    *below, top = (msgspec.structs.replace(unit, scored=False) for unit in network(width).units[:2] * 2)
    deeper = msgspec.structs.replace(network(width), units=(*below, msgspec.structs.replace(top, scored=True)))
    shallow = msgspec.structs.replace(network(width), units=deeper.units[2:])
    if width > 1:
        assert update_memory(deeper, pairs).activations == update_memory(shallow, pairs).activations


@given(widths, placements)
def test_weights_are_those_of_the_file(width: int, placement: str) -> None:
    plain = network(width, placement=placement)
    shapes = parameter_shapes(plain).values()
    assert weights_bytes(plain, "fp32") == 4 * sum(math.prod(shape) for shape in shapes)
    assert weights_bytes(plain, "fp16") < weights_bytes(plain, "fp32")
    assert learned_bytes(network(width, trained=False)) < learned_bytes(plain) < weights_bytes(plain, "fp32")


def small(profile: Profile, usable: int, flash: int = 4096) -> Profile:
    """The profile with less memory and flash."""
    memory = msgspec.structs.replace(profile.memory, usable_mib=usable)
    storage = msgspec.structs.replace(profile.storage, usable_mib=flash)
    return msgspec.structs.replace(profile, memory=memory, storage=storage)


@pytest.mark.parametrize("name", profile_names())
def test_a_small_network_fits_every_device(name: str) -> None:
    profile = load_profile(name)
    verdict = plan(network(32), 10, name, profile, "fp32", bundle=MIB)
    require_fit(verdict, [])
    assert verdict.fits
    assert (verdict.batch, verdict.labels) == (profile.inference.max_batch, min(10, profile.inference.max_labels))


def test_calls_shrink_before_a_device_is_refused() -> None:
    """With less and less memory: fewer images, then fewer labels, then a refusal."""
    profile = load_profile("raspberry-pi-zero-2w")
    wide = network(64, size=64)
    seen = [plan(wide, 10, "pi", small(profile, usable), "fp32", MIB) for usable in (256, 205, 202, 150)]
    sizes = [verdict.batch * verdict.labels for verdict in seen if verdict.fits]
    assert len(sizes) >= 2
    assert sizes == sorted(sizes, reverse=True)
    for verdict in seen:
        if verdict.fits:
            assert max(verdict.inference.total, verdict.update.total) <= verdict.memory
    assert not seen[-1].fits


def test_a_refusal_has_the_numbers_and_what_would_fit() -> None:
    profile = load_profile("raspberry-pi-zero-2w")
    huge = network(64, size=700)
    verdict = plan(huge, 10, "pi", profile, "fp32", MIB)
    with pytest.raises(
        BackendError, match=r"pi, fp32: does not fit: .*activations.*of 256 MiB.*would fit"
    ) as caught:
        require_fit(verdict, [plan(huge, 10, "pi", profile, precision, MIB) for precision in PRECISIONS])
    assert "\n" not in str(caught.value)


def test_flash_is_a_budget_too() -> None:
    verdict = plan(network(32), 10, "pi", small(load_profile("raspberry-pi-5"), 4096, flash=1), "fp32", 8 * MIB)
    with pytest.raises(BackendError, match=r"of 1 MiB of flash"):
        require_fit(verdict, [])


def test_what_is_kept_on_flash_is_what_learning_keeps() -> None:
    assert (VERSIONS, REPLAY) == (KEPT, REPLAY_BYTES)


USES: tuple[Use, ...] = (*KINDS, "update")


@settings(max_examples=30)
@given(widths, st.integers(0, 400), st.sampled_from(USES))
def test_chosen_calls_keep_to_the_budget(width: int, extra: int, use: Use) -> None:
    """As large as they can be: twice the images, or labels, or pairs do not fit. Too little is refused."""
    wide = network(width, size=64)
    smallest = math.ceil(need(wide, 10, use, Room(0)).memory.total * MARGIN)
    with pytest.raises(BackendError, match=rf"^{use} in .* MiB: needs .*; allow {math.ceil(smallest / MIB)} MiB$"):
        choose(wide, 10, use, Room(smallest - MIB))
    budget = smallest + extra * MIB // 4 + 1
    calls = choose(wide, 10, use, Room(budget))
    found = need(wide, 10, use, Room(budget))
    assert found.fits
    assert found.calls == calls
    assert found.memory.total * MARGIN <= budget
    roomy = need(wide, 10, use, Room(1 << 40)).calls
    assert calls.batch <= roomy.batch == 16
    assert calls.labels <= roomy.labels == (1 if use == "classifier" else 10)
    assert calls.micro_batch <= roomy.micro_batch == (8 if use == "update" else 1)


def ffruntime_plan(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ffruntime", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_says_what_every_use_needs(exported: Path) -> None:
    done = ffruntime_plan("--model", exported, "--device", "raspberry-pi-zero-2w", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["use"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(rows) == [*KINDS, "update", "flash"]
    for use in (*KINDS, "update"):
        assert rows[use]["fits"]
        assert rows[use]["total"] == sum(rows[use]["memory"].values()) <= rows[use]["of"] == 256 * MIB
    assert rows["flash"]["total"] <= rows["flash"]["of"]
    shown = ffruntime_plan("--model", exported, "--memory", 200).stdout
    assert "of 200 MiB" in shown
    assert "flash: " in shown


def test_the_command_refuses_with_numbers(exported: Path) -> None:
    done = ffruntime_plan("--model", exported, "--memory", 60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
    assert "nothing fits: goodness needs " in done.stderr
    assert ffruntime_plan("--model", exported, "--device", "toaster").returncode == 2


PEAK = Path(__file__).parents[2] / "benchmarks" / "peak.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak")
@pytest.mark.parametrize("use", ["goodness 1 1", "goodness 64 10", "classifier 64 1", "shortlist 64 4", "update 8"])
def test_planned_is_what_a_fresh_process_needs(exported: Path, use: str) -> None:
    """Within 15 %. Blocks of 1 MiB go back when they are freed: what is measured is what is alive."""
    run = subprocess.run(
        [sys.executable, PEAK, exported, *use.split()],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MIB)},
        capture_output=True,
        text=True,
        check=True,
    )
    planned, measured = map(int, run.stdout.split())
    assert planned == pytest.approx(measured, rel=0.15)
