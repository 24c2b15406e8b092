"""Inference with real networks of random weights: heads, channel order, windows, masks, roles, determinism."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segmentation.bundle import ROLES, ModelDescription, load_bundle
from segmentation.errors import ModelError
from segmentation.inference import TumourSegmenter
from segmentation.postprocess import agreement, drop_small_components
from segmentation.transforms import normalise_nonzero

Images = dict[str, Tensor]


class Fixed(nn.Module):
    """Gives logits that depend on the input in a known way."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def _description(**changes: object) -> ModelDescription:
    values: dict[str, object] = {
        "name": "fixed",
        "version": "1",
        "sha256": "",
        "input_roles": ("t1", "t1ce", "t2", "flair"),
        "head": "labels",
        "region_order": (),
        "spacing_mm": 2.0,
        "required_roles": frozenset({"t1ce"}),
        "intended_use": "tests",
    }
    return ModelDescription(**{**values, **changes})  # type: ignore[arg-type]


def _fixed(logits: Callable[[Tensor], Tensor], **changes: object) -> TumourSegmenter:
    return TumourSegmenter(_description(**changes), Fixed(logits), torch.device("cpu"))


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

    segmenter = _fixed(logits, head="regions", region_order=order)
    result = segmenter(images)
    centre = result.probabilities[:, 20, 18, 15]
    p_core, p_enhancing = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    assert torch.allclose(
        centre, torch.tensor([1 - p_core, p_core - p_enhancing, 0.0, p_enhancing]), atol=1e-5
    )
    assert int(result.labels[20, 18, 15]) == 1


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
    whole = TumourSegmenter(_description(), Fixed(logits), torch.device("cpu"), memory_bytes=1 << 40)(large)
    window = TumourSegmenter(_description(), Fixed(logits), torch.device("cpu"), memory_bytes=0)(large)
    assert torch.allclose(whole.probabilities, window.probabilities, atol=1e-4)


def test_missing_roles_are_named_and_their_channel_is_zero(images: Images) -> None:
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    result = _fixed(logits)({"t1ce": images["t1ce"], "flair": images["flair"]})
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
    description = _description(distrusted_roles=frozenset({"t1"}))
    segmenter = TumourSegmenter(description, Fixed(logits), torch.device("cpu"), variants=variants)
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
    segmenter = _fixed(torch.zeros_like)
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
    result = _fixed(logits)(images, brain_mask=mask)
    assert torch.equal(result.labels > 0, mask)
    assert (result.probabilities[0][~mask] == 1).all()


def test_uncertainty_is_zero_without_tumour_and_one_at_chance(images: Images) -> None:
    background = torch.tensor([9.0, 0, 0, 0]).view(1, 4, 1, 1, 1)
    undecided = torch.tensor([0.0, 0, 0, 1e-4]).view(1, 4, 1, 1, 1)
    nothing = _fixed(lambda x: background.expand(1, 4, *x.shape[2:]))(images)
    chance = _fixed(lambda x: undecided.expand(1, 4, *x.shape[2:]))(images)
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

    segmenter = TumourSegmenter(_description(), Fixed(logits), torch.device("cpu"), variants=1)
    assert int((segmenter(images, min_component_ml=0.09).labels > 0).sum()) == 12
    assert int((segmenter(images, min_component_ml=0.1).labels > 0).sum()) == 0


def _with_brain(x: Tensor) -> Tensor:
    """Enhancing tumour wherever T1CE is above its mean, brain in the middle of the first axis only."""
    out = torch.full((1, 5, *x.shape[2:]), -9.0)
    out[:, 0] = 0
    out[:, 3] = 9 * x[:, 1].sign()
    out[:, 4, 10:30] = 9
    return out


