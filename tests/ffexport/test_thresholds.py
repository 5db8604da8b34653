"""The thresholds of the modes `shortlist` and `exit`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from ffexport.export import export_onnx
from ffexport.thresholds import GO_ON, LEAST, MOST, calibrate_exit, calibrate_shortlist
from ffruntime.core.bundle import CALIBRATION, Bundle, write_bundle
from ffruntime.core.manifest import EXEMPLARS
from ffruntime.model import Model


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


@pytest.mark.parametrize("change", ["no exemplars", pytest.param("one mode", marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_logits_count_in_what_a_shortlist_is_to_decide(bundle: Path) -> None:
    """With a weight that drowns goodness, the classifier's decisions are to be kept, not those by goodness."""
    manifest = Bundle(bundle).manifest
    write_bundle(bundle, structs.replace(manifest, logit_weight=1e6), {})
    export_onnx(bundle)
    model = Model(bundle, state=False)
    logits = model.scores(Bundle(bundle).exemplars(CALIBRATION).pixels, "classifier")
    assert model.manifest.shortlist == calibrate_shortlist(logits, logits)
    assert model.manifest.shortlist != manifest.shortlist


# ---------------------------------------- mode `exit` ----------------------------------------


def of_two_units(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What two units answer by, (E, 2 classes, 2), from the margins of the first class over the second."""
    return np.stack([np.stack([gap, np.zeros_like(gap)], 1) for gap in (first, second)], 2)


SHARES = (0.25, 1.0)
MARGINS = np.arange(1.0, 11)  # of ten exemplars


def test_an_answer_that_the_total_would_not_give_is_left_to_it() -> None:
    total = np.where(MARGINS == 7, -1.0, 1.0)  # one that unit 1 tells otherwise, by a margin of 7
    found = calibrate_exit(of_two_units(MARGINS, total), of_two_units(MARGINS, total), SHARES)
    assert found.thresholds == (7,)
    assert (found.passes, found.agree) == (pytest.approx(0.3 * 0.25 + 0.7), 1)


def test_a_share_of_them_goes_on_in_any_case() -> None:
    answers = of_two_units(MARGINS, np.ones(10))
    found = calibrate_exit(answers, answers, SHARES)
    assert found.thresholds == (pytest.approx(np.quantile(MARGINS, GO_ON)),)
    assert found.passes == pytest.approx(0.6 * 0.25 + 0.4)


def test_what_comes_of_it_is_measured_on_all_exemplars() -> None:
    others = of_two_units(np.full(10, 20.0), np.full(10, -1.0))  # sure, and wrong
    known = of_two_units(MARGINS, np.ones(10))
    found = calibrate_exit(known, np.concatenate([known, others]), SHARES)
    assert found.agree == 0.5


def test_a_single_unit_is_a_whole_pass() -> None:
    answers = of_two_units(MARGINS, MARGINS)[:, :, 1:]
    found = calibrate_exit(answers, answers, (1.0,))
    assert (found.thresholds, found.passes, found.agree) == ((), 1, 1)
