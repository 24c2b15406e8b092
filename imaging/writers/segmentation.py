"""DICOM Segmentation (PS3.3 A.51): the tumour as measured at a visit, or as predicted at a horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from imaging.codes import (
    ARTIFICIAL_INTELLIGENCE,
    BRAIN,
    MATHEMATICAL_MODEL,
    MORPHOLOGICALLY_ABNORMAL,
    PREDICTED_CORE,
    PREDICTED_REST,
    PREDICTION_CATEGORY,
    SEGMENT_TYPES,
    private_scheme,
)
from imaging.geometry import Geometry, Volume
from imaging.labels import TumourLabel
from imaging.own_copies import content_mark
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.writers.common import (
    RESEARCH_NOTICE,
    content_dates,
    equipment,
    finish,
    plain_header,
    referenced_instance,
)
from imaging.writers.identity import RunIdentity, WrittenObject, tracking_uid
from imaging.writers.palette import REGION_COLOURS, REGION_NAMES
from imaging.writers.source_grid import SourceFrame, frames_by_slice

SEGMENT_NUMBERS: Mapping[str, int] = {label.name: int(label) for label in SEGMENT_TYPES}
FORECAST_SEGMENT_NUMBERS: Mapping[str, int] = {"core": 1, "rest": 2}

_OTHER_ALGORITHM = "another algorithm, found with the images"

# Series numbers far above a scanner's own.
_MEASURED_SERIES_NUMBER = 9001
_FORECAST_SERIES_NUMBER = 9100


def tracking_identifier(label: str) -> str:
    """Tracking ID (0062,0020) of a measured region; the same words in SEG and SR."""
    return f"Tumor {label}"


def forecast_tracking_identifier(date: datetime, horizon_days: float, label: str) -> str:
    """Tracking ID of a predicted region: names the day it is predicted for, so that no two runs mix."""
    return f"Forecast {(date + timedelta(days=horizon_days)).date().isoformat()} {label}"


@dataclass(frozen=True)
class _Segment:
    number: int
    label: str
    description: str
    category: Code
    type: Code
    tracking_id: str
    colour: tuple[int, int, int]


def write_segmentation(
    path: Path,
    *,
    sources: Sequence[Dataset],
    labels: Volume,
    kind: Literal["measured", "forecast"],
    identity: RunIdentity,
    software: SoftwareIdentity,
    model: ModelIdentity,
    date: datetime,
    horizon_days: float | None = None,
    segmentation_source: str = "network",
    omit_empty_frames: bool = False,
) -> WrittenObject:
    """Write a label map as binary DICOM SEG on the grid of the images it was made from.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    sources : sequence of pydicom.Dataset
        Images of one series, classic (one per slice) or multi-frame, with headers at least.
    labels : Volume
        uint8 ``(I, J, K)`` on the grid of ``sources``. Measured: 1 NCR, 2 ED, 3 ET. Forecast: 1 predicted core,
        2 predicted rest of the whole tumour. All zero is valid and says that no tumour was found.
    kind : {"measured", "forecast"}
        A forecast carries private codes and says FORECAST in every label, so that nobody takes it for a
        measurement.
    identity, software, model
        Who computed it.
    date : datetime.datetime
        Acquisition of the visit; for a forecast, of the last visit.
    horizon_days : float, optional
        Days after ``date`` of a forecast.
    segmentation_source : str
        ``"network"``, ``"corrected_network"`` for its answer edited by a clinician (algorithm type SEMIAUTOMATIC),
        ``"dicom_seg"`` / ``"rtstruct"`` for what a clinician drew (MANUAL), or ``"other_algorithm"`` for what came with
        the images and no person made (AUTOMATIC, but not claimed by ``model``).
    omit_empty_frames : bool
        Leave out slices without tumour. Smaller, but some viewers then misplace the frames.

    Raises
    ------
    ValueError
        If the labels are not on the grid of the sources, hold other values, or the horizon does not fit the kind.
    OSError
        If the file cannot be written.
    """
    if (kind == "forecast") != (horizon_days is not None):
        raise ValueError("a forecast has a horizon, a measurement has none")
    reference = sources[0]
    if horizon_days is None:
        segments = _measured_segments()
        role = f"segmentation {reference.SeriesInstanceUID}"
        content_label, description = "TUMOR", "Tumor segmentation"
        series_number = _MEASURED_SERIES_NUMBER
    else:
        segments = _forecast_segments(date, horizon_days)
        role = f"forecast {horizon_days:g}"
        content_label = f"FORECAST_D{horizon_days:.0f}"
        description = f"FORECAST +{horizon_days:g} d tumor"
        series_number = _FORECAST_SERIES_NUMBER + round(horizon_days)
    values = set(np.unique(labels.array).tolist()) - {0}
    if not values <= {segment.number for segment in segments}:
        raise ValueError(f"labels {sorted(values)} are not those of a {kind} segmentation")

    frames = frames_by_slice(sources, labels.geometry)
    algorithm_type = _algorithm_type(kind, segmentation_source)
    algorithm = _algorithm(kind, segmentation_source, software, model)
    dataset = hd.seg.Segmentation(
        source_images=_slice_headers(reference, frames, labels.geometry),
        pixel_array=np.ascontiguousarray(labels.array.transpose(2, 1, 0), dtype=np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(segment, algorithm_type, algorithm, str(reference.PatientID)) for segment in segments
        ],
        series_instance_uid=identity.series_uid(role),
        series_number=series_number,
        sop_instance_uid="2.25.0",
        instance_number=1,
        content_label=content_label,
        content_description=f"{description}, {RESEARCH_NOTICE}"[:64],
        content_creator_name="",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        series_description=f"{description} - {RESEARCH_NOTICE}",
        coding_schemes=[private_scheme()],
        omit_empty_frames=omit_empty_frames,
        **equipment(software, model),
        **content_dates(date),
    )
    dataset.ContentCreatorName = ""
    dataset.BodyPartExamined = "BRAIN"
    _refer_to_sources(dataset, frames)
    return finish(
        path,
        dataset,
        reference=reference,
        identity=identity,
        role=role,
        software=software,
        model=model,
        mark=content_mark(dataset, path) if kind == "measured" else "",
    )


def _algorithm_type(
    kind: Literal["measured", "forecast"], segmentation_source: str
) -> hd.seg.SegmentAlgorithmTypeValues:
    if kind == "forecast" or segmentation_source in ("network", "other_algorithm"):
        return hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    if segmentation_source == "corrected_network":
        return hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC
    return hd.seg.SegmentAlgorithmTypeValues.MANUAL


def _algorithm(
    kind: Literal["measured", "forecast"],
    segmentation_source: str,
    software: SoftwareIdentity,
    model: ModelIdentity,
) -> hd.AlgorithmIdentificationSequence | None:
    """The algorithm that this product answers for; None where it is another's or nobody used one."""
    if kind == "forecast":
        return hd.AlgorithmIdentificationSequence(
            name=f"{software.name} growth model", family=MATHEMATICAL_MODEL, version=software.version
        )
    if segmentation_source in ("network", "corrected_network"):
        return hd.AlgorithmIdentificationSequence(
            name=model.name,
            family=ARTIFICIAL_INTELLIGENCE,
            version=model.version,
            parameters={"sha256": model.sha256},
        )
    return None


