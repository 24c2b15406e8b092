"""Treatment arms compared on the same virtual futures of one patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twin.conformal import Conformal, shipped
from twin.draws import draws_of
from twin.errors import TwinError
from twin.inputs import TissueMaps, TumourObservation
from twin.prediction import Future, checked_horizons, checked_therapies, unobserved
from twin.resolution import UNREFINED, refined, refined_therapies
from twin.results import Calibration, Vector, VolumeEstimate
from twin.treatment import Therapy
from twin.volumes import bands, no_change_and_trend, quantiles, segmented


@dataclass(frozen=True)
class ArmForecast:
    """Volumes of one arm, one entry for each horizon.

    Parameters
    ----------
    name : str
        As given.
    core_mm3, whole_mm3 : tuple of VolumeEstimate
        With the intervals of a forecast.
    core_less_mm3, whole_less_mm3 : tuple of VolumeEstimate
        Volume under the reference arm minus volume under this one, draw by draw; zero for the reference arm itself.
    unobserved : tuple of str
        Parameters of this arm's therapies after the last visit that no visit has shown: their effect follows the prior.
    """

    name: str
    core_mm3: tuple[VolumeEstimate, ...]
    whole_mm3: tuple[VolumeEstimate, ...]
    core_less_mm3: tuple[VolumeEstimate, ...]
    whole_less_mm3: tuple[VolumeEstimate, ...]
    unobserved: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare_treatments`; the first arm is the reference of the differences."""

    horizons_days: tuple[float, ...]
    arms: tuple[ArmForecast, ...]
    warnings: tuple[str, ...]


def compare_treatments(
    calibration: Calibration,
    tissue: TissueMaps,
    visits: Sequence[TumourObservation],
    horizons_days: Sequence[float],
    arms: Mapping[str, Sequence[Therapy]],
    *,
    conformal: Conformal | None = None,
) -> Comparison:
    """Forecast volumes under several treatments from the same posterior draws.

    Every draw keeps its parameters, starting boundary, pace and segmentation error through all arms, so that the
    interval of a difference holds only what the difference depends on. As in a forecast, volumes of a model that is not
    acceptable are widened to hold no change and the observed trend; differences are not.

    Parameters
    ----------
    calibration, tissue, visits, horizons_days, conformal
        As for :func:`twin.forecast`. The intervals of differences are not stretched: no cohort has shown by how much.
    arms : mapping of str to sequence of Therapy
        All treatments of an arm, past ones included, on the calendar of the visits. The first arm is the reference.

    Raises
    ------
    TwinError
        If the horizons, visits or arms cannot be used.
    """
    if len(arms) < 2:
        raise TwinError("bad_arms", f"A comparison needs two arms or more, not {len(arms)}.")
    horizons = checked_horizons(calibration, tissue, visits, horizons_days)
    factors = calibration.refinement
    if factors != UNREFINED:
        finer = refined(tissue, visits, calibration.therapies, factors)
        there = replace(calibration, therapies=finer.therapies, refinement=UNREFINED)
        fine_arms = {name: refined_therapies(some, factors, finer.box) for name, some in arms.items()}
        return compare_treatments(there, finer.tissue, finer.visits, horizons, fine_arms, conformal=conformal)
    conformal = conformal or shipped()
    draws = draws_of(calibration)
    future = Future.prepare(calibration, tissue, visits, draws, horizons[-1])
    volumes: dict[str, Vector] = {}
    for name, therapies in arms.items():
        planned = checked_therapies(calibration, therapies)
        counts = np.stack([grown.counts for grown in future.grow(planned, horizons)], axis=1)
        volumes[name] = segmented(counts, draws, visits[-1], tissue, calibration.settings)
    reference = next(iter(volumes.values()))
    hull = no_change_and_trend(calibration, visits, horizons, tissue)
    made = []
    for name, own in volumes.items():
        core, whole = (_estimates(band) for band in bands(own, conformal, hull))
        core_less, whole_less = (_estimates(quantiles(saved)) for saved in reference - own)
        guessed = unobserved(calibration, arms[name], visits, horizons[-1])
        made.append(ArmForecast(name, core, whole, core_less, whole_less, guessed))
    warnings = tuple(
        f'Arm "{arm.name}": the effect of treatment follows the prior of the '
        f"{' and the '.join(arm.unobserved)}; no visit has shown it."
        for arm in made
        if arm.unobserved
    )
    if not calibration.acceptable:
        warnings = ("The arms rest on the priors of growth: the scans do not determine it.", *warnings)
    return Comparison(tuple(horizons), tuple(made), warnings)


def _estimates(band: Vector) -> tuple[VolumeEstimate, ...]:
    return tuple(VolumeEstimate(float(m), (float(low), float(high))) for low, m, high in band.T)
