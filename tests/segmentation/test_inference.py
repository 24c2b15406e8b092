"""Inference with real networks of random weights: heads, channel order, windows, masks, roles, determinism."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segmentation.bundle import ROLES, load_bundle
from segmentation.errors import ModelError
from segmentation.inference import TumourSegmenter
from segmentation.postprocess import drop_small_components
from segmentation.resources import available_bytes
from segmentation.transforms import normalise_nonzero
from tests.segmentation.fixed_network import Fixed, description, fixed, with_brain

Images = dict[str, Tensor]


def test_public_form_segments_with_its_channel_order_and_regions(public_bundle: Path, images: Images) -> None:
    """Against the network called by hand in the public order T1c, T1, T2, FLAIR."""
    segmenter = TumourSegmenter.load(public_bundle, device="cpu", variants=1, bfloat16=False)
    result = segmenter(images, min_component_ml=0)
    _, network = load_bundle(public_bundle)
    full = torch.stack([normalise_nonzero(images[role]) for role in ("t1ce", "t1", "t2", "flair")])
    padded = nn.functional.pad(full[None], (0, 2, 0, 4, 0, 0), mode="replicate")
    with torch.no_grad():
        core, whole, enhancing = network(padded)[0, :, :40, :36, :30].sigmoid()
    core, expected = torch.maximum(core, enhancing), torch.zeros(40, 36, 30, dtype=torch.uint8)
    whole = torch.maximum(whole, core)
    expected[whole > 0.5] = 2
    expected[core > 0.5] = 1
    expected[enhancing > 0.5] = 3
    assert torch.allclose(1 - result.probabilities[0], whole, atol=1e-4)
    assert torch.allclose(result.probabilities[3], enhancing, atol=1e-4)
    assert (result.labels != expected).float().mean() < 1e-3
    assert len(result.labels.unique()) > 1, (
        "the random network must call some voxels tumour for this test to tell"
    )


@pytest.mark.parametrize("order", [("TC", "WT", "ET"), ("ET", "TC", "WT")])
def test_regions_become_nested_labels(order: tuple[str, ...], images: Images) -> None:
    """Regions that contradict their nesting are repaired outwards: enhancing tumour is always whole tumour."""
    values = {"WT": -2.0, "TC": 1.0, "ET": -1.0}

    def logits(x: Tensor) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], values[region]) for region in order], 1)

    segmenter = fixed(logits, head="regions", region_order=order)
    result = segmenter(images)
    centre = result.probabilities[:, 20, 18, 15]
    p_core, p_enhancing = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    assert torch.allclose(
        centre, torch.tensor([1 - p_core, p_core - p_enhancing, 0.0, p_enhancing]), atol=1e-5
    )
    assert int(result.labels[20, 18, 15]) == 1


@pytest.mark.parametrize(
    ("core", "whole", "enhancing", "label"),
    [
        (0.55, 0.60, 0.35, 1),
        (0.60, 0.95, 0.30, 1),
        (0.80, 0.99, 0.42, 1),
        (0.30, 0.60, 0.10, 2),
        (0.70, 0.80, 0.60, 3),
    ],
)
def test_a_region_is_where_it_is_more_likely_than_not_on_images_too(
    core: float, whole: float, enhancing: float, label: int
) -> None:
    """The most probable of four labels is another rule: it finds background, oedema or rim in the first three."""
    segmenter = fixed(lambda x: x[:, :3], head="regions", region_order=("WT", "TC", "ET"))
    expected = np.array([1 - whole, core - enhancing, whole - core, enhancing], np.float32)
    expected = expected[:, None, None, None]
    assert segmenter.labels_of_image(expected, np.zeros((1, 1, 1), np.float32), (1, 1, 1)).item() == label


def test_probabilities_sum_to_one_and_have_the_grid_of_the_images(
    make_labels_bundle: Callable[..., Path], images: Images
) -> None:
    result = TumourSegmenter.load(make_labels_bundle(), device="cpu")(images)
    assert result.probabilities.shape == (4, 40, 36, 30) and result.probabilities.dtype == torch.float32
    assert result.labels.shape == (40, 36, 30) and result.labels.dtype == torch.uint8
    assert torch.allclose(result.probabilities.sum(0), torch.ones(40, 36, 30), atol=1e-5)
    assert 0 <= result.uncertainty <= 1
    assert result.missing_roles == ()


def test_whole_crop_equals_sliding_window_where_one_window_covers_it(
    make_labels_bundle: Callable[..., Path], images: Images
) -> None:
    bundle = make_labels_bundle()
    generator = torch.Generator().manual_seed(3)
    cubic = {role: 100 + 20 * torch.randn(96, 96, 96, generator=generator) for role in ROLES}
    whole = TumourSegmenter.load(bundle, device="cpu", variants=1, bfloat16=False, memory_bytes=1 << 40)(
        cubic
    )
    window = TumourSegmenter.load(bundle, device="cpu", variants=1, bfloat16=False, memory_bytes=0)(cubic)
    assert torch.allclose(whole.probabilities, window.probabilities, atol=1e-3)


def test_sliding_window_covers_images_larger_than_a_window(images: Images) -> None:
    """A network without context gives the same by window and at once; nothing is left out or shifted."""

    def logits(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0], x[:, 1], x[:, 3]], 1)

    large = {role: image.repeat(3, 1, 4) for role, image in images.items()}
    whole = TumourSegmenter(description(), Fixed(logits), torch.device("cpu"), memory_bytes=1 << 40)(large)
    window = TumourSegmenter(description(), Fixed(logits), torch.device("cpu"), memory_bytes=0)(large)
    assert torch.allclose(whole.probabilities, window.probabilities, atol=1e-4)
    # Most networks do have context: what was seen in windows is doubted.
    assert not any("windows" in reason for reason in whole.out_of_family)
    assert any("segmented in windows" in reason for reason in window.out_of_family), window.out_of_family


def test_cached_files_count_as_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container that has read gigabytes of images has not used up its memory."""
    monkeypatch.setattr("segmentation.resources._CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    used = available_bytes(torch.device("cpu"))
    (tmp_path / "memory.stat").write_text("anon 300000000\nactive_file 200000000\ninactive_file 500000000\n")
    assert (used, available_bytes(torch.device("cpu"))) == (73741824, 773741824)


def test_missing_roles_are_named_and_their_channel_is_zero(images: Images) -> None:
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    result = fixed(logits)({"t1ce": images["t1ce"], "flair": images["flair"]})
    assert result.missing_roles == ("t1", "t2")
    assert not seen[0][:, [0, 2]].any() and seen[0][:, 1].any() and seen[0][:, 3].any()


@pytest.mark.parametrize("variants", [1, 2, 8])
@pytest.mark.parametrize("lacking", [(), ("t1",), ("t2",), ("t1", "t2")])
def test_half_of_the_answers_do_without_a_distrusted_contrast_if_no_other_is_missing(
    images: Images, lacking: tuple[str, ...], variants: int
) -> None:
    seen: list[frozenset[str]] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(frozenset(role for role, channel in zip(ROLES, x[0], strict=True) if channel.any()))
        return torch.zeros_like(x)

    given = {role: image for role, image in images.items() if role not in lacking}
    asked = description(distrusted_roles=frozenset({"t1"}))
    segmenter = TumourSegmenter(asked, Fixed(logits), torch.device("cpu"), variants=variants)
    assert segmenter(given).missing_roles == lacking
    assert len(seen) == variants and seen[0] == set(given)
    without = [roles for roles in seen if "t1" not in roles]
    expected = variants if "t1" in lacking else variants // 2 if not lacking else 0
    assert len(without) == expected and all(roles == set(given) - {"t1"} for roles in without)


def test_required_role_missing(make_labels_bundle: Callable[..., Path], images: Images) -> None:
    segmenter = TumourSegmenter.load(make_labels_bundle(required_roles=["t1ce", "flair"]), device="cpu")
    with pytest.raises(ModelError, match="cannot do without FLAIR"):
        segmenter({"t1ce": images["t1ce"]})
    with pytest.raises(ModelError, match="cannot do without T1CE, FLAIR"):
        segmenter({})


def test_images_must_share_a_finite_grid(images: Images) -> None:
    segmenter = fixed(torch.zeros_like)
    with pytest.raises(ValueError, match="share one"):
        segmenter({**images, "t2": images["t2"][1:]})
    with pytest.raises(ValueError, match="finite"):
        segmenter({**images, "t2": images["t2"] / 0})


def test_repeated_calls_agree_exactly(make_labels_bundle: Callable[..., Path], images: Images) -> None:
    segmenter = TumourSegmenter.load(make_labels_bundle(), device="cpu")
    first, second = segmenter(images), segmenter(images)
    assert torch.equal(first.probabilities, second.probabilities) and first.uncertainty == second.uncertainty


def test_mirroring_the_images_mirrors_the_answer(
    make_labels_bundle: Callable[..., Path], images: Images
) -> None:
    segmenter = TumourSegmenter.load(make_labels_bundle(), device="cpu", bfloat16=False)
    straight = segmenter(images).probabilities
    mirrored = segmenter({role: image.flip(0) for role, image in images.items()}).probabilities.flip(1)
    assert torch.allclose(straight, mirrored, atol=1e-3)


def test_brain_mask_restricts_the_answer(images: Images) -> None:
    def logits(x: Tensor) -> Tensor:
        return torch.tensor([0.0, 0, 0, 9]).view(1, 4, 1, 1, 1).expand(1, 4, *x.shape[2:])

    mask = torch.zeros(40, 36, 30, dtype=torch.bool)
    mask[10:30, 10:30, 10:20] = True
    result = fixed(logits)(images, brain_mask=mask)
    assert torch.equal(result.labels > 0, mask)
    assert (result.probabilities[0][~mask] == 1).all()


def test_uncertainty_is_zero_without_tumour_and_one_at_chance(images: Images) -> None:
    background = torch.tensor([9.0, 0, 0, 0]).view(1, 4, 1, 1, 1)
    undecided = torch.tensor([0.0, 0, 0, 1e-4]).view(1, 4, 1, 1, 1)
    nothing = fixed(lambda x: background.expand(1, 4, *x.shape[2:]))(images)
    chance = fixed(lambda x: undecided.expand(1, 4, *x.shape[2:]))(images)
    assert nothing.uncertainty == 0.0 and not nothing.labels.any()
    assert chance.uncertainty == pytest.approx(1, abs=1e-3)


def test_components_below_the_size_are_dropped_whole() -> None:
    labels = torch.zeros(20, 20, 20, dtype=torch.uint8)
    labels[2:6, 2:6, 2:6] = 2
    labels[3, 3, 3] = 1
    labels[12, 12, 12:15] = 3
    kept = drop_small_components(labels, 4)
    assert not kept[12, 12].any()
    assert torch.equal(kept[2:6, 2:6, 2:6], labels[2:6, 2:6, 2:6])
    assert torch.equal(drop_small_components(labels, 3), labels)


def test_component_size_is_in_millilitres(images: Images) -> None:
    """At 2 mm, 0.1 mL is 12.5 voxels."""

    def logits(x: Tensor) -> Tensor:
        out = torch.zeros(1, 4, *x.shape[2:])
        out[:, 0] = 9
        out[..., 5:8, 5:7, 5:7] = torch.tensor([0.0, 0, 9, 0]).view(1, 4, 1, 1, 1)
        return out

    segmenter = TumourSegmenter(description(), Fixed(logits), torch.device("cpu"), variants=1)
    assert int((segmenter(images, min_component_ml=0.09).labels > 0).sum()) == 12
    assert int((segmenter(images, min_component_ml=0.1).labels > 0).sum()) == 0


def test_the_networks_own_brain_mask_restricts_the_tumour(images: Images) -> None:
    """Exactly in images with air; three voxels farther where a stripper has cut the brain out."""
    segmenter = fixed(with_brain, brain_output=True)
    with_air = {role: image + 0.1 * torch.rand(image.shape) for role, image in images.items()}
    for seen, reach in ((with_air, 0), (images, 3)):
        result, outer = segmenter(seen), 10 - reach
        assert result.brain_mask is not None and result.brain_mask[10:30].all()
        assert not result.brain_mask[:10].any() and not result.brain_mask[30:].any()
        assert not result.labels[:outer].any() and not result.labels[-outer:].any()
        assert result.labels[outer].any() and result.labels[-outer - 1].any()
        assert (result.probabilities[0, :outer] == 1).all()


def test_intensities_are_normalised_inside_the_brain_found(images: Images) -> None:
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x)
        out = with_brain(x)
        background = x[0, 1, 0, 0, 0]
        out[0, 4][x[0, 1] == background] = -9
        out[0, 4, :12] = out[0, 4, 28:] = -9
        return out

    segmenter = TumourSegmenter(
        description(brain_output=True, normalisation="head"), Fixed(logits), torch.device("cpu"), variants=1
    )
    bright = {
        role: torch.where(torch.arange(40).view(40, 1, 1) < 10, 5 * im, im) for role, im in images.items()
    }
    segmenter(bright)
    ball = images["t1ce"][12:28] > 0
    # The second crop holds the brain found (12 to 28) and a margin of 4 voxels.
    first = abs(float(seen[0][0, 1, 12:28, :36, :30][ball].mean()))
    second = abs(float(seen[1][0, 1, 4:20, :36, :30][ball].mean()))
    assert second < 0.1 < 0.3 < first
    _, region = segmenter.prepared(bright)
    assert region is not None and region[12:28].any() and not region[:12].any() and not region[28:].any()
    assert torch.equal(segmenter(bright, brain_mask=region).labels, segmenter(bright).labels)


