"""The CUDA source without a device: compiled by NVRTC for two chips, and run on the CPU as C++."""

import pytest
import torch

from tests.twin.cuda_on_cpu import CpuKernels, compiled
from tests.twin.sweep_cases import SHAPES, case, check, compare, guarded, named, treated
from twin import TwinError
from twin.adjoint import evolve
from twin.backends import LAWS, Medium, Reaction
from twin.backends.cuda import KERNELS, SOURCE, CudaSweeps, options
from twin.backends.torch_reference import TorchSweeps
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.solver import trajectory

TYPES = (torch.float32, torch.float64)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """CUDA sweeps of a medium whose kernels run on the CPU."""
    folder = tmp_path_factory.mktemp("kernels")

    def bound(medium, **choices):
        library = compiled(folder, medium.faces[0].dtype, medium.law)
        return CudaSweeps(medium, CpuKernels(library, **choices))

    return bound


@pytest.mark.parametrize("chip", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("law", LAWS)
def test_nvrtc_compiles_the_source_without_a_device(chip, dtype, law):
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(SOURCE.read_text(), SOURCE.name, (), ())
    # besides the definitions, what CuPy adds for a RawModule
    flags = (
        *options(dtype, law),
        "-std=c++17",
        "-ftz=true",
        "--device-as-default-execution-space",
        f"-arch={chip}",
    )
    try:
        nvrtc.compileProgram(program, flags)
        code, said = nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)
    assert "warning" not in said, said
    assert code.startswith(b"\x7fELF")
    assert all(f".text.{name}\0".encode() in code for name in KERNELS)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("maps", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("killed", [False, True])
def test_growth_and_kill_are_those_of_the_reference(on_cpu, law, dtype, maps, killed):
    given = case(law, dtype, maps=maps, killed=killed)
    compare(on_cpu(given.medium), given)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("stages", "fields"), [(2, 1), (2, 3), (3, 4), (4, 1), (5, 3), (9, 5)])
def test_stages_are_those_of_the_reference(on_cpu, dtype, shape, stages, fields):
    given = case("logistic", dtype, shape, stages=stages, fields=fields, seed=stages)
    compare(on_cpu(given.medium), given)


def test_a_scheme_may_use_every_coefficient(on_cpu):
    given = case("logistic", torch.float64, stages=4)
    given.scheme[:, 1:, :3] = 0.2 + torch.rand(3, 3, 3, dtype=torch.float64)
    compare(on_cpu(given.medium), given)


def test_nothing_beyond_the_volumes_is_read(on_cpu):
    given = case("logistic", torch.float32)
    medium = given.medium
    faces = tuple(guarded(face) for face in medium.faces)
    maps = (guarded(medium.capacity), guarded(medium.local_growth))
    compare(on_cpu(Medium(faces, medium.domain, medium.law, *maps)), given)


@pytest.mark.parametrize("law", LAWS)
def test_the_order_of_threads_does_not_matter(on_cpu, law):
    given = case(law, torch.float32, stages=5)
    results = []
    for backwards in (False, True):
        sweeps, out = on_cpu(given.medium, backwards=backwards), torch.zeros_like(given.fields)
        sweeps.step(out, given.fields, given.scheme, given.reaction)
        sweeps.follow(out, 1e-4, 2)
        sweeps.react(out, given.reaction)
        results.append(out)
    assert torch.equal(*results)


