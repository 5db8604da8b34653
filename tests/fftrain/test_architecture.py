"""The architecture description, as torch computes it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffruntime.core.architecture import (
    Conv,
    Image,
    Label,
    Linear,
    Local,
    MaxPool,
    Network,
    Relu,
    Unit,
    unit_shapes,
    validate,
)
from ffruntime.core.errors import BundleError
from fftrain.functional import apply_op
from fftrain.network import activation, initialise


def network(*units: Unit, placement: str = "channel") -> Network:
    return Network(Image((1, 28, 28)), Label(placement, 12), units)  # type: ignore[arg-type]


def test_locally_connected_layers_with_equal_weights_are_convolutions() -> None:

    x, weight, bias = torch.rand(2, 3, 9, 7), torch.rand(4, 3, 3, 3), torch.rand(4)
    expected = apply_op(Conv(4, 3, 2, 1), "c", {"c.weight": weight, "c.bias": bias}, x)
    shared = {"c.weight": weight.expand(5, 4, -1, -1, -1, -1), "c.bias": bias[:, None, None].expand(-1, 5, 4)}
    torch.testing.assert_close(apply_op(Local(4, 3, 2, 1), "c", shared, x), expected)


def test_every_position_is_initialised_by_its_own_fan_in() -> None:

    described = network(Unit((Local(8, 5), Relu())))
    patterns = {"labels.patterns": torch.zeros(12, 1, 28, 28), "labels.neutral": torch.zeros(1, 28, 28)}
    weight = initialise(described, patterns, torch.Generator().manual_seed(0))["unit1.local1.weight"]
    assert weight.std().item() == pytest.approx((2 / (2 * 5 * 5)) ** 0.5, rel=0.01)


@given(
    ops=st.lists(
        st.one_of(
            st.builds(Conv, st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2)),
            st.builds(Local, st.integers(1, 2), st.integers(1, 3), st.integers(2, 3), st.integers(0, 2)),
            st.builds(MaxPool, st.integers(1, 3)),
            st.just(Relu()),
            st.builds(Linear, st.integers(1, 9)),
        ),
        max_size=4,
    )
)
def test_a_valid_description_computes_what_it_says(ops: list) -> None:
    """torch makes the shapes that the description foretells."""

    described = network(Unit((*ops, Relu())))
    try:
        validate(described)
    except BundleError:
        return
    patterns = {"labels.patterns": torch.zeros(12, 1, 28, 28), "labels.neutral": torch.zeros(1, 28, 28)}
    tensors = initialise(described, patterns, torch.Generator())
    y = activation(described, 0, tensors, {"below": torch.zeros(2, 2, 28, 28)})
    assert tuple(y.shape[1:]) == unit_shapes(described)[0][1]
