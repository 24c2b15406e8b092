"""What the twin is given: tissue maps and segmented visits on one grid."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twin.errors import TwinError

_LEAST_MARGIN = 0.02
"""Share of the core's volume below which what lies around it is no margin: no front is that sharp."""


@dataclass(frozen=True)
class TissueMaps:
    """Tissue of one head.

    Parameters
    ----------
    white_matter, gray_matter : Tensor
        Probabilities 0..1, shape (X, Y, Z), floating point.
    domain : Tensor
        True where tumour cells may be, shape (X, Y, Z), bool.
    spacing_mm : tuple of float
        Voxel size along the three axes, mm.

    Raises
    ------
    TwinError
        If shapes, types or values are not as said.
    """

    white_matter: Tensor
    gray_matter: Tensor
    domain: Tensor
    spacing_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name in ("white_matter", "gray_matter"):
            value: Tensor = getattr(self, name)
            if value.ndim != 3 or not value.is_floating_point():
                raise TwinError("bad_tissue", f"{name} must be a floating-point volume with three axes.")
            if (
                not bool(torch.isfinite(value).all())
                or float(value.min()) < -1e-3
                or float(value.max()) > 1.001
            ):
                raise TwinError("bad_tissue", f"{name} must hold probabilities between 0 and 1.")
        if self.domain.dtype != torch.bool:
            raise TwinError("bad_tissue", "domain must be a boolean volume.")
        if not (self.white_matter.shape == self.gray_matter.shape == self.domain.shape):
            raise TwinError("bad_tissue", "white_matter, gray_matter and domain must have one shape.")
        if len(self.spacing_mm) != 3 or not all(math.isfinite(h) and h > 0 for h in self.spacing_mm):
            raise TwinError(
                "bad_tissue", f"spacing_mm must hold three positive numbers, not {self.spacing_mm}."
            )
        if not bool(self.domain.any()):
            raise TwinError("bad_tissue", "domain is empty: there is no tissue for a tumour to grow in.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along the three axes."""
        x, y, z = self.domain.shape
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel, mm3."""
        return math.prod(self.spacing_mm)


@dataclass(frozen=True)
class TumourObservation:
    """Segmentation of one visit, on the grid of the tissue maps.

    Parameters
    ----------
    day : float
        Days since the first visit.
    core : Tensor
        Tumour core (necrosis and enhancing tumour), bool, shape (X, Y, Z). May be empty.
    whole : Tensor
        Whole tumour (core and oedema), bool, shape (X, Y, Z), contains the core.
    cellularity : Tensor, optional
        Tumour cell density 0..1 from diffusion imaging, floating point (X, Y, Z), nan where it was not measured; see
        :func:`twin.cellularity.cellularity_from_adc`. Replaces the masks in the likelihood of this visit.

    Raises
    ------
    TwinError
        If shapes, types or values are not as said.

    Notes
    -----
    A whole tumour that is hardly more than the core says that nobody drew what lies around the core, not that nothing
    does: such a mask is no observation of the whole tumour (see :attr:`has_margin`).
    """

    day: float
    core: Tensor
    whole: Tensor
    cellularity: Tensor | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.day):
            raise TwinError("bad_visit", f"The day of a visit must be a finite number, not {self.day}.")
        if self.core.dtype != torch.bool or self.whole.dtype != torch.bool:
            raise TwinError("bad_visit", f"The masks of day {self.day:g} must be boolean volumes.")
        if self.core.shape != self.whole.shape or self.core.ndim != 3:
            raise TwinError(
                "bad_visit", f"The masks of day {self.day:g} must share one shape with three axes."
            )
        if bool((self.core & ~self.whole).any()):
            raise TwinError(
                "bad_visit", f"The core mask of day {self.day:g} reaches outside the whole-tumour mask."
            )
        if self.cellularity is not None:
            _check_cellularity(self.day, self.cellularity, self.whole.shape)

    @property
    def has_margin(self) -> bool:
        """Whether tumour was segmented around the core, or without one."""
        core = float(self.core.sum())
        return core == 0.0 or float(self.whole.sum()) > (1.0 + _LEAST_MARGIN) * core


def _check_cellularity(day: float, cellularity: Tensor, shape: torch.Size) -> None:
    if cellularity.shape != shape or not cellularity.is_floating_point():
        raise TwinError(
            "bad_visit",
            f"The cellularity of day {day:g} must be a floating-point volume of the masks' shape {tuple(shape)}.",
        )
    measured = cellularity[~torch.isnan(cellularity)]
    if not measured.numel():
        raise TwinError("bad_visit", f"The cellularity of day {day:g} was measured nowhere; leave it out.")
    if float(measured.min()) < 0.0 or float(measured.max()) > 1.0:
        raise TwinError("bad_visit", f"The cellularity of day {day:g} must lie between 0 and 1.")


def check_visits(tissue: TissueMaps, visits: Sequence[TumourObservation]) -> None:
    """Refuse visits that no growth model can be started from.

    Raises
    ------
    TwinError
        ``no_visit``, ``bad_visit`` (other grid), ``visit_order``, ``zero_interval``, ``no_tumour`` or ``tumour_gone``.
    """
    if not visits:
        raise TwinError("no_visit", "Calibration needs at least one visit.")
    for visit in visits:
        if visit.whole.shape != tissue.domain.shape:
            raise TwinError(
                "bad_visit",
                f"The masks of day {visit.day:g} have the shape {tuple(visit.whole.shape)}, "
                f"the tissue maps {tissue.shape}; resample them to one grid.",
            )
    for earlier, later in itertools.pairwise(visits):
        if later.day == earlier.day:
            raise TwinError(
                "zero_interval", f"Two visits share day {later.day:g}: growth needs time between visits."
            )
        if later.day < earlier.day:
            raise TwinError(
                "visit_order", f"Day {later.day:g} comes after day {earlier.day:g}: sort visits by day."
            )
    if not bool(visits[0].whole.any()):
        raise TwinError("no_tumour", f"The first visit (day {visits[0].day:g}) shows no tumour to grow from.")
    for visit in visits[1:]:
        if not bool(visit.whole.any()):
            raise TwinError(
                "tumour_gone",
                f"The tumour of the first visit is gone on day {visit.day:g}: a growth model cannot explain that.",
            )
