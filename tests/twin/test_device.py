"""Growth is simulated on the device that the settings name, and everything else goes on where it was."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.twin.elsewhere import DEVICE, OtherDevice
from tests.twin.heads import CORE, WHOLE, grow, head
from twin import CalibrationSettings, Radiotherapy, TumourObservation, TwinError, calibrate, forecast
from twin.backends import bind
from twin.draws import draws_of
from twin.ensemble import Starts, grow_draw
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.scene import Scene, Tissue
from twin.solver import trajectory

SETTINGS = CalibrationSettings(
    importance_samples=0, refine=False, max_iterations=2, multi_start=False, samples=8, initial_ensemble=2
)


@pytest.fixture(scope="module")
def patient():
    """A head of 6 mm voxels, and two visits with radiotherapy between them."""
    maps = head(6.0)[0]
    densities = grow(0.4, 0.03, [0.0, 40.0], spacing=6.0, volume_ml=20.0)
    visits = [TumourObservation(t, u > CORE, u > WHOLE) for t, u in zip((0.0, 40.0), densities, strict=True)]
    return maps, visits, [Radiotherapy([10.0, 11.0], [2.0, 2.0], dose_map=torch.full(maps.shape, 0.5))]


def elsewhere(monkeypatch):
    """Let the settings stand for the other device; the media that sweeps were bound to."""
    bound = []
    monkeypatch.setattr(CalibrationSettings, "solver_device", lambda self: DEVICE)
    monkeypatch.setattr(
        "twin.solver.bind", lambda name, medium, threads: bound.append(medium) or bind(name, medium, threads)
    )
    return bound


def test_a_calibration_computes_on_the_device_and_finds_the_same(patient, monkeypatch):
    maps, visits, therapies = patient
    here = calibrate(maps, visits, settings=replace(SETTINGS, backend="torch"), therapies=therapies)
    bound = elsewhere(monkeypatch)
    with OtherDevice() as device:
        there = calibrate(maps, visits, settings=SETTINGS, therapies=therapies)
    assert device.steps > 1000
    assert bound and all(
        tensor.device == DEVICE for medium in bound for tensor in (*medium.faces, medium.domain)
    )
    np.testing.assert_allclose(there.posterior.mean, here.posterior.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there.posterior.covariance, here.posterior.covariance, rtol=1e-3, atol=1e-6)


def test_draws_of_a_forecast_are_grown_on_the_device(patient, monkeypatch):
    maps, visits, therapies = patient
    calibration = calibrate(maps, visits, settings=SETTINGS, therapies=therapies)
    draw = draws_of(calibration)[0]

    def grown():
        prepared = Tissue.prepare(maps, visits, SETTINGS)
        scene = Scene.build(prepared, visits[-1:], 40.0, SETTINGS, threads=1)
        start = Starts(scene).density(0, draw.position, calibration.posterior.coordinates.shift(1))
        return grow_draw(scene, start, draw, [70.0, 100.0], 40.0, [100.0])

    here = grown()
    bound = elsewhere(monkeypatch)
    with OtherDevice() as device:
        there = grown()
    assert device.steps > 100 and all(medium.domain.device == DEVICE for medium in bound)
    assert np.abs(there.counts - here.counts).max() <= 1
    assert there.kept[0][1].device == torch.device("cpu")
    torch.testing.assert_close(there.kept[0][1], here.kept[0][1], rtol=1e-4, atol=1e-5)


def test_fields_come_back_where_they_came_from():
    maps = head(6.0)[0]
    start = 0.5 * maps.domain
    states = []
    with OtherDevice():
        for device in (None, DEVICE):
            operator = DiffusionOperator.build(
                maps.white_matter, maps.domain, maps.spacing_mm, backend="torch", device=device
            )
            model = ReactionDiffusion(operator, local_growth=torch.full(maps.shape, 0.5))
            parameters = {"diffusivity": torch.tensor([0.3]), "proliferation": torch.tensor([0.02])}
            (state,) = trajectory(model, parameters, start[None, None], [10.0])
            assert state.device == start.device and operator.placed.domain.device == operator.device
            states.append(state.clone())
    assert torch.equal(states[0], states[1])


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert CalibrationSettings(device="auto").solver_device() == torch.device("cpu")
    for name, code in (("cuda", "no_device"), ("tpu", "bad_settings")):
        with pytest.raises(TwinError, match=name) as caught:
            CalibrationSettings(device=name)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "wrong",
    [
        {"backend": "fortran"},
        {"growth_law": "cubic"},
        {"threshold_width": math.nan},
        {"boundary_sd_mm": math.inf},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    """Comparisons with nan are false, so a width that is none passed as not negative."""
    with pytest.raises(TwinError, match=next(iter(wrong))):
        CalibrationSettings(**wrong)


def test_auto_takes_the_device_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = {name: CalibrationSettings(device=name).solver_device().type for name in ("auto", "cpu", "cuda")}
    assert chosen == {"auto": "cuda", "cpu": "cpu", "cuda": "cuda"}
    assert CalibrationSettings().device == "cpu"


def test_a_calibration_and_a_forecast_run_on_the_cpu_by_name(patient):
    maps, visits, _ = patient
    calibration = calibrate(maps, visits, settings=replace(SETTINGS, device="cpu"))
    assert forecast(calibration, maps, visits, [30.0]).horizons[0].density_mean.device.type == "cpu"
