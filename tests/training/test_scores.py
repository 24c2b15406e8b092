"""Scores against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.scores import calibration_error, hausdorff95, score, summary


def _ball(centre: int, radius: float, shape: int = 40) -> np.ndarray:
    axes = np.indices((shape,) * 3)
    return sum((a - c) ** 2 for a, c in zip(axes, (centre, 20, 20), strict=True)) <= radius**2


def test_distance_of_a_moved_ball_is_its_shift() -> None:
    assert hausdorff95(_ball(20, 6), _ball(20, 6), (1, 1, 1)) == 0
    assert 5 < hausdorff95(_ball(18, 6), _ball(22, 6), (2, 1, 1)) <= 8
    assert math.isnan(hausdorff95(_ball(20, 6), np.zeros((40, 40, 40), bool), (1, 1, 1)))


def test_calibration_error_of_known_probabilities() -> None:
    truth = torch.zeros(10, 10, 10, dtype=torch.bool)
    truth[:5] = True
    assert calibration_error(truth.float(), truth) == 0
    assert calibration_error(torch.full((10, 10, 10), 0.5), truth) == pytest.approx(0, abs=1e-6)
    assert calibration_error(torch.full((10, 10, 10), 0.9), truth) == pytest.approx(0.4, abs=1e-6)
    assert calibration_error(torch.zeros(10, 10, 10), torch.zeros(10, 10, 10, dtype=torch.bool)) == 0


def test_summary_counts_what_is_found_in_healthy_heads() -> None:
    tumour = torch.from_numpy(_ball(20, 6)).to(torch.uint8) * 2
    nothing = torch.zeros_like(tumour)
    scores = [
        score(tumour, tumour, (2, 2, 2), uncertainty=0.2, probability=(tumour > 0).float()),
        score(tumour, nothing, (2, 2, 2)),
        score(nothing, nothing, (2, 2, 2)),
    ]
    text = summary("test", scores)
    assert "1 with tumour, 2 without" in text
    assert "WT  Dice 1.000 (1.000)  HD95   0.0 (0.0) mm in 1  volume +0 %" in text
    assert "something found in 1 of 2" in text and "calibration error 0.000" in text
    assert "TC" not in text
