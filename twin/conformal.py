"""The factor by which intervals of forecast volumes are stretched, learned on patients whose truth is another model."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from twin.coordinates import Vector
from twin.errors import TwinError


@dataclass(frozen=True)
class Conformal:
    """Factors on log-volume intervals about their median.

    Parameters
    ----------
    core, whole : float
        Of tumour core and whole tumour, at least 1.
    provenance : str
        What they were learned on, one sentence or part of one.
    """

    core: float
    whole: float
    provenance: str

    def __post_init__(self) -> None:
        for name in ("core", "whole"):
            factor = getattr(self, name)
            if not (math.isfinite(factor) and factor >= 1.0):
                raise TwinError(
                    "bad_conformal", f"The conformal factor of {name} must be at least 1, not {factor}."
                )
        if not self.provenance.strip():
            raise TwinError("bad_conformal", "The conformal factors need a provenance.")

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Conformal":
        """Read ``{"whole": {"factor": f}, "core": {"factor": f}, "provenance": text}``.

        Raises
        ------
        TwinError
            If something is missing or not as said.
        """
        try:
            core, whole = (float(document[name]["factor"]) for name in ("core", "whole"))
            provenance = document["provenance"]
        except (KeyError, TypeError, ValueError) as error:
            raise TwinError(
                "bad_conformal",
                'Conformal factors are written {"whole": {"factor": 1.2}, "core": {"factor": 1.1}, '
                '"provenance": "..."}.',
            ) from error
        if not isinstance(provenance, str):
            raise TwinError("bad_conformal", "The provenance of the conformal factors must be text.")
        return cls(core, whole, provenance)

    @property
    def sentence(self) -> str:
        """For the report."""
        if self.core == self.whole == 1.0:
            return f"Forecast intervals are as the model gives them, without a conformal factor: {self.provenance}."
        return (
            f"Forecast intervals were widened by a conformal factor of {self.whole:.2f} (whole tumour) and "
            f"{self.core:.2f} (core): {self.provenance}."
        )


@lru_cache(maxsize=1)
def shipped() -> Conformal:
    """The factors that come with the package."""
    text = files("twin").joinpath("data", "conformal.json").read_text("utf-8")
    return Conformal.parse(json.loads(text))


def stretched(band: Vector, factor: float) -> Vector:
    """Lower bound, median and upper bound, (3, ...), with log distances from the median multiplied by ``factor``."""
    lower, median, upper = band
    with np.errstate(divide="ignore", invalid="ignore"):
        below = median * (lower / median) ** factor
        above = median * (upper / median) ** factor
    known = median > 0.0
    return np.stack([np.where(known, below, lower), median, np.where(known, above, upper)])