def _measured_segments() -> tuple[_Segment, ...]:
    return tuple(
        _Segment(
            number=int(label),
            label=label.name,
            description=REGION_NAMES[label.name],
            category=MORPHOLOGICALLY_ABNORMAL,
            type=SEGMENT_TYPES[label],
            tracking_id=tracking_identifier(label.name),
            colour=REGION_COLOURS[label.name],
        )
        for label in (TumourLabel.NCR, TumourLabel.ED, TumourLabel.ET)
    )


def _forecast_segments(date: datetime, horizon_days: float) -> tuple[_Segment, ...]:
    return tuple(
        _Segment(
            number=FORECAST_SEGMENT_NUMBERS[label],
            label=f"FORECAST +{horizon_days:g} d {label}",
            description="Predicted by a growth model, not observed",
            category=PREDICTION_CATEGORY,
            type=code,
            tracking_id=forecast_tracking_identifier(date, horizon_days, label),
            colour=REGION_COLOURS[label],
        )
        for label, code in (("core", PREDICTED_CORE), ("rest", PREDICTED_REST))
    )


def _description(
    segment: _Segment,
    algorithm_type: hd.seg.SegmentAlgorithmTypeValues,
    algorithm: hd.AlgorithmIdentificationSequence | None,
    patient_id: str,
) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=segment.category,
        segmented_property_type=segment.type,
        algorithm_type=algorithm_type if algorithm else hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        algorithm_identification=algorithm,
        tracking_id=segment.tracking_id,
        tracking_uid=tracking_uid(patient_id, segment.tracking_id),
        anatomic_regions=[BRAIN],
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )
    description.SegmentDescription = segment.description
    if algorithm is None and algorithm_type is not hd.seg.SegmentAlgorithmTypeValues.MANUAL:
        # highdicom would ask for family and version, which its maker alone knows; DICOM requires the name only.
        description.SegmentAlgorithmType = algorithm_type.value
        description.SegmentAlgorithmName = _OTHER_ALGORITHM
    return description


