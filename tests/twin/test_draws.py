"""What forecasts draw beside the posterior."""

import pytest

from tests.twin.balls import ball, block
from twin import CalibrationSettings, TumourObservation
from twin.draws import jitter_fields
from twin.scene import Scene, Tissue, boundary_sd_mm


@pytest.mark.parametrize("radius", [2.5, 4.4, 12.0])
def test_local_jitter_of_a_boundary_moves_it_by_its_own_sd_and_nowhere_on_average(radius):
    """On a small tumour of fine voxels the field had a mean of up to ten standard deviations."""
    cells, spacing, settings = 40, 1.0, CalibrationSettings()
    visits = [
        TumourObservation(0.0, ball(cells, spacing, 0.6 * radius), ball(cells, spacing, radius)),
    ]
    scene = Scene.build(Tissue.prepare(block(cells, spacing), visits, settings), visits, 12.0, settings)
    sd = boundary_sd_mm(settings, (spacing,) * 3)
    fields = jitter_fields(scene, settings)
    assert len(fields) == settings.initial_ensemble
    for field in fields:
        inside = field[field != 0.0].double()
        assert float(inside.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(inside.std(correction=0)) == pytest.approx(sd, rel=1e-3)
        assert float(inside.abs().max()) < 5.0 * sd
