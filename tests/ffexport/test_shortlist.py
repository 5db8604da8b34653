"""The threshold of mode `shortlist`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from ffexport.decisions import LEAST, MOST, calibrate_shortlist
from ffexport.export import export_onnx
from ffruntime.core.bundle import Bundle, write_bundle
from ffruntime.core.manifest import EXEMPLARS


def gaps(*second: float) -> np.ndarray:
    """Logits of three classes: the first is best, the second so far behind it, the third 100."""
    return np.array([[0.0, -gap, -100.0] for gap in second], np.float32)


SURE = gaps(*range(1, 21))  # each threshold k has k of 20 exemplars with two labels in play: 1 + 2 · k / 20 passes


def test_the_threshold_is_worth_the_least_budget_where_goodness_agrees() -> None:
    found = calibrate_shortlist(SURE, SURE)
    assert (found.threshold, found.passes, found.agree) == (2, LEAST, 1)


def test_it_keeps_decisions_of_goodness_in_play_where_that_is_affordable() -> None:
    totals = SURE.copy()
    totals[3, 1] = 1  # 4 behind
    found = calibrate_shortlist(SURE, totals)
    assert (found.threshold, found.passes, found.agree) == (4, 1.4, 1)


def test_it_never_costs_more_than_the_most() -> None:
    totals = SURE.copy()
    totals[[3, 14], 1] = 1  # 4 and 15 behind
    found = calibrate_shortlist(SURE, totals)
    assert (found.threshold, found.passes, found.agree) == (5, MOST, 0.95)


def test_ties_that_no_budget_pays() -> None:
    """A classifier that knows nothing has every label in play, whatever that costs."""
    found = calibrate_shortlist(np.zeros((4, 3), np.float32), np.eye(4, 3))
    assert (found.threshold, found.passes, found.agree) == (0, 4, 1)


def test_export_writes_it(exported: Path) -> None:
    found = Bundle(exported).manifest.shortlist
    assert found
    assert 1 <= found.passes <= MOST
    assert found.threshold > 0
    assert found.agree > 0.9


@pytest.mark.parametrize("change", ["no exemplars", "one mode"])
def test_export_writes_none_where_it_cannot_be_measured(change: str, bundle: Path) -> None:
    manifest = Bundle(bundle).manifest
    if change == "one mode":
        manifest = structs.replace(manifest, modes=("goodness",))
    else:
        kept = {name: entry for name, entry in manifest.files.items() if name != EXEMPLARS}
        manifest = structs.replace(manifest, files=kept)
    write_bundle(bundle, manifest, {})
    export_onnx(bundle)
    assert Bundle(bundle).manifest.shortlist is None
