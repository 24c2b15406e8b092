"""Writes what workstations draw on synthetic series: segmentations and structure sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
)

from imaging.geometry import AnyArray
from tests.imaging.dicom_factory import DATE, decimal, save, set_attributes, uid


def write_segmentation(
    path: Path,
    sources: Sequence[Path],
    segments: Mapping[str, AnyArray],
    *,
    codes_by_label: Mapping[str, Code] | None = None,
    algorithm: str = "MANUAL",
    manufacturer: str = "Workstation",
    content_label: str = "TUMOR",
    created: datetime = DATE,
    kind: str = "BINARY",
    attributes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a SEG with highdicom.

    Parameters
    ----------
    path : pathlib.Path
        File.
    sources : sequence of pathlib.Path
        Files of the classic series it is drawn on, in the order of the slices.
    segments : mapping of str to numpy.ndarray
        ``(I, J, K)`` bool (or fractions for FRACTIONAL) by segment label.
    codes_by_label : mapping
        Property type of each segment; a plain lesion if absent.
    kind : {"BINARY", "FRACTIONAL", "LABELMAP"}
        Segmentation type.
    """
    datasets = [pydicom.dcmread(file) for file in sources]
    how = None
    if algorithm != "MANUAL":
        how = hd.AlgorithmIdentificationSequence("test", codes.DCM.ArtificialIntelligence, "1")
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=(codes_by_label or {}).get(label, codes.SCT.Lesion),
            algorithm_type=algorithm,
            algorithm_identification=how,
        )
        for n, label in enumerate(segments, start=1)
    ]
    stacked = np.stack([mask.transpose(2, 1, 0) for mask in segments.values()], axis=-1)
    segmentation = hd.seg.Segmentation(
        source_images=datasets,
        pixel_array=stacked.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=uid(f"{path.name} series"),
        series_number=900,
        sop_instance_uid=uid(path.name),
        instance_number=1,
        manufacturer=manufacturer,
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        content_label=content_label,
    )
    segmentation.ContentDate, segmentation.ContentTime = f"{created:%Y%m%d}", f"{created:%H%M%S}"
    set_attributes(segmentation, attributes or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    return path


def write_structure_set(
    path: Path,
    source: Path,
    contours: Mapping[str, Sequence[AnyArray]],
    *,
    created: datetime = DATE,
    geometric_type: str = "CLOSED_PLANAR",
) -> Path:
    """Write an RTSTRUCT whose ROIs have contours ``(n, 3)`` in LPS mm, drawn on the series of ``source``."""
    image = pydicom.dcmread(source)
    dataset = Dataset()
    for keyword in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
    ):
        setattr(dataset, keyword, image.get(keyword))
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, uid(path.name)
    dataset.SeriesInstanceUID, dataset.Modality = uid(f"{path.name} series"), "RTSTRUCT"
    dataset.StructureSetDate, dataset.StructureSetTime = f"{created:%Y%m%d}", f"{created:%H%M%S}"
    series = Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    study = Dataset()
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for n, (name, polygons) in enumerate(contours.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = n, name, image.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ContourSequence = n, []
        for points in polygons:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = geometric_type, len(points)
            contour.ContourData = [decimal(value) for value in np.asarray(points).ravel()]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path, ExplicitVRLittleEndian)
