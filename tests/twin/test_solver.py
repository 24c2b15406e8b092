"""The forward solver against closed forms, conservation laws and its own refinement."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from twin import TwinError
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.solver import trajectory
from twin.stepping import INFERENCE, StepPlan, plan


def cube(n, spacing=(1.0, 1.0, 1.0), weight=None, mask=None, **options):
    domain = torch.ones(n, n, n, dtype=torch.bool) if mask is None else mask
    weight = torch.ones(domain.shape) if weight is None else weight
    return DiffusionOperator.build(weight, domain, spacing, **options)


def last(operator, diffusivity, proliferation, initial, day, **options):
    model = ReactionDiffusion(operator)
    (state,) = trajectory(model, named(diffusivity, proliferation), initial[None, None], [day], **options)
    return state[0, 0].clone()


def named(*values):
    """Diffusivity and proliferation of one member, or of several given as lists."""
    tensors = (torch.tensor(value, dtype=torch.float64).reshape(-1) for value in values)
    return dict(zip(("diffusivity", "proliferation"), tensors, strict=True))


def centres(n, spacing=1.0):
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) * spacing - n * spacing / 2
    return torch.meshgrid(axis, axis, axis, indexing="ij")


def ragged(n, seed=0):
    """A mask with thin parts and holes, tissue weights in it, and a density."""
    generator = torch.Generator().manual_seed(seed)
    x, y, z = centres(n)
    mask = (x**2 + y**2 + z**2 < (0.45 * n) ** 2) & (torch.rand(n, n, n, generator=generator) > 0.15)
    weight = 0.1 + 0.9 * torch.rand(n, n, n, generator=generator, dtype=torch.float64)
    density = 0.8 * torch.exp(-((x - 2) ** 2 + y**2 + z**2) / 20) * mask
    return mask, weight, density


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_diffusion_spreads_a_gaussian_by_twice_diffusivity_time(backend):
    x, y, z = centres(40)
    spread = lambda variance: torch.exp(-(x**2 + y**2 + z**2) / (2 * variance))  # noqa: E731
    operator = cube(40, backend=backend, dtype=torch.float64)
    result = last(operator, 0.2, 0.0, 0.5 * spread(16.0), 20.0, max_step=0.2)
    exact = 0.5 * (16.0 / 24.0) ** 1.5 * spread(24.0)
    assert float((result - exact).abs().max()) < 2e-2 * float(exact.max())
    # the second moment of the discrete operator grows exactly as that of the continuous one
    assert float((x**2 * result).sum() / result.sum()) == pytest.approx(24.0, rel=2e-3)


def test_logistic_growth_without_diffusion_is_exact():
    start = torch.linspace(0, 1, 27, dtype=torch.float64).reshape(3, 3, 3)
    result = last(cube(3, dtype=torch.float64), 0.0, 0.07, start, 60.0)
    exact = start * math.exp(4.2) / (1 + start * math.expm1(4.2))
    torch.testing.assert_close(result, exact, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("diffusivity", "step"), [(0.1, 1.0), (1.5, 3.0)])
def test_mass_is_conserved_on_a_ragged_mask(diffusivity, step):
    mask, weight, density = ragged(24)
    operator = cube(24, (1.0, 1.3, 0.8), weight, mask, dtype=torch.float64)
    result = last(operator, diffusivity, 0.0, density, 180.0, max_step=step)
    assert abs(float(result.sum() / density.sum()) - 1) < 1e-10
    single = cube(24, (1.0, 1.3, 0.8), weight, mask)
    result = last(single, diffusivity, 0.0, density.float(), 180.0, max_step=step).double()
    assert abs(float(result.sum() / density.float().double().sum()) - 1) < 1e-6
    assert not bool(result[~mask].any())


@pytest.mark.parametrize(("diffusivity", "step"), [(0.1, 1.0), (2.0, 4.0), (5.0, 5.0)])
def test_density_stays_between_zero_and_one(diffusivity, step):
    mask, weight, _ = ragged(20)
    spike = torch.zeros(20, 20, 20, dtype=torch.float64)
    spike[10, 10, 8:12] = 1.0
    operator = cube(20, weight=weight, mask=mask, dtype=torch.float64)
    for day in (step, 10 * step):
        result = last(operator, diffusivity, 0.05, spike * mask, day, max_step=step)
        assert -1e-12 <= float(result.min()) and float(result.max()) <= 1 + 1e-12


@pytest.mark.parametrize("stages", [2, 5])
def test_second_order_in_time(stages, monkeypatch):
    x, y, z = centres(24)
    start = 0.7 * torch.exp(-(x**2 + y**2 + z**2) / 30)
    operator = cube(24, dtype=torch.float64)
    diffusivity = 0.08 if stages == 2 else 0.4

    def solved(steps):
        monkeypatch.setattr("twin.program.plan", lambda *a, **k: StepPlan(steps, stages))
        return last(operator, diffusivity, 0.04, start, 24.0)

    reference = solved(400)
    errors = [float((solved(steps) - reference).norm()) for steps in (14, 28)]
    assert math.log2(errors[0] / errors[1]) >= 1.9


def test_second_order_in_space():
    def solved(n):
        spacing = 48.0 / n
        axis = (torch.arange(n, dtype=torch.float64) + 0.5) * spacing - 24.0
        weight = 1.0 + 0.5 * torch.sin(axis / 6)[:, None, None].expand(n, 4, 4)
        start = 0.7 * torch.exp(-(axis**2) / 40)[:, None, None].expand(n, 4, 4)
        mask = torch.ones(n, 4, 4, dtype=torch.bool)
        operator = DiffusionOperator.build(weight, mask, (spacing, 1.0, 1.0), dtype=torch.float64)
        return last(operator, 0.1, 0.05, start, 20.0, max_step=0.25)[:, 0, 0]

    finest = solved(384)
    # a cell's value is the mean of the finer cells within it to second order
    errors = [float((solved(n) - finest.reshape(n, -1).mean(1)).abs().max()) for n in (24, 48, 96)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] >= 1.9, (errors, orders)


def test_front_travels_at_the_fisher_speed():
    n, spacing, d, rho = 900, 0.5, 0.1, 0.05
    width = math.sqrt(d / rho)
    mask = torch.ones(n, 1, 1, dtype=torch.bool)
    operator = DiffusionOperator.build(torch.ones(n, 1, 1), mask, (spacing, 1.0, 1.0), dtype=torch.float64)
    start = torch.zeros(n, 1, 1, dtype=torch.float64)
    start[:40] = 1.0
    times = [400.0, 800.0]
    fronts = [
        float((state > 0.5).sum()) * spacing
        for state in trajectory(ReactionDiffusion(operator), named(d, rho), start[None, None], times)
    ]
    # Bramson: front at 2 sqrt(D rho) t - 3/2 width log(rho t)
    expected = 2 * math.sqrt(d * rho) * 400 - 1.5 * width * math.log(2.0)
    assert abs((fronts[1] - fronts[0]) / expected - 1) < 0.03


def test_backends_agree():
    mask, weight, density = ragged(18)
    density = density.clamp(max=0.7)
    initial = torch.stack([density, 0.1 * density, -0.2 * density, density * (1 - density)])[None]
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        results = []
        for backend in ("torch", "numba"):
            operator = cube(18, (1.0, 1.5, 0.7), weight, mask, backend=backend, dtype=dtype)
            pair = initial.repeat(2, 1, 1, 1, 1)
            parameters = named([0.1, 0.2], [0.05, 0.02])
            states = trajectory(ReactionDiffusion(operator), parameters, pair, [0.0, 7.5, 30.0])
            results.append([state.clone() for state in states])
        for one, other in zip(*results, strict=True):
            for field in range(4):
                difference = (one[:, field].double() - other[:, field].double()).norm()
                allowed = tolerance if field == 0 else 4 * tolerance  # tangents change sign: more cancels
                assert float(difference) <= allowed * float(one[:, field].double().norm())


def test_threads_do_not_change_the_result():
    mask, weight, density = ragged(64)
    results = [
        last(cube(64, weight=weight, mask=mask, backend="numba", threads=t), 0.1, 0.05, density, 10.0)
        for t in (1, 2)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("diffusivity", [0.1, 1.2])
def test_tangents_match_central_differences(diffusivity):
    mask, weight, density = ragged(14)
    operator = cube(14, (1.0, 1.4, 0.9), weight, mask, dtype=torch.float64)
    direction = density * torch.cos(torch.arange(14).double())
    rho, day, step = 0.06, 20.0, 1.0

    def solved(log_d, log_rho, along):
        start = density + along * direction
        return last(
            operator, diffusivity * math.exp(log_d), rho * math.exp(log_rho), start, day, max_step=step
        )

    zero = torch.zeros_like(density)
    initial = torch.stack([density, zero, zero, direction])[None]
    model = ReactionDiffusion(operator)
    (state,) = trajectory(model, named(diffusivity, rho), initial, [day], max_step=step)
    for field in range(3):
        h = 1e-5
        plus, minus = ([sign * h * (field == n) for n in range(3)] for sign in (1, -1))
        difference = (solved(*plus) - solved(*minus)) / (2 * h)
        assert float((state[0, field + 1] - difference).norm() / difference.norm()) < 1e-5


def test_axes_are_not_confused():
    """Permuting an anisotropic problem permutes its solution: a swapped face array would not."""
    generator = torch.Generator().manual_seed(3)
    shape, spacing = (9, 11, 13), (0.8, 1.0, 1.7)
    weight = torch.rand(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) > 0.1
    start = 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64) * mask
    results = []
    for order in ((0, 1, 2), (1, 2, 0), (2, 1, 0)):
        operator = DiffusionOperator.build(
            weight.permute(order), mask.permute(order), tuple(spacing[a] for a in order), dtype=torch.float64
        )
        result = last(operator, 0.15, 0.03, start.permute(order), 12.0)
        results.append(result.permute(tuple(np.argsort(order))))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, rtol=1e-12, atol=1e-14)


def test_inputs_are_left_alone_and_repeats_are_equal():
    mask, weight, density = ragged(12)
    kept = density.clone()
    operator = cube(12, weight=weight, mask=mask, dtype=torch.float64)
    first = last(operator, 0.1, 0.05, density, 9.3)
    assert torch.equal(density, kept)
    assert torch.equal(first, last(operator, 0.1, 0.05, density, 9.3))


def test_crop_closes_the_cut():
    mask, weight, _ = ragged(16)
    operator = cube(16, weight=weight, mask=mask, dtype=torch.float64)
    part = (slice(3, 12), slice(2, 14), slice(4, 16))
    built = DiffusionOperator.build(weight[part], mask[part], (1.0, 1.0, 1.0), dtype=torch.float64)
    cropped = operator.crop(part)
    for one, other in zip(built.faces, cropped.faces, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(built.domain, cropped.domain)


@pytest.mark.parametrize(
    ("diffusivity", "proliferation", "days"),
    [
        (0.1, 0.05, 90.0),
        (0.05, 0.02, 90.0),
        (0.3, 0.03, 90.0),
        (1.0, 0.1, 90.0),
        (0.2, 0.01, 90.0),
        (0.1, 0.05, 30.0),
    ],
)
def test_steps_keep_the_error_of_the_density_small(diffusivity, proliferation, days):
    """Single precision and the chosen steps against eighth-day steps in double precision, from a sharp edge."""
    x, y, z = centres(32, 2.0)
    start = 0.8 * torch.exp(-((x - 4) ** 2 + y**2 + z**2) / 128)
    start[start < 0.01] = 0.0
    exact = last(
        cube(32, (2.0,) * 3, dtype=torch.float64), diffusivity, proliferation, start, days, max_step=0.25
    )
    result = last(cube(32, (2.0,) * 3), diffusivity, proliferation, start, days).double()
    assert float((result - exact).norm() / exact.norm()) < 1.2e-4


@pytest.mark.parametrize(
    ("diffusivity", "proliferation", "days"), [(0.1, 0.05, 90.0), (0.3, 0.03, 90.0), (0.2, 0.01, 60.0)]
)
def test_steps_of_the_inference_keep_volumes(diffusivity, proliferation, days):
    """Larger steps than those of a forward solution, from a start as smooth as masks stand for."""
    x, y, z = centres(40, 2.0)
    distance = (x**2 + y**2 + z**2).sqrt() - 12.0
    start = torch.sigmoid(-distance / math.sqrt(diffusivity / proliferation)).float()
    operator = cube(40, (2.0,) * 3, dtype=torch.float64)
    exact = last(operator, diffusivity, proliferation, start.double(), days, max_step=0.25)
    found = last(cube(40, (2.0,) * 3), diffusivity, proliferation, start, days, accuracy=INFERENCE).double()
    assert float((found - exact).norm() / exact.norm()) < 5e-4
    for threshold in (0.2, 0.6):
        volumes = [float(torch.sigmoid((u - threshold) / 0.02).sum()) for u in (found, exact)]
        assert volumes[0] == pytest.approx(volumes[1], rel=3e-4)


def test_what_the_front_has_not_reached_is_skipped_without_a_trace():
    """The whole volume against only those rows that the front can have reached."""
    mask, weight, density = ragged(64)
    density = torch.where(density > 0.3, density, 0.0)
    operator = cube(64, weight=weight, mask=mask, backend="numba")
    full = last(cube(64, weight=weight, mask=mask, backend="torch"), 0.02, 0.05, density, 60.0)
    result = last(operator, 0.02, 0.05, density, 60.0)
    assert int((result > 0).sum()) < 0.9 * int((full > 0).sum())
    assert float((result - full).norm() / full.norm()) < 1e-6
    assert float((result - full).abs().max()) < 1e-5


def test_plan_keeps_its_promises():
    for d, rho in ((0.01, 0.01), (0.1, 0.05), (1.0, 0.1), (5.0, 0.03)):
        chosen = plan(90.0, d, rho, 6.0, 90.0, math.inf)
        step = 90.0 / chosen.steps
        s = chosen.stages
        reach = 0.9 if s == 2 else (s * s + s - 2) / 4
        assert step * rho <= 0.2 + 1e-12
        assert step * d * 6.0 <= reach + 1e-9


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"initial": torch.full((1, 1, 4, 4, 4), 1.5)}, "bad_initial"),
        ({"initial": torch.zeros(1, 2, 4, 4, 4)}, "bad_initial"),
        ({"initial": torch.full((1, 1, 4, 4, 4), math.nan)}, "bad_initial"),
        ({"days": [5.0, 5.0]}, "bad_days"),
        ({"days": [5.0], "start_day": 6.0}, "bad_days"),
        ({"parameters": named(-0.1, 1.0)}, "bad_parameters"),
        ({"parameters": named(0.1, math.nan)}, "bad_parameters"),
        ({"parameters": {"diffusivity": torch.ones(1)}}, "bad_parameters"),
    ],
)
def test_refusals(change, code):
    arguments = {"parameters": named(1.0, 1.0), "initial": torch.zeros(1, 1, 4, 4, 4), "days": [1.0]}
    with pytest.raises(TwinError) as caught:
        next(trajectory(ReactionDiffusion(cube(4)), **(arguments | change)))
    assert caught.value.code == code
