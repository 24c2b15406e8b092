"""Reference backend: plain torch slices, any device, any floating type."""

import torch
from torch import Tensor

_INNER = (slice(1, -1), slice(1, -1), slice(1, -1))


def stage(
    out: Tensor,
    y0: Tensor,
    y1: Tensor,
    y2: Tensor,
    y3: Tensor,
    faces: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    coefficients: Tensor,
) -> None:
    """Compute one stage; see :class:`twin.backends.Stage`. ``rows`` is not needed here."""
    del rows
    c1, c2, c3, c4, reaction = (c.view(-1, 1, 1, 1, 1) for c in coefficients.to(out.dtype).unbind(1))
    tangents = out.shape[1] > 1
    moved = y1
    if tangents:
        moved = y1.clone()
        moved[:, 1] += y1[:, 0]
    inner = (..., *_INNER)
    base = y0[inner]
    new = base + c1 * (y1[inner] - base) + c2 * (y2[inner] - base) + c3 * (y3[inner] - base)
    new += c4 * divergence(moved, faces)
    if bool((coefficients[:, 4] != 0).any()):
        growth = torch.expm1(reaction)
        shrink = 1.0 / (1.0 + new[:, :1] * growth)
        density = new[:, :1] * (growth + 1.0) * shrink
        if tangents:
            new[:, 1:] *= (growth + 1.0) * shrink * shrink
            new[:, 2:3] += reaction * density * (1.0 - density)
        new[:, :1] = density
    out[inner] = new


def divergence(field: Tensor, faces: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Finite-volume div(w grad field) at the inner voxels, of shape (..., X, Y, Z)."""
    total = torch.zeros_like(field[(..., *_INNER)])
    for axis, weight in enumerate(faces):
        flux = weight.narrow(axis, 0, weight.shape[axis] - 1) * torch.diff(field, dim=axis - 3)
        for other in range(3):
            if other != axis:
                flux = flux.narrow(other - 3, 1, flux.shape[other - 3] - 2)
        total += torch.diff(flux, dim=axis - 3)
    return total
