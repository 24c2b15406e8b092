"""The refiner trains on unlabelled images, keeps what it must, and feeds the training of the segmenter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from imaging.geometry import Geometry, Volume
from training.generator import Examples, fill_pool
from training.refinement import Refiner, RefinerSettings, main, site_images, train_refiner

TINY = RefinerSettings(
    channels=(8, 16), latent_channels=2, patch=16, batch=2, learning_rate=3e-3, strength=0.4, flow_steps=5
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients of two contrasts with a texture of their own, as a site would export them."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(3):
        rng = np.random.default_rng(number)
        (folder / f"patient{number}").mkdir()
        for role in ("t1ce", "flair"):
            waves = np.indices((36, 32, 28)).sum(0) / (4 + rng.random())
            array = (100 + 40 * np.sin(waves) + rng.normal(0, 2, waves.shape)).astype(np.float32)
            grid = Geometry(array.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
            Volume(array, grid).save_nifti(folder / f"patient{number}" / f"p{number}_{role}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def trained(site: Path) -> tuple[Refiner, list[float], list[float]]:
    return train_refiner(site_images(site), TINY, autoencoder_steps=60, flow_steps=60)


def test_site_images_are_on_the_networks_grid_and_say_what_is_missing(site: Path, tmp_path: Path) -> None:
    cases = site_images(site)
    assert len(cases) == 3 and cases[0].shape == (4, 18, 16, 14)
    assert cases[0][1].any() and cases[0][3].any()
    assert not cases[0][0].any() and not cases[0][2].any()
    with pytest.raises(FileNotFoundError, match="no folder with NIfTI"):
        site_images(tmp_path)


def test_both_parts_learn(trained: tuple[Refiner, list[float], list[float]]) -> None:
    _, autoencoder, flow = trained
    assert np.mean(autoencoder[-10:]) < 0.6 * np.mean(autoencoder[:5])
    assert np.mean(flow[-20:]) < 0.9 * np.mean(flow[:10])


def test_refined_images_keep_grid_missing_contrasts_and_repeat(
    trained: tuple[Refiner, list[float], list[float]], site: Path
) -> None:
    refiner = trained[0]
    images = site_images(site)[0][None, :, :16, :16, :12]
    refined = refiner.refine(images, seed=3)
    assert refined.shape == images.shape and torch.isfinite(refined).all()
    assert not refined[:, [0, 2]].any()
    assert torch.equal(refined, refiner.refine(images, seed=3))
    assert not torch.equal(refined, refiner.refine(images, seed=4))
    with pytest.raises(ValueError, match="multiples of 4"):
        refiner.refine(images[..., :10], seed=3)


def test_strength_says_how_far_images_change(
    trained: tuple[Refiner, list[float], list[float]], site: Path
) -> None:
    refiner = trained[0]
    images = site_images(site)[1][None, :, :16, :16, :12]
    change = {}
    for strength in (0.0, 0.2, 1.0):
        refiner.settings = replace(TINY, strength=strength)
        change[strength] = float((refiner.refine(images, seed=1) - images)[:, [1, 3]].abs().mean())
    refiner.settings = TINY
    assert change[0.0] == 0
    assert 0 < change[0.2] < change[1.0]


def test_saved_refiner_is_the_same_and_feeds_training(
    trained: tuple[Refiner, list[float], list[float]], tmp_path: Path
) -> None:
    trained[0].save(tmp_path / "refiner")
    loaded = Refiner.load(tmp_path / "refiner")
    for key, value in trained[0].state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])
    fill_pool(tmp_path / "pool", 1)
    plain, refined = (
        Examples(tmp_path / "pool", seed=5, batches=((16, 2),), refiner=refiner) for refiner in (None, loaded)
    )
    changed = 0
    for number in range(6):
        (before, *truth), (after, *kept) = plain[number], refined[number]
        assert all(torch.equal(a, b) for a, b in zip(truth, kept, strict=True))
        assert after.shape == before.shape
        changed += int(not torch.equal(before, after))
    assert 0 < changed < 6, "about half of the batches are refined"


def test_command_line_writes_a_refiner(site: Path, tmp_path: Path) -> None:
    arguments = [str(site), "--out", str(tmp_path), "--patch", "16", "--strength", "0.1"]
    assert main([*arguments, "--autoencoder-steps", "1", "--flow-steps", "1"]) == 0
    assert Refiner.load(tmp_path).settings.strength == 0.1


@pytest.mark.parametrize("wrong", [{"strength": 1.5}, {"patch": 18}, {"flow_steps": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(TINY, **wrong)
