"""ACC, BWT and forgetting of matrices that were computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ffruntime.demo.split_mnist import acc, bwt, forgetting


def test_by_hand() -> None:
    r = np.array([[1.0, 0.0, 0.0], [0.5, 0.75, 0.0], [0.25, 0.875, 1.0]])
    assert acc(r) == pytest.approx((0.25 + 0.875 + 1) / 3)
    assert bwt(r) == pytest.approx(((0.25 - 1) + (0.875 - 0.75)) / 2)
    assert forgetting(r) == pytest.approx(((1 - 0.25) + (0.75 - 0.875)) / 2)


def test_forgetting_is_measured_from_the_best() -> None:
    r = np.array([[0.5, 0.0, 0.0], [0.75, 1.0, 0.0], [0.25, 1.0, 1.0]])
    assert forgetting(r) == pytest.approx((0.75 - 0.25) / 2)
    assert bwt(r) == pytest.approx((0.25 - 0.5) / 2)


def test_nothing_is_forgotten_where_all_is_kept() -> None:
    r = np.tril(np.ones((5, 5)))
    assert (acc(r), bwt(r), forgetting(r)) == (1.0, 0.0, 0.0)
