"""What the rooms computed, as the report says it."""

from __future__ import annotations

import math
from types import SimpleNamespace

from operators.report_assembly import _calibration_report


def test_an_overlap_of_nothing_with_nothing_is_no_number() -> None:
    fit = [
        SimpleNamespace(day=day, dice_core=core, dice_whole=0.9)
        for day, core in ((0.0, 0.8), (60.0, math.nan))
    ]
    calibration = SimpleNamespace(acceptable=True, verdict="Fits.", effective_samples=3.0, fit=fit)
    assert [item.dice_core for item in _calibration_report(calibration).fit] == [0.8, None]
