"""Therapies: closed forms, exact times, and the defects that published twins have here (each is a test)."""

import math

import pytest
import torch

from tests.twin.test_solver import cube, ragged
from twin import TwinError
from twin.model import ReactionDiffusion
from twin.solver import trajectory
from twin.treatment import Chemotherapy, Radiotherapy, Surgery

FRACTION = math.exp(-0.05 * 2.0 * (1 + 2.0 / 10.0))  # 2 Gy, alpha 0.05 /Gy, alpha/beta 10 Gy
BACKENDS = pytest.mark.parametrize("backend", ["torch", "numba"])


def treated(therapies, days, *, start_day=0.0, backend="auto", diffusivity=0.0, proliferation=0.0, **extra):
    """Density of a voxel that only therapies (or growth) change, at ``days``."""
    parameters = {"diffusivity": diffusivity, "proliferation": proliferation} | extra
    model = ReactionDiffusion(cube(3, backend=backend, dtype=torch.float64), therapies=therapies)
    start = torch.full((1, 1, 3, 3, 3), 0.5, dtype=torch.float64)
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in parameters.items()}
    kept = start.clone()
    found = [float(s[0, 0, 1, 1, 1]) for s in trajectory(model, values, start, days, start_day=start_day)]
    assert torch.equal(start, kept)
    return found


