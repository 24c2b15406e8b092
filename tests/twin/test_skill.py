"""The last visit forecast from those before it."""

import pytest

from tests.twin.balls import ball, block
from twin import CalibrationSettings, TumourObservation, calibrate, forecast

CELLS, SPACING = 24, 4.0


@pytest.mark.parametrize(("second", "explained"), [((7.0, 11.0), False), ((11.0, 16.0), True)])
def test_a_held_out_forecast_of_the_prior_is_told_from_one_of_the_model(second, explained):
    """Earlier visits that shrink are refused: what followed was printed as the model's skill."""
    radii = ((9.0, 14.0), second, (13.0, 19.0))
    visits = [
        TumourObservation(day, *(ball(CELLS, SPACING, radius) for radius in pair))
        for day, pair in zip((0.0, 40.0, 80.0), radii, strict=True)
    ]
    settings = CalibrationSettings(
        samples=8, initial_ensemble=2, importance_samples=0, refine=False, device="cpu"
    )
    tissue = block(CELLS, SPACING)
    calibration = calibrate(tissue, visits, settings=settings)
    assert calibration.skill is not None and calibration.skill.acceptable == explained
    warnings = forecast(calibration, tissue, visits, [30.0]).warnings
    assert any("skill of the model is unknown" in warning for warning in warnings) != explained
