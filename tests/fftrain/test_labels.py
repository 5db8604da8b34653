"""Label patterns."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from ffruntime.core.architecture import Image
from ffruntime.core.errors import UsageError
from fftrain.patterns import FOURIER_MODES, fourier_modes, fourier_waves, make_patterns
from fftrain.recipe import (
    Fourier,
    Morphology,
    Overlay,
    PatternFile,
    Patterns,
    RandomPatterns,
    Recipe,
    build_network,
    load_recipe,
)


def patterns(kind: Patterns, classes: int, side: int = 28) -> torch.Tensor:
    return make_patterns(kind, classes, side, side)["labels.patterns"]


# ---------------------------------------- waves ----------------------------------------


def test_each_wave_is_one_fourier_mode() -> None:
    """All 144 of them: one peak and its mirror image in the spectrum, each somewhere else."""
    modes = fourier_modes(144, 28, 28)
    waves = fourier_waves(modes, 28, 28)
    assert waves.shape == (144, 1, 28, 28)
    assert waves.min() >= 0
    assert waves.max() <= 1
    for wave, (ky, kx) in zip(waves[:, 0], modes, strict=True):
        spectrum = torch.fft.fft2(wave.double() - 0.5).abs()
        peak = torch.zeros_like(spectrum)
        peak[ky % 28, kx % 28] = peak[-ky % 28, -kx % 28] = 28 * 28 / 4
        assert torch.allclose(spectrum, peak, atol=1e-4)


def test_set_1_is_four_orientations_by_three_frequencies() -> None:
    directions = {}
    for ky, kx in FOURIER_MODES:
        scale = max(abs(ky), abs(kx))
        directions.setdefault((ky / scale, kx / scale), set()).add(scale)
    assert len(directions) == 4
    assert all(len(frequencies) == 3 for frequencies in directions.values())


def test_further_classes_leave_the_published_waves_as_they_are() -> None:
    """The first twelve are the formula of the paper to the last bit, however many follow."""
    y, x = torch.arange(28, dtype=torch.float64)[:, None] / 28, torch.arange(28, dtype=torch.float64) / 28
    published = [(1 + torch.cos(2 * math.pi * (ky * y + kx * x))) / 2 for ky, kx in FOURIER_MODES]
    expected = 0.35 * torch.stack(published)[:, None].float()
    assert torch.equal(patterns(Fourier(), 10), expected)
    assert torch.equal(patterns(Fourier(spare=20), 100)[:12], expected)


def test_further_waves_begin_with_the_lowest_frequencies() -> None:
    further = fourier_modes(144, 28, 28)[12:]
    assert further[:4] == [(0, 1), (1, 0), (1, -2), (1, 2)]
    frequencies = [math.hypot(*mode) for mode in further]
    assert frequencies == sorted(frequencies)


@pytest.mark.slow
@pytest.mark.parametrize("side", [28, 32, 64])
@pytest.mark.parametrize(
    "kind",
    [Fourier(), Fourier(set=2), RandomPatterns(), Morphology(size=11), Overlay()],
    ids=lambda kind: type(kind).__name__,
)
def test_every_class_of_cifar_100_has_a_pattern_of_its_own(kind: Patterns, side: int) -> None:
    made = patterns(kind, 100, side).flatten(1)
    assert len(made) == 102
    different = (made[:, None] - made[None]).abs().amax(2) > 1e-3
    assert different[~torch.eye(102, dtype=torch.bool)].all()


@pytest.mark.parametrize(
    "kind",
    [Fourier(), Fourier(set=2), RandomPatterns(), Morphology(), Overlay()],
    ids=["set 1", "set 2", "random", "morphology", "overlay"],
)
@pytest.mark.parametrize(("classes", "spare"), [(2, 0), (9, 2), (10, 5)])
def test_there_are_as_many_as_asked_for(kind: Patterns, classes: int, spare: int) -> None:
    assert len(patterns(msgspec.structs.replace(kind, spare=spare), classes)) == classes + spare


@pytest.mark.parametrize(
    ("kind", "side", "message"),
    [
        (Fourier(), 28, "set 1 has 144 waves on 28 × 28 pixels, and 202 are needed"),
        (Fourier(), 13, "set 1 has 84 waves on 13 × 13 pixels, and 202 are needed"),
        (Fourier(), 12, "set 1 needs at least 13 pixels a side, not 12 × 12"),
        (Fourier(set=2, frequency=14), 28, "28 × 28 pixels cannot show a frequency of 14"),
        (Morphology(size=13), 28, "202 elements are needed, and size = 13 has 168"),
        (Morphology(size=8), 28, "a window of 8 pixels has no centre"),
        (Overlay(), 14, "14 × 14 pixels cannot show 202 of them one-hot"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(kind: Patterns, side: int, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        patterns(kind, 200, side)
    assert "\n" not in str(caught.value)


def test_set_2_is_one_frequency_in_equidistant_orientations() -> None:
    """The waves' gradients, measured: 5 cycles an image, and 0°, 18°, …, 162°."""
    waves = patterns(Fourier(set=2, intensity=1.0, frequency=5, spare=0), 10, 64)[:, 0].double()
    dy, dx = torch.gradient(waves, dim=(1, 2))
    tensors = torch.stack([(dx * dx).mean((1, 2)), (dx * dy).mean((1, 2)), (dy * dy).mean((1, 2))])
    angle = torch.rad2deg(torch.atan2(2 * tensors[1], tensors[0] - tensors[2]) / 2) % 180
    off = (angle - torch.arange(0, 180, 18) + 90) % 180 - 90
    assert off.abs().max() < 4
    slope = torch.sqrt(tensors[0] + tensors[2])  # of a cosine of amplitude ½ with f cycles: 2π f / 64 / √8
    assert slope.numpy() == pytest.approx(2 * math.pi * 5 / 64 / math.sqrt(8), rel=0.06)


