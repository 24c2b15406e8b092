"""Growth models: the equation that a solver integrates, without its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from twin.errors import TwinError
from twin.operator import DiffusionOperator
from twin.treatment import Therapy

GrowthLaw = Literal["logistic", "gompertz"]
GOMPERTZ_FLOOR = 1e-3
"""Relative density below which Gompertz growth is exponential; without it the rate at low density has no bound."""


@dataclass(frozen=True)
class ReactionDiffusion:
    """du/dt = div(D w(x) grad u) + rho m(x) u g(u / K(x)), zero flux at the edge of the domain, under therapies.

    The growth law g is 1 - u/K (logistic), or ln(u/K) / ln(floor), at most 1 (Gompertz, with ``GOMPERTZ_FLOOR``); rho
    is in both the rate at low density. Moments of therapies multiply u, drugs take -c(t) u from the right-hand side.

    Parameters
    ----------
    operator : DiffusionOperator
        Tissue weight w and domain, (X, Y, Z).
    law : {"logistic", "gompertz"}
        Growth law.
    capacity : Tensor, optional
        Carrying capacity K, (X, Y, Z), within (0, 1]; one everywhere by default.
    local_growth : Tensor, optional
        Factor m on the proliferation rate, (X, Y, Z), not negative; one everywhere by default.
    therapies : sequence of Therapy
        Treatments on the calendar of the first visit.
    """

    operator: DiffusionOperator
    law: GrowthLaw = "logistic"
    capacity: Tensor | None = None
    local_growth: Tensor | None = None
    therapies: Sequence[Therapy] = ()

    def __post_init__(self) -> None:
        shape = self.operator.domain.shape
        for name in ("capacity", "local_growth"):
            value: Tensor | None = getattr(self, name)
            if value is None:
                continue
            value = value.detach()
            if value.shape != shape or not bool(torch.isfinite(value).all()) or float(value.min()) < 0.0:
                raise TwinError(
                    "bad_model", f"{name} must be a finite volume of the shape {tuple(shape)}, not negative."
                )
        if self.capacity is not None:
            inside = self.capacity[self.operator.domain]
            if float(inside.min()) <= 0.0 or float(inside.max()) > 1.0:
                raise TwinError("bad_model", "capacity must lie within (0, 1] in the domain.")
        names = [therapy.parameter for therapy in self.therapies if therapy.parameter is not None]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise TwinError(
                "bad_model",
                f"Two therapies share one parameter, the {' and the '.join(twice)}: give the courses of one kind as "
                "one therapy with all their days and doses.",
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the tangents: diffusivity, proliferation, then the therapies'."""
        own = [therapy.parameter for therapy in self.therapies if therapy.parameter is not None]
        return ("diffusivity", "proliferation", *own)

    def with_therapies(self, therapies: Sequence[Therapy]) -> "ReactionDiffusion":
        """The same model under other treatments."""
        return replace(self, therapies=tuple(therapies))
