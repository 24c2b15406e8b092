"""Prior distributions of the growth parameters."""

import math
from dataclasses import dataclass, field, fields

from twin.errors import TwinError

MAX_MEDIAN_PROLIFERATION = 0.5
"""Largest prior median of the proliferation rate, 1/day: above it a glioma would double in 1.4 days."""
MAX_MEDIAN_DIFFUSIVITY = 5.0
"""Largest prior median of the diffusivity, mm2/day: five times the fastest published glioma."""
MAX_MEDIAN_RADIOSENSITIVITY = 1.0
"""Largest prior median of alpha, 1/Gy: three times that of the most sensitive glioma cell lines."""
MAX_MEDIAN_CHEMOSENSITIVITY = 20.0
"""Largest prior median of the kill rate at the reference dose, 1/day: one dose of temozolomide would leave a ninth."""


@dataclass(frozen=True)
class LogNormal:
    """Log-normal distribution written as its median and the standard deviation of the logarithm.

    Not (mu, sigma): ``LogNormal(0.1, 0.5)`` has the median 0.1, not exp(0.1).
    """

    median: float
    sigma_log: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median) and self.median > 0):
            raise TwinError(
                "bad_prior", f"The median of a log-normal prior must be positive, not {self.median}."
            )
        if not (math.isfinite(self.sigma_log) and self.sigma_log > 0):
            raise TwinError(
                "bad_prior", f"The sigma_log of a log-normal prior must be positive, not {self.sigma_log}."
            )

    @classmethod
    def parse(cls, written: object) -> "LogNormal":
        """Read ``("lognormal", median, sigma_log)``, the form used in configuration files.

        Raises
        ------
        TwinError
            If the form or the numbers are not as said.
        """
        if not (isinstance(written, list | tuple) and len(written) == 3 and written[0] == "lognormal"):
            raise TwinError(
                "bad_prior", f'A prior is written ("lognormal", median, sigma_log), not {written!r}.'
            )
        try:
            return cls(float(written[1]), float(written[2]))
        except (TypeError, ValueError) as error:
            raise TwinError(
                "bad_prior", f"The prior {written!r} does not hold two positive numbers."
            ) from error

    @property
    def mean_log(self) -> float:
        """Mean of the logarithm."""
        return math.log(self.median)

    @property
    def interval95(self) -> tuple[float, float]:
        """Central 95 % interval in natural units."""
        reach = 1.96 * self.sigma_log
        return self.median * math.exp(-reach), self.median * math.exp(reach)


@dataclass(frozen=True)
class Priors:
    """Priors of the reaction-diffusion parameters and of the therapies'.

    Parameters
    ----------
    diffusivity : LogNormal
        Diffusivity in white matter, mm2/day.
    proliferation : LogNormal
        Proliferation rate, 1/day.
    radiosensitivity : LogNormal
        Linear coefficient alpha of the linear-quadratic survival on the scale of images, 1/Gy.
    chemosensitivity : LogNormal
        Rate of kill at the reference dose, 1/day.

    Raises
    ------
    TwinError
        If a median is outside what any glioma has shown.
    """

    diffusivity: LogNormal = field(default_factory=lambda: LogNormal(0.1, 0.9))
    proliferation: LogNormal = field(default_factory=lambda: LogNormal(0.03, 0.6))
    radiosensitivity: LogNormal = field(default_factory=lambda: LogNormal(0.04, 0.5))
    chemosensitivity: LogNormal = field(default_factory=lambda: LogNormal(0.2, 0.7))

    def of(self, parameter: str) -> LogNormal:
        """Prior of a model parameter by its name.

        Raises
        ------
        TwinError
            If there is none.
        """
        known = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if parameter not in known:
            raise TwinError(
                "no_prior", f"The parameter {parameter} has no prior; known are {', '.join(known)}."
            )
        prior: LogNormal = known[parameter]
        return prior

    def __post_init__(self) -> None:
        if self.proliferation.median > MAX_MEDIAN_PROLIFERATION:
            raise TwinError(
                "unphysical_prior",
                f"The prior median of the proliferation rate, {self.proliferation.median:g} /day, exceeds "
                f"{MAX_MEDIAN_PROLIFERATION:g} /day (doubling within 1.4 days); write the median, not its logarithm.",
            )
        if self.diffusivity.median > MAX_MEDIAN_DIFFUSIVITY:
            raise TwinError(
                "unphysical_prior",
                f"The prior median of the diffusivity, {self.diffusivity.median:g} mm2/day, exceeds "
                f"{MAX_MEDIAN_DIFFUSIVITY:g} mm2/day; write the median in mm2/day, not its logarithm.",
            )

        if self.radiosensitivity.median > MAX_MEDIAN_RADIOSENSITIVITY:
            raise TwinError(
                "unphysical_prior",
                f"The prior median of the radiosensitivity, {self.radiosensitivity.median:g} /Gy, exceeds "
                f"{MAX_MEDIAN_RADIOSENSITIVITY:g} /Gy; write the median of alpha in 1/Gy.",
            )
        if self.chemosensitivity.median > MAX_MEDIAN_CHEMOSENSITIVITY:
            raise TwinError(
                "unphysical_prior",
                f"The prior median of the chemosensitivity, {self.chemosensitivity.median:g} /day, exceeds "
                f"{MAX_MEDIAN_CHEMOSENSITIVITY:g} /day; write the median in 1/day at the reference dose.",
            )

    @property
    def front_velocity(self) -> LogNormal:
        """Prior of the front velocity 2 sqrt(diffusivity * proliferation), mm/day, that the two others imply."""
        median = 2.0 * math.sqrt(self.diffusivity.median * self.proliferation.median)
        return LogNormal(median, 0.5 * math.hypot(self.diffusivity.sigma_log, self.proliferation.sigma_log))