def test_waves_leave_the_rest_to_the_image() -> None:
    for published_set in (1, 2):
        tensors = make_patterns(Fourier(set=published_set, intensity=0.35), 10, 28, 28)
        assert torch.allclose(tensors["labels.keep"], torch.tensor(0.65))
        assert 0.34 < tensors["labels.patterns"].max() <= 0.35 + 1e-6
        assert torch.allclose(tensors["labels.neutral"], tensors["labels.patterns"][:10].mean(0))


def test_random_patterns_are_fixed_by_their_seed() -> None:
    one, two = (patterns(RandomPatterns(7, spare=3), 9) for _ in range(2))
    assert one.shape == (12, 1, 28, 28)
    assert torch.equal(one, two)
    assert not torch.equal(one, patterns(RandomPatterns(8, spare=3), 9))


def test_an_overlay_replaces_the_first_pixels() -> None:
    """Hinton's labels: ten pixels one-hot, two spare ones after them, the image untouched elsewhere."""
    tensors = make_patterns(Overlay(spare=2), 10, 28, 28)
    image = torch.rand(1, 28, 28)
    for label, pattern in enumerate(tensors["labels.patterns"]):
        shown = (tensors["labels.keep"] * image + pattern).flatten()
        assert torch.equal(shown[:12], torch.eye(12)[label])
        assert torch.equal(shown[12:], image.flatten()[12:])
    neutral = tensors["labels.neutral"].flatten()
    assert torch.allclose(neutral[:10], torch.tensor(0.1))
    assert not neutral[10:].any()


# ---------------------------------------- structuring elements ----------------------------------------


@pytest.mark.parametrize(("size", "most"), [(3, 8), (5, 24), (7, 48)])
def test_structuring_elements_are_different_lines_through_the_centre(size: int, most: int) -> None:
    elements = patterns(Morphology(size=size, spare=0), most)[:, 0]
    r = size // 2
    assert len({tuple(element.flatten().tolist()) for element in elements}) == most
    for index, element in enumerate(elements):
        sign = -1 if index % 2 else 1
        assert element[r, r] == sign
        assert set(element.unique().tolist()) == {0, sign}
        assert torch.equal(element, element.flip(0, 1))  # as far to either side
        offsets = (element.nonzero() - r).tolist()
        length = max(max(abs(y), abs(x)) for y, x in offsets)
        assert len(offsets) == 2 * length + 1  # one pixel wide, no gap
        dy, dx = next(o for o in offsets if max(map(abs, o)) == length)
        assert all(abs(y * dx - x * dy) <= length / 2 for y, x in offsets)  # no further than half a pixel off


