"""What the rooms computed, as the report says it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from operators.report_assembly import _calibration_report, _skill_report
from twin.results import MaskSkill, SkillCheck, VolumeEstimate


def test_an_overlap_of_nothing_with_nothing_is_no_number() -> None:
    fit = [
        SimpleNamespace(day=day, dice_core=core, dice_whole=0.9)
        for day, core in ((0.0, 0.8), (60.0, math.nan))
    ]
    calibration = SimpleNamespace(acceptable=True, verdict="Fits.", effective_samples=3.0, fit=fit)
    assert [item.dice_core for item in _calibration_report(calibration).fit] == [0.8, None]


@pytest.mark.parametrize("acceptable", [True, False])
def test_the_report_knows_whose_forecast_a_held_out_visit_had(acceptable: bool) -> None:
    mask = MaskSkill(4e3, VolumeEstimate(5e3, (3e3, 9e3)), 3e3, None)
    report = _skill_report(SkillCheck(60.0, mask, mask, acceptable))
    assert (report.core.acceptable, report.whole.acceptable) == (acceptable, acceptable)
    assert report.whole.inside95 is (True if acceptable else None)
