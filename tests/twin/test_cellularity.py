"""Cell density from diffusion imaging, and calibration with it."""

import math
from dataclasses import replace

import pytest
import torch

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import CalibrationSettings, TumourObservation, TwinError, calibrate
from twin.cellularity import FREE_WATER_MM2_PER_S, cellularity_from_adc
from twin.draws import noise_sd

SPACING = 4.0
ROI = torch.zeros(4, 4, 4, dtype=torch.bool)
ROI[1:3, 1:3, 1:3] = True


def adc():
    """mm2/s, from dense tumour to free water inside the region, fluid everywhere else."""
    map_ = torch.full((4, 4, 4), 3.2e-3, dtype=torch.float64)
    map_[ROI] = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.8, 2.4, 3.0, 3.1], dtype=torch.float64) * 1e-3
    return map_


def test_density_falls_linearly_with_the_coefficient():
    density = cellularity_from_adc(adc(), ROI, densest_mm2_per_s=0.6e-3)
    expected = [1.0, 2.2 / 2.4, 2.0 / 2.4, 1.8 / 2.4, 0.5, 0.25, 0.0, 0.0]
    assert density[ROI].tolist() == pytest.approx(expected, abs=1e-12)
    assert density.dtype == torch.float64
    assert bool(torch.isnan(density[~ROI]).all())


def test_the_densest_tissue_is_the_first_percentile_of_the_region():
    map_ = adc()
    map_[ROI] = torch.linspace(0.5e-3, 1.3e-3, 8, dtype=torch.float64)
    least = float(torch.quantile(map_[ROI], 0.01))
    density = cellularity_from_adc(map_, ROI)
    expected = ((FREE_WATER_MM2_PER_S - map_[ROI]) / (FREE_WATER_MM2_PER_S - least)).clamp(max=1.0)
    assert density[ROI].tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("factor", [1e6, 1e3, 1e-3], ids=["1e-6 mm2/s", "um2/ms", "m2/s"])
def test_other_units_are_refused_not_guessed(factor):
    with pytest.raises(TwinError, match="mm2/s") as caught:
        cellularity_from_adc(adc() * factor, ROI)
    assert caught.value.code == "bad_adc"


def test_maps_that_make_no_sense_are_refused():
    broken, below = adc(), adc()
    broken[1, 1, 1], below[1, 1, 1] = math.nan, -1e-4
    empty = torch.zeros_like(ROI)
    for map_, roi in ((adc()[:3], ROI), (adc(), ROI.float()), (adc().int(), ROI), (adc(), empty)):
        with pytest.raises(TwinError):
            cellularity_from_adc(map_, roi)
    for map_ in (broken, below):
        with pytest.raises(TwinError):
            cellularity_from_adc(map_, ROI)
    for densest in (3.0e-3, 4.0e-3, -1e-3, math.nan):
        with pytest.raises(TwinError, match="densest"):
            cellularity_from_adc(adc(), ROI, densest_mm2_per_s=densest)
    # what lies outside the region does not matter
    outside = adc()
    outside[0, 0, 0] = math.nan
    assert torch.equal(cellularity_from_adc(outside, ROI)[ROI], cellularity_from_adc(adc(), ROI)[ROI])


def test_a_visit_refuses_cellularity_that_is_none():
    mask = torch.ones(3, 3, 3, dtype=torch.bool)
    half = torch.full((3, 3, 3), 0.5)
    for bad in (half[:2], half.int(), half * 3, half - 1, torch.full((3, 3, 3), math.nan)):
        with pytest.raises(TwinError, match="cellularity"):
            TumourObservation(0.0, mask, mask, bad)
    assert TumourObservation(0.0, mask, mask, half).cellularity is half


@pytest.fixture(scope="module")
def patient():
    """Maps and two visits with ADC maps made from the true density, with noise; truth 2 sqrt(0.2 0.04) mm/d."""
    maps = head(SPACING)[0]
    densities = [resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 70.0], spacing=3.0)]
    generator, visits = torch.Generator().manual_seed(0), []
    for day, density in zip((0.0, 70.0), densities, strict=True):
        noise = 0.08e-3 * torch.randn(density.shape, generator=generator)
        map_ = 3.0e-3 - (3.0e-3 - 0.7e-3) * density + noise
        roi = density > 0.02
        seen = cellularity_from_adc(map_, roi, densest_mm2_per_s=0.7e-3)
        visits.append(TumourObservation(day, density > CORE, density > WHOLE, seen))
    return maps, visits


def velocity_of(calibration):
    (found,) = (p for p in calibration.parameters if p.name == "front_velocity")
    return found


def test_velocity_is_recovered_from_cellularity(patient):
    maps, visits = patient
    calibration = calibrate(maps, visits, settings=CalibrationSettings(importance_samples=64))
    assert calibration.acceptable, calibration.verdict
    velocity = velocity_of(calibration)
    assert velocity.interval95[0] < 2 * math.sqrt(0.2 * 0.04) < velocity.interval95[1]
    assert velocity.identified and velocity.contraction < 0.5


def test_cellularity_outweighs_the_masks_of_its_visit(patient):
    """A map at the follow-up that says nothing grew gives slow growth although the mask grew."""
    maps, visits = patient
    stale = replace(visits[1], cellularity=visits[0].cellularity)
    settings = CalibrationSettings(importance_samples=0)
    slow = velocity_of(calibrate(maps, [visits[0], stale], settings=settings))
    grown = velocity_of(calibrate(maps, visits, settings=settings))
    assert slow.estimate < grown.estimate


def test_noise_of_a_measured_map_is_found_beside_a_smooth_density() -> None:
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1.0, 1.0, 24)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    smooth = 0.2 + 0.5 * torch.exp(-2.0 * (x**2 + y**2 + z**2))
    for sd in (0.0, 0.02, 0.08):
        noisy = smooth + sd * torch.randn(smooth.shape, generator=generator)
        noisy[x**2 + y**2 + z**2 > 1.0] = torch.nan
        assert noise_sd(noisy) == pytest.approx(sd, rel=0.06, abs=0.003)
    assert noise_sd(torch.full((3, 3, 3), torch.nan)) == 0.0
