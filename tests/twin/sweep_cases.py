"""Steps of every kind for comparing a backend with the torch reference."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from twin.backends import Medium, Reaction, Sweeps
from twin.backends.torch_reference import TorchSweeps
from twin.model import ReactionDiffusion
from twin.operator import DiffusionOperator
from twin.stepping import scheme
from twin.treatment import Chemotherapy, Radiotherapy

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
SHAPES = ((13, 9, 41), (7, 12, 70), (21, 1, 1), (5, 4, 3))


@dataclass(frozen=True)
class Case:
    """One medium, fields on it, a step and its name in reports."""

    medium: Medium
    fields: Tensor
    scheme: Tensor
    reaction: Reaction

    def to(self, device: str) -> "Case":
        """The same on another device; tables stay."""
        m = self.medium
        maps = (None if value is None else value.to(device) for value in (m.capacity, m.local_growth))
        x, y, z = (face.to(device) for face in m.faces)
        medium = Medium((x, y, z), m.domain.to(device), m.law, *maps)
        return Case(medium, self.fields.to(device), self.scheme, self.reaction)


def case(
    law: str,
    dtype: torch.dtype,
    shape=SHAPES[0],
    *,
    fields=5,
    stages=2,
    maps=(True, True),
    killed=True,
    seed=0,
) -> Case:
    """Three members that differ; member 0 has no kill, member 1 all of the reaction, member 2 nothing of it."""
    generator = torch.Generator().manual_seed(seed)
    random = lambda *s: torch.rand(*s, generator=generator, dtype=torch.float64)  # noqa: E731
    domain = random(*shape) > 0.2
    domain[0, 0, 0] = True
    spacing = (0.8, 1.3, 1.0)
    operator = DiffusionOperator.build(0.1 + random(*shape), domain, spacing, dtype=dtype)
    capacity = (0.3 + 0.7 * random(*shape)) * domain
    growth = 2 * random(*shape)
    pad = lambda value: torch.nn.functional.pad(value.to(dtype), (1,) * 6)  # noqa: E731
    medium = Medium(
        operator.faces,
        domain,
        law,
        pad(capacity) if maps[0] else None,
        pad(growth) if maps[1] else None,
    )
    # densities over many decades, some zero: Gompertz growth has three ranges
    density = 10 ** (-6 * random(3, 1, *shape)) * (random(3, 1, *shape) > 0.1)
    tangents = density * (random(3, fields - 1, *shape) - 0.5)
    y = torch.cat([0.9 * density * (capacity if maps[0] else 1), tangents], 1) * domain
    coefficients = torch.tensor([scheme(stages)], dtype=torch.float64).repeat(3, 1, 1)
    coefficients[..., 3] *= (
        torch.tensor([[0.5], [0.2], [0.8]]) / operator.row_sum * ((stages**2 + stages - 2) / 4)
    )
    table = torch.zeros(3, 2 + fields, dtype=torch.float64)
    table[:2, :2] = torch.tensor([[0.1, 0.07], [0.3, 0.2]])
    if killed:
        table[1, 2:] = 0.4 * random(fields)
    return Case(medium, pad(y), coefficients, Reaction(table))


def guarded(value: Tensor) -> Tensor:
    """The tensor between stretches of nan, so that reading outside it shows."""
    room = 2 * value.shape[-1] * value.shape[-2] + 64 if value.ndim > 3 else 4096
    around = torch.full((value.numel() + 2 * room,), float("nan"), dtype=value.dtype, device=value.device)
    around[room:-room] = value.flatten()
    return around[room:-room].view(value.shape)


def compare(sweeps: Sweeps, given: Case) -> None:
    """Step and reaction, several times: every field within the tolerance of its type, norm over norm."""
    reference = TorchSweeps(given.medium)
    y, out, expected = (
        guarded(given.fields),
        guarded(torch.zeros_like(given.fields)),
        torch.zeros_like(given.fields),
    )
    for factor in (1.0, 0.8, 0.6):  # in the same buffers, so that later ones are replays
        y.copy_(factor * given.fields)
        kept = y.clone()
        sweeps.step(out, y, given.scheme, given.reaction)
        reference.step(expected, y, given.scheme, given.reaction)
        assert torch.equal(y, kept)
        check(out, expected)
        sweeps.react(out, given.reaction)
        reference.react(expected, given.reaction)
        check(out, expected)


def check(result: Tensor, expected: Tensor) -> None:
    """Field by field."""
    error = (result - expected).double().flatten(2).norm(dim=2) / expected.double().flatten(2).norm(dim=2)
    allowed = torch.full_like(error, TOLERANCE[expected.dtype])
    # tangents cancel: in single precision every backend is several 1e-6 away from double
    allowed[:, 1:] *= 8
    assert bool((error <= allowed).all()), error


def named(diffusivity, proliferation):
    values = {"diffusivity": diffusivity, "proliferation": proliferation}
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def treated(law, dtype, diffusivity, device="cpu"):
    """A model with maps and therapies on a ragged domain, parameters of two members, a density (on the CPU)."""
    shape = (12, 15, 19)
    generator = torch.Generator().manual_seed(5)
    random = lambda: torch.rand(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    domain = random() > 0.15
    operator = DiffusionOperator.build(
        (0.1 + random()).to(device),
        domain.to(device),
        (1.0, 1.4, 0.9),
        dtype=dtype,
        backend="torch" if device == "cpu" else "auto",
    )
    therapies = (
        Radiotherapy([2.0, 2.3, 6.0], [2.0, 2.0, 1.5], dose_map=0.5 + random()),
        Chemotherapy([1.0, 5.5], [75.0, 150.0]),
    )
    maps = (0.7 + 0.3 * random()).to(device), (0.5 + random()).to(device)
    model = ReactionDiffusion(operator, law, *maps, therapies)
    values = {
        "diffusivity": [diffusivity, 1.3 * diffusivity],
        "proliferation": [0.06, 0.03],
        "radiosensitivity": [0.05, 0.1],
        "chemosensitivity": [0.3, 0.5],
    }
    parameters = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    x, y, z = torch.meshgrid(*(torch.arange(n) - n / 2 for n in shape), indexing="ij")
    density = 0.6 * torch.exp(-(x**2 + y**2 + z**2).double() / (12 * math.e)) * domain
    return model, parameters, density
