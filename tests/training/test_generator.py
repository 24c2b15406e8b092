"""Simulated cases: nested labels, rates, finite images, and the same case for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from training.anatomy import ARTERY, CHOROID, DURA, HEAD_SHAPE, VESSEL, Head, random_head
from training.contrasts import ordered_tissue, outer_signal, random_contrast, render
from training.generator import Examples, draw_example, fill_pool, grow_case, load_case
from training.growth import Growth, ellipsoid, fisher_kpp, spread_oedema, two_species
from training.scanner_faults import spoil
from training.tumours import ET, NCR, add_tumours


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, 4)
    return folder


def test_head_is_a_brain_in_a_skull() -> None:
    head = random_head(np.random.default_rng(5))
    assert head.tissue.shape == (3, *HEAD_SHAPE) and head.outer.shape == HEAD_SHAPE
    fraction = head.tissue.sum(0)
    assert float(fraction.max()) <= 1.001 and float(head.tissue.min()) >= 0
    litres = float(fraction.sum()) * 8e-6
    assert 1.0 < litres < 2.8
    assert float(head.tissue[2].sum()) > 0.2 * float(fraction.sum())
    assert (head.outer > 0).sum() > 0.2 * (fraction > 0.5).sum()


def test_tumours_lie_in_the_brain_and_core_lies_in_them() -> None:
    head = random_head(np.random.default_rng(7))
    case = add_tumours(np.random.default_rng(8), head, healthy_rate=0.0)
    labels = case.labels
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3}
    assert 20 < int((labels > 0).sum())
    brain = torch.from_numpy(ndimage.binary_dilation((case.head.tissue.sum(0) > 0.3).numpy(), iterations=2))
    assert float((brain & (labels > 0)).sum()) > 0.97 * float((labels > 0).sum())
    assert not case.oedema[labels == 1].any() and not case.oedema[labels == 3].any()
    assert float(case.oedema.max()) <= 1


def test_rate_of_heads_without_tumour() -> None:
    """With rate 1 none has a tumour; by default one head in five has none."""
    brain = torch.zeros(64, 64, 64, dtype=torch.bool)
    brain[8:56, 8:56, 8:56] = True
    head = Head(torch.zeros(3, 64, 64, 64), torch.zeros(64, 64, 64, dtype=torch.uint8), brain)
    head.tissue[2][brain] = 1
    assert not add_tumours(np.random.default_rng(0), head, healthy_rate=1.0).labels.any()
    first_draws = [np.random.default_rng([seed, 1]).random() for seed in range(50)]
    healthy = next(seed for seed, draw in enumerate(first_draws) if 0.1 < draw < 0.2)
    ill = next(seed for seed, draw in enumerate(first_draws) if draw > 0.2)
    assert not add_tumours(np.random.default_rng([healthy, 1]), head).labels.any()
    assert add_tumours(np.random.default_rng([ill, 1]), head).labels.any()


def test_same_seed_same_case_and_the_file_keeps_it(pool: Path) -> None:
    case, again = grow_case(2), load_case(pool / "case-000002.npy")
    assert torch.equal(case.labels, again.labels) and torch.equal(case.head.outer, again.head.outer)
    assert torch.allclose(case.head.tissue, again.head.tissue, atol=0.003)


def test_images_are_finite_and_not_negative(pool: Path) -> None:
    case = load_case(pool / "case-000001.npy")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        images = render(rng, random_contrast(rng), case)
        assert images.shape == (4, *HEAD_SHAPE)
        assert bool(torch.isfinite(images).all()) and float(images.min()) >= 0
        assert all(float(image.std()) > 0 for image in images)


def test_enhancing_tumour_at_its_surface_may_share_its_voxels(pool: Path) -> None:
    """Nothing but enhancing tumour changes, and it comes nearer to what lies beside it."""
    case = next(c for c in map(load_case, sorted(pool.iterdir())) if bool((c.labels == ET).any()))
    drawn = random_contrast(np.random.default_rng(3))
    still = {name: np.zeros(4) for name in ("texture", "bias", "noise", "blur")}
    plain = replace(
        drawn,
        **still,  # type: ignore[arg-type]
        clusters=np.ones((4, 7, 3)),
        gamma=np.ones(4),
        thick_factor=np.ones(4),
        shift=np.zeros((4, 3)),
        spoiled=("", 0),
        inflow=0.0,
        stripped=False,
    )
    full, thin = (
        render(np.random.default_rng(4), replace(plain, rim_share=share), case) for share in (1.0, 0.25)
    )
    enhancing = case.labels == ET
    signal = torch.from_numpy(plain.tumour[:, ET].astype(np.float32))[:, None]
    assert torch.allclose(full[:, enhancing], signal, atol=1e-5)
    assert torch.equal(full[:, ~enhancing], thin[:, ~enhancing])
    changed = (thin[:, enhancing] - signal).abs().amax(0) > 0.02
    assert 0.1 < float(changed.float().mean()) <= 1
    low, high = full.amin((1, 2, 3))[:, None], full.amax((1, 2, 3))[:, None]
    assert bool(((thin[:, enhancing] >= low - 1e-5) & (thin[:, enhancing] <= high + 1e-5)).all())


@pytest.mark.parametrize("coarsen", [1.0, 1.5])
def test_examples_are_normalised_and_depend_on_nothing_but_the_seed(pool: Path, coarsen: float) -> None:
    path = pool / "case-000003.npy"
    one, same, other = (
        draw_example(np.random.default_rng(seed), path, (32, 32, 32), coarsen=coarsen) for seed in (1, 1, 2)
    )
    assert one.images.shape == (4, 32, 32, 32) and one.labels.shape == (32, 32, 32)
    assert torch.equal(one.images, same.images) and torch.equal(one.labels, same.labels)
    assert not torch.equal(one.images, other.images)
    assert float(one.images.abs().max()) <= 5 and set(one.labels.unique().tolist()) <= {0, 1, 2, 3}


def test_missing_contrasts_are_all_zero_but_never_all_missing(pool: Path) -> None:
    path = pool / "case-000001.npy"
    present = [
        draw_example(np.random.default_rng(seed), path, (16, 16, 16)).images.flatten(1).any(1)
        for seed in range(40)
    ]
    kept = torch.stack(present).sum(1)
    assert int(kept.min()) >= 1
    assert 4 <= int((kept < 4).sum()) <= 26  # 35 % of 40, five standard deviations


def test_batches_are_a_function_of_their_number(pool: Path) -> None:
    examples = Examples(pool, seed=3, batches=[(16, 1), (24, 2)])
    images, labels, brain = examples[5]
    again, _, _ = examples[5]
    assert images.shape == (2, 4, 24, 24, 24) and labels.shape == brain.shape == (2, 24, 24, 24)
    assert examples[4][0].shape == (1, 4, 16, 16, 16)
    assert torch.equal(images, again)


def test_empty_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no simulated cases"):
        Examples(tmp_path, seed=0, batches=[(16, 1)])


def test_brain_holds_the_tissue_and_the_tumour(pool: Path) -> None:
    case = load_case(pool / "case-000001.npy")
    brain = case.head.brain
    litres = float(brain.sum()) * 8e-6
    assert 1.0 < litres < 2.8
    assert float((case.head.tissue.sum(0) * ~brain).sum()) < 0.06 * float(case.head.tissue.sum())
    assert float((brain & (case.labels > 0)).sum()) >= 0.99 * float((case.labels > 0).sum())


def test_vessels_and_dura_are_bright_after_contrast_agent() -> None:
    """In an ordered contrast: sinus in every head brighter than white matter, falx and plexus there as well."""
    head = random_head(np.random.default_rng(4))
    for code in (VESSEL, CHOROID, DURA, ARTERY):
        assert 10 < int((head.outer == code).sum())
    rng = np.random.default_rng(1)
    for _ in range(5):
        tissue, _ = ordered_tissue(rng)
        assert outer_signal(rng, tissue)[1, VESSEL] >= tissue[1].max()


def test_necrosis_is_dark_in_t1_unless_blood_or_protein_shortens_it() -> None:
    """A fifth or more of the heads, not most, have necrosis brighter than grey matter; none has it as dark as fluid."""
    rng = np.random.default_rng(2)
    drawn = [ordered_tissue(rng) for _ in range(400)]
    bright = [tumour[0, NCR] > tissue[0, 1] for tissue, tumour in drawn]
    assert 0.15 < np.mean(bright) < 0.35
    assert all(tumour[0, NCR] > tissue[0, 0] for tissue, tumour in drawn)


@pytest.mark.parametrize("seed", [0, 3, 10])
@pytest.mark.parametrize("kind", ["gibbs", "spikes", "motion"])
def test_scanner_faults_can_be_seen_but_keep_the_level(kind: str, seed: int) -> None:
    """In and next to the white matter, of signal 1: air, six sevenths of the volume, would dilute every change."""
    white = random_head(np.random.default_rng(4)).tissue[2]
    image = white + 0.1
    spoiled = spoil(np.random.default_rng(seed), kind, image)
    assert spoiled.shape == image.shape and bool(torch.isfinite(spoiled).all())
    imaged = torch.from_numpy(ndimage.binary_dilation((white > 0.05).numpy()))
    assert 0.005 < float((spoiled - image).abs()[imaged].mean()) < 0.3
    assert float(spoiled[imaged].mean()) == pytest.approx(float(image[imaged].mean()), rel=0.02)


@pytest.mark.parametrize("law", [fisher_kpp, two_species, ellipsoid])
def test_growth_laws_reach_their_size_around_the_seed(law: Callable[..., Growth]) -> None:
    tissue = torch.zeros(3, 60, 60, 60)
    tissue[2, 4:56, 4:56, 4:56] = 1
    growth = law(np.random.default_rng(3), tissue, 2500.0)
    solid = growth.coordinate > 0.5
    assert 800 < int(solid.sum()) < 7500
    assert bool(solid[28:32, 28:32, 28:32].any())
    if growth.necrosis is not None:
        assert float((growth.necrosis & solid).sum()) >= 0.99 * float(growth.necrosis.sum())


def test_oedema_keeps_to_white_matter() -> None:
    tissue = torch.zeros(3, 40, 40, 40)
    tissue[2, :, :20] = 1
    tissue[1, :, 20:] = 1
    solid = torch.zeros(40, 40, 40, dtype=torch.bool)
    solid[17:23, 17:23, 17:23] = True
    fluid = (spread_oedema(np.random.default_rng(0), tissue, solid, 2000.0) > 0.5) & ~solid
    assert int(fluid.sum()) >= 2000
    assert int(fluid[:, :20].sum()) > 5 * int(fluid[:, 20:].sum())
