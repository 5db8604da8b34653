"""A cell of a CSV file is text or a number, and never a formula."""

from __future__ import annotations

import pytest

from fftrain.display import csv_cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_is_no_formula(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", [-1, -0.5, None, "cat", "a=b", ""])
def test_other_values_stay(value: object) -> None:
    assert csv_cell(value) == value