def test_the_longest_lines_come_first_and_face_every_way() -> None:
    """Ten patterns in a window of nine: five lines, each nine pixels long, about 36° apart."""
    elements = patterns(Morphology(size=9, spare=0), 10)[::2, 0]
    assert [int(element.sum()) for element in elements] == [9] * 5
    angles = []
    for element in elements:
        y, x = (element.nonzero() - 4).double().unbind(1)
        angles.append(math.degrees(math.atan2(2 * (x * y).sum(), (x * x - y * y).sum()) / 2) % 180)
    gaps = [(b - a) % 180 for a, b in itertools.pairwise([*angles, angles[0]])]
    assert min(gaps) > 20


def test_the_neutral_element_is_the_identity() -> None:
    tensors = make_patterns(Morphology(0.25, size=5), 10, 28, 32)
    assert tensors["labels.neutral"].shape == (1, 5, 5)
    assert tensors["labels.neutral"].sum() == tensors["labels.neutral"][0, 2, 2] == 1
    assert torch.equal(tensors["labels.keep"], torch.full((1, 28, 32), 0.75))


def test_the_recipe_says_how_large_the_elements_are() -> None:
    network = build_network(load_recipe("cifar-morphology"), Image((3, 32, 32)), 12)
    assert (network.label.placement, network.label.element) == ("morphology", 5)


@pytest.mark.parametrize("name", ["cifar-morphology", "paper", "cpu"])
def test_placement_and_patterns_are_morphological_together(name: str) -> None:
    plain = msgspec.to_builtins(load_recipe(name))
    plain["patterns"] = {"kind": "random" if name == "cifar-morphology" else "morphology"}
    with pytest.raises(UsageError, match="both 'morphology', or neither"):
        build_network(msgspec.convert(plain, Recipe), Image((3, 32, 32)), 12)


def test_an_element_larger_than_the_image_is_refused() -> None:
    plain = msgspec.to_builtins(load_recipe("cifar-morphology"))
    plain["patterns"]["size"] = 31
    with pytest.raises(UsageError, match="31 pixels"):
        build_network(msgspec.convert(plain, Recipe), Image((1, 28, 28)), 12)


# ---------------------------------------- a file ----------------------------------------


def test_patterns_of_a_file_are_those_and_the_image_stays_whole(tmp_path: Path) -> None:
    own = np.random.default_rng(0).normal(size=(12, 2, 28, 28))
    np.save(tmp_path / "own.npy", own)
    made = make_patterns(PatternFile(str(tmp_path / "own.npy"), channels=2), 10, 28, 28)
    assert torch.equal(made["labels.patterns"], torch.tensor(own, dtype=torch.float32))
    assert torch.allclose(made["labels.neutral"], made["labels.patterns"][:10].mean(0))
    assert (made["labels.keep"] == 1).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((11, 1, 28, 28)),
        np.zeros((12, 2, 28, 28)),
        np.zeros((12, 28, 28)),
        np.full((12, 1, 28, 28), np.nan),
        np.full((12, 1, 28, 28), "a"),
    ],
)
def test_other_patterns_than_those_asked_for_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", array)
    with pytest.raises(UsageError, match=r"own\.npy: must hold finite numbers of shape \(12, 1, 28, 28\)"):
        make_patterns(PatternFile(str(tmp_path / "own.npy")), 10, 28, 28)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "zip", "objects"])
def test_a_file_that_holds_no_array_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "own.npy"
    if kind == "zip":
        np.savez(path.with_suffix(".npz"), a=np.zeros(3))
        path.with_suffix(".npz").rename(path)
    elif kind == "objects":
        np.save(path, np.array([{}], dtype=object))
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"no array")
    with pytest.raises(UsageError, match=r"own\.npy: no \.npy file that can be read"):
        make_patterns(PatternFile(str(path)), 10, 28, 28)
