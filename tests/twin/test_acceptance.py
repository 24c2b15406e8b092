"""When the growth model is refused for what the masks alone show."""

import pytest
import torch

from tests.twin.balls import ball, block
from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import CalibrationSettings, Chemotherapy, Radiotherapy, Surgery, TumourObservation, calibrate
from twin.acceptance import hopeless
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
    small, large = (resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 30.0], spacing=3.0))
    visits = [TumourObservation(day, u > CORE, u > WHOLE) for day, u in ((0.0, large), (90.0, small))]
    settings = CalibrationSettings()
    scene = Scene.build(Tissue.prepare(maps, visits, settings), visits, 15.0, settings, therapies=therapies)
    assert ("shrank" in hopeless(scene, visits)) == refused


def test_what_treatment_left_of_a_tumour_must_show_how_dense_it_is():
    maps, _ = head(SPACING)
    small, large = (resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 60.0], volume_ml=4.0, spacing=3.0))
    visits = [TumourObservation(day, u > CORE, u > WHOLE) for day, u in ((0.0, large), (90.0, small))]
    assert float((small > WHOLE).sum()) < 0.2 * float((large > WHOLE).sum())
    settings = CalibrationSettings()

    def reason(therapy):
        prepared = Tissue.prepare(maps, visits, settings)
        scene = Scene.build(prepared, visits, 15.0, settings, therapies=[therapy])
        return hopeless(scene, visits)

    assert "how dense the rest is no longer shows" in reason(Radiotherapy([30.0], [2.0]))
    assert reason(Surgery(30.0, torch.zeros_like(maps.domain))) == "", (
        "what a resection leaves is as dense as before"
    )


def test_growth_that_slows_untold_is_widened_by_how_badly_it_fits():
    maps, _ = head(SPACING)
    grown = [resample(u, SPACING) for u in grow(0.25, 0.04, [0.0, 40.0, 70.0, 100.0], spacing=3.0)]
    settings = CalibrationSettings(importance_samples=0, check_skill=False, refine=False)

    def calibrated(last):
        shown = zip((0.0, 40.0, 100.0), (grown[0], grown[1], last), strict=True)
        visits = [TumourObservation(day, u > CORE, u > WHOLE) for day, u in shown]
        return calibrate(maps, visits, settings=settings)

    steady, slowed = calibrated(grown[3]), calibrated(grown[2])
    (told,) = (warning for warning in slowed.warnings if "times their errors" in warning)
    assert slowed.acceptable and 1.5 < float(told.split(" times")[0].split()[-1]) < 3.0
    widths = [found.posterior.covariance[0, 0] ** 0.5 for found in (steady, slowed)]
    assert widths[1] > 1.8 * widths[0]
    for found in (steady, slowed):
        assert (found.real.covariance.diagonal() >= found.posterior.covariance.diagonal()).all()


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [(8.0, 5.6, True), (6.0, 3.4, True), (10.0, 7.7, True), (12.0, 9.6, True), (8.0, 6.2, False)],
)
def test_a_small_tumour_may_lose_no_more_than_lies_within_its_boundary_error(before, after, refused):
    """An allowance linear in the error let small tumours lose up to four fifths untreated."""
    cells, spacing, settings = 30, 1.5, CalibrationSettings()
    visits = [
        TumourObservation(day, ball(cells, spacing, 0.0), ball(cells, spacing, radius))
        for day, radius in ((0.0, before), (60.0, after))
    ]
    prepared = Tissue.prepare(block(cells, spacing), visits, settings)
    scene = Scene.build(prepared, visits, 15.0, settings)
    assert ("the whole tumour shrank" in hopeless(scene, visits)) == refused


CELLS = 24


def visit(day, core, whole, centre=-20.0, focus=0.0):
    """A ball around ``centre`` on the first axis, and another of radius ``focus`` at the far end of the block, mm."""
    masks = [ball(CELLS, SPACING, radius, (centre, 0.0, 0.0)) for radius in (core, whole)]
    return TumourObservation(day, masks[0], masks[1] | ball(CELLS, SPACING, focus, (26.0, 0.0, 0.0)))


@pytest.mark.parametrize(
    ("second", "treatments", "refused"),
    [
        (visit(60.0, 10.0, 14.0, centre=-10.0), [], True),
        (visit(60.0, 10.0, 14.0, centre=-10.0), [Radiotherapy([30.0], [2.0])], True),
        (visit(60.0, 9.0, 13.0, focus=12.0), [], True),
        (visit(60.0, 10.0, 14.0), [], False),
    ],
    ids=["10 mm off", "10 mm off, treated", "a second focus", "in place"],
)
def test_a_tumour_that_lies_elsewhere_is_not_explained(second, treatments, refused):
    """Volumes that fit made the growth model explain a tumour 10 mm off, or a new focus 45 mm away."""
    settings = CalibrationSettings(importance_samples=0, refine=False)
    found = calibrate(
        block(CELLS, SPACING), [visit(0.0, 7.0, 11.0), second], settings=settings, therapies=treatments
    )
    assert found.acceptable != refused
    assert ("does not lie where" in found.verdict) == refused
