"""One set of sweeps, several ways to compute it.

A backend computes steps of the schemes of :mod:`twin.stepping`. For each member ``b`` of a batch, each field ``f`` and
each voxel, the stages of a step are

    y_m = y_0 + c1 (y_{m-1} - y_0) + c2 (y_{m-2} - y_0) + c3 (y_1 - y_0) + c4 L(y_{m-1}),      m = 1 .. S

(with y_{-1} = y_0), followed by the *reaction*: exact growth over ``before``, multiplication by exp(-kill), exact
growth over ``after``. ``L`` is the finite-volume operator div(w grad .) of the tissue weight, ``c4`` carries
diffusivity times time, ``before`` and ``after`` are proliferation times time. Differences to ``y_0`` keep mass in
single precision, which coefficients that sum to one only nearly do not.

Field 0 is the density. If there are more, they are tangents: field 1 with respect to log diffusivity (so that the
operator acts on the tangent plus the density), field 2 with respect to log proliferation, any others with respect to
parameters of therapies (which enter through the tangents of ``kill``) or directions of the initial condition.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from twin.errors import TwinError
from twin.settings import BackendName

LAWS = ("logistic", "gompertz")
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Medium:
    """What the sweeps of one model share; volumes have a halo of zeros, (X + 2, Y + 2, Z + 2).

    Parameters
    ----------
    faces : tuple of Tensor
        Weights between a voxel and the next one along each axis, 1/mm2.
    domain : Tensor
        bool (X, Y, Z), without halo.
    law : str
        Growth law, one of ``LAWS``.
    capacity, local_growth : Tensor or None
        Maps of carrying capacity and of the factor on proliferation.
    """

    faces: tuple[Tensor, Tensor, Tensor]
    domain: Tensor
    law: str
    capacity: Tensor | None
    local_growth: Tensor | None


@dataclass(frozen=True)
class Reaction:
    """Growth, kill, growth.

    Parameters
    ----------
    table : Tensor
        (B, 2 + F), float64 on the CPU. Columns: proliferation times time of the growth before and after the kill, the
        exponent of the survival, and its derivatives with respect to the parameters of the fields 1 to F - 1.
    """

    table: Tensor

    @classmethod
    def none(cls, members: int, fields: int) -> "Reaction":
        """No reaction at all."""
        return cls(torch.zeros(members, 2 + fields, dtype=torch.float64))


class Sweeps(Protocol):
    """A backend, bound to one medium. Fields are (B, F, X + 2, Y + 2, Z + 2) with a halo of zeros."""

    def step(self, out: Tensor, y: Tensor, scheme: Tensor, reaction: Reaction) -> None:
        """Write a whole step from ``y`` into ``out``; ``scheme`` (B, S, 4) is float64 on the CPU, c1 to c4."""

    def react(self, y: Tensor, reaction: Reaction) -> None:
        """The reaction alone, in place."""

    def follow(self, y: Tensor, threshold: float, reach: int) -> tuple[Triple, Triple]:
        """Tell where the density of any member exceeds ``threshold``: first and one past the last voxel of the axes.

        From now on nothing need be computed farther than ``reach`` voxels around, but cells that were visited before
        stay so; a backend may compute more. Both ends are zero when there is nothing.
        """


def bind(name: BackendName, medium: Medium, threads: int) -> Sweeps:
    """Return the backend called ``name``; ``auto`` takes the fastest that the device and the installation have.

    ``threads`` is the number of threads of one numba sweep; torch has its own setting.

    Raises
    ------
    TwinError
        If the backend asked for cannot be had.
    """
    from twin.backends import cuda, numba_cpu, torch_reference

    device = medium.domain.device
    possible = {
        "numba": device.type == "cpu" and numba_cpu.AVAILABLE,
        "cuda": device.type == "cuda" and cuda.available(),
        "torch": True,
    }
    chosen = next(other for other, can in possible.items() if can) if name == "auto" else name
    if not possible[chosen]:
        needs = {"numba": "numba and a CPU", "cuda": "CuPy with its compiler NVRTC and a CUDA device"}
        raise TwinError(
            "no_backend", f"The {chosen} backend needs {needs[chosen]}; the tensors are on {device.type}."
        )
    if chosen == "numba":
        return numba_cpu.NumbaSweeps(medium, threads)
    if chosen == "cuda":
        kernels = cuda.CupyKernels(device, medium.faces[0].dtype, medium.law)
        return cuda.CudaSweeps(medium, kernels)
    return torch_reference.TorchSweeps(medium)
