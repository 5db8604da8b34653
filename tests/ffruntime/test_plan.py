"""The memory plan: what is larger needs more, nothing is negative, and a verdict has its numbers."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import pytest
from commands import in_process_text
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from ffruntime.core import layers
from ffruntime.core.architecture import (
    Conv,
    Image,
    Input,
    Label,
    Linear,
    MaxPool,
    Network,
    Readout,
    Relu,
    Steps,
    Unit,
    validate,
)
from ffruntime.core.bundle import Bundle
from ffruntime.core.devices import Profile, load_profile, profile_names
from ffruntime.core.errors import BackendError
from ffruntime.core.gaussians import Shrinkage, Weight
from ffruntime.core.graphs import graphs
from ffruntime.core.layers import tensor_shapes
from ffruntime.core.learning import KEPT, REPLAY_BYTES, STEP
from ffruntime.core.manifest import EXIT, MODES, ClassStatistics, Manifest, Mode
from ffruntime.core.memory import inference_memory, learned_bytes, update_memory, weights_bytes
from ffruntime.core.plan import (
    MARGIN,
    MATRICES,
    MATRICES_EACH,
    MIB,
    SERVER,
    UNLIMITED,
    UPLOADS,
    Flash,
    Limits,
    Plan,
    Use,
    choose,
    device_limits,
    need,
    plan,
    require_fit,
)
from ffruntime.core.precision import PRECISIONS, Precision
from ffruntime.core.statistics import Moment, kept_bytes

OF_CLASSES: tuple[Mode, ...] = ("goodness", EXIT)  # modes of class goodness
OF_LABELS = tuple(mode for mode in MODES if mode != EXIT)  # modes where the label is in the input


def network(width: int, size: int = 16, placement: str = "channel", trained: bool = True) -> Network:
    """Two convolutions and a linear layer, all `width` wide."""
    units: tuple[Unit, ...] = (
        Unit((Conv(width, 3, padding=1), MaxPool(), Relu()), (Input(normalise="batch"),), trained=trained),
        Unit((Conv(width, 3), Relu())),
        Unit((Linear(width), Relu()), trained=trained),
    )
    if placement == "readout":
        units = tuple(msgspec.structs.replace(unit, readout=Readout()) for unit in units)
    element = 3 if placement == "morphology" else 1
    label = Label(placement, 12, element=element)  # type: ignore[arg-type]
    return Network(Image((1, size, size)), label, units)


widths, calls = st.integers(1, 64), st.integers(1, 64)
precisions = st.sampled_from(PRECISIONS)
placements = st.sampled_from(["add", "channel", "morphology", "readout"])
kinds = st.one_of(  # a placement of the label, and a mode
    st.tuples(st.sampled_from(["add", "channel", "morphology"]), st.sampled_from(OF_LABELS)),
    st.tuples(st.just("readout"), st.sampled_from(OF_CLASSES)),
)


@given(widths, calls, calls, precisions, kinds)
def test_more_needs_more(width: int, batch: int, labels: int, precision: Precision, of: tuple[str, Mode]) -> None:
    """Monotone in batch, labels, width and size of the image; every part is counted and none is negative."""
    placement, kind = of
    here = inference_memory(network(width, placement=placement), precision, batch, labels, kind)
    assert min(msgspec.structs.astuple(here)) >= 0
    for more in (
        inference_memory(network(width, placement=placement), precision, batch + 1, labels, kind),
        inference_memory(network(width, placement=placement), precision, batch, labels + 1, kind),
        inference_memory(network(width + 1, placement=placement), precision, batch, labels, kind),
        inference_memory(network(width, 18, placement), precision, batch, labels, kind),
    ):
        assert more.total >= here.total
    many = inference_memory(network(width, placement=placement), precision, 1000 * batch, labels, kind)
    assert many.total > here.total


@given(widths, st.integers(1, STEP - 1), calls, st.sampled_from(["channel", "readout"]))
def test_an_update_grows_with_pairs_width_and_the_calls_that_judge_it(
    width: int, pairs: int, images: int, placement: str
) -> None:
    here, wider = (network(wide, placement=placement) for wide in (width, width + 1))
    needed = update_memory(here, pairs, images)
    assert min(msgspec.structs.astuple(needed)) >= 0
    for more in (
        update_memory(here, pairs + 1, images),
        update_memory(here, pairs, images + 1),
        update_memory(wider, pairs, images),
    ):
        assert more.total >= needed.total
    assert update_memory(here, pairs, 10_000).total > needed.total
    # What a unit needs does not grow with the depth of the network, but for its parameters.
    *below, top = (msgspec.structs.replace(unit, scored=False) for unit in here.units[:2] * 2)
    deeper = msgspec.structs.replace(here, units=(*below, msgspec.structs.replace(top, scored=True)))
    shallow = msgspec.structs.replace(here, units=deeper.units[2:])
    if width > 1:
        assert update_memory(deeper, pairs).activations == update_memory(shallow, pairs).activations


@given(widths, st.integers(1, 20), precisions)
def test_many_steps_need_no_more_than_few_but_than_a_pass(width: int, count: int, precision: Precision) -> None:
    layer = (Linear(width, bias=False),)
    unit = Unit((Relu(),), (Input(ops=layer), Input("above", ops=layer), Input("self", ops=layer)))
    image, label = Image((1, 8, 8)), Label("top", 10, channels=10)
    few, many = (Network(image, label, (unit,) * 2, steps=Steps(n, 0.3, (1, n))) for n in (1, count))
    validate(many)
    for kind in OF_LABELS:
        here = inference_memory(many, precision, 4, 10, kind)
        assert here == inference_memory(few, precision, 4, 10, kind)
    one_pass, steps = (inference_memory(many, precision, 4, 10, kind) for kind in ("classifier", "goodness"))
    assert one_pass.weights + one_pass.activations < steps.weights + steps.activations


@given(widths, placements)
def test_weights_are_those_of_the_file(width: int, placement: str) -> None:
    plain = network(width, placement=placement)
    shapes = tensor_shapes(plain).values()
    assert weights_bytes(plain, "fp32") == 4 * sum(math.prod(shape) for shape in shapes)
    assert weights_bytes(plain, "fp16") < weights_bytes(plain, "fp32")
    assert (
        learned_bytes(network(width, placement=placement, trained=False))
        < learned_bytes(plain)
        < weights_bytes(plain, "fp32")
    )


def small(profile: Profile, usable: int, flash: int = 4096) -> Profile:
    """The profile with less memory and flash."""
    memory = msgspec.structs.replace(profile.memory, usable_mib=usable)
    storage = msgspec.structs.replace(profile.storage, usable_mib=flash)
    return msgspec.structs.replace(profile, memory=memory, storage=storage)


def bundle_of(
    exported: Path, width: int, size: int = 16, learns: bool = True, files: int | None = None
) -> Manifest:
    """A manifest of such a network, which learns as `exported` does or not, and so many bytes of files."""
    manifest = Bundle(exported).manifest
    learning = manifest.learning if learns else None
    entries = {name: msgspec.structs.replace(entry, size=files or 0) for name, entry in manifest.files.items()}
    return msgspec.structs.replace(
        manifest, network=network(width, size), learning=learning, files=dict([*entries.items()][:1])
    )


def on(manifest: Manifest, profile: Profile, precision: Precision = "fp32") -> Plan:
    return plan(manifest, 10, precision, device_limits(profile), "pi")


@pytest.mark.parametrize("name", profile_names())
def test_a_small_network_fits_every_device(name: str, exported: Path) -> None:
    profile = load_profile(name)
    found = on(bundle_of(exported, 32), profile)
    require_fit(found)
    assert found.fits
    assert [row.use for row in found.needs] == [*OF_LABELS, "update"]
    assert all(row.fits for row in found.needs)
    calls, limits = found.needs[0].calls, profile.inference
    assert (calls.batch, calls.labels) == (limits.max_batch, min(10, limits.max_labels))


def test_calls_shrink_before_a_device_is_refused(exported: Path) -> None:
    """With less and less memory: fewer images, then fewer labels, then a refusal."""
    profile, wide = load_profile("raspberry-pi-zero-2w"), bundle_of(exported, 8, 128)
    seen = [on(wide, small(profile, usable)) for usable in (256, 100, 90, 85, 82, 60)]
    sizes = [plan.needs[0].calls.batch * plan.needs[0].calls.labels for plan in seen if plan.needs[0].fits]
    assert len(set(sizes)) >= 3
    assert sizes == sorted(sizes, reverse=True)
    for found in seen:
        assert found.memory is not None
        for row in found.needs:
            assert row.fits == (row.memory.total <= int(found.memory / MARGIN))
    assert not seen[-1].fits


def test_a_refusal_has_the_numbers_and_what_would_fit(exported: Path) -> None:
    profile = load_profile("raspberry-pi-zero-2w")
    huge = bundle_of(exported, 64, 1400)
    with pytest.raises(
        BackendError, match=r"pi, fp32: does not fit: .*activations.*of 232 MiB.*would fit"
    ) as caught:
        require_fit(on(huge, profile), [on(huge, profile, precision) for precision in PRECISIONS])
    assert "\n" not in str(caught.value)


def test_another_precision_may_fit(exported: Path) -> None:
    plans = [on(bundle_of(exported, 32), load_profile("raspberry-pi-5"), precision) for precision in PRECISIONS]
    with pytest.raises(BackendError, match=r"; --precision fp16 would fit$"):
        require_fit(msgspec.structs.replace(plans[0], storage=0), plans[1:])


def test_a_refusal_always_has_a_reason(exported: Path) -> None:
    """Also where nothing limits memory: a network beyond any."""
    whole = plan(Bundle(exported).manifest, 6, "fp32", UNLIMITED)
    beyond = structs.replace(whole, needs=tuple(structs.replace(need, fits=False) for need in whole.needs))
    with pytest.raises(BackendError, match=r"does not fit: \w.* needs .* MiB .* would fit"):
        require_fit(beyond)


def test_flash_is_a_budget_too(exported: Path) -> None:
    manifest = bundle_of(exported, 32, files=8 * MIB)
    with pytest.raises(BackendError, match=r"of 1 MiB of flash; .* MiB of flash, or a narrower network, would fit"):
        require_fit(on(manifest, small(load_profile("raspberry-pi-5"), 4096, flash=1)))
    found = plan(manifest, 10, "fp32", UNLIMITED).flash
    assert found.versions == 3 * learned_bytes(manifest.network)
    assert (found.examples, found.total) == (MIB, sum(msgspec.structs.astuple(found)))
    assert isinstance(found, Flash)
    lowered = plan(manifest, 10, "fp16", UNLIMITED).flash
    assert lowered.bundle == found.bundle + weights_bytes(manifest.network, "fp16")


@pytest.mark.parametrize("moment", ["shared", "each"])
def test_class_statistics_are_planned(class_bundle: Path, moment: Moment) -> None:
    """In memory where they answer, in mode `exit` while they alone know a class; and on flash beside every picture,
    as a snapshot, and of as many applied states as versions are kept."""
    manifest = Bundle(class_bundle).manifest
    how = ClassStatistics(
        *(64, 0, moment), shrinkage=Shrinkage(0.1, 1.0, 1.0), together=6, weights={"goodness": Weight(0.0, 1.0)}
    )
    before, after = (plan(structs.replace(manifest, statistics=some), 6, "fp32", UNLIMITED) for some in (None, how))
    more = [now.memory.total - then.memory.total for now, then in zip(after.needs, before.needs, strict=True)]
    patterns = manifest.network.label.patterns
    matrices = (MATRICES if moment == "shared" else MATRICES_EACH * patterns) * 8 * 64**2
    assert dict(zip([row.use for row in after.needs], more, strict=True)) == {
        "goodness": matrices,
        "exit": matrices,
        "update": matrices,
    }
    pictures = REPLAY_BYTES // 256
    expected = pictures * 64 + (1 + KEPT) * kept_bytes(64, patterns, moment)
    assert after.flash.examples - before.flash.examples == expected


def test_what_cannot_learn_is_planned_without_an_update(exported: Path) -> None:
    found = plan(bundle_of(exported, 32, learns=False), 10, "fp32", UNLIMITED)
    assert [row.use for row in found.needs] == [*OF_LABELS]
    assert (found.flash.versions, found.flash.examples) == (0, 0)
    require_fit(found)


uses: st.SearchStrategy[tuple[str, Use]] = st.one_of(  # a placement of the label, and what the bundle is used for
    st.tuples(st.just("channel"), st.sampled_from((*OF_LABELS, "update"))),
    st.tuples(st.just("readout"), st.sampled_from((*OF_CLASSES, "update"))),
)


@settings(max_examples=30)
@given(widths, st.integers(0, 400), uses)
def test_chosen_calls_keep_to_the_budget(width: int, extra: int, of: tuple[str, Use]) -> None:
    """As large as they can be: twice the images, or labels, or pairs do not fit. Too little is refused."""
    placement, use = of
    wide = network(width, size=64, placement=placement)
    smallest = math.ceil(need(wide, 10, use, Limits(0)).memory.total * MARGIN)
    with pytest.raises(BackendError, match=rf"^in .* MiB: {use} needs .*; allow {math.ceil(smallest / MIB)} MiB$"):
        choose(wide, 10, use, Limits(smallest - MIB))
    budget = smallest + extra * MIB // 4 + 1
    found = choose(wide, 10, use, Limits(budget))
    calls = found.calls
    assert found.fits
    assert found == need(wide, 10, use, Limits(budget))
    assert found.memory.total * MARGIN <= budget
    roomy = need(wide, 10, use, UNLIMITED).calls
    assert calls.batch <= roomy.batch == 16
    one_pass = use == "classifier" or placement == "readout"
    assert calls.labels <= roomy.labels == (1 if one_pass else 10)
    assert calls.micro_batch <= roomy.micro_batch == (8 if use == "update" else 1)


ffruntime_plan = partial(in_process_text, "ffruntime", "plan")


def test_the_command_says_what_every_use_needs(exported: Path) -> None:
    done = ffruntime_plan("--model", exported, "--device", "raspberry-pi-zero-2w", "--json")
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=Plan)
    assert (found.device, found.precision, found.memory) == ("raspberry-pi-zero-2w", "fp32", 256 * MIB)
    assert [row.use for row in found.needs] == [*OF_LABELS, "update"]
    assert all(row.fits and row.memory.total <= 256 * MIB for row in found.needs)
    assert found.storage
    assert found.flash.total <= found.storage
    shown = ffruntime_plan("--model", exported, "--memory", 200).stdout
    assert "of 200 MiB" in shown
    assert "flash: " in shown


def test_a_server_needs_more_and_answers_while_it_learns(exported: Path) -> None:
    manifest = Bundle(exported).manifest
    alone, served = (
        {row.use: row.memory.total for row in plan(manifest, 6, "fp32", UNLIMITED, serving=serving).needs}
        for serving in (False, True)
    )
    more = {use: served[use] - alone[use] for use in alone}
    answering = inference_memory(manifest.network, "fp32", 1, 6, manifest.inference_modes[0], 0).total
    assert {more[use] for use in more if use != "update"} == {SERVER + UPLOADS}
    assert more["update"] == SERVER + UPLOADS + answering
    said = ffruntime_plan("--model", exported, "--serve").stdout
    assert f"{served['update'] / (1 << 20):,.1f}" in said


def test_the_command_refuses_with_numbers(exported: Path) -> None:
    done = ffruntime_plan("--model", exported, "--memory", 60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
    assert "does not fit: " in done.stderr
    assert " needs " in done.stderr
    assert ffruntime_plan("--model", exported, "--device", "toaster").returncode == 2


def test_a_thousand_units_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the planner asks of each unit, it does not look for among all of them."""
    counted: Counter[int] = Counter()
    whole = layers.layers

    def counting(network: Network) -> tuple[layers.Layer, ...]:
        counted[len(network.units)] += 1
        return whole(network)

    monkeypatch.setattr(layers, "layers", counting)
    for units in (50, 400):
        network = Network(Image((1, 8, 8)), Label("add", 12), (Unit((Linear(8), Relu())),) * units)
        choose(network, 10, "update", UNLIMITED, "fp32")
        assert graphs(network)
    assert counted[400] == counted[50] < 40
