"""The CUDA driver: said to be missing where it is, used where it is."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime import cuda
from ffruntime.core.errors import BackendError

needs_no_driver = pytest.mark.skipif(cuda.missing() is None, reason="this machine has a CUDA driver")


@needs_no_driver
def test_a_missing_driver_is_named() -> None:
    """In a few words, and without touching anything that could crash."""
    assert cuda.missing() is not None
    for call in (cuda.compute_capability, cuda.GpuMemory):
        with pytest.raises(BackendError) as raised:
            call()
        assert str(raised.value) == cuda.missing()
        assert "\n" not in str(raised.value)


@pytest.mark.gpu
@pytest.mark.skipif(cuda.missing() is not None, reason="needs a CUDA driver and a GPU")
def test_arrays_go_to_the_gpu_and_come_back() -> None:
    gpu = cuda.GpuMemory()
    there = np.arange(1000, dtype=np.float32)
    back = np.empty_like(there)
    first = gpu.upload("a", there)
    assert gpu.reserve("a", 10) == first  # a buffer that is large enough is kept
    gpu.download("a", back)
    gpu.wait()
    np.testing.assert_array_equal(back, there)
    major, minor = cuda.compute_capability().split(".")
    assert int(major) >= 5
    assert int(minor) >= 0
    gpu.close()
