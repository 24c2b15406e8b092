"""What travels on the ports of the application: frozen, typed, complete.

Each message carries the one before it: an operator has one input port and can be tested with one value.
"""

from __future__ import annotations

from dataclasses import dataclass

from imaging.atlas import TissueMaps
from imaging.catalog import Catalog, Visit
from imaging.dose_index import DoseFile
from imaging.geometry import Geometry, Volume
from imaging.preparation import PreparedVisit
from imaging.report_content import ModelIdentity, Status
from imaging.role_selection import RoleSelection
from twin import Calibration, Forecast, TumourObservation
from twin import TissueMaps as TwinTissueMaps


@dataclass(frozen=True, eq=False)
class SelectedVisit:
    """A visit and the series chosen for each contrast."""

    visit: Visit
    selection: RoleSelection


@dataclass(frozen=True, eq=False)
class SelectedStudies:
    """The patient's visits in time order, with the series to use, and sentences for the report on the input."""

    catalog: Catalog
    visits: tuple[SelectedVisit, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PreparedStudies:
    """Images read and registered, in time order, and sentences for the report on the input."""

    catalog: Catalog
    visits: tuple[PreparedVisit, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SegmentedVisit:
    """A visit with its tumour.

    Parameters
    ----------
    prepared : PreparedVisit
        The images.
    labels : Volume
        uint8 label map on the grid of the visit's reference image.
    source : str
        ``"network"``, ``"dicom_seg"``, ``"rtstruct"`` or ``"other_algorithm"``.
    uncertainty : float or None
        Mean voxel entropy (0..1) inside the whole tumour; None when it is not the network's.
    """

    prepared: PreparedVisit
    labels: Volume
    source: str
    uncertainty: float | None


@dataclass(frozen=True, eq=False)
class SegmentedStudies:
    """All visits with their tumours, in time order."""

    catalog: Catalog
    visits: tuple[SegmentedVisit, ...]
    model: ModelIdentity
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class MappedStudies:
    """The patient's brain: tissue maps on the twin's grid, and labels restricted to the brain.

    Parameters
    ----------
    segmented : SegmentedStudies
        Visits whose automatic labels lie inside the brain.
    grid : Geometry
        Axis-aligned isotropic grid of the twin in the first visit's frame of reference, see
        :func:`imaging.growth_grid.growth_grid`.
    tissue : TissueMaps or None
        On ``grid``; None when no visit shows a tumour and nothing is to be modelled.
    """

    segmented: SegmentedStudies
    grid: Geometry
    tissue: TissueMaps | None


@dataclass(frozen=True, eq=False)
class CalibratedTwin:
    """The growth model fitted to the visits.

    Parameters
    ----------
    mapped : MappedStudies
        What it was fitted to.
    status : Status
        Outcome so far.
    tissue : twin.TissueMaps or None
        Tissue as the twin sees it; None without a tumour.
    observations : tuple of TumourObservation
        The visits the model was fitted to, on the twin's grid.
    calibration : Calibration or None
        None when there was nothing to fit.
    warnings : tuple of str
        Sentences for the report.
    treatments : tuple of str
        Sentences on the treatment that was given to the model.
    dose : DoseFile or None
        The RT Dose that was given to the model.
    """

    mapped: MappedStudies
    status: Status
    tissue: TwinTissueMaps | None
    observations: tuple[TumourObservation, ...]
    calibration: Calibration | None
    warnings: tuple[str, ...]
    treatments: tuple[str, ...] = ()
    dose: DoseFile | None = None


@dataclass(frozen=True, eq=False)
class ForecastTwin:
    """The calibrated twin and what it predicts; ``forecast`` is None when nothing may be predicted."""

    calibrated: CalibratedTwin
    forecast: Forecast | None
