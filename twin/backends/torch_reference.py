"""Reference backend: plain torch slices, any device, any floating type."""

import math

import torch
from torch import Tensor

from twin.backends import Medium, Reaction, Triple
from twin.model import GOMPERTZ_FLOOR

_INNER = (slice(1, -1), slice(1, -1), slice(1, -1))
_INSIDE = (..., *_INNER)
_LOG_FLOOR = -math.log(GOMPERTZ_FLOOR)


class TorchSweeps:
    """See :class:`twin.backends.Sweeps`."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        maps = (medium.local_growth, medium.capacity)
        self._growth, self._capacity = (None if value is None else value[_INNER] for value in maps)

    def step(self, out: Tensor, y: Tensor, scheme: Tensor, reaction: Reaction) -> None:
        """Stage by stage."""
        base = y[_INSIDE]
        first = before = previous = y
        for number, columns in enumerate(scheme.to(y).unbind(1)):
            new = base.clone()
            for column, other in zip(columns.unbind(1), (previous, before, first), strict=False):
                if bool((column != 0).any()):
                    new += column.view(-1, 1, 1, 1, 1) * (other[_INSIDE] - base)
            moved = previous
            if y.shape[1] > 1:
                # the derivative of the operator in log diffusivity is the operator on the density
                moved = previous.clone()
                moved[:, 1] += moved[:, 0]
            new += columns[:, 3].view(-1, 1, 1, 1, 1) * divergence(moved, self._medium.faces)
            before, previous = previous, torch.nn.functional.pad(new, (1,) * 6)
            if number == 0:
                first = previous
        out.copy_(previous)
        self.react(out, reaction)

    def react(self, y: Tensor, reaction: Reaction) -> None:
        """The reaction alone."""
        y[_INSIDE] = self._react(y[_INSIDE], reaction)

    def follow(self, y: Tensor, threshold: float, reach: int) -> tuple[Triple, Triple]:
        """Every cell is visited here."""
        del reach
        present = (y[_INSIDE][:, 0] > threshold).any(dim=0)
        filled = [present.any(dim=2).any(dim=1), present.any(dim=2).any(dim=0), present.any(dim=0).any(dim=0)]
        ends = [along.nonzero() for along in filled]
        if not len(ends[0]):
            return (0, 0, 0), (0, 0, 0)
        (a, b, c), (d, e, f) = ([int(end[which]) + side for end in ends] for which, side in ((0, 0), (-1, 1)))
        return (a, b, c), (d, e, f)

    def _react(self, fields: Tensor, reaction: Reaction) -> Tensor:
        before, after, kill = reaction.table[:, :3].unbind(1)
        if not bool((reaction.table[:, 2:] != 0).any()):
            return self._grow(fields, before + after)
        fields = self._grow(fields, before)
        survival = torch.exp(-kill).to(fields).view(-1, 1, 1, 1, 1)
        lost = torch.nn.functional.pad(reaction.table[:, 3:], (1, 0)).to(fields)
        fields = survival * (fields - lost.view(*lost.shape, 1, 1, 1) * fields[:, :1])
        return self._grow(fields, after)

    def _grow(self, fields: Tensor, amount: Tensor) -> Tensor:
        """Exact growth over rate times time ``amount`` (B,)."""
        if not bool((amount != 0).any()):
            return fields
        local = amount.to(fields).view(-1, 1, 1, 1, 1)
        if self._growth is not None:
            local = local * self._growth.to(fields)
        density = fields[:, :1]
        most = torch.ones_like(density) if self._capacity is None else self._capacity.to(fields)
        most = torch.where(most > 0, most, 1.0)  # outside the domain, where nothing grows
        law = _logistic if self._medium.law == "logistic" else _gompertz
        relative, slope, source = law(density / most, local)
        grown = torch.empty_like(fields)
        grown[:, :1] = relative * most
        if fields.shape[1] > 1:
            grown[:, 1:] = fields[:, 1:] * slope
            grown[:, 2:3] += source * most
        return grown


def _logistic(u: Tensor, amount: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Relative density after growth, its derivative in the density and in log proliferation."""
    growth = torch.expm1(amount)
    shrink = 1.0 / (1.0 + u * growth)
    grown = u * (growth + 1.0) * shrink
    return grown, (growth + 1.0) * shrink * shrink, amount * grown * (1.0 - grown)


def _gompertz(u: Tensor, amount: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same for u' = u min(1, ln u / ln floor)."""
    present = u > 0
    low = torch.log(torch.where(present, u, 1.0))
    free = (-_LOG_FLOOR - low).clamp(min=0.0)
    exponential = torch.minimum(free, amount)
    later = (low + exponential) * torch.exp(-(amount - exponential) / _LOG_FLOOR)
    later = torch.where(free >= amount, low + amount, later)
    grown = torch.where(present, torch.exp(later), 0.0)
    speed, begin = (-later / _LOG_FLOOR).clamp(max=1.0), (-low / _LOG_FLOOR).clamp(max=1.0)
    full = begin <= 0
    ratio = torch.where(full, torch.exp(-amount / _LOG_FLOOR), speed / torch.where(full, 1.0, begin))
    slope = torch.where(present, torch.exp(later - low) * ratio, torch.exp(amount))
    return grown, slope, torch.where(present, amount * grown * speed, 0.0)


def divergence(field: Tensor, faces: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Finite-volume div(w grad field) at the inner voxels, of shape (..., X, Y, Z)."""
    total = torch.zeros_like(field[_INSIDE])
    for axis, weight in enumerate(faces):
        flux = weight.narrow(axis, 0, weight.shape[axis] - 1) * torch.diff(field, dim=axis - 3)
        for other in range(3):
            if other != axis:
                flux = flux.narrow(other - 3, 1, flux.shape[other - 3] - 2)
        total += torch.diff(flux, dim=axis - 3)
    return total
