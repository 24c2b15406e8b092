"""When the growth model is refused for what the masks alone show."""

import pytest

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import CalibrationSettings, Chemotherapy, Radiotherapy, TumourObservation
from twin.acceptance import shrinking
from twin.scene import Scene, Tissue

SPACING = 4.0


@pytest.mark.parametrize(
    ("therapies", "refused"),
    [
        ([], True),
        ([Radiotherapy([30.0], [2.0])], False),
        ([Radiotherapy([95.0], [2.0])], True),
        ([Chemotherapy([-0.1], [75.0])], False),
        ([Chemotherapy([-10.0], [75.0])], True),
    ],
    ids=["untreated", "between", "after", "drug still there", "drug long gone"],
)
def test_a_shrinking_mask_needs_a_treatment_that_acts_between_the_visits(therapies, refused):
    maps, _ = head(SPACING)
    small, large = (resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 90.0], spacing=3.0))
    visits = [TumourObservation(day, u > CORE, u > WHOLE) for day, u in ((0.0, large), (90.0, small))]
    settings = CalibrationSettings()
    scene = Scene.build(Tissue.prepare(maps, visits, settings), visits, 15.0, settings, therapies=therapies)
    assert ("shrank" in shrinking(scene, visits)) == refused
