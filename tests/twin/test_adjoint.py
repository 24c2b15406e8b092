"""The differentiable solver against central differences and against the tangents, in double precision."""

import pytest
import torch

from tests.twin.test_solver import cube, ragged
from twin import TwinError
from twin.adjoint import evolve
from twin.model import ReactionDiffusion
from twin.solver import trajectory
from twin.treatment import Chemotherapy, Radiotherapy, Surgery

DAYS = [4.0, 11.5]


@pytest.fixture(params=["logistic", "gompertz"])
def problem(request):
    """Model with maps and therapies, parameters of two members and their initial densities."""
    mask, weight, density = ragged(12)
    operator = cube(12, (1.0, 1.4, 0.9), weight, mask, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    dose = 0.5 + torch.rand(12, 12, 12, generator=generator, dtype=torch.float64)
    therapies = (
        Radiotherapy([2.0, 2.3, 6.0], [2.0, 2.0, 1.5], dose_map=dose),
        Chemotherapy([1.0, 5.5], [75.0, 150.0]),
        Surgery(8.0, mask & (torch.rand(12, 12, 12, generator=generator) > 0.8)),
    )
    model = ReactionDiffusion(
        operator,
        law=request.param,
        capacity=0.7 + 0.3 * torch.rand(12, 12, 12, generator=generator, dtype=torch.float64),
        local_growth=0.5 + torch.rand(12, 12, 12, generator=generator, dtype=torch.float64),
        therapies=therapies,
    )
    values = {
        "diffusivity": [0.15, 0.4],
        "proliferation": [0.06, 0.03],
        "radiosensitivity": [0.05, 0.1],
        "chemosensitivity": [0.3, 0.5],
    }
    parameters = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    initial = torch.stack([density, 0.6 * density]) * 0.8
    return model, parameters, initial


def score(densities):
    weights = torch.linspace(0.5, 2.0, densities.numel(), dtype=torch.float64).reshape(densities.shape)
    return (weights * densities**2).sum()


@pytest.mark.parametrize("problem", ["logistic"], indirect=True)
def test_what_it_cannot_do_is_said(problem):
    """Second derivatives came out as zero."""
    model, parameters, initial = problem
    rate = parameters["proliferation"].clone().requires_grad_()
    value = score(evolve(model, {**parameters, "proliferation": rate}, initial, DAYS, max_step=1.0))
    (first,) = torch.autograd.grad(value, rate, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
    with pytest.raises(TwinError, match="at least one day"):
        evolve(model, parameters, initial, [])


def test_forward_is_the_trajectory(problem):
    model, parameters, initial = problem
    states = [s[:, 0].clone() for s in trajectory(model, parameters, initial[:, None], DAYS, max_step=1.0)]
    result = evolve(model, parameters, initial, DAYS, max_step=1.0)
    torch.testing.assert_close(result, torch.stack(states), rtol=1e-9, atol=1e-11)


def test_gradients_match_central_differences(problem):
    model, parameters, initial = problem
    growth = model.local_growth
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    start, local = initial.clone().requires_grad_(), growth.clone().requires_grad_()
    with_growth = ReactionDiffusion(model.operator, model.law, model.capacity, local, model.therapies)
    score(evolve(with_growth, leaves, start, DAYS, max_step=1.0)).backward()

    def value(parameters, initial, growth):
        plain = ReactionDiffusion(model.operator, model.law, model.capacity, growth, model.therapies)
        return float(score(evolve(plain, parameters, initial, DAYS, max_step=1.0)))

    generator = torch.Generator().manual_seed(2)
    for name, leaf in leaves.items():
        for member in (0, 1):
            h = 1e-5 * float(parameters[name][member])
            moved = [{**parameters, name: parameters[name].clone()} for _ in range(2)]
            moved[0][name][member] += h
            moved[1][name][member] -= h
            difference = (value(moved[0], initial, growth) - value(moved[1], initial, growth)) / (2 * h)
            assert float(leaf.grad[member]) == pytest.approx(difference, rel=1e-5)
    inside = model.operator.domain & (initial > 1e-2).all(0)
    for field, kind in ((start, "initial"), (local, "growth")):
        direction = torch.randn(field.shape, generator=generator, dtype=torch.float64) * inside
        direction *= 1e-5 * field.detach()
        if kind == "initial":
            ends = [value(parameters, initial + sign * direction, growth) for sign in (1, -1)]
        else:
            ends = [value(parameters, initial, growth + sign * direction) for sign in (1, -1)]
        assert float((field.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2, rel=1e-5)


def test_tangents_and_adjoint_agree(problem):
    model, parameters, initial = problem
    fields = torch.zeros(2, 5, 12, 12, 12, dtype=torch.float64)
    fields[:, 0] = initial
    states = [s.clone() for s in trajectory(model, parameters, fields, DAYS, max_step=1.0)]
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    score(evolve(model, leaves, initial, DAYS, max_step=1.0)).backward()
    densities = torch.stack([s[:, 0] for s in states]).requires_grad_()
    (slope,) = torch.autograd.grad(score(densities), densities)
    for field, (name, leaf) in enumerate(leaves.items(), start=1):
        along = sum((slope[n] * s[:, field]).flatten(1).sum(1) for n, s in enumerate(states))
        torch.testing.assert_close(leaf.grad * parameters[name], along, rtol=1e-8, atol=1e-10)


def test_inputs_are_left_alone_and_zero_parameters_have_no_gradient(problem):
    model, parameters, initial = problem
    kept = initial.clone()
    evolve(model, parameters, initial, DAYS)
    assert torch.equal(initial, kept)
    zero = parameters | {"diffusivity": torch.zeros(2, dtype=torch.float64, requires_grad=True)}
    with pytest.raises(TwinError, match="diffusivity"):
        evolve(model, zero, initial, DAYS)
