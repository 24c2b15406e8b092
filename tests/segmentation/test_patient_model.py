"""Synthetic heads of known intensities: what the network missed is found, what is healthy is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from segmentation.patient_model import refine
from segmentation.postprocess import drop_healthy_parts, drop_open_fluid, drop_parts_not_found

SHAPE = (56, 64, 52)
# T1CE and FLAIR of fluid, grey and white matter; NCR, ED, ET.
HEALTHY = ((-2.0, -2.0), (0.0, 0.5), (0.8, -0.2))
TUMOUR = {1: (-1.5, 0.4), 2: (-0.4, 2.4), 3: (3.0, 1.6)}


def _ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2


@pytest.fixture(scope="module")
def head() -> tuple[Tensor, Tensor, np.ndarray]:
    """Contrasts (2, I, J, K), brain, and tissue 0 to 2 of each voxel, with a ventricle of fluid."""
    rng = np.random.default_rng(8)
    brain = _ball((28, 32, 26), 24)
    smooth = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
    tissue = np.digitize(smooth, np.quantile(smooth, [0.1, 0.5]))
    tissue[_ball((20, 32, 26), 6)] = 0
    images = np.array(HEALTHY)[tissue] + rng.normal(0, 0.25, (*SHAPE, 2))
    return (
        _tensor(np.moveaxis(np.where(brain[..., None], images, -2.0), -1, 0)),
        torch.from_numpy(brain),
        tissue,
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _answer(labels: np.ndarray, sure: float = 0.8) -> Tensor:
    """Probabilities of a network that calls these labels."""
    probabilities = np.full((4, *SHAPE), (1 - sure) / 3)
    np.put_along_axis(probabilities, labels[None], sure, axis=0)
    probabilities[:, labels == 0] = np.array([0.97, 0.01, 0.01, 0.01])[:, None]
    return _tensor(probabilities)


def _with_tumour(images: Tensor, truth: np.ndarray) -> Tensor:
    rng = np.random.default_rng(9)
    ill = images.clone()
    for label, signal in TUMOUR.items():
        where = torch.from_numpy(truth == label)
        noise = rng.normal(0, 0.25, (2, int(where.sum())))
        ill[:, where] = _tensor(np.array(signal)[:, None] + noise)
    return ill


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int64)
    labels[_ball((40, 34, 26), 9)] = 2
    labels[_ball((34, 44, 28), 5)] = 2  # a tongue of oedema
    labels[_ball((40, 34, 26), 5)] = 3
    labels[_ball((40, 34, 26), 3)] = 1
    return labels


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_what_the_network_missed_is_found(head: tuple[Tensor, Tensor, np.ndarray], truth: np.ndarray) -> None:
    """The network sees a smaller tumour without its tongue, and calls half of the necrosis oedema."""
    images, brain, _ = head
    truth = truth * brain.numpy()
    seen = truth * _ball((40, 34, 26), 7)
    seen[(truth == 1) & (np.arange(SHAPE[2]) < 26)] = 2
    refined = refine(_answer(seen), _with_tumour(images, truth), brain, 2.0, (0, 1))
    labels = refined.probabilities.argmax(0).numpy()
    assert _dice(seen > 0, truth > 0) < 0.8
    assert _dice(labels > 0, truth > 0) > 0.95
    for label in TUMOUR:
        assert _dice(labels == label, truth == label) > 0.9
    assert torch.allclose(refined.probabilities.sum(0), torch.ones(SHAPE), atol=1e-4)
    assert refined.unlike[torch.from_numpy(truth > 0)].float().mean() > 0.9


def test_healthy_tissue_called_tumour_is_left_out(
    head: tuple[Tensor, Tensor, np.ndarray], truth: np.ndarray
) -> None:
    """A ventricle called necrosis and a piece of white matter called oedema go, the tumour beside them stays."""
    images, brain, _ = head
    called = truth * brain.numpy()
    ventricle, piece = _ball((20, 32, 26), 5), _ball((28, 14, 26), 5)
    for only_healthy in (False, True):
        seen = np.zeros_like(called) if only_healthy else called.copy()
        seen[ventricle], seen[piece] = 1, 2
        refined = refine(_answer(seen), _with_tumour(images, called * (not only_healthy)), brain, 2.0, (0, 1))
        labels = refined.probabilities.argmax(0).to(torch.uint8)
        parts = drop_parts_not_found(labels, torch.from_numpy(seen > 0))
        kept = drop_healthy_parts(parts, refined.unlike, 0.45).numpy()
        assert not kept[piece].any() and (kept[ventricle] > 0).mean() < 0.05
        assert only_healthy or _dice(kept > 0, called > 0) > 0.9
        assert only_healthy is not kept.any()


def test_no_tumour_stays_no_tumour(head: tuple[Tensor, Tensor, np.ndarray]) -> None:
    images, brain, _ = head
    nothing = _answer(np.zeros(SHAPE, np.int64))
    assert torch.equal(refine(nothing, images, brain, 2.0, (0, 1)).probabilities, nothing)


def test_a_brain_full_of_tumour_is_left_to_the_network(head: tuple[Tensor, Tensor, np.ndarray]) -> None:
    images, brain, _ = head
    everything = _answer(np.where(brain.numpy(), 2, 0))
    refined = refine(everything, images, brain, 2.0, (0, 1))
    assert torch.equal(refined.probabilities, everything) and bool(refined.unlike.all())


def test_units_of_the_images_do_not_matter(
    head: tuple[Tensor, Tensor, np.ndarray], truth: np.ndarray
) -> None:
    images, brain, _ = head
    truth = truth * brain.numpy()
    answer, ill = _answer(truth * _ball((40, 34, 26), 7)), _with_tumour(images, truth)
    one = refine(answer, ill, brain, 2.0, (0, 1)).probabilities.argmax(0)
    other = refine(answer, 0.5 * ill + 1, brain, 2.0, (0, 1)).probabilities.argmax(0)
    assert (one != other).float().mean() < 1e-3


def test_fluid_beside_the_tumour_is_no_necrosis_but_a_cyst_within_it_is() -> None:
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[torch.from_numpy(_ball((30, 32, 26), 12))] = 2
    cyst, ventricle = (torch.from_numpy(_ball(c, 5)) for c in ((32, 32, 26), (15, 32, 26)))
    labels[cyst | ventricle] = 1
    kept = drop_open_fluid(labels, torch.zeros(SHAPE, dtype=torch.bool), 0.45)
    assert bool((kept[cyst] == 1).all()) and not bool(kept[ventricle].any())
    assert torch.equal(kept[~ventricle], labels[~ventricle])
    assert torch.equal(drop_open_fluid(labels, torch.ones(SHAPE, dtype=torch.bool), 0.45), labels)
