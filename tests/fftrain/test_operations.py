"""Locally connected layers, in blocks, against every position's own field gathered."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ffruntime.core.architecture import Local, op_shape
from fftrain.functional import apply_op


def gathered(op: Local, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """x (N, C, H, W) -> (N, out, H', W'), a product for each position."""
    fields = F.unfold(x, op.kernel, padding=op.padding, stride=op.stride)  # (N, C · k · k, H' · W')
    own = weight.flatten(0, 1).flatten(2)  # (H' · W', out, C · k · k)
    return torch.einsum("nfp,pof->nop", fields, own).unflatten(2, weight.shape[:2]) + bias


@given(
    op=st.builds(Local, st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3)),
    shape=st.tuples(st.integers(1, 3), st.integers(5, 14), st.integers(5, 14)),
    seed=st.integers(0, 1000),
)
def test_every_position_sees_its_field_with_its_own_weights(op: Local, shape: tuple[int, ...], seed: int) -> None:
    out, rows, columns = op_shape(op, shape, "local")
    random = torch.Generator().manual_seed(seed)
    sizes = [(rows, columns, out, shape[0], op.kernel, op.kernel), (out, rows, columns), (2, *shape)]
    weight, bias, x = (torch.randn(size, generator=random).double().requires_grad_() for size in sizes)
    y = apply_op(op, "unit1.local1", {"unit1.local1.weight": weight, "unit1.local1.bias": bias}, x)
    expected = gathered(op, weight, bias, x)
    torch.testing.assert_close(y, expected)
    back = torch.randn(y.shape, generator=random).double()
    for one, other in zip(*(torch.autograd.grad(z, (weight, bias, x), back) for z in (y, expected)), strict=True):
        torch.testing.assert_close(one, other)