def test_a_step_is_replayed_only_with_its_own_tables_and_buffers(on_cpu):
    given = case("logistic", torch.float64, stages=3)
    sweeps, reference = on_cpu(given.medium), TorchSweeps(given.medium)
    y, out, expected = given.fields.clone(), torch.zeros_like(given.fields), torch.zeros_like(given.fields)
    other = Reaction(given.reaction.table * 0.5)
    for reaction in (given.reaction, other, given.reaction, given.reaction, other):
        sweeps.step(out, y, given.scheme, reaction)
        reference.step(expected, y, given.scheme, reaction)
        check(out, expected)
    assert (sweeps._kernels.recorded, sweeps._kernels.replayed) == (2, 3)
    there = torch.zeros_like(y)
    sweeps.step(there, y, given.scheme, other)
    check(there, expected)
    given.scheme[..., 3] *= 0.7
    sweeps.step(out, y, given.scheme, other)
    reference.step(expected, y, given.scheme, other)
    check(out, expected)
    assert (sweeps._kernels.recorded, sweeps._kernels.replayed) == (2, 3)
    for number in range(200):  # more than are remembered
        sweeps.step(out, y, given.scheme, Reaction(other.table * (number / 200)))
    reference.step(expected, y, given.scheme, Reaction(other.table * (199 / 200)))
    check(out, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_follow_finds_the_extent_of_the_density(on_cpu, shape):
    given = case("logistic", torch.float32, shape)
    generator = torch.Generator().manual_seed(1)
    for share in (0.5, 0.02, 0.005):
        y = given.fields.clone()
        y[:, 0] *= torch.rand(y[:, 0].shape, generator=generator) < share
        for threshold in (1e-5, 0.01, 0.3, 2.0):
            found = on_cpu(given.medium).follow(y, threshold, 1)
            assert found == TorchSweeps(given.medium).follow(y, threshold, 1)


def test_follow_leaves_alone_what_is_beyond_its_reach_and_keeps_what_was_visited(on_cpu):
    given = case("logistic", torch.float64, (20, 18, 24), maps=(False, False), stages=3)
    reference = torch.zeros_like(given.fields)
    TorchSweeps(given.medium).step(reference, given.fields, given.scheme, given.reaction)
    y = torch.zeros_like(given.fields)
    y[1, 0, 9, 8, 10] = y[2, 0, 11, 8, 12] = 0.5
    sweeps = on_cpu(given.medium)
    sweeps.step(torch.zeros_like(y), given.fields, given.scheme, given.reaction)
    boxes = [(slice(7, 14), slice(6, 11), slice(8, 15))]
    assert sweeps.follow(y, 0.1, 2) == ((8, 7, 9), (11, 8, 12))
    check_box(sweeps, given, reference, boxes[0])
    moved = torch.zeros_like(y)
    moved[0, 0, 18, 8, 10] = 0.5
    assert sweeps.follow(moved, 0.1, 5) == ((0, 0, 0), (0, 0, 0))  # not within the box
    check_box(sweeps, given, reference, boxes[0])
    y[0, 0, 13, 7, 9] = 0.2
    assert sweeps.follow(y, 0.1, 4) == ((8, 6, 8), (13, 8, 12))
    check_box(sweeps, given, reference, (slice(5, 18), slice(3, 13), slice(5, 17)))
    y[0, 0, 13, 7, 9] = 0.0
    sweeps.follow(y, 0.1, 1)
    check_box(sweeps, given, reference, (slice(5, 18), slice(3, 13), slice(5, 17)))
    # what lies across the edge of the box ends there
    assert sweeps.follow(torch.full_like(y, 0.5), 0.1, 1) == ((4, 2, 4), (17, 12, 16))


def check_box(sweeps, given, reference, box):
    """A step writes in the box alone, and far enough inside what it would write without one."""
    out = torch.full_like(given.fields, 7.0)
    sweeps.step(out, given.fields, given.scheme, given.reaction)
    within = torch.zeros(out.shape[2:], dtype=torch.bool)
    within[box] = True
    assert bool((out[..., ~within] == 7.0).all()) and not bool((out[..., within] == 7.0).any())
    inside = (..., *(slice(s.start + 2, s.stop - 2) for s in box))
    torch.testing.assert_close(out[inside], reference[inside], rtol=1e-10, atol=1e-14)


def test_what_the_front_has_not_reached_is_skipped(on_cpu, monkeypatch):
    n = 40
    x, y, z = torch.meshgrid(*[torch.arange(n) - n / 2] * 3, indexing="ij")
    density = 0.8 * torch.exp(-(x**2 + y**2 + z**2) / 8.0) * (x**2 + y**2 + z**2 < 16)
    results, visited = [], []
    for with_cuda in (True, False):
        operator = DiffusionOperator.build(
            torch.ones(n, n, n), torch.ones(n, n, n) > 0, (1.0,) * 3, backend="torch"
        )
        if with_cuda:
            monkeypatch.setattr("twin.solver.bind", lambda name, medium, threads: on_cpu(medium))
        (state,) = trajectory(ReactionDiffusion(operator), named(0.02, 0.05), density[None, None], [40.0])
        results.append(state[0, 0].clone())
        visited.append(int((state[0, 0] > 0).sum()))
        monkeypatch.undo()
    assert visited[0] < 0.8 * visited[1]
    assert float((results[0] - results[1]).norm() / results[1].norm()) < 1e-6


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("diffusivity", [0.1, 1.5])
@pytest.mark.parametrize("law", LAWS)
def test_trajectories_under_therapies_are_those_of_the_reference(
    on_cpu, monkeypatch, law, dtype, diffusivity
):
    """The whole solver, both schemes of time, with all tangents."""
    model, parameters, density = treated(law, dtype, diffusivity)
    initial = torch.zeros(2, 6, *density.shape, dtype=dtype)
    initial[:, 0] = density
    initial[:, 5] = density * (1 - density)
    expected = [s.clone() for s in trajectory(model, parameters, initial, [3.0, 21.0])]
    monkeypatch.setattr("twin.solver.bind", lambda name, medium, threads: on_cpu(medium))
    made = [s.clone() for s in trajectory(model, parameters, initial, [3.0, 21.0])]
    for one, other in zip(made, expected, strict=True):
        check(one, other)


def test_the_adjoint_runs_on_the_same_sweeps(on_cpu, monkeypatch):
    model, parameters, density = treated("gompertz", torch.float64, 0.4)
    gradients = []
    for with_cuda in (False, True):
        if with_cuda:
            monkeypatch.setattr("twin.solver.bind", lambda name, medium, threads: on_cpu(medium))
        initial = density.repeat(2, 1, 1, 1).requires_grad_()
        (evolve(model, parameters, initial, [3.0, 12.0]) ** 2).sum().backward()
        gradients.append(initial.grad)
    error = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 0 <= float(error) < 1e-12


@pytest.mark.parametrize(
    "change", [lambda y: y.double(), lambda y: y.transpose(-1, -2), lambda y: y.to("meta")]
)
def test_other_tensors_than_the_kernels_expect_are_refused(on_cpu, change):
    given = case("logistic", torch.float32, (6, 6, 6))
    with pytest.raises(TwinError, match="contiguous") as caught:
        on_cpu(given.medium).react(change(given.fields), given.reaction)
    assert caught.value.code == "bad_fields"


def test_the_backend_is_refused_where_there_is_no_device():
    operator = DiffusionOperator.build(
        torch.ones(4, 4, 4), torch.ones(4, 4, 4) > 0, (1.0,) * 3, backend="cuda"
    )
    with pytest.raises(TwinError, match="NVRTC") as caught:
        next(trajectory(ReactionDiffusion(operator), named(0.1, 0.1), torch.zeros(1, 1, 4, 4, 4), [1.0]))
    assert caught.value.code == "no_backend"
