"""The finite-volume diffusion operator of one tissue, without its diffusivity."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from twin.errors import TwinError
from twin.settings import BackendName


@dataclass(frozen=True)
class DiffusionOperator:
    """Cell-centred conservative div(w grad u) with zero flux at the edge of the domain.

    The flux between two voxels uses the harmonic mean of their weights, which makes it zero towards any voxel outside
    the domain: mass is conserved to rounding and the boundary condition is exact.

    Parameters
    ----------
    faces : tuple of Tensor
        Face weights with halo, (X + 2, Y + 2, Z + 2), 1/mm2.
    domain : Tensor
        bool (X, Y, Z).
    spacing_mm : tuple of float
        Voxel size, mm.
    row_sum : float
        Largest sum of the face weights of one voxel, 1/mm2; Euler's method is positive up to a step of
        1 / (diffusivity * row_sum).
    backend : {"auto", "torch", "numba", "cuda"}
        See :func:`twin.backends.bind`.
    threads : int
        Threads of one numba sweep.
    device : torch.device
        Where the solver computes; the tensors here may be elsewhere.
    """

    faces: tuple[Tensor, Tensor, Tensor]
    domain: Tensor
    spacing_mm: tuple[float, float, float]
    row_sum: float
    backend: BackendName
    threads: int
    device: torch.device

    @classmethod
    def build(
        cls,
        weight: Tensor,
        domain: Tensor,
        spacing_mm: tuple[float, float, float],
        *,
        backend: BackendName = "auto",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        device: torch.device | None = None,
    ) -> "DiffusionOperator":
        """Precompute the operator.

        Parameters
        ----------
        weight : Tensor
            Diffusivity of each voxel relative to white matter, (X, Y, Z), not negative.
        domain : Tensor
            bool (X, Y, Z).
        spacing_mm : tuple of float
            Voxel size, mm.
        backend : {"auto", "torch", "numba", "cuda"}, optional
            See :func:`twin.backends.bind`.
        dtype : torch.dtype, optional
            Of the fields.
        threads : int, optional
            Threads of one numba sweep; defaults to torch's number.
        device : torch.device, optional
            Where the solver computes; defaults to the device of ``domain``.
        """
        if weight.shape != domain.shape or domain.ndim != 3:
            raise TwinError("bad_tissue", "weight and domain must share one shape with three axes.")
        if bool((weight < 0).any()):
            raise TwinError("bad_tissue", "The tissue weight of the diffusivity must not be negative.")
        padded = torch.zeros([n + 2 for n in domain.shape], dtype=torch.float64, device=domain.device)
        padded[1:-1, 1:-1, 1:-1] = torch.where(domain, weight.to(torch.float64), 0.0)
        faces, row_sum = [], torch.zeros_like(padded)
        for axis, spacing in enumerate(spacing_mm):
            here, there = padded, padded.roll(-1, axis)
            face = 2.0 * here * there / (here + there).clamp_min(1e-300) / spacing**2
            row_sum += face + face.roll(1, axis)
            faces.append(face.to(dtype).contiguous())
        return cls(
            faces=(faces[0], faces[1], faces[2]),
            domain=domain,
            spacing_mm=spacing_mm,
            row_sum=float(row_sum.max()),
            backend=backend,
            threads=threads or torch.get_num_threads(),
            device=domain.device if device is None else device,
        )

    @cached_property
    def placed(self) -> "DiffusionOperator":
        """The operator with its tensors where the solver computes."""
        if self.domain.device == self.device:
            return self
        x, y, z = (face.to(self.device) for face in self.faces)
        return replace(self, faces=(x, y, z), domain=self.domain.to(self.device))

    def crop(self, index: tuple[slice, slice, slice]) -> "DiffusionOperator":
        """The operator on a part of the box; no flux crosses the cut."""
        if all((s.start, s.stop) == (0, n) for s, n in zip(index, self.domain.shape, strict=True)):
            return self
        padded = tuple(slice(s.start, s.stop + 2) for s in index)
        domain = self.domain[index]
        faces = []
        for axis, face in enumerate(self.faces):
            part = face[padded].clone()
            for other in range(3):
                part.select(other, 0).zero_()
                part.select(other, -1).zero_()
            part.select(axis, -2).zero_()
            faces.append(part)
        return replace(self, faces=(faces[0], faces[1], faces[2]), domain=domain)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the fields."""
        return self.faces[0].dtype