def _slice_headers(
    reference: Dataset, frames: Sequence[SourceFrame], geometry: Geometry
) -> Sequence[Dataset]:
    """One plain single-frame header per slice, whatever kind of instances the source frames are in.

    The UIDs are stand-ins; :func:`_refer_to_sources` puts the real references in.
    """
    spacing = [format_number_as_ds(value) for value in geometry.spacing]
    cosines = [format_number_as_ds(float(value)) for value in geometry.directions[:, :2].T.ravel()]
    common = plain_header(reference)
    # update() shares its elements: whatever differs between slices must not be among them.
    del common.SOPInstanceUID
    common.ImageOrientationPatient = cosines
    common.PixelSpacing = [spacing[1], spacing[0]]
    common.SliceThickness = spacing[2]
    common.Rows, common.Columns = geometry.shape[1], geometry.shape[0]
    headers = []
    for k, frame in enumerate(frames):
        header = Dataset()
        header.update(common)
        header.SOPInstanceUID = f"2.25.{k + 1}"
        header.ImagePositionPatient = [format_number_as_ds(float(value)) for value in frame.position]
        headers.append(header)
    return headers


def _refer_to_sources(dataset: Dataset, frames: Sequence[SourceFrame]) -> None:
    """Replace the stand-in references by the instances and frames of the input."""
    instances = list(dict.fromkeys((frame.sop_class_uid, frame.sop_instance_uid) for frame in frames))
    dataset.SourceImageSequence = [referenced_instance(*instance) for instance in instances]
    series = Dataset()
    series.SeriesInstanceUID = frames[0].series_uid
    series.ReferencedInstanceSequence = [referenced_instance(*instance) for instance in instances]
    dataset.ReferencedSeriesSequence = [series]
    # Segments share the item of a slice, so each item is met once per segment and must be changed once.
    items = {
        id(item): item
        for groups in dataset.PerFrameFunctionalGroupsSequence
        for item in groups.DerivationImageSequence[0].SourceImageSequence
    }
    for item in items.values():
        frame = frames[int(item.ReferencedSOPInstanceUID.removeprefix("2.25.")) - 1]
        item.ReferencedSOPClassUID = frame.sop_class_uid
        item.ReferencedSOPInstanceUID = frame.sop_instance_uid
        if frame.frame_number is not None:
            item.ReferencedFrameNumber = frame.frame_number
