"""The posterior's draws against Hamiltonian Monte Carlo (Pyro's NUTS) on the same likelihood."""

import numpy as np
import pytest
import torch

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import CalibrationSettings, Priors, TumourObservation
from twin.fit import fit, look
from twin.results import Posterior
from twin.sampling import sample
from twin.scene import Scene, Tissue, boundary_sd_mm

SPACING = 5.0
WARM, KEPT = 60, 800
DEPTH = 6
"""Trees of depth 3 turn back so early that medians of 3,200 draws were half a standard deviation off."""


class Potential(torch.autograd.Function):
    """Negative log posterior of one point, with the gradient that the solver's tangents give."""

    @staticmethod
    def forward(ctx, point, likelihood, mode, root):
        found = likelihood.linearise(mode + root @ point.detach().numpy())
        ctx.slope = torch.from_numpy(root.T @ found.gradient)
        return point.new_tensor(found.cost)

    @staticmethod
    def backward(ctx, above):
        return above * ctx.slope, None, None, None


def hamiltonian(likelihood, minimum):
    """Draws (n, p) by NUTS in the standard coordinates of the Laplace approximation."""
    from pyro.infer import MCMC, NUTS

    root = np.linalg.cholesky(np.linalg.inv(minimum.at.hessian))

    def potential(parameters):
        return Potential.apply(parameters["z"], likelihood, minimum.position, root)

    kernel = NUTS(
        potential_fn=potential, adapt_mass_matrix=False, target_accept_prob=0.8, max_tree_depth=DEPTH
    )
    start = {"z": torch.zeros(len(root), dtype=torch.float64)}
    chain = MCMC(kernel, num_samples=KEPT, warmup_steps=WARM, initial_params=start, disable_progbar=True)
    torch.manual_seed(3)
    chain.run()
    return minimum.position + chain.get_samples()["z"].numpy() @ root.T


@pytest.mark.slow
def test_draws_are_those_of_hamiltonian_monte_carlo():
    """Medians within three tenths of a standard deviation, three times the chain's own noise; spreads within 30 %."""
    maps, settings = head(SPACING)[0], CalibrationSettings(double_precision=True)
    grown = [resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 70.0])]
    visits = [TumourObservation(d, u > CORE, u > WHOLE) for d, u in zip((0.0, 70.0), grown, strict=True)]
    scene = Scene.build(Tissue.prepare(maps, visits, settings), visits, 15.0, settings)
    mean, covariance = scene.coordinates.prior(Priors(), boundary_sd_mm(settings, maps.spacing_mm))
    unknown = Posterior(mean, covariance, scene.coordinates)
    begun = look(scene, unknown, lambda done: None)
    stage = fit(scene, visits, (), unknown, lambda done: None, begun=begun).coarse
    mine = sample(stage.likelihood, stage.minimum, 256, 0)
    reference = hamiltonian(stage.likelihood, stage.minimum)
    assert not mine.tempered
    sd = reference.std(axis=0)
    away = (np.median(mine.draws, axis=0) - np.median(reference, axis=0)) / sd
    assert np.abs(away).max() < 0.3
    assert mine.draws.std(axis=0) / sd == pytest.approx(np.ones(len(sd)), rel=0.3)
