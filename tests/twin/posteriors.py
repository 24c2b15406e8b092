"""A posterior with known moments, in the form that samplers ask a growth model in."""

import numpy as np

from twin.response import Sight

MEAN = np.array([0.3, -1.0, 2.0])
COVARIANCE = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.8]])


class Bent:
    """Standard normal residuals of three coordinates, the second one bent, and a fourth tied to the first.

    In standard coordinates z of a Gaussian: z0, z1 - bend (z0^2 - 1) + twist (exp(z2 / 2) - 1), z2; the fourth is
    normal around 3 + half the first coordinate, with variance 0.25.
    """

    mean, covariance, size = MEAN, COVARIANCE, 3

    def __init__(self, bend=0.0, twist=0.0):
        self.bend, self.twist, self.solves = bend, twist, 0
        flat = 1e-9
        by_shift = np.array([[0.0, 0.0, 0.0, -2.0]])
        self.sight = Sight(MEAN, flat * np.eye(3), np.zeros(1), flat * np.eye(1), by_shift)

    def residuals(self, heads):
        self.solves += len(heads)
        z = np.linalg.solve(np.linalg.cholesky(COVARIANCE), (heads - MEAN).T)
        second = z[1] - self.bend * (z[0] ** 2 - 1.0) + self.twist * np.expm1(z[2] / 2.0)
        return np.stack([z[0], second, z[2], 2.0 * (3.0 + 0.5 * heads[:, 0])], axis=1)
