"""The CUDA driver by way of ctypes: whether there is one, which GPU it has, and the memory that an engine needs.

TensorRT's own runtime can crash a process that has no driver: `missing` has to be called before it is used. The
driver's library comes with the driver: nothing to install, on a Jetson as on a workstation. Names, arguments and
numbers: CUDA Driver API, NVIDIA, https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np

from .core.errors import BackendError

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
ADDRESS = ctypes.c_uint64  # CUdeviceptr

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (POINTER, ctypes.c_int),
    "cuDeviceGetAttribute": (POINTER, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (POINTER, ctypes.c_int),
    "cuCtxSetCurrent": (POINTER,),
    "cuStreamCreate": (POINTER, ctypes.c_uint),
    "cuStreamSynchronize": (POINTER,),
    "cuMemAlloc_v2": (POINTER, SIZE),
    "cuMemFree_v2": (ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (ADDRESS, POINTER, SIZE, POINTER),
    "cuMemcpyDtoHAsync_v2": (POINTER, ADDRESS, SIZE, POINTER),
}


def missing() -> str | None:
    """What keeps CUDA from running here, in a few words; None where there is a driver and a GPU."""
    try:
        _driver()
    except BackendError as error:
        return str(error)
    return None


def compute_capability() -> str:
    """That of the first GPU, such as `8.7`. Raises `BackendError` where there is none."""
    cuda = _driver()
    device, numbers = _first_device(cuda), []
    for attribute in COMPUTE_CAPABILITY:
        value = ctypes.c_int()
        _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        numbers.append(str(value.value))
    return ".".join(numbers)


class GpuMemory:
    """The first GPU: its primary context (the one that TensorRT uses as well), a stream, and buffers by name.

    For one thread at a time, any thread. Every method raises `BackendError` with the driver's own words.
    """

    def __init__(self) -> None:
        self._cuda = _driver()
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (address, bytes)
        context, stream = POINTER(), POINTER()
        _call(self._cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), _first_device(self._cuda))
        self._context = context
        self.use()
        _call(self._cuda, "cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        self._stream = stream

    @property
    def stream(self) -> int:
        """Handle of the stream on which everything is done in order."""
        return self._stream.value or 0

    def use(self) -> None:
        """Make the GPU's context that of the calling thread."""
        _call(self._cuda, "cuCtxSetCurrent", self._context)

    def reserve(self, name: str, size: int) -> int:
        """Address of a buffer of at least `size` bytes; it is kept under its name for the next call."""
        address, there = self._buffers.get(name, (0, 0))
        if there < max(size, 1):
            self._free(name)
            fresh = ADDRESS()
            _call(self._cuda, "cuMemAlloc_v2", ctypes.byref(fresh), max(size, 1))
            address = fresh.value
            self._buffers[name] = (address, max(size, 1))
        return address

    def upload(self, name: str, array: np.ndarray) -> int:
        """Copy a contiguous array to the GPU; it must live until `wait`. Returns its address there."""
        address = self.reserve(name, array.nbytes)
        _call(self._cuda, "cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self._stream)
        return address

    def download(self, name: str, array: np.ndarray) -> None:
        """Copy the buffer `name` into a contiguous array, which is filled after `wait`."""
        address, _ = self._buffers[name]
        _call(self._cuda, "cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self._stream)

    def wait(self) -> None:
        """Until everything on the stream is done."""
        _call(self._cuda, "cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give the buffers back."""
        self.use()
        for name in list(self._buffers):
            self._free(name)

    def _free(self, name: str) -> None:
        if name in self._buffers:
            _call(self._cuda, "cuMemFree_v2", self._buffers.pop(name)[0])


def _driver() -> ctypes.CDLL:
    """The driver's library, initialised. Raises `BackendError` where there is no driver, or no GPU."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(f"no CUDA driver ({LIBRARY})") from error
    for name, arguments in ARGUMENTS.items():
        getattr(cuda, name).argtypes = arguments
    _call(cuda, "cuInit", 0)
    _first_device(cuda)
    return cuda


def _first_device(cuda: ctypes.CDLL) -> int:
    device = ctypes.c_int()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    return device.value


def _call(cuda: ctypes.CDLL, name: str, *arguments: Any) -> None:
    status = getattr(cuda, name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        cuda.cuGetErrorString(status, ctypes.byref(text))
        raise BackendError(f"CUDA: {name} failed: {(text.value or b'unknown error').decode()}")
