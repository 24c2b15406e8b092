"""Choices of the calibration and the forecast, with sound defaults."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from twin.errors import TwinError

BackendName = Literal["auto", "torch", "numba", "cuda"]
DeviceName = Literal["auto", "cpu", "cuda"]
GrowthLaw = Literal["logistic", "gompertz"]


@dataclass(frozen=True)
class CalibrationSettings:
    """How masks are tied to density, how uncertain they are, and how much is computed.

    Parameters
    ----------
    core_threshold, whole_threshold : float
        Density above which tissue shows as tumour core and as whole tumour.
    threshold_width : float
        Width of the soft threshold sigmoid((u - c) / width).
    growth_law : {"logistic", "gompertz"}
        How growth slows towards the carrying capacity.
    gray_matter_ratio : float
        How many times slower cells diffuse in grey than in white matter.
    boundary_sd_mm : float
        Standard deviation of the outward shift of a whole segmentation boundary, mm, one draw a visit and mask;
        never taken below that of rounding to a voxel, its side over the root of 12. The same figure is the local,
        correlated jitter of a starting boundary.
    boundary_correlation_mm : float
        Shortest correlation length of boundary errors, mm; a longer one seen in the residuals is used instead.
    diffusivity_discrepancy, proliferation_discrepancy : float
        Log standard deviations by which a real (or another model's) diffusivity and proliferation differ from those
        that fit best, however many voxels agree. Tissue that is not as its maps say changes the first, which the
        scans then show in velocity and width of the front together. Reported parameters are that uncertain; forecasts
        go on with those that fit best.
    growth_discrepancy : float
        Log standard deviation of a change of pace between the calibrated past and the forecast.
    samples : int
        Posterior draws of a forecast.
    initial_ensemble : int
        Different local jitters of the starting boundary among the draws.
    seed : int
        Seed of every draw.
    importance_samples : int
        Growth simulations that correct the Laplace approximation where its polynomial model is not trusted, twice as
        many where their weights have a heavy tail; 0 leaves the posterior Gaussian.
    max_iterations : int
        Most Levenberg-Marquardt steps of one round.
    multi_start : bool
        Try several front velocities before the first step.
    check_skill : bool
        With three or more visits, forecast the last from the others and compare with persistence.
    refine : bool
        Compute on a finer grid where the front is narrower than a voxel.
    backend : {"auto", "torch", "numba", "cuda"}
        Solver backend; auto takes numba on a CPU and cuda on a GPU when they can be had.
    device : {"auto", "cpu", "cuda"}
        Where growth is simulated: auto takes a CUDA device when there is one, cuda refuses to go on without.
    double_precision : bool
        Compute in float64.
    """

    core_threshold: float = 0.6
    whole_threshold: float = 0.2
    threshold_width: float = 0.1
    growth_law: GrowthLaw = "logistic"
    gray_matter_ratio: float = 10.0
    boundary_sd_mm: float = 0.7
    boundary_correlation_mm: float = 6.0
    diffusivity_discrepancy: float = 0.35
    proliferation_discrepancy: float = 0.1
    growth_discrepancy: float = 0.08
    samples: int = 64
    initial_ensemble: int = 8
    seed: int = 0
    importance_samples: int = 128
    max_iterations: int = 15
    multi_start: bool = True
    check_skill: bool = True
    refine: bool = True
    backend: BackendName = "auto"
    device: DeviceName = "cpu"
    double_precision: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            # comparisons with nan are false, so that it would pass all those below
            if isinstance(value, float) and not math.isfinite(value):
                raise TwinError("bad_settings", f"{name} must be a finite number, not {value}.")
        if not 0.0 < self.whole_threshold < self.core_threshold < 1.0:
            raise TwinError(
                "bad_settings",
                f"Thresholds must satisfy 0 < whole ({self.whole_threshold:g}) < core ({self.core_threshold:g}) < 1.",
            )
        for name in ("threshold_width", "boundary_sd_mm", "boundary_correlation_mm"):
            if getattr(self, name) <= 0.0:
                raise TwinError("bad_settings", f"{name} must be positive, not {getattr(self, name)}.")
        for name, known in (("growth_law", GrowthLaw), ("backend", BackendName), ("device", DeviceName)):
            if getattr(self, name) not in get_args(known):
                raise TwinError(
                    "bad_settings",
                    f"{name} must be one of {', '.join(get_args(known))}, not {getattr(self, name)!r}.",
                )
        if self.gray_matter_ratio < 1.0:
            raise TwinError(
                "bad_settings", f"gray_matter_ratio must be at least 1, not {self.gray_matter_ratio:g}."
            )
        for name in (
            "diffusivity_discrepancy",
            "proliferation_discrepancy",
            "growth_discrepancy",
        ):
            if getattr(self, name) < 0.0:
                raise TwinError("bad_settings", f"{name} must not be negative, not {getattr(self, name)}.")
        if 0 < self.importance_samples < 64 or self.importance_samples < 0:
            raise TwinError(
                "bad_settings",
                f"importance_samples must be 0 or at least 64, not {self.importance_samples}.",
            )
        for name, least in (("samples", 8), ("initial_ensemble", 1), ("max_iterations", 1)):
            if getattr(self, name) < least:
                raise TwinError(
                    "bad_settings", f"{name} must be at least {least}, not {getattr(self, name)}."
                )
        self.solver_device()

    def solver_device(self) -> torch.device:
        """The device that ``device`` stands for on this machine.

        Raises
        ------
        TwinError
            ``no_device`` if it is cuda and there is none.
        """
        present = torch.cuda.is_available()
        if self.device == "cuda" and not present:
            raise TwinError(
                "no_device",
                "The twin was asked to compute on cuda, but torch finds no CUDA device here: "
                "set its device to auto or cpu, or install the packages of requirements-cuda.lock on a GPU host.",
            )
        return torch.device("cuda" if present and self.device != "cpu" else "cpu")
