"""Dose maps of radiotherapy: RT Dose objects, in Gy, on the grid of the growth model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from pydicom.dataset import Dataset

from imaging.dose_index import DoseFile
from imaging.errors import ImagingError, Reason
from imaging.files import read_again, text, tolerant_dicom
from imaging.geometry import FloatArray, Geometry, Volume
from imaging.headers import number
from imaging.pixels import decode_pixels
from imaging.preparation import PreparedVisit
from imaging.stack import plane_of

# How far the planes of a dose grid may lie off equal distances, in mm: offsets are short decimal strings.
_OFFSET_TOLERANCE_MM = 0.01
_AXIAL = 1e-4


def chosen_dose(doses: Sequence[DoseFile], wanted: str) -> DoseFile:
    """The RT Dose that settings ask for.

    Parameters
    ----------
    doses : sequence of DoseFile
        Those of the folder.
    wanted : str
        SOP Instance UID, or ``auto`` for the only one whose Dose Summation Type is PLAN.

    Raises
    ------
    ImagingError
        ``BAD_DOSE`` if there is no such object, or ``auto`` could mean several.
    """
    if wanted != "auto":
        found = [dose for dose in doses if dose.sop_instance_uid == wanted]
        if not found:
            raise ImagingError(
                Reason.BAD_DOSE,
                f"The folder holds no RT Dose with the SOPInstanceUID {wanted} of the settings.",
            )
        return found[0]
    plans = [dose for dose in doses if dose.summation == "PLAN"]
    if len(plans) != 1:
        raise ImagingError(
            Reason.BAD_DOSE,
            f"The folder holds {len(plans)} RT Dose objects of DoseSummationType PLAN, so which one was given is "
            "unknown; add the one that was, or name its SOPInstanceUID in the settings.",
        )
    return plans[0]


def require_usable_dose(doses: Sequence[DoseFile], wanted: str, frames: Collection[str]) -> None:
    """Refuse the dose that settings ask for if it cannot be used, before anything long is computed.

    Parameters
    ----------
    doses, wanted
        As for :func:`chosen_dose`.
    frames : collection of str
        Frame of Reference UIDs of the visits' reference series.

    Raises
    ------
    ImagingError
        As :func:`dose_on_grid`.
    """
    dose = chosen_dose(doses, wanted)
    if not dose.frame_of_reference_uid or dose.frame_of_reference_uid not in frames:
        raise _elsewhere(dose)
    read_dose(dose)


def read_dose(dose: DoseFile) -> Volume:
    """Physical dose of a whole plan in Gy, float32, on the grid of the object (PS3.3 C.8.8.3).

    Raises
    ------
    ImagingError
        ``BAD_DOSE`` naming the attribute: units other than GY, an effective dose, a part of a plan, no scaling, or
        planes that make no regular grid. ``UNDECODABLE`` or ``MISSING_ATTRIBUTE`` as for images.
    """
    name = dose.path.name
    with tolerant_dicom():
        dataset = read_again(dose.path)
        _check_meaning(dataset, name)
        scaling = number(dataset.get("DoseGridScaling"))
        if scaling is None or not np.isfinite(scaling) or scaling <= 0:
            raise ImagingError(
                Reason.BAD_DOSE,
                f"{name} has no positive DoseGridScaling: its doses are unknown; export it again.",
            )
        geometry, is_reversed = _grid(dataset, dose)
        pixels = decode_pixels(dataset, dose.path)
    if pixels.shape[0] != geometry.shape[2]:
        raise ImagingError(
            Reason.BAD_DOSE,
            f"{name} has {pixels.shape[0]} planes of pixels, but {geometry.shape[2]} offsets.",
        )
    planes = pixels[::-1] if is_reversed else pixels
    return Volume(np.ascontiguousarray((planes * scaling).astype(np.float32).transpose(2, 1, 0)), geometry)


def dose_on_grid(dose: DoseFile, visits: Sequence[PreparedVisit], grid: Geometry) -> Volume:
    """Dose in Gy on a grid of the first visit's frame of reference; nan where the dose grid does not reach.

    Parameters
    ----------
    dose : DoseFile
        In the frame of reference of the reference image of any visit.
    visits : sequence of PreparedVisit
        In the order of time.
    grid : Geometry
        The grid wanted.

    Raises
    ------
    ImagingError
        ``BAD_DOSE`` if the frame of reference is none of the visits', and as :func:`read_dose`.
    """
    frame = dose.frame_of_reference_uid
    visit = next((v for v in visits if v.reference.geometry.frame_of_reference_uid == frame != ""), None)
    if visit is None:
        raise _elsewhere(dose)
    return read_dose(dose).resampled(grid, visit.first_to_visit, outside=float("nan"))


def _elsewhere(dose: DoseFile) -> ImagingError:
    return ImagingError(
        Reason.BAD_DOSE,
        f"The FrameOfReferenceUID of {dose.path.name} is that of no visit's reference series, so where the dose "
        "lies in these images is unknown; export it resampled to one of them.",
    )


def _check_meaning(dataset: Dataset, name: str) -> None:
    for keyword, wanted, meaning in (
        ("DoseUnits", "GY", "doses in Gy are needed"),
        (
            "DoseType",
            "PHYSICAL",
            "physical doses are needed, since the model itself weighs the fraction size",
        ),
        ("DoseSummationType", "PLAN", "the dose of one whole plan is needed, to divide it by its fractions"),
    ):
        found = text(dataset, keyword).upper()
        if found != wanted:
            raise ImagingError(
                Reason.BAD_DOSE, f"{name} has the {keyword} {found or 'absent'}: {meaning} ({wanted})."
            )


def _grid(dataset: Dataset, dose: DoseFile) -> tuple[Geometry, bool]:
    """The grid in the order of its normal, and whether the planes are stored the other way round."""
    name = dose.path.name
    plane = plane_of(dataset, 0, name)
    try:
        offsets = np.array([float(value) for value in dataset.get("GridFrameOffsetVector") or ()])
    except (TypeError, ValueError):
        offsets = np.empty(0)
    if offsets.size < 2 or not np.isfinite(offsets).all():
        raise ImagingError(
            Reason.BAD_DOSE, f"{name} has no GridFrameOffsetVector of two planes or more; export it again."
        )
    heights = _along_normal(offsets, plane.normal, plane.position, name)
    steps = np.diff(heights)
    step = float(steps.mean())
    if abs(step) < _OFFSET_TOLERANCE_MM or np.abs(steps - step).max() > _OFFSET_TOLERANCE_MM:
        raise ImagingError(
            Reason.BAD_DOSE,
            f"The planes of {name} (GridFrameOffsetVector) are not at equal distances; export it on a regular grid.",
        )
    affine = np.eye(4)
    affine[:3, 0] = plane.along_row * plane.column_spacing
    affine[:3, 1] = plane.along_column * plane.row_spacing
    affine[:3, 2] = plane.normal * abs(step)
    affine[:3, 3] = plane.position + plane.normal * heights.min()
    shape = (plane.columns, plane.rows, offsets.size)
    return Geometry(shape, affine, dose.frame_of_reference_uid), step < 0


def _along_normal(offsets: FloatArray, normal: FloatArray, position: FloatArray, name: str) -> FloatArray:
    """Distance of each plane from the first along the normal, mm.

    Offsets that begin with zero are such distances. Others are z coordinates of the patient, which only axial planes
    may have, and begin with that of Image Position (Patient).
    """
    if offsets[0] == 0:
        return offsets
    is_axial = abs(abs(float(normal[2])) - 1.0) < _AXIAL
    if not is_axial or abs(offsets[0] - position[2]) > _OFFSET_TOLERANCE_MM:
        raise ImagingError(
            Reason.BAD_DOSE,
            f"The GridFrameOffsetVector of {name} neither begins with 0 nor with the height of its first plane; "
            "export it again.",
        )
    heights: FloatArray = (offsets - offsets[0]) * np.sign(normal[2])
    return heights
