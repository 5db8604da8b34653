"""Label patterns."""

from __future__ import annotations

import pytest
import torch

from ffruntime.errors import UsageError
from fftrain.labels import FOURIER_MODES, fourier_waves, make_patterns
from fftrain.recipe import Fourier, RandomPatterns


def test_each_wave_is_one_fourier_mode() -> None:
    waves = fourier_waves(28, 28)
    assert waves.shape == (12, 1, 28, 28)
    assert waves.min() >= 0
    assert waves.max() <= 1
    for wave, (ky, kx) in zip(waves[:, 0], FOURIER_MODES, strict=True):
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


def test_waves_leave_the_rest_to_the_image() -> None:
    tensors = make_patterns(Fourier(0.35), 10, 28, 28)
    assert torch.allclose(tensors["labels.keep"], torch.tensor(0.65))
    assert tensors["labels.patterns"].max() <= 0.35 + 1e-6
    assert torch.allclose(tensors["labels.neutral"], tensors["labels.patterns"][:10].mean(0))


def test_random_patterns_are_fixed_by_their_seed() -> None:
    one, two = (make_patterns(RandomPatterns(7, spare=3), 9, 28, 28)["labels.patterns"] for _ in range(2))
    other = make_patterns(RandomPatterns(8, spare=3), 9, 28, 28)["labels.patterns"]
    assert one.shape == (12, 1, 28, 28)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_more_classes_than_waves_is_refused() -> None:
    with pytest.raises(UsageError, match="12 patterns, and there are 13 classes"):
        make_patterns(Fourier(), 13, 28, 28)
