"""Levenberg-Marquardt against sums of squares whose least is known."""

import numpy as np
import pytest

from twin.least_squares import Linearisation, minimise

SCALE = np.array([10.0])


def test_a_quadratic_is_minimised() -> None:
    def linearise(position: np.ndarray) -> Linearisation:
        away = position - 3.0
        return Linearisation(50.0 * float(away @ away), 100.0 * away, 100.0 * np.eye(1))

    found = minimise(linearise, np.zeros(1), SCALE, 20)
    assert found.converged and found.position == pytest.approx([3.0], abs=0.03)


def test_a_rejected_step_ends_the_search_at_the_least_of_its_parabola() -> None:
    """The true cost bends a hundred times more than the Hessian says: the first step overshoots and is refused."""
    asked = []

    def linearise(position: np.ndarray) -> Linearisation:
        asked.append(position.copy())
        away = position - 0.1
        return Linearisation(50.0 * float(away @ away), 100.0 * away, np.eye(1))

    found = minimise(linearise, np.zeros(1), SCALE, 20, unchecked=0.6)
    assert len(asked) == 2, "the start and the refused step"
    assert found.converged and found.position == pytest.approx([0.1], abs=1e-3)
    asked.clear()
    careful = minimise(linearise, np.zeros(1), SCALE, 20, unchecked=0.0)
    assert len(asked) > 2 and careful.position == pytest.approx([0.1], abs=0.05)
