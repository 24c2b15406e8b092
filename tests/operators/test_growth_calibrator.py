"""The calibrator hands treatment on, and says so when there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from imaging.dose_index import DoseFile
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from imaging.report_content import Status
from operators import growth_calibrator
from operators.treatment_plan import RadiotherapyCourse
from twin import CalibrationSettings, Priors, Radiotherapy, TissueMaps, TumourObservation

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
    monkeypatch.setattr(growth_calibrator, "_twin_tissue", lambda mapped: tissue)
    visits = [
        SimpleNamespace(
            labels=Volume(np.ones((2, 2, 2)), Geometry((2, 2, 2), np.eye(4))),
            prepared=SimpleNamespace(day=day, date=FIRST + timedelta(days=day)),
        )
        for day in (0.0, 60.0)
    ]
    segmented = SimpleNamespace(visits=visits, catalog=SimpleNamespace(doses=()))
    grid = Geometry((16, 16, 16), np.diag([3.0, 3.0, 3.0, 1.0]))
    return SimpleNamespace(segmented=segmented, tissue=object(), grid=grid)


def dose_of(array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the input's RT Dose be ``array``, Gy on the twin's grid."""
    monkeypatch.setattr(
        growth_calibrator, "dose_on_grid", lambda dose, visits, grid: SimpleNamespace(array=array)
    )


def test_a_dose_map_reaches_the_model_by_fractions(
    mapped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = DoseFile(Path("dose.dcm"), "1.2.3", "1.2", "PLAN", "")
    mapped.segmented.catalog.doses = (file,)
    given = []

    def fitted(*arguments: object, therapies: tuple[Radiotherapy, ...], **options: object) -> SimpleNamespace:
        given.append(therapies)
        return SimpleNamespace(acceptable=True, warnings=())

    monkeypatch.setattr(growth_calibrator, "calibrate", fitted)
    total = np.linspace(0.0, 60.0, 16**3, dtype=np.float32).reshape(16, 16, 16)
    total[0, 0, 0] = np.nan
    dose_of(total, monkeypatch)
    course = replace(COURSE, dose_gy=None, rtdose="auto")
    found = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings(), [course])
    (therapy,) = given[0]
    exponent = therapy.at(10.0, torch.Size((16, 16, 16)))
    half = torch.from_numpy(total).double().nan_to_num(0.0) / 2
    torch.testing.assert_close(exponent, half * (1 + half / 10))
    assert found.treatments == (
        "Radiotherapy: 2 fraction(s) of a dose map, at most 30.00 Gy a fraction and 60.0 Gy in all, from day 10 to "
        "day 11, alpha/beta 10 Gy; the dose map is RT Dose 1.2.3.",
    )
    assert found.dose is file
    unused = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings(), [COURSE])
    assert "it was not used" in unused.warnings[0] and unused.dose is None


def test_a_dose_that_does_not_reach_the_tumour_is_refused(
    mapped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped.segmented.catalog.doses = (DoseFile(Path("dose.dcm"), "1.2.3", "1.2", "PLAN", ""),)
    part = np.full((16, 16, 16), np.nan, dtype=np.float32)
    part[:8] = 50.0
    dose_of(part, monkeypatch)
    with pytest.raises(ImagingError, match="does not reach all of the tumour") as caught:
        course = replace(COURSE, dose_gy=None, rtdose="1.2.3")
        growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings(), [course])
    assert caught.value.reason is Reason.BAD_DOSE


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


@pytest.mark.parametrize(
    ("dates", "silent"),
    [
        ((date(2025, 1, 20), date(2025, 1, 21)), "from day -355 to day -354 has no effect on the model, since it ends "
         "before day 0, the first that is modelled: check the year"),
        ((date(2062, 1, 20),), "on day 13159 has no effect on the model, since it begins after day 150, the last that "
         "is predicted: check the year"),
        ((date(2026, 4, 1),), None),
    ],
)  # fmt: skip
def test_a_course_that_never_acts_does_not_silence_the_warning(
    mapped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, dates: tuple[date, ...], silent: str | None
) -> None:
    """Visits on days 0 and 60, predictions up to day 150."""
    monkeypatch.setattr(
        growth_calibrator, "calibrate", lambda *_, **__: SimpleNamespace(acceptable=True, warnings=())
    )
    course = replace(COURSE, dates=dates)
    settings = CalibrationSettings()
    found = growth_calibrator.calibrated_twin(mapped, Priors(), settings, [course], (30.0, 90.0))
    assert "acts between the visits: growth is modelled as if untreated" in found.warnings[0]
    assert len(found.warnings) == (1 if silent is None else 2)
    assert silent is None or silent in found.warnings[1]
    both = growth_calibrator.calibrated_twin(mapped, Priors(), settings, [course, COURSE], (30.0, 90.0))
    assert len(both.warnings) == (0 if silent is None else 1), "the other course acts"
    idle = [treatment.endswith("; without effect on the model.") for treatment in both.treatments]
    assert idle == [silent is not None, False]


