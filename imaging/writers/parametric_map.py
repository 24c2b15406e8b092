"""DICOM Parametric Map (PS3.3 A.75): predicted tumour cell density as 32-bit numbers."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from imaging.codes import (
    BRAIN,
    DERIVATION,
    MEAN,
    NO_UNITS,
    PREDICTED_DENSITY,
    STANDARD_DEVIATION,
    private_scheme,
)
from imaging.geometry import Geometry, Volume
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.writers.common import (
    RESEARCH_NOTICE,
    content_dates,
    equipment,
    finish,
    frame_of_reference_uid,
    plain_header,
    referenced_instance,
)
from imaging.writers.identity import RunIdentity, WrittenObject

_STATISTICS = {
    "mean": (MEAN, "mean", 9300),
    "sd": (STANDARD_DEVIATION, "standard deviation", 9600),
}


def write_density_map(
    path: Path,
    *,
    reference: Dataset,
    density: Volume,
    statistic: Literal["mean", "sd"],
    horizon_days: float,
    identity: RunIdentity,
    software: SoftwareIdentity,
    model: ModelIdentity,
    date: datetime,
) -> WrittenObject:
    """Write the predicted cell density on its own grid.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    reference : pydicom.Dataset
        An image of the last visit; the map joins its study and frame of reference.
    density : Volume
        ``(I, J, K)`` fraction of the carrying capacity, in the frame of reference of ``reference``. Any orthogonal
        grid; it need not be that of the images.
    statistic : {"mean", "sd"}
        Posterior mean or standard deviation.
    horizon_days : float
        Days after ``date``.
    identity, software, model
        Who computed it.
    date : datetime.datetime
        Acquisition of the last visit.

    Raises
    ------
    ValueError
        If the grid is sheared, holds values that are no fractions, or lies in another frame of reference.
    OSError
        If the file cannot be written.
    """
    geometry = density.geometry
    if not geometry.is_orthogonal:
        raise ValueError("a parametric map needs an orthogonal grid")
    if geometry.frame_of_reference_uid not in ("", frame_of_reference_uid(reference)):
        raise ValueError("the density is in another frame of reference than the reference image")
    array = np.ascontiguousarray(density.array.transpose(2, 1, 0), dtype=np.float32)
    if not np.isfinite(array).all() or array.min() < -1e-4 or array.max() > 1 + 1e-4:
        raise ValueError(f"density from {array.min():g} to {array.max():g} is not a fraction")

    derivation, words, series_number = _STATISTICS[statistic]
    role = f"density {statistic} {horizon_days:g}"
    description = f"FORECAST +{horizon_days:g} d density {statistic}"
    header = plain_header(reference)
    _place(header, geometry)
    dataset = hd.pm.ParametricMap(
        source_images=[header],
        pixel_array=array,
        series_instance_uid=identity.series_uid(role),
        series_number=series_number + round(horizon_days),
        sop_instance_uid="2.25.0",
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(words)],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label=f"FORECAST_{statistic.upper()}",
        content_description=f"Predicted tumor cell fraction, {words}, +{horizon_days:g} d"[:64],
        content_creator_name="",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        series_description=f"{description} - {RESEARCH_NOTICE}"[:64],
        coding_schemes=[private_scheme()],
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=(geometry.spacing[1], geometry.spacing[0]),
            slice_thickness=geometry.spacing[2],
            spacing_between_slices=geometry.spacing[2],
        ),
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", header.ImageOrientationPatient),
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", geometry.to_patient((0, 0, k)).tolist())
            for k in range(geometry.shape[2])
        ],
        **equipment(software, model),
        **content_dates(date),
    )
    dataset.ContentCreatorName = ""
    dataset.BodyPartExamined = "BRAIN"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.FrameAnatomySequence = [_brain()]
    mapping = shared.RealWorldValueMappingSequence[0]
    mapping.QuantityDefinitionSequence.append(hd.sr.CodeContentItem(name=DERIVATION, value=derivation))
    _refer_to(dataset, reference)
    _sort_frames(dataset)
    return finish(
        path, dataset, reference=reference, identity=identity, role=role, software=software, model=model
    )


def _mapping(words: str) -> hd.pm.RealWorldValueMapping:
    return hd.pm.RealWorldValueMapping(
        lut_label="CELL_FRACTION",
        lut_explanation=f"Predicted tumor cell fraction, {words}"[:64],
        unit=NO_UNITS,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=PREDICTED_DENSITY,
    )


def _brain() -> Dataset:
    """Frame Anatomy (PS3.3 C.7.6.16.2.8): mandatory in a Parametric Map, left out by highdicom 0.28."""
    anatomy = Dataset()
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept.from_code(BRAIN)]
    return anatomy


def _place(header: Dataset, geometry: Geometry) -> None:
    header.ImagePositionPatient = [format_number_as_ds(float(v)) for v in geometry.affine[:3, 3]]
    header.ImageOrientationPatient = [
        format_number_as_ds(float(v)) for v in geometry.directions[:, :2].T.ravel()
    ]
    header.PixelSpacing = [format_number_as_ds(geometry.spacing[1]), format_number_as_ds(geometry.spacing[0])]
    header.SliceThickness = format_number_as_ds(geometry.spacing[2])
    header.Rows, header.Columns = geometry.shape[1], geometry.shape[0]


def _sort_frames(dataset: Dataset) -> None:
    """Put the frames in the order of their positions along row × column.

    highdicom sorts them the other way round. That is as valid, but dcmqi's ``paramap2itkimage`` (and with it 3D
    Slicer) takes the frames as they come and shows such a map upside down without a word.
    """
    cosines = np.array(
        dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, float
    )
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    order = np.argsort(positions @ np.cross(cosines[:3], cosines[3:]), kind="stable")
    pixels = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(len(frames), -1)
    dataset.FloatPixelData = pixels[order].tobytes()
    dataset.PerFrameFunctionalGroupsSequence = [frames[index] for index in order]
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        frame.FrameContentSequence[0].DimensionIndexValues = number


def _refer_to(dataset: Dataset, reference: Dataset) -> None:
    """Name the reference image as the source of the whole map: no frame of it comes from one image alone."""
    item = referenced_instance(str(reference.SOPClassUID), str(reference.SOPInstanceUID))
    dataset.SourceImageSequence = [item]
    series = Dataset()
    series.SeriesInstanceUID = str(reference.SeriesInstanceUID)
    series.ReferencedInstanceSequence = [item]
    dataset.ReferencedSeriesSequence = [series]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.pop("DerivationImageSequence", None)