@BACKENDS
def test_every_fraction_of_a_day_acts_at_its_own_time(backend):
    """Two fractions a day, odd hours, and one on the last day: none is dropped, merged or moved."""
    therapy = Radiotherapy([3.6, 3.6, 3.9, 7.25], [2.0] * 4)
    days = [3.59, 3.61, 3.91, 7.25, 7.26]
    found = treated([therapy], days, radiosensitivity=0.05, backend=backend)
    expected = [0.5 * FRACTION**n for n in (0, 2, 3, 3, 4)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_forecast_from_a_later_day_takes_up_the_calendar_where_it_is():
    """Past fractions are past, future ones come, and a drug given before still acts."""
    therapies = [Radiotherapy([3.0, 22.0], [2.0, 2.0]), Chemotherapy([19.9], [75.0], decay_rate=0.5)]
    parameters = {"radiosensitivity": 0.05, "chemosensitivity": 0.2}
    (found,) = treated(therapies, [26.0], start_day=20.0, **parameters)
    drug = 0.2 * (math.exp(-0.5 * 0.1) - math.exp(-0.5 * 6.1)) / 0.5
    assert found == pytest.approx(0.5 * FRACTION * math.exp(-drug), rel=1e-12)


def test_going_on_from_a_state_is_the_same_trajectory():
    therapies = [Radiotherapy([5.0, 10.0], [2.0, 2.0]), Chemotherapy([4.0, 9.0], [75.0, 75.0])]
    parameters = {"radiosensitivity": 0.05, "chemosensitivity": 0.5}
    whole = treated(therapies, [10.0, 15.0], **parameters)
    model = ReactionDiffusion(cube(3, dtype=torch.float64), therapies=therapies)
    values = {name: torch.tensor([value]) for name, value in parameters.items()}
    values |= {"diffusivity": torch.zeros(1), "proliferation": torch.zeros(1)}
    start = torch.full((1, 1, 3, 3, 3), whole[0], dtype=torch.float64)
    (later,) = trajectory(model, values, start, [15.0], start_day=10.0)
    assert float(later[0, 0, 1, 1, 1]) == pytest.approx(whole[1], rel=1e-6)


def test_doses_are_absolute():
    def survival(dose):
        return treated([Chemotherapy([1.0], [dose])], [9.0], chemosensitivity=0.4)[0] / 0.5

    assert survival(150.0) == pytest.approx(survival(75.0) ** 2, rel=1e-10)
    assert survival(75.0) == pytest.approx(math.exp(-0.4 / 9.242), rel=1e-6)


@BACKENDS
def test_a_drug_of_short_half_life_is_integrated_exactly(backend):
    """Analytic integral of 42 daily doses whose half-life is far below a step."""
    therapy = Chemotherapy([float(day) + 0.4 for day in range(42)], [75.0] * 42)
    (found,) = treated([therapy], [60.0], chemosensitivity=0.2, backend=backend)
    assert found == pytest.approx(0.5 * math.exp(-42 * 0.2 / 9.242), rel=1e-10)


def test_equal_biologically_effective_dose_kills_equally():
    """BED = n d (1 + d / (alpha/beta)): 30 x 2 Gy and its iso-effective 15 fractions."""
    single = 10 * (-1 + math.sqrt(1 + 4 * 2 * 2.0 * 1.2 / 10)) / 2
    normal = treated([Radiotherapy(range(1, 31), [2.0] * 30)], [31.0], radiosensitivity=0.04)
    hypo = treated([Radiotherapy(range(1, 16), [single] * 15)], [31.0], radiosensitivity=0.04)
    assert normal[0] == pytest.approx(hypo[0], rel=1e-10)
    assert normal[0] == pytest.approx(0.5 * math.exp(-0.04 * 72.0), rel=1e-10)


@BACKENDS
def test_growth_between_doses_is_the_exact_logistic(backend):
    therapy = Radiotherapy([10.0], [2.0])
    (found,) = treated([therapy], [25.0], proliferation=0.05, radiosensitivity=0.05, backend=backend)

    def logistic(u, days):
        return u * math.exp(0.05 * days) / (1 + u * math.expm1(0.05 * days))

    assert found == pytest.approx(logistic(logistic(0.5, 10.0) * FRACTION, 15.0), rel=1e-10)


def test_second_order_in_time_under_a_drug():
    mask, weight, density = ragged(14)
    model = ReactionDiffusion(
        cube(14, weight=weight, mask=mask, dtype=torch.float64),
        therapies=[Chemotherapy([0.0], [75.0], decay_rate=0.15)],
    )
    values = {"diffusivity": 0.1, "proliferation": 0.05, "chemosensitivity": 0.1}
    parameters = {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}

    def solved(step):
        (state,) = trajectory(model, parameters, density[None, None], [12.0], max_step=step)
        return state.clone()

    exact = solved(0.02)
    errors = [float((solved(step) - exact).norm()) for step in (0.8, 0.4)]
    assert math.log2(errors[0] / errors[1]) >= 1.9


@BACKENDS
def test_dose_maps_and_resections_act_voxel_by_voxel(backend):
    shape = (4, 4, 4)
    generator = torch.Generator().manual_seed(0)
    dose = torch.rand(shape, generator=generator, dtype=torch.float64) * 2
    cut = torch.zeros(shape, dtype=torch.bool)
    cut[0] = True
    therapies = [Radiotherapy([2.0, 2.0], [2.0, 1.0], dose_map=dose), Surgery(5.0, cut)]
    model = ReactionDiffusion(cube(4, dtype=torch.float64, backend=backend), therapies=therapies)
    values = {"diffusivity": 0.0, "proliferation": 0.0, "radiosensitivity": 0.1}
    parameters = {name: torch.tensor([value]) for name, value in values.items()}
    start = torch.full((1, 1, *shape), 0.5, dtype=torch.float64)
    before, after = (s[0, 0].clone() for s in trajectory(model, parameters, start, [5.0, 6.0]))
    kill = sum(d * dose * (1 + d * dose / 10) for d in (2.0, 1.0))
    expected = 0.5 * torch.exp(-0.1 * kill)
    torch.testing.assert_close(before, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(after, torch.where(cut, 0.0, expected), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("law", ["logistic", "gompertz"])
def test_tangents_of_therapies_match_central_differences(law):
    mask, weight, density = ragged(12)
    operator = cube(12, (1.0, 1.4, 0.9), weight, mask, dtype=torch.float64)
    dose = torch.linspace(0.2, 1.5, 12, dtype=torch.float64).expand(12, 12, 12)
    therapies = [Radiotherapy([2.0, 7.5], [2.0, 2.0], dose_map=dose), Chemotherapy([1.0, 5.5], [75.0, 75.0])]
    model = ReactionDiffusion(operator, law=law, therapies=therapies)
    values = {"diffusivity": 0.2, "proliferation": 0.06, "radiosensitivity": 0.05, "chemosensitivity": 0.5}

    def solved(initial, **changes):
        parameters = {
            name: torch.tensor([value * math.exp(changes.get(name, 0.0))], dtype=torch.float64)
            for name, value in values.items()
        }
        (state,) = trajectory(model, parameters, initial, [14.0], max_step=1.0)
        return state[0].clone()

    fields = torch.zeros(1, 5, 12, 12, 12, dtype=torch.float64)
    fields[0, 0] = density
    tangents, h = solved(fields), 1e-5
    for field, name in enumerate(values, start=1):
        ends = [solved(density[None, None], **{name: sign * h})[0] for sign in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * h)
        assert float((tangents[field] - difference).norm() / difference.norm()) < 1e-5


@BACKENDS
def test_gompertz_growth_is_exact_and_bounded(backend):
    """Exponential below the floor, Gompertz above: against fine Runge-Kutta steps of the same law."""
    operator = cube(3, dtype=torch.float64, backend=backend)
    model = ReactionDiffusion(operator, law="gompertz")
    start = torch.logspace(-6, -0.01, 27, dtype=torch.float64).reshape(3, 3, 3)
    parameters = {"diffusivity": torch.zeros(1), "proliferation": torch.tensor([0.08], dtype=torch.float64)}
    (found,) = trajectory(model, parameters, start[None, None], [80.0])
    u, floor = start.clone(), -math.log(1e-3)
    slope = lambda u: 0.08 * u * (-torch.log(u) / floor).clamp(max=1.0)  # noqa: E731
    for _ in range(8000):
        a = slope(u)
        b = slope(u + 0.005 * a)
        c = slope(u + 0.005 * b)
        u = u + 0.01 / 6 * (a + 2 * b + 2 * c + slope(u + 0.01 * c))
    torch.testing.assert_close(found[0, 0], u, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("law", ["logistic", "gompertz"])
def test_capacity_is_where_growth_ends(law):
    operator = cube(3, dtype=torch.float64)
    capacity = torch.full((3, 3, 3), 0.4, dtype=torch.float64)
    model = ReactionDiffusion(operator, law=law, capacity=capacity)
    parameters = {"diffusivity": torch.zeros(1), "proliferation": torch.tensor([0.2])}
    start = torch.full((1, 1, 3, 3, 3), 0.1, dtype=torch.float64)
    (found,) = trajectory(model, parameters, start, [600.0])
    torch.testing.assert_close(found[0, 0], capacity, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Radiotherapy([1.0], [2.0, 2.0]),
        lambda: Radiotherapy([], []),
        lambda: Radiotherapy([math.nan], [2.0]),
        lambda: Radiotherapy([1.0], [-2.0]),
        lambda: Radiotherapy([1.0], [2.0], alpha_beta=0.0),
        lambda: Radiotherapy([1.0], [2.0], dose_map=torch.full((2, 2, 2), -1.0)),
        lambda: Chemotherapy([1.0], [75.0], decay_rate=-1.0),
        lambda: Surgery(1.0, torch.full((2, 2, 2), 1.5)),
        lambda: ReactionDiffusion(cube(3), therapies=[Chemotherapy([1.0], [75.0])] * 2),
        lambda: ReactionDiffusion(cube(3), capacity=torch.zeros(3, 3, 3)),
        lambda: ReactionDiffusion(cube(3), local_growth=torch.ones(2, 2, 2)),
    ],
)
def test_what_cannot_be_meant_is_refused(make):
    with pytest.raises(TwinError) as caught:
        make()
    assert str(caught.value).endswith(".")