def test_the_networks_own_brain_mask_restricts_the_tumour(images: Images) -> None:
    """Exactly in images with air; three voxels farther where a stripper has cut the brain out."""
    segmenter = _fixed(_with_brain, brain_output=True)
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
        out = _with_brain(x)
        background = x[0, 1, 0, 0, 0]
        out[0, 4][x[0, 1] == background] = -9
        out[0, 4, :12] = out[0, 4, 28:] = -9
        return out

    segmenter = TumourSegmenter(
        _description(brain_output=True, normalisation="head"), Fixed(logits), torch.device("cpu"), variants=1
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

    description = _description(brain_output=True, normalisation="head")
    segmenter = TumourSegmenter(description, Fixed(logits), torch.device("cpu"), variants=1)
    segmenter(images)
    assert len(calls) == 1
    assert segmenter.prepared(images)[1] is None


def test_small_components_leave_the_probabilities_too(images: Images) -> None:
    def logits(x: Tensor) -> Tensor:
        out = torch.zeros(1, 4, *x.shape[2:])
        out[:, 0] = 9
        out[..., 5:8, 5:7, 5:7] = torch.tensor([0.0, 0, 12, 0]).view(1, 4, 1, 1, 1)
        return out

    result = TumourSegmenter(_description(), Fixed(logits), torch.device("cpu"), variants=1)(
        images, min_component_ml=0.2
    )
    assert not result.labels.any() and not result.probabilities.argmax(0).any()


def test_eight_variants_average_offsets_of_the_raster(images: Images) -> None:
    """A network that answers by the place in its raster alone: eight variants level the answer out."""

    def logits(x: Tensor) -> Tensor:
        place = (torch.arange(x.shape[4]) % 8 < 4).float().expand(x.shape[2:])
        return torch.stack([-4 * place, torch.zeros_like(place), 0 * place, 0 * place])[None]

    one, eight = (
        TumourSegmenter(_description(), Fixed(logits), torch.device("cpu"), variants=n)(images)
        for n in (1, 8)
    )
    assert float(one.probabilities[0, 20, 18].std()) > 0.05
    assert float(eight.probabilities[0, 20, 18].std()) < 0.005
    with pytest.raises(ValueError, match="variants"):
        TumourSegmenter(_description(), Fixed(logits), torch.device("cpu"), variants=3)


def test_cases_out_of_family_are_told(images: Images) -> None:
    undecided = torch.tensor([0.0, 0, 0, 0.1]).view(1, 4, 1, 1, 1)
    result = _fixed(lambda x: undecided.expand(1, 4, *x.shape[2:]), largest_uncertainty=0.5)(images)
    assert len(result.out_of_family) == 1 and "less sure" in result.out_of_family[0]
    unstated = _fixed(lambda x: undecided.expand(1, 4, *x.shape[2:]))(images)
    assert len(unstated.out_of_family) == 1 and "states no limit" in unstated.out_of_family[0]
    sure = torch.tensor([0.0, 0, 0, 9]).view(1, 4, 1, 1, 1)
    assert _fixed(lambda x: sure.expand(1, 4, *x.shape[2:]))(images).out_of_family == ()
    family = {"brain_output": True, "brain_volume_ml": (800.0, 2000.0)}
    small = _fixed(_with_brain, **family)(images)
    assert len(small.out_of_family) == 1 and "brain of" in small.out_of_family[0]
    known = _fixed(_with_brain, brain_output=True, brain_volume_ml=(1.0, 2000.0), largest_uncertainty=0.5)(
        images
    )
    assert known.out_of_family == ()


def test_answers_that_disagree_are_told(images: Images) -> None:
    """A network that calls one side of what it sees tumour calls the other side so in the mirror."""

    def left(x: Tensor, *, slices: int) -> Tensor:
        logits = torch.full((1, 4, *x.shape[2:]), -9.0)
        logits[:, 0] = 9
        logits[:, 0, :slices], logits[:, 2, :slices] = -9, 9
        return logits

    half, most = (_fixed(lambda x, n=n: left(x, slices=n), least_agreement=0.7) for n in (22, 36))
    # Slices 0 to 21 and 18 to 39 of 40 share 4; 0 to 35 and 4 to 39 share 32.
    assert half(images).agreement == pytest.approx(4 / 22) and most(images).agreement == pytest.approx(
        32 / 36
    )
    assert "agree less on the tumour (Dice 0.18)" in half(images).out_of_family[0]
    assert not any("agree" in reason for reason in most(images).out_of_family)
    alone = TumourSegmenter(half.description, half._network, torch.device("cpu"), variants=1)
    assert alone(images).agreement is None and not alone(images).out_of_family


def test_answers_need_not_agree_on_what_is_left_out() -> None:
    one, other = torch.zeros(20, 4, 4), torch.zeros(20, 4, 4)
    one[2:6], other[2:6], one[12:18] = 2, 1, 2
    kept = torch.zeros(20, 4, 4, dtype=torch.bool)
    assert agreement(one, other, kept) == 1
    kept[3] = True
    assert agreement(one, other, kept) == 1
    kept[14] = True
    assert agreement(one, other, kept) == pytest.approx(8 / 14)


def _ellipsoid(shape: tuple[int, int, int]) -> Tensor:
    """Squared distance from the middle, 1 where the axes leave the grid."""
    return sum(g**2 for g in torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij"))


class _CallsBright(nn.Module):
    """Calls FLAIR above a level oedema, and an ellipsoid on a grid of 48 x 56 x 44 brain; nothing else is known.

    Parameters
    ----------
    side
        Calls nothing oedema but in the quarter of both sides where the second axis ends.
    """

    def __init__(self, side: bool = False) -> None:
        super().__init__()
        self.first = 42 if side else 0

    def forward(self, x: Tensor) -> Tensor:
        brain = nn.functional.pad(18.0 * (_ellipsoid((48, 56, 44)) < 0.9), (0, 4)).expand(x[:, 3].shape) - 9
        oedema = 8 * (x[:, 3] - 2)
        oedema[:, :, : self.first] = -9
        none = torch.full_like(oedema, -9.0)
        return torch.stack([torch.zeros_like(oedema), none, oedema, none, brain], 1)


def _shaded_head(tumour: bool) -> tuple[Images, Tensor]:
    """A stripped head under a coil field, one end of which is as bright as oedema; and where oedema is."""
    generator = torch.Generator().manual_seed(5)
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (48, 56, 44)), indexing="ij")
    brain = _ellipsoid((48, 56, 44)) < 0.9
    white = torch.nn.functional.avg_pool3d(torch.randn(1, 48, 56, 44, generator=generator), 5, 1, 2)[0] > 0
    ill = ((x - 0.4) ** 2 + y**2 + z**2 < 0.06) & tumour
    images = {}
    for role, levels in (("t1ce", (2.0, 3.0, 1.5)), ("flair", (2.0, 1.6, 3.6))):
        signal = torch.where(ill, levels[2], torch.where(white, levels[1], levels[0]))
        field = torch.exp(-0.35 * y) if role == "flair" else torch.ones_like(y)
        noise = 0.08 * torch.randn(48, 56, 44, generator=generator)
        images[role] = torch.where(brain, signal * field + noise, 0.0)
    return images, ill


