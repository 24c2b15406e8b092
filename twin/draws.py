"""Joint samples of everything that a forecast is uncertain about."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm, qmc
from torch import Tensor

from twin.coordinates import LOG_VELOCITY, LOG_WIDTH
from twin.correlation import robust_sd
from twin.priors import Priors
from twin.results import Calibration, Vector
from twin.scene import Scene, boundary_sd_mm
from twin.settings import CalibrationSettings

_TAIL_WIDTHS = 8.0


@dataclass(frozen=True)
class Draw:
    """One joint sample.

    Parameters
    ----------
    position : ndarray
        In the posterior's coordinates.
    values : mapping of str to float
        Model parameters there, and those of therapies that no visit has shown.
    pace : float
        Factor on diffusivity and proliferation from the last visit on.
    error : ndarray
        (2,) errors of the segmentation that will be made of core and whole tumour, standard normal.
    """

    position: Vector
    values: Mapping[str, float]
    pace: float
    error: Vector

    def parameters(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The model parameters called ``names`` at this draw's pace, (1,) each."""
        paced = {
            **self.values,
            "diffusivity": self.values["diffusivity"] * self.pace,
            "proliferation": self.values["proliferation"] * self.pace,
        }
        return {name: torch.tensor([paced[name]], dtype=torch.float64) for name in names}

    def unpaced(self) -> "Draw":
        """The same before the last visit."""
        return replace(self, pace=1.0)

    def reach_mm(self, days: float) -> float:
        """Distance that the front travels untreated, with its tail."""
        velocity, width = (
            math.exp(self.position[LOG_VELOCITY]) * self.pace,
            math.exp(self.position[LOG_WIDTH]),
        )
        return velocity * days + _TAIL_WIDTHS * width + 3.0


def draws_of(calibration: Calibration) -> list[Draw]:
    """The posterior's own draws where it was sampled, else a scrambled Sobol sequence: more even than chance.

    Parameters of therapies that the calibration did not know are drawn from their priors, whether a forecast needs them
    or not: all forecasts of a calibration then share their draws and can be compared one by one.
    """
    posterior, settings = calibration.posterior, calibration.settings
    unseen = [
        entry.name
        for entry in fields(Priors)
        if entry.name not in ("diffusivity", "proliferation", *posterior.coordinates.therapies)
    ]
    size = posterior.mean.size
    engine = qmc.Sobol(size + 3 + len(unseen), scramble=True, rng=settings.seed)
    uniform = engine.random_base2((settings.samples - 1).bit_length())[: settings.samples]
    normal = norm.ppf(uniform.clip(1e-6, 1 - 1e-6))
    if posterior.draws is not None:
        positions = posterior.draws[np.arange(settings.samples) % len(posterior.draws)]
    else:
        positions = posterior.mean + normal[:, :size] @ np.linalg.cholesky(posterior.covariance).T
    values = dict(posterior.coordinates.physical(positions))
    for column, name in enumerate(unseen, start=size + 3):
        prior = calibration.priors.of(name)
        values[name] = np.exp(prior.mean_log + prior.sigma_log * normal[:, column])
    return [
        Draw(
            position=positions[n],
            values={name: float(column[n]) for name, column in values.items()},
            pace=math.exp(settings.growth_discrepancy * normal[n, size]),
            error=normal[n, size + 1 : size + 3],
        )
        for n in range(settings.samples)
    ]


def jitter_fields(scene: Scene, settings: CalibrationSettings) -> list[Tensor]:
    """Correlated displacements of the first visit's boundary (mm) with mean zero over the tumour's surroundings."""
    generator = np.random.default_rng(settings.seed)
    spacing = scene.tissue.spacing_mm
    sigma = [settings.boundary_correlation_mm / math.sqrt(2.0) / h for h in spacing]
    sd = boundary_sd_mm(settings, spacing)
    near = (scene.distances[0].whole.abs() < 3.0 * max(spacing)) & scene.operator.domain
    inside = np.ix_(*(np.unique(axis) for axis in near.nonzero().numpy().T))
    fields = []
    for _ in range(settings.initial_ensemble):
        whole = np.zeros(near.shape, dtype=np.float32)
        shape = tuple(index.size for index in inside)
        smooth = gaussian_filter(generator.standard_normal(shape), sigma, mode="wrap", truncate=3.0)
        # a box smaller than the correlation length shows the field as nearly constant: what it has in common is a
        # shift of the whole boundary, and those are drawn from the posterior
        local = smooth - smooth.mean()
        whole[inside] = local * (sd / max(float(local.std()), np.finfo(np.float64).tiny))
        fields.append(torch.from_numpy(whole))
    return fields


def grain_fields(scene: Scene, settings: CalibrationSettings) -> list[Tensor]:
    """Noise of a density measured at the first visit, with the standard deviation that it shows; none without one."""
    measured = scene.cellularity[0]
    if measured is None:
        return []
    generator = torch.Generator().manual_seed(settings.seed)
    sd = noise_sd(measured)
    shape = tuple(measured.shape)
    return [sd * torch.randn(shape, generator=generator) for _ in range(settings.initial_ensemble)]


def noise_sd(measured: Tensor) -> float:
    """Standard deviation of the voxel noise of a map (X, Y, Z), nan where nothing was measured.

    From differences between a voxel and the mean of its neighbours on either side, which smooth densities leave small
    and white noise gives 3/2 of its variance; the median keeps edges out (after Immerkaer, Comput. Vis. Image Underst.
    64, 1996). 0 where no three voxels in a row were measured.
    """
    found = []
    for axis in range(3):
        length = measured.shape[axis]
        if length > 2:
            before, here, after = (measured.narrow(axis, start, length - 2) for start in range(3))
            found.append((here - (before + after) / 2).reshape(-1))
    away = torch.cat(found) if found else measured.new_zeros(0)
    away = away[torch.isfinite(away)]
    return robust_sd(away.numpy()) / math.sqrt(1.5) if away.numel() else 0.0
