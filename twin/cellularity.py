"""Tumour cell density from diffusion imaging."""

import math

import torch
from torch import Tensor

from twin.errors import TwinError

FREE_WATER_MM2_PER_S = 3.0e-3
"""Apparent diffusion coefficient of free water at body temperature, mm2/s."""
_LARGEST_MM2_PER_S = 1.0e-2
_SMALLEST_MEDIAN_MM2_PER_S = 1.0e-4


def cellularity_from_adc(
    adc_mm2_per_s: Tensor,
    roi: Tensor,
    *,
    free_water_mm2_per_s: float = FREE_WATER_MM2_PER_S,
    densest_mm2_per_s: float | None = None,
) -> Tensor:
    """Cell density N = (ADC_w - ADC) / (ADC_w - ADC_min) inside a region, clipped to 0..1.

    Atuegwu et al., Phys. Med. Biol. 58 (2013); cells hinder the diffusion of water, so that the smallest coefficient
    belongs to tissue at carrying capacity.

    Parameters
    ----------
    adc_mm2_per_s : Tensor
        Apparent diffusion coefficient, mm2/s, (X, Y, Z). Scanners often store 1e-6 mm2/s: apply the units of the DICOM
        object's real-world value mapping first; nothing is guessed here.
    roi : Tensor
        bool (X, Y, Z), where the tumour was measured.
    free_water_mm2_per_s : float, optional
        ADC_w.
    densest_mm2_per_s : float, optional
        ADC_min, the coefficient at carrying capacity. Use one value for all visits of a patient; by default the first
        percentile in this region.

    Returns
    -------
    Tensor
        (X, Y, Z), nan outside ``roi``, floating type of the input.

    Raises
    ------
    TwinError
        If shapes differ or the values cannot be mm2/s.
    """
    if adc_mm2_per_s.shape != roi.shape or roi.dtype != torch.bool or not adc_mm2_per_s.is_floating_point():
        raise TwinError(
            "bad_adc", "The ADC map must be a floating-point volume and roi a boolean one of its shape."
        )
    inside = adc_mm2_per_s[roi]
    if not inside.numel() or not bool(torch.isfinite(inside).all()):
        raise TwinError("bad_adc", "The ADC map needs finite values in a region that is not empty.")
    most, middle = float(inside.max()), float(inside.median())
    if float(inside.min()) < 0.0 or most > _LARGEST_MM2_PER_S or middle < _SMALLEST_MEDIAN_MM2_PER_S:
        raise TwinError(
            "bad_adc",
            f"ADC values in the region have the median {middle:g} and the maximum {most:g}: these are not mm2/s "
            "(tissue has 0.0002 to 0.003); convert them by the units that the image states.",
        )
    densest = float(torch.quantile(inside.double(), 0.01)) if densest_mm2_per_s is None else densest_mm2_per_s
    if not (math.isfinite(densest) and 0.0 <= densest < free_water_mm2_per_s <= _LARGEST_MM2_PER_S):
        raise TwinError(
            "bad_adc",
            f"The coefficient of the densest tissue, {densest:g} mm2/s, must lie below that of free water, "
            f"{free_water_mm2_per_s:g} mm2/s.",
        )
    density = (free_water_mm2_per_s - adc_mm2_per_s) / (free_water_mm2_per_s - densest)
    return torch.where(roi, density.clamp(0.0, 1.0), torch.nan)