@pytest.mark.parametrize("tumour", [True, False])
def test_patient_model_is_switched_by_the_bundle_and_refuses_a_coil_field(tumour: bool) -> None:
    images, ill = _shaded_head(tumour)
    about = {"normalisation": "head", "brain_output": True, "unlikeness": (0.45, 0.75)}
    off, on = (
        TumourSegmenter(_description(**about, patient_model=switch), _CallsBright(), torch.device("cpu"))
        for switch in (False, True)
    )
    plain, modelled = off(images), on(images)
    false = (plain.labels > 0) & ~ill
    assert int(false.sum()) > 200, "the field must mislead the network alone for this test to tell"
    # Where the network sees tumour the field is not learnt, only continued: without a tumour some is left.
    assert int(((modelled.labels > 0) & ~ill).sum()) < (0.1 if tumour else 0.5) * int(false.sum())
    if tumour:
        assert float((modelled.labels[ill] > 0).float().mean()) > 0.9
    assert torch.equal(modelled.probabilities.argmax(0) > 0, modelled.labels > 0)
    assert torch.allclose(modelled.probabilities.sum(0), torch.ones(48, 56, 44), atol=1e-4)


def test_what_was_left_out_as_healthy_is_told() -> None:
    """No field: the network calls bright patches oedema, but at one place only of all where they are."""
    generator = torch.Generator().manual_seed(6)
    brain = _ellipsoid((48, 56, 44)) < 0.9
    lump = torch.nn.functional.avg_pool3d(torch.randn(1, 48, 56, 44, generator=generator), 7, 1, 3)[0] > 0.07
    images = {
        role: torch.where(brain, 2 + 0.6 * lump + 0.05 * torch.randn(48, 56, 44, generator=generator), 0.0)
        for role in ("t1ce", "flair")
    }
    about = {"normalisation": "head", "brain_output": True, "patient_model": True, "unlikeness": (0.45, 0.75)}
    segmenter = TumourSegmenter(_description(**about), _CallsBright(side=True), torch.device("cpu"))
    result = segmenter(images)
    assert not result.labels.any()
    assert any("left out" in reason for reason in result.out_of_family)


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
