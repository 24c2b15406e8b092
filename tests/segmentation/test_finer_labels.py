"""Labels of an image finer than the network's grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segmentation.finer_labels import FinerLabelSettings, finer_labels
from tests.segmentation.fixed_network import fixed

SPACING = (1.0, 1.0, 1.2)
SHAPE = (48, 48, 40)
NCR, ED, ET = 1, 2, 3
REACH = FinerLabelSettings().reach_mm


def _distance() -> np.ndarray:
    """Distance of each voxel to the middle of the tumour, mm."""
    axes = [(np.arange(n) - n / 2) * side for n, side in zip(SHAPE, SPACING, strict=True)]
    return np.linalg.norm(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0)


def _tumour(rim_mm: float) -> np.ndarray:
    """Necrosis within 10 mm, a rim around it and oedema up to 18 mm."""
    distance = _distance()
    return np.select([distance < 10, distance < 10 + rim_mm, distance < 18], [NCR, ET, ED], 0)


def _expected(labels: np.ndarray) -> np.ndarray:
    """What a network of 2 mm voxels can say at best: shares of the labels around, blurred."""
    shares = [ndimage.gaussian_filter((labels == one).astype(np.float32), 1.2) for one in range(4)]
    return np.stack(shares) / np.sum(shares, axis=0)


def _image(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    brightness = np.array([100.0, 60.0, 85.0, 200.0])[labels]
    noise = np.random.default_rng(seed).normal(0, 8, labels.shape)
    return ndimage.gaussian_filter(brightness, 0.4) + noise


def _dice(one: np.ndarray, other: np.ndarray, label: int) -> float:
    return float(
        2 * ((one == label) & (other == label)).sum() / ((one == label).sum() + (other == label).sum())
    )


def test_a_thin_rim_is_as_thick_as_it_is_bright() -> None:
    truth = _tumour(rim_mm=1.5)
    expected = _expected(truth)
    found = finer_labels(expected, _image(truth), SPACING)
    assert _dice(expected.argmax(0), truth, ET) < 0.82
    assert _dice(found, truth, ET) > 0.9
    assert _dice(found, truth, NCR) > 0.97


@pytest.mark.parametrize(("scale", "offset"), [(2.0, 0.0), (0.001, -3.0), (50.0, 1000.0)])
def test_units_of_the_image_do_not_matter(scale: float, offset: float) -> None:
    truth = _tumour(rim_mm=1.5)
    image = _image(truth)
    assert np.array_equal(
        finer_labels(_expected(truth), image, SPACING),
        finer_labels(_expected(truth), scale * image + offset, SPACING),
    )


def test_brightness_does_not_overrule_certain_background() -> None:
    """Dura and scalp beside the tumour may be as bright as its rim."""
    truth = _tumour(rim_mm=1.5)
    expected = _expected(truth)
    outside = np.zeros(SHAPE, dtype=bool)
    outside[: SHAPE[0] // 2 - 9] = True
    expected[:, outside] = np.array([1, 0, 0, 0])[:, None]
    image = _image(truth)
    image[outside] = 200
    assert not finer_labels(expected, image, SPACING)[outside].any()


def test_a_rim_that_the_network_called_oedema_is_found() -> None:
    truth = _tumour(rim_mm=1.5)
    found = finer_labels(_expected(np.where(truth == ET, ED, truth)), _image(truth), SPACING)
    assert _dice(found, truth, ET) > 0.85


@pytest.mark.parametrize("brightness", [60.0, 85.0, 105.0])
def test_no_rim_is_made_of_necrosis_or_oedema_alone(brightness: float) -> None:
    truth = np.where(_tumour(rim_mm=1.5) == ET, ED, _tumour(rim_mm=1.5))
    image = _image(truth)
    image[truth == ED] += brightness - 85
    assert not (finer_labels(_expected(truth), image, SPACING) == ET).any()


def test_a_vessel_beside_necrosis_is_no_rim() -> None:
    truth = np.where(_tumour(rim_mm=1.5) == ET, ED, _tumour(rim_mm=1.5))
    image = _image(truth)
    image[(truth == ED) & (np.arange(SHAPE[2]) == SHAPE[2] // 2) & (np.arange(SHAPE[1]) < 20)[:, None]] = 250
    assert not (finer_labels(_expected(truth), image, SPACING) == ET).any()


def test_a_small_vessel_near_the_core_does_not_join_it() -> None:
    truth = _tumour(rim_mm=3)
    image = _image(truth)
    vessel = (_distance() > 15.2) & (_distance() < 15.9) & (truth == ED)
    image[vessel] = 220
    unsure = (_expected(truth) + 1e-6) ** 0.25  # as far from sure as the patient model's probabilities are
    assert not (finer_labels(unsure / unsure.sum(0), image, SPACING)[vessel] == ET).any()


def test_a_speck_too_small_to_learn_from_stays() -> None:
    truth = _tumour(rim_mm=0)
    truth[24:26, 24:26, 20:22] = ET
    expected = np.eye(4, dtype=np.float32)[truth].transpose(3, 0, 1, 2)
    assert np.array_equal(finer_labels(expected, _image(truth), SPACING) == ET, truth == ET)


@pytest.mark.parametrize("label", [0, ED])
def test_without_core_nothing_changes(label: int) -> None:
    truth = np.where(_distance() < 12, label, 0)
    expected = _expected(truth)
    assert np.array_equal(finer_labels(expected, _image(truth), SPACING), expected.argmax(0))


def test_an_image_that_shows_nothing_changes_nothing() -> None:
    expected = _expected(_tumour(rim_mm=3))
    assert np.array_equal(finer_labels(expected, np.full(SHAPE, 7.0), SPACING), expected.argmax(0))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.floats(0.4, 4.0))
def test_any_image_gives_labels_and_none_change_far_from_core(seed: int, side: float) -> None:
    rng = np.random.default_rng(seed)
    spacing = (1.0, side, 1.0)
    rough = ndimage.gaussian_filter(rng.normal(size=(4, 20, 16, 18)), (0, 2, 2, 2)) * 30
    expected = np.exp(rough - rough.max(0)).astype(np.float32)
    expected /= expected.sum(0)
    plain = expected.argmax(0)
    found = finer_labels(expected, rng.normal(size=plain.shape), spacing)
    core = np.isin(plain, (NCR, ET))
    far = ndimage.distance_transform_edt(~core, sampling=spacing) > REACH if core.any() else ~core
    changed = (found != plain) & far
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= {0, 1, 2, 3}
    assert (plain[changed] == ED).all(), "only oedema that core encloses may change there"
    assert (found[changed] == NCR).all()


def test_a_model_without_patient_intensities_and_a_coarse_image_keep_what_is_most_probable() -> None:
    truth = _tumour(rim_mm=1.5)
    expected, image = _expected(truth), _image(truth)
    hearing, deaf = (fixed(lambda x: x, patient_model=hears) for hears in (True, False))
    fine = hearing.labels_of_image(expected, image, SPACING)
    assert np.array_equal(fine, finer_labels(expected, image, SPACING))
    assert not np.array_equal(fine, expected.argmax(0))
    assert np.array_equal(hearing.labels_of_image(expected, image, (2.0, 2.0, 2.0)), expected.argmax(0))
    assert np.array_equal(deaf.labels_of_image(expected, image, SPACING), expected.argmax(0))
