"""Networks that answer in a known way, and segmenters around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmentation.bundle import ModelDescription
from segmentation.inference import TumourSegmenter


class Fixed(nn.Module):
    """Gives logits that depend on the input in a known way."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def description(**changes: object) -> ModelDescription:
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


def fixed(logits: Callable[[Tensor], Tensor], **changes: object) -> TumourSegmenter:
    return TumourSegmenter(description(**changes), Fixed(logits), torch.device("cpu"))


def with_brain(x: Tensor) -> Tensor:
    """Enhancing tumour wherever T1CE is above its mean, brain in the middle of the first axis only."""
    out = torch.full((1, 5, *x.shape[2:]), -9.0)
    out[:, 0] = 0
    out[:, 3] = 9 * x[:, 1].sign()
    out[:, 4, 10:30] = 9
    return out
