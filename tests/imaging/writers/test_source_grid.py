"""Every series that is read as a volume has a place for what is written about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from imaging.annotations import read_annotation
from imaging.catalog import read_catalog
from imaging.errors import ImagingError
from imaging.geometry import FloatArray
from imaging.stack import frames_of, position_tolerance, stack
from imaging.writers.segmentation import write_segmentation
from imaging.writers.source_grid import frames_by_slice
from tests.imaging import dicom_factory as factory
from tests.imaging.writers import patients


@pytest.mark.parametrize("pixel", [0.45, 0.9])
def test_positions_of_one_decimal_come_back_as_a_drawing(tmp_path: Path, pixel: float) -> None:
    """Slices of 5 mm and a quarter of gap, as scanners that round name them: up to 0.05 mm off their places."""
    matrix = factory.affine(spacing=(pixel, pixel, 6.25), origin=(-20.03, -30.07, 40.02))

    def rounded(k: int) -> dict[str, list[str]]:
        return {"ImagePositionPatient": [f"{x:.1f}" for x in matrix[:3, 3] + k * matrix[:3, 2]]}

    array = factory.pattern(patients.SHAPE)
    factory.write_series(tmp_path, array, matrix, attributes=factory.CONTRASTS["t1ce"], per_slice=rounded)
    series = read_catalog(tmp_path).visits[0].series[0]
    assert series.geometry is not None
    labels = patients.tumour(series.geometry)
    write_segmentation(
        tmp_path / "seg.dcm",
        sources=series.datasets(),
        labels=labels,
        kind="measured",
        date=patients.DATE,
        segmentation_source="dicom_seg",
        **{**patients.WHO, "software": replace(patients.SOFTWARE, name="OncoTwin Label")},
    )
    (visit,) = read_catalog(tmp_path).visits
    read = read_annotation(visit, visit.series[0], series.geometry)
    assert read is not None and labels.array.any()
    np.testing.assert_array_equal(read.labels.array, labels.array)


@settings(max_examples=200, deadline=None)
@given(
    step=st.floats(0.5, 8.0),
    turn=hnp.arrays(np.float64, 3, elements=st.floats(-np.pi, np.pi)),
    tilt=st.floats(-2.0, 2.0),
    off=hnp.arrays(np.float64, (6, 3), elements=st.floats(-1.2, 1.2)),
)
def test_what_is_read_can_be_written(step: float, turn: FloatArray, tilt: float, off: FloatArray) -> None:
    """Slices off their places by about as much as reading allows."""
    rotation = Rotation.from_rotvec(turn).as_matrix()
    matrix = factory.affine((0.9, 0.9, step), (1.0, 2.0, 3.0), rotation, (0.0, tilt))
    sources = []
    for k, moved in enumerate(off * position_tolerance(step)):
        position, orientation, spacing = factory.plane(matrix, k)
        source = Dataset()
        source.SOPClassUID, source.SOPInstanceUID, source.SeriesInstanceUID = "1.2", f"1.2.{k}", "1.3"
        source.Rows, source.Columns = 10, 12
        source.ImagePositionPatient = [
            factory.decimal(float(x) + y) for x, y in zip(position, moved, strict=True)
        ]
        source.ImageOrientationPatient, source.PixelSpacing = orientation, spacing
        sources.append(source)
    try:
        geometry, ordered = stack(frames_of(sources, "series 1"), "series 1")
    except ImagingError:
        return
    found = [frame.sop_instance_uid for frame in frames_by_slice(sources, geometry)]
    assert found == [frame.dataset.SOPInstanceUID for frame in ordered]
