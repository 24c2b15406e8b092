"""One operator, several ways to compute it.

A backend computes the *stage* from which every scheme of :mod:`twin.stepping` is made. For each member ``b`` of a
batch, each field ``f`` and each voxel

    out = y0 + c1 (y1 - y0) + c2 (y2 - y0) + c3 (y3 - y0) + c4 L(y1),

followed by the exact logistic step over ``reaction``. ``L`` is the finite-volume operator div(w grad .) of the tissue
weight, ``c4`` carries diffusivity times time and ``reaction`` is proliferation times time. Differences to ``y0`` keep
mass in single precision, which coefficients that sum to one only nearly do not. Field 0 is the density. If there are
more, they are tangents: field 1 with respect to log diffusivity (so that the operator acts on the tangent plus the
density), field 2 with respect to log proliferation, any further ones with respect to directions of the initial
condition.
"""

from functools import partial
from typing import Protocol

from torch import Tensor

from twin.backends import numba_cpu, torch_reference
from twin.errors import TwinError
from twin.settings import BackendName


class Stage(Protocol):
    """Signature of a backend."""

    def __call__(
        self,
        out: Tensor,
        y0: Tensor,
        y1: Tensor,
        y2: Tensor,
        y3: Tensor,
        faces: tuple[Tensor, Tensor, Tensor],
        rows: Tensor,
        coefficients: Tensor,
    ) -> None:
        """Write one stage into ``out``.

        Parameters
        ----------
        out, y0, y1, y2, y3 : Tensor
            Fields of shape (B, F, X + 2, Y + 2, Z + 2) with a halo of zeros; ``out`` is none of the others.
        faces : tuple of Tensor
            Face weights (X + 2, Y + 2, Z + 2) between a voxel and the next one along each axis, 1/mm2.
        rows : Tensor
            int32 (X + 2, Y + 2, 2): first and one past the last voxel of the domain in every row along z.
        coefficients : Tensor
            (B, 5): c1, c2, c3, c4 and ``reaction`` of every member.
        """


def choose(name: BackendName, device_type: str, threads: int) -> Stage:
    """Return the backend called ``name``; ``auto`` takes numba on a CPU if it is installed.

    ``threads`` is the number of threads of one numba sweep; torch has its own setting.

    Raises
    ------
    TwinError
        If numba is asked for and cannot be had.
    """
    possible = device_type == "cpu" and numba_cpu.AVAILABLE
    if name == "numba" and not possible:
        raise TwinError(
            "no_backend", f"The numba backend needs numba and a CPU; the tensors are on {device_type}."
        )
    if name == "numba" or (name == "auto" and possible):
        return partial(numba_cpu.stage, threads=threads)
    return torch_reference.stage
