"""The maps lie where the brain was put, and what is no brain gets none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from imaging.atlas import TissueMaps, load_atlas, register_atlas
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from tests.imaging.synthetic_head import SyntheticHead, synthetic_head


def soft_dice(one: np.ndarray, two: np.ndarray) -> float:
    """Dice of probabilities (Crum et al. 2006)."""
    return float(2 * np.minimum(one, two).sum() / (one.sum() + two.sum()))


@pytest.fixture(
    scope="module",
    params=[
        {"skull": False, "tumour": True, "turn_degrees": 5.0},
        {"skull": True, "tumour": True, "turn_degrees": -10.0, "bias": 0.2},
    ],
    ids=["stripped", "with skull"],
)
def case(request: pytest.FixtureRequest) -> tuple[SyntheticHead, TissueMaps]:
    head = synthetic_head(seed=3, bend_mm=4.0, **request.param)
    return head, register_atlas(head.image, head.image.geometry, lesion=head.lesion)


def test_brain_and_tissue_are_found(case: tuple[SyntheticHead, TissueMaps]) -> None:
    head, maps = case
    brain = maps.brain_mask.array
    assert 2 * (brain & head.brain).sum() / (brain.sum() + head.brain.sum()) > 0.93
    healthy = ~head.lesion.array
    for volume, truth in zip((maps.gray_matter, maps.white_matter), head.tissue[1:], strict=True):
        assert soft_dice(volume.array[healthy], truth[healthy]) > 0.85
    # Between the brain and its outline lies a film of fluid thinner than a voxel; the ventricles lie deep.
    deep = healthy & (ndimage.distance_transform_edt(head.brain, sampling=2.0) > 16.0)
    assert soft_dice(maps.csf.array[deep], head.tissue[0][deep]) > 0.78
    assert soft_dice(maps.csf.array[healthy], head.tissue[0][healthy]) > 0.65


def test_maps_are_probabilities(case: tuple[SyntheticHead, TissueMaps]) -> None:
    _, maps = case
    total = maps.csf.array + maps.gray_matter.array + maps.white_matter.array
    brain = maps.brain_mask.array
    np.testing.assert_allclose(total[brain], 1.0, atol=1e-5)
    assert (total[~brain] == 0).all()
    assert all(v.array.dtype == np.float32 for v in (maps.csf, maps.gray_matter, maps.white_matter))
    assert brain.dtype == bool


def test_tissue_under_the_tumour_is_the_average_brains(case: tuple[SyntheticHead, TissueMaps]) -> None:
    """The tumour was drawn as dark as fluid: by intensity alone it would all be fluid."""
    head, maps = case
    core = ndimage.binary_erosion(head.lesion.array, iterations=3)
    assert maps.brain_mask.array[core].all()
    assert maps.csf.array[core].mean() < 0.3
    assert soft_dice(maps.white_matter.array[core], head.tissue[2][core]) > 0.6


def test_maps_on_another_grid_show_the_same_brain(case: tuple[SyntheticHead, TissueMaps]) -> None:
    head, maps = case
    volume = maps.brain_mask.array.sum() * maps.brain_mask.geometry.voxel_volume_mm3
    other = maps.white_matter.resampled(head.image.geometry.axis_aligned_cover(3.0))
    assert maps.quality.similarity > maps.quality.threshold
    assert 0.8e6 < volume < 2.2e6
    expected = maps.white_matter.array.sum() * maps.white_matter.geometry.voxel_volume_mm3
    assert other.array.sum() * 27.0 == pytest.approx(expected, rel=0.02)


def test_atlas_is_whole() -> None:
    atlas = load_atlas()
    assert atlas.brain.sum() == pytest.approx(1.88e6, rel=0.02)
    np.testing.assert_allclose(atlas.tissue.sum(axis=0)[atlas.brain], 1.0, atol=1e-6)
    ventricle = np.rint(atlas.t1.geometry.to_index((8.0, -10.0, 18.0))).astype(int)
    assert atlas.tissue[0][tuple(ventricle)] > 0.9


@pytest.mark.parametrize(
    "what",
    [
        "ball with skull",
        pytest.param("ball without skull", marks=pytest.mark.slow),
        pytest.param("upside down", marks=pytest.mark.slow),
    ],
)
def test_what_is_no_brain_is_refused(what: str) -> None:
    geometry = Geometry((90, 100, 90), np.diag([2.0, 2.0, 2.0, 1.0]))
    points = np.stack(np.indices(geometry.shape), axis=-1) - (np.asarray(geometry.shape) - 1) / 2
    radius = 2.0 * np.linalg.norm(points, axis=-1)
    rng = np.random.default_rng(0)
    texture = 100 + 15 * ndimage.gaussian_filter(rng.normal(size=geometry.shape), 2.0) / 0.05
    if what == "upside down":
        upright = synthetic_head(bend_mm=4.0, seed=3).image
        image = upright.with_array(upright.array[:, :, ::-1].copy())
    elif what == "ball with skull":
        skin = (radius > 78) & (radius < 84)
        image = Volume(
            np.where(radius < 70, texture, np.where(skin, 220.0, 3.0)).astype(np.float32), geometry
        )
    else:
        image = Volume(np.where(radius < 70, texture, 0.0).astype(np.float32), geometry)
    with pytest.raises(ImagingError) as error:
        register_atlas(image, image.geometry)
    assert error.value.reason is Reason.REGISTRATION_FAILED
