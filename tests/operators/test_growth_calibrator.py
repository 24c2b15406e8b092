"""The calibrator hands treatment on, and says so when there is none."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from operators import growth_calibrator
from operators.treatment_plan import RadiotherapyCourse
from twin import CalibrationSettings, Priors, TissueMaps, TumourObservation

FIRST = datetime(2026, 1, 10, 12, 0)
COURSE = RadiotherapyCourse((date(2026, 1, 20), date(2026, 1, 21)), 2.0, 10.0)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two visits of a growing ball, as far as the calibrator looks at them."""
    x, y, z = np.indices((16, 16, 16)) - 7.5
    radius = torch.from_numpy(np.sqrt(x**2 + y**2 + z**2))
    everywhere = torch.ones(16, 16, 16)
    tissue = TissueMaps(everywhere, 0.0 * everywhere, everywhere > 0, (3.0, 3.0, 3.0))

    def observation(visit: SimpleNamespace, mapped: SimpleNamespace) -> TumourObservation:
        size = 4.0 + visit.prepared.day / 60
        return TumourObservation(visit.prepared.day, radius < size - 1.5, radius < size)

    monkeypatch.setattr(growth_calibrator, "_observation", observation)
    monkeypatch.setattr(growth_calibrator, "_twin_tissue", lambda mapped, observations: tissue)
    visits = [
        SimpleNamespace(
            labels=SimpleNamespace(array=np.ones((2, 2, 2))),
            prepared=SimpleNamespace(day=day, date=FIRST + timedelta(days=day)),
        )
        for day in (0.0, 60.0)
    ]
    return SimpleNamespace(segmented=SimpleNamespace(visits=visits), tissue=object())


def test_treatment_reaches_the_model(mapped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def fitted(*arguments: object, therapies: object, **options: object) -> SimpleNamespace:
        given.append(therapies)
        return SimpleNamespace(acceptable=True, warnings=("from the fit",))

    monkeypatch.setattr(growth_calibrator, "calibrate", fitted)
    treated = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings(), [COURSE])
    assert [therapy.times for therapy in given[0]] == [(10.0, 11.0)]
    assert treated.treatments == (
        "Radiotherapy: 2 fraction(s) of 2 Gy from day 10 to day 11, alpha/beta 10 Gy.",
    )
    assert treated.warnings == ("from the fit",)
    untreated = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings())
    assert given[1] == () and untreated.treatments == ()
    assert "No treatment schedule" in untreated.warnings[0]