def test_images_stripped_of_their_skull_are_not_normalised_again(images: Images) -> None:
    calls: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        calls.append(x)
        return torch.full((1, 5, *x.shape[2:]), 9.0)

    asked = description(brain_output=True, normalisation="head")
    segmenter = TumourSegmenter(asked, Fixed(logits), torch.device("cpu"), variants=1)
    segmenter(images)
    assert len(calls) == 1
    assert segmenter.prepared(images)[1] is None


def test_small_components_leave_the_probabilities_too(images: Images) -> None:
    def logits(x: Tensor) -> Tensor:
        out = torch.zeros(1, 4, *x.shape[2:])
        out[:, 0] = 9
        out[..., 5:8, 5:7, 5:7] = torch.tensor([0.0, 0, 12, 0]).view(1, 4, 1, 1, 1)
        return out

    result = TumourSegmenter(description(), Fixed(logits), torch.device("cpu"), variants=1)(
        images, min_component_ml=0.2
    )
    assert not result.labels.any() and not result.probabilities.argmax(0).any()


def test_eight_variants_average_offsets_of_the_raster(images: Images) -> None:
    """A network that answers by the place in its raster alone: eight variants level the answer out."""

    def logits(x: Tensor) -> Tensor:
        place = (torch.arange(x.shape[4]) % 8 < 4).float().expand(x.shape[2:])
        return torch.stack([-4 * place, torch.zeros_like(place), 0 * place, 0 * place])[None]

    one, eight = (
        TumourSegmenter(description(), Fixed(logits), torch.device("cpu"), variants=n)(images) for n in (1, 8)
    )
    assert float(one.probabilities[0, 20, 18].std()) > 0.05
    assert float(eight.probabilities[0, 20, 18].std()) < 0.005
    with pytest.raises(ValueError, match="variants"):
        TumourSegmenter(description(), Fixed(logits), torch.device("cpu"), variants=3)


def test_uncertainty_map_has_the_grid_of_the_images(
    make_labels_bundle: Callable[..., Path], images: Images
) -> None:
    result = TumourSegmenter.load(make_labels_bundle(), device="cpu")(images)
    assert result.uncertainty_map.shape == (40, 36, 30)
    assert 0 <= float(result.uncertainty_map.min()) and float(result.uncertainty_map.max()) <= 1
    inside = result.uncertainty_map[result.labels > 0]
    assert result.uncertainty == pytest.approx(float(inside.mean()))


def test_unknown_device(make_labels_bundle: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="abacus"):
        TumourSegmenter.load(make_labels_bundle(), device="abacus")