@pytest.mark.parametrize(("lost", "told"), [(0, False), (9, False), (300, True)])
def test_a_tumour_that_the_grid_does_not_hold_is_told(
    mapped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, lost: int, told: bool
) -> None:
    """The second visit has so many voxels of 27 mm3 more than the grid shows."""
    visit = mapped.segmented.visits[1]
    held = int(growth_calibrator._observation(visit, mapped).whole.sum())
    drawn = np.zeros((held + lost, 1, 1), dtype=np.uint8) + 2
    visit.labels = Volume(drawn, Geometry(drawn.shape, np.diag([3.0, 3.0, 3.0, 1.0])))
    monkeypatch.setattr(
        growth_calibrator, "calibrate", lambda *_, **__: SimpleNamespace(acceptable=True, warnings=())
    )
    found = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings(), [COURSE])
    assert len(found.warnings) == told
    if told:
        part, whole = (f"{count * 27 / 1000:.3g} mL" for count in (held, held + lost))
        assert f"Visit 2: the growth model's grid holds {part} of the {whole}" in found.warnings[0]


@pytest.mark.parametrize(
    ("tiny", "status", "modelled"),
    [((0.0,), Status.SINGLE_VISIT, 1), ((60.0,), Status.TUMOUR_GONE, 0), ((0.0, 60.0), Status.NO_TUMOUR, 0)],
)
def test_a_tumour_too_small_for_the_grid_counts_as_none_and_is_told(
    mapped: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    tiny: tuple[float, ...],
    status: Status,
    modelled: int,
) -> None:
    """One voxel that somebody drew is no reason to write no report."""
    seen = growth_calibrator._observation
    nothing = torch.zeros((16, 16, 16), dtype=torch.bool)
    given: list[tuple[TumourObservation, ...]] = []

    def coarse(visit: SimpleNamespace, mapped: SimpleNamespace) -> TumourObservation:
        day = visit.prepared.day
        return TumourObservation(day, nothing, nothing) if day in tiny else seen(visit, mapped)  # type: ignore[arg-type]

    def fitted(
        tissue: object, observations: tuple[TumourObservation, ...], *_: object, **__: object
    ) -> object:
        given.append(observations)
        return SimpleNamespace(acceptable=True, warnings=())

    monkeypatch.setattr(growth_calibrator, "_observation", coarse)
    monkeypatch.setattr(growth_calibrator, "calibrate", fitted)
    found = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings())
    assert found.status is status
    assert sum(map(len, given)) == modelled
    told = [sentence for sentence in found.warnings if "too small for the growth model's grid" in sentence]
    assert len(told) == len(tiny)
    assert not any("shows no tumour:" in sentence for sentence in found.warnings), "something was drawn"


@pytest.mark.parametrize("bare", [(), (0.0,), (0.0, 60.0)])
def test_a_last_visit_whose_oedema_nobody_drew_is_told(
    mapped: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, bare: tuple[float, ...]
) -> None:
    """The predicted whole tumour has nothing to be compared with there."""
    seen = growth_calibrator._observation

    def drawn(visit: SimpleNamespace, mapped: SimpleNamespace) -> TumourObservation:
        found = seen(visit, mapped)  # type: ignore[arg-type]
        return TumourObservation(found.day, found.core, found.core) if found.day in bare else found

    monkeypatch.setattr(growth_calibrator, "_observation", drawn)
    monkeypatch.setattr(
        growth_calibrator, "calibrate", lambda *_, **__: SimpleNamespace(acceptable=True, warnings=())
    )
    found = growth_calibrator.calibrated_twin(mapped, Priors(), CalibrationSettings(), [COURSE])
    told = any("last visit shows no tumour around the core" in sentence for sentence in found.warnings)
    assert told == (60.0 in bare)
