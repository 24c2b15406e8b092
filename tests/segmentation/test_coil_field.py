"""A known coil field is found and divided out; what is even stays so; scale and shift do not matter."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segmentation.coil_field import without_coil_field

SHAPE = (60, 72, 56)
SIGNALS = {"t1ce": (1.0, 2.0, 3.0), "flair": (0.6, 2.4, 1.9)}


def _head(strength: float) -> tuple[dict[str, Tensor], Tensor, np.ndarray, dict[str, np.ndarray]]:
    """Images of three tissues under a field, brain, tissue of each voxel, and the field's logarithm by contrast."""
    rng = np.random.default_rng(2)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = x**2 + y**2 + z**2 < 1
    smooth = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2.5)
    tissue = np.digitize(smooth, np.quantile(smooth, [0.2, 0.6]))
    fields = {"t1ce": strength * (0.3 * x - 0.2 * y * z), "flair": strength * (0.3 * y + 0.2 * x * x)}
    images = {}
    for role, levels in SIGNALS.items():
        clean = np.array(levels)[tissue] * np.exp(fields[role])
        image = np.where(brain, clean + rng.normal(0, 0.05, SHAPE), 0)
        images[role] = torch.from_numpy(image.astype(np.float32))
    return images, torch.from_numpy(brain), tissue, fields


def _unevenness(image: Tensor, brain: Tensor, tissue: np.ndarray) -> float:
    values = image.numpy()[brain.numpy() & (tissue == 2)]
    return float(values.std() / values.mean())


def test_a_field_is_divided_out() -> None:
    images, brain, tissue, fields = _head(1.0)
    even, sizes = without_coil_field(images, brain, brain)
    for role in images:
        assert _unevenness(images[role], brain, tissue) > 0.12
        assert _unevenness(even[role], brain, tissue) < 0.05
        assert abs(sizes[role] - fields[role][brain.numpy()].std()) < 0.04
        assert torch.equal(even[role][~brain], images[role][~brain])


def test_an_even_image_stays() -> None:
    images, brain, _, _ = _head(0.0)
    _, sizes = without_coil_field(images, brain, brain)
    assert max(sizes.values()) < 0.02


def test_scale_and_shift_do_not_matter() -> None:
    images, brain, _, _ = _head(1.0)
    even, sizes = without_coil_field(images, brain, brain)
    other, same = without_coil_field({role: 7 * image + 3 for role, image in images.items()}, brain, brain)
    for role in images:
        assert abs(sizes[role] - same[role]) < 1e-3
        torch.testing.assert_close(other[role], 7 * even[role] + 3, atol=0.05, rtol=1e-3)


def test_a_bright_tumour_is_no_field_where_it_may_not_teach() -> None:
    images, brain, _, _ = _head(0.0)
    lump = torch.zeros(SHAPE, dtype=torch.bool)
    lump[8:28, 20:44, 16:40] = True
    images["flair"] = torch.where(lump & brain, images["flair"] * 2, images["flair"])
    _, sizes = without_coil_field(images, brain, brain & ~lump)
    assert sizes["flair"] < 0.03


def test_too_little_healthy_tissue_leaves_the_images() -> None:
    images, brain, _, _ = _head(1.0)
    few = torch.zeros_like(brain)
    few[28:33, 30:35, 28:33] = True
    even, sizes = without_coil_field(images, brain, few)
    assert all(torch.equal(even[role], images[role]) for role in images) and set(sizes.values()) == {0.0}
