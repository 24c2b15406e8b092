"""How masks and density are tied to each other: one operator for every visit, the first included.

A core mask is where the density exceeds one threshold, a whole-tumour mask where it exceeds a lower one. Backwards,
the density that belongs to a pair of masks is the steady travelling wave laid through both boundaries: between them
the wave's position runs linearly with the distances to the two, inside and outside it follows the front width that
the parameters have. Where nothing was segmented around the core, it follows that width from the core's boundary on.
Necrosis is part of the core and counts as dense tissue. Where no core was segmented, how far density rises inside is
unknown: what would be the shift of the core's boundary says it, see :func:`inner_rise`.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtr
from torch import Tensor

from twin.distance import signed_distance
from twin.settings import CalibrationSettings
from twin.wave import WaveProfile, wave_profile

_LEAST_GAP_MM = 1e-6


@dataclass(frozen=True)
class BoundaryDistances:
    """Signed distances (mm, negative inside) to the boundaries of a visit's masks, on a box.

    Exactly the voxels of a mask have a negative distance, so that volumes are kept. The edge of the tissue is no
    boundary: beyond it masks go on as they are next to it.

    Parameters
    ----------
    day : float
        Days since the first visit.
    core : Tensor or None
        float64 (X, Y, Z); None when the core mask is empty.
    whole : Tensor
        float64 (X, Y, Z).
    shift_sd_mm : float
        Standard deviation that shifts of the boundaries have before any scan.
    has_margin : bool
        Whether the boundary of the whole tumour was seen; without it the front begins at the core's.
    """

    day: float
    core: Tensor | None
    whole: Tensor
    shift_sd_mm: float
    has_margin: bool = True

    @classmethod
    def measure(
        cls,
        day: float,
        core: Tensor,
        whole: Tensor,
        spacing_mm: tuple[float, float, float],
        shift_sd_mm: float,
        has_margin: bool,
    ) -> "BoundaryDistances":
        """Distances of the masks (X, Y, Z) of a visit, which go on beyond the edge of the tissue."""
        return cls(
            day=day,
            core=signed_distance(core, spacing_mm) if bool(core.any()) else None,
            whole=signed_distance(whole, spacing_mm),
            shift_sd_mm=shift_sd_mm,
            has_margin=has_margin,
        )

    @property
    def seen(self) -> tuple[int, ...]:
        """Masks that are observed: 0 for the core, even where it is empty, and 1 for the whole tumour."""
        return (0, 1) if self.has_margin else (0,)


@dataclass(frozen=True)
class StartingDensity:
    """Density that masks stand for, with its derivatives; all (X, Y, Z).

    ``by_log_width`` is with respect to the log front width, ``by_core`` and ``by_whole`` with respect to an outward
    shift of either boundary, 1/mm.
    """

    density: Tensor
    by_log_width: Tensor
    by_core: Tensor
    by_whole: Tensor


def density_from_masks(
    distances: BoundaryDistances,
    front_width_mm: float,
    settings: CalibrationSettings,
    core_shift_mm: Tensor | float = 0.0,
    whole_shift_mm: Tensor | float = 0.0,
) -> StartingDensity:
    """Tumour cell density that a visit's masks stand for.

    Parameters
    ----------
    distances : BoundaryDistances
        Of the visit.
    front_width_mm : float
        sqrt(diffusivity / proliferation) in the tissue around, mm.
    core_shift_mm, whole_shift_mm : float or Tensor
        Outward displacement of the boundaries, mm; a scalar or a volume. Without a core the first is a scalar and
        stands for the density inside.
    """
    wave = wave_profile()
    core, whole = _shifted(distances, core_shift_mm, whole_shift_mm)
    rise, by_shift = (
        inner_rise(core_shift_mm, distances.shift_sd_mm) if core is None else (math.nan, math.nan)
    )
    margin = distances.has_margin
    position, inside, outside = _on_wave(wave, core, whole, front_width_mm, settings, rise, margin)
    density, slope = wave.density_and_slope(position)
    width, nothing = front_width_mm, torch.zeros_like(whole)
    at_core, at_whole = wave.position(settings.core_threshold), wave.position(settings.whole_threshold)
    thickness = at_whole - at_core
    if core is None:
        along = position - at_whole
        free = ~inside
        by_core = -slope * thickness * by_shift * inside
        return StartingDensity(density, -slope * along * free, by_core, -slope / width * free)
    if not distances.has_margin:
        return StartingDensity(density, -slope * core / width, -slope / width, nothing)
    gap = (core - whole).clamp(min=_LEAST_GAP_MM)
    by_width = torch.where(outside, -whole / width, torch.where(inside, -core / width, nothing))
    by_core = torch.where(outside, nothing, torch.where(inside, -1.0 / width, thickness * whole / gap**2))
    by_whole = torch.where(outside, -1.0 / width, torch.where(inside, nothing, -thickness * core / gap**2))
    return StartingDensity(density, slope * by_width, slope * by_core, slope * by_whole)


def inner_rise(core_shift_mm: Tensor | float, shift_sd_mm: float) -> tuple[float, float]:
    """How far from the whole tumour's threshold to the core's, on the wave, density rises in a tumour without core.

    A scan without core shows that it stays below the core's threshold everywhere, and nothing more: every share is as
    probable as another. The shift of the core's boundary, which such a visit does not have, carries it, its normal law
    taken to the uniform one.

    Returns
    -------
    tuple of float
        Share, 0..1, and its derivative in the shift, 1/mm.
    """
    away = float(core_shift_mm) / shift_sd_mm
    return float(ndtr(away)), math.exp(-(away**2) / 2.0) / (math.sqrt(2.0 * math.pi) * shift_sd_mm)


def mask_density(
    distances: BoundaryDistances,
    front_width_mm: float,
    settings: CalibrationSettings,
    core_shift_mm: Tensor | float = 0.0,
    whole_shift_mm: Tensor | float = 0.0,
    profile: WaveProfile | None = None,
) -> Tensor:
    """The density of :func:`density_from_masks` alone; distances may have any shape.

    Another ``profile`` than the steady wave may be laid through the boundaries; its positions count in front widths.
    """
    wave = profile or wave_profile()
    core, whole = _shifted(distances, core_shift_mm, whole_shift_mm)
    rise = inner_rise(core_shift_mm, distances.shift_sd_mm)[0] if core is None else math.nan
    margin = distances.has_margin
    return wave.density(_on_wave(wave, core, whole, front_width_mm, settings, rise, margin)[0])


def _shifted(
    distances: BoundaryDistances, core_shift_mm: Tensor | float, whole_shift_mm: Tensor | float
) -> tuple[Tensor | None, Tensor]:
    """Distances to the displaced boundaries; the core stays within the whole tumour."""
    whole = distances.whole - whole_shift_mm
    if distances.core is None:
        return None, whole
    core = distances.core - core_shift_mm
    return core, torch.minimum(whole, core)


def _on_wave(
    wave: WaveProfile,
    core: Tensor | None,
    whole: Tensor,
    width: float,
    settings: CalibrationSettings,
    rise: float,
    has_margin: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Position on the wave, and where it no longer depends on the boundary of the whole tumour, and of the core.

    ``rise`` is the share of :func:`inner_rise`, for a tumour without core.
    """
    at_core, at_whole = wave.position(settings.core_threshold), wave.position(settings.whole_threshold)
    thickness = at_whole - at_core
    outside = whole >= 0.0
    if core is None:
        # without a core the density stays below the core threshold however deep the tumour
        along = (whole / width).clamp(min=-rise * thickness)
        return at_whole + along, along <= -rise * thickness, outside
    inside = core < 0.0
    if not has_margin:
        return at_core + core / width, inside, outside
    gap = (core - whole).clamp(min=_LEAST_GAP_MM)
    position = torch.where(inside, at_core + core / width, at_core + thickness * core / gap)
    return torch.where(outside, at_whole + whole / width, position), inside, outside


def soft_mask(density: Tensor, threshold: float, settings: CalibrationSettings) -> Tensor:
    """Probability sigmoid((density - threshold) / width) that tissue of this density is inside the mask."""
    return torch.sigmoid((density - threshold) / settings.threshold_width)
