"""The CUDA backend on a device; without one, test_cuda_source.py runs the same kernels on the CPU."""

import pytest
import torch

from tests.twin.sweep_cases import SHAPES, case, check, compare, treated
from twin.backends import LAWS, bind
from twin.backends.cuda import CudaSweeps
from twin.backends.torch_reference import TorchSweeps
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.solver import trajectory

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

TYPES = (torch.float32, torch.float64)


def test_auto_takes_the_cuda_backend():
    given = case("logistic", torch.float32).to("cuda")
    assert isinstance(bind("auto", given.medium, 1), CudaSweeps)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("maps", [(False, False), (True, True)])
@pytest.mark.parametrize("killed", [False, True])
def test_growth_and_kill_are_those_of_the_reference(law, dtype, maps, killed):
    given = case(law, dtype, maps=maps, killed=killed).to("cuda")
    compare(bind("cuda", given.medium, 1), given)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (128, 120, 100)])
@pytest.mark.parametrize(("stages", "fields"), [(2, 1), (5, 3), (9, 5)])
def test_stages_are_those_of_the_reference(dtype, shape, stages, fields):
    given = case("logistic", dtype, shape, stages=stages, fields=fields).to("cuda")
    compare(bind("cuda", given.medium, 1), given)


def test_steps_run_on_the_current_stream():
    given = case("gompertz", torch.float64, (60, 60, 60)).to("cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        compare(bind("cuda", given.medium, 1), given)


@pytest.mark.parametrize("shape", SHAPES)
def test_follow_finds_the_extent_of_the_density(shape):
    given = case("logistic", torch.float32, shape).to("cuda")
    for threshold in (1e-5, 0.01, 0.3, 2.0):
        expected = TorchSweeps(given.medium).follow(given.fields, threshold, 1)
        assert bind("cuda", given.medium, 1).follow(given.fields, threshold, 1) == expected


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("diffusivity", [0.1, 1.5])
@pytest.mark.parametrize("law", LAWS)
def test_trajectories_under_therapies_are_those_on_the_cpu(law, dtype, diffusivity):
    model, parameters, density = treated(law, dtype, diffusivity)
    initial = torch.zeros(2, 6, *density.shape, dtype=dtype)
    initial[:, 0] = density
    initial[:, 5] = density * (1 - density)
    expected = [s.clone() for s in trajectory(model, parameters, initial, [3.0, 21.0])]
    there, _, _ = treated(law, dtype, diffusivity, device="cuda")
    made = [s.cpu() for s in trajectory(there, parameters, initial.cuda(), [3.0, 21.0])]
    for one, other in zip(made, expected, strict=True):
        check(one, other)


def test_a_long_trajectory_is_that_of_numba():
    n = 96
    x, y, z = torch.meshgrid(*[torch.arange(n) - n / 2] * 3, indexing="ij")
    density = 0.8 * torch.exp(-(x**2 + y**2 + z**2) / 40)[None, None]
    results = []
    for device, backend in (("cpu", "numba"), ("cuda", "auto")):
        weight = torch.ones(n, n, n, device=device)
        operator = DiffusionOperator.build(weight, weight > 0, (1.0,) * 3, backend=backend)
        values = {"diffusivity": torch.tensor([0.1]), "proliferation": torch.tensor([0.05])}
        (state,) = trajectory(ReactionDiffusion(operator), values, density.to(device), [90.0])
        results.append(state.cpu().clone())
    assert float((results[1] - results[0]).norm() / results[0].norm()) < 1e-6
