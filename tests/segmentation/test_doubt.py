"""What is left out as healthy, and the reasons to doubt an answer that are told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segmentation.inference import TumourSegmenter
from segmentation.postprocess import agreement
from tests.segmentation.fixed_network import description, fixed, with_brain

Images = dict[str, Tensor]


def test_cases_out_of_family_are_told(images: Images) -> None:
    undecided = torch.tensor([0.0, 0, 0, 0.1]).view(1, 4, 1, 1, 1)
    result = fixed(lambda x: undecided.expand(1, 4, *x.shape[2:]), largest_uncertainty=0.5)(images)
    assert len(result.out_of_family) == 1 and "less sure" in result.out_of_family[0]
    unstated = fixed(lambda x: undecided.expand(1, 4, *x.shape[2:]))(images)
    assert len(unstated.out_of_family) == 1 and "states no limit" in unstated.out_of_family[0]
    sure = torch.tensor([0.0, 0, 0, 9]).view(1, 4, 1, 1, 1)
    assert fixed(lambda x: sure.expand(1, 4, *x.shape[2:]))(images).out_of_family == ()
    family = {"brain_output": True, "brain_volume_ml": (800.0, 2000.0)}
    small = fixed(with_brain, **family)(images)
    assert len(small.out_of_family) == 1 and "brain of" in small.out_of_family[0]
    known = fixed(with_brain, brain_output=True, brain_volume_ml=(1.0, 2000.0), largest_uncertainty=0.5)(
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

    half, most = (fixed(lambda x, n=n: left(x, slices=n), least_agreement=0.7) for n in (22, 36))
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
        TumourSegmenter(description(**about, patient_model=switch), _CallsBright(), torch.device("cpu"))
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
    segmenter = TumourSegmenter(description(**about), _CallsBright(side=True), torch.device("cpu"))
    result = segmenter(images)
    assert not result.labels.any()
    assert any("left out" in reason for reason in result.out_of_family)
