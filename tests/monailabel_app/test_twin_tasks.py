"""The twin's tasks on a patient whose tumour was drawn at two visits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fastapi import HTTPException

from imaging.labels import region_mask
from monailabel_app.growth import Growth
from monailabel_app.tasks import Server, TaskRequest
from monailabel_app.twin_tasks import ForecastTask, TwinCheckTask, surprises
from training.phantom import PhantomTruth


def request(server: Server, number: int, **parameters: object) -> TaskRequest:
    key = server.studies.keys()[number]
    return TaskRequest(server.studies.examination(key), "anna", parameters, None)


def test_forecast(configure: Callable[..., Server], phantom: PhantomTruth) -> None:
    server = configure()
    task = ForecastTask(server, Growth(server))
    assert task.info()["config"] == {"horizon_days": ["40", "90"]}
    answer = task.answer(request(server, 1, horizon_days="40"))
    assert answer.said["visits"] == 2
    volume = answer.said["whole_volume_ml"]
    assert volume["low95"] < volume["median"] < volume["high95"]
    # The third visit, forty days on, was not looked at; the forecast must be nearer to it than today's tumour.
    later = phantom.visits[2].volumes_ml["WT"]
    assert abs(volume["median"] - later) < abs(phantom.visits[1].volumes_ml["WT"] - later)
    on_scan = float((answer.labels.array > 0).sum()) * answer.labels.geometry.voxel_volume_mm3 / 1000
    assert on_scan == pytest.approx(volume["median"], rel=0.35)
    today = server.cases.prepared(request(server, 1).examination)
    assert today.correction is not None
    whole = region_mask(today.correction.labels.array, "WT")
    assert (whole & (answer.labels.array > 0)).sum() > 0.8 * whole.sum(), "it lies over today's tumour"

    with pytest.raises(HTTPException, match="must be one of"):
        task.answer(request(server, 1, horizon_days="400"))


def test_the_first_visit_cannot_be_checked(configure: Callable[..., Server]) -> None:
    server = configure()
    with pytest.raises(HTTPException, match="first visit"):
        TwinCheckTask(server, Growth(server)).answer(request(server, 0))


@pytest.mark.slow
def test_one_earlier_visit_is_checked_by_the_priors(configure: Callable[..., Server]) -> None:
    server = configure()
    check = TwinCheckTask(server, Growth(server)).answer(request(server, 1))
    assert check.said["visits"] == 1 and "priors alone" in check.said["notes"][0]
    assert set(np.unique(check.labels.array)) <= {0, 1, 2}


def test_a_visit_without_tumour_has_no_forecast(configure: Callable[..., Server]) -> None:
    """The small network finds nothing at the third visit, which nobody has drawn on."""
    server = configure()
    with pytest.raises(HTTPException, match="no tumour"):
        ForecastTask(server, Growth(server)).answer(request(server, 2))


def test_treatments_are_not_silently_left_out(configure: Callable[..., Server]) -> None:
    course = {"kind": "radiotherapy", "first_date": "2024-04-01", "fractions": 30, "dose_gy": 2.0}
    server = configure(treatments=[course])
    with pytest.raises(HTTPException, match="treatments"):
        ForecastTask(server, Growth(server)).answer(request(server, 1))


def test_surprises_are_what_the_twin_was_sure_of() -> None:
    seen = np.array([True, True, False, False, True])
    probability = np.array([0.01, 0.5, 0.99, 0.5, 0.99])
    assert surprises(seen, probability).tolist() == [1, 0, 2, 0, 0]
