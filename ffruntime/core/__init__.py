"""The contract that the three programs share: what a network, a bundle and a device's state are.

Descriptions, file formats, data splits, costs, device profiles and errors, on numpy, msgspec and safetensors alone.
`fftrain` and `ffexport` import this package, and little else of `ffruntime` (`tests/test_rooms.py`).
"""

__version__ = "0.1.0"
