"""Parametric Map: the density on its own grid, in the patient's coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from imaging.geometry import Geometry, Volume
from imaging.writers.identity import WrittenObject
from imaging.writers.parametric_map import write_density_map
from tests.imaging import dicom_factory as factory
from tests.imaging.writers import patients, validators
from tests.imaging.writers.patients import DATE, WHO, Sources


def write(path: Path, sources: Sources, density: Volume, **changes: Any) -> WrittenObject:
    stated = {
        "reference": sources.datasets[0],
        "density": density,
        "statistic": "mean",
        "horizon_days": 30.0,
        "date": DATE,
        **WHO,
        **changes,
    }
    return write_density_map(path, **stated)


@pytest.mark.parametrize("grid", ["own oblique grid", "axis-aligned grid", "reversed slices"])
def test_values_come_back_where_they_were(grid: str, sources: Sources, tmp_path: Path) -> None:
    density = patients.density(sources.geometry)
    if grid == "axis-aligned grid":
        density = density.resampled(sources.geometry.axis_aligned_cover(2.0))
    if grid == "reversed slices":
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = density.geometry.shape[2] - 1
        frame = density.geometry.frame_of_reference_uid
        density = Volume(
            density.array[..., ::-1], Geometry(density.geometry.shape, density.geometry.affine @ flip, frame)
        )
    written = write(tmp_path / "map.dcm", sources, density)
    assert validators.dciodvfy_errors(written.path) == []

    points = validators.voxel_points(density.geometry)
    read, meta = validators.dcmqi_volumes("paramap2itkimage", written.path, tmp_path / "dcmqi")
    np.testing.assert_allclose(validators.at_points(read["pmap"], points), density.array, atol=1e-7)
    assert meta["QuantityValueCode"]["CodeValue"] == "OT1101"
    assert meta["MeasurementUnitsCode"]["CodeValue"] == "1"

    array, affine = validators.dcm2niix_volume(written.path, tmp_path / "dcm2niix")
    array = array.reshape(array.shape[:3])
    seen = validators.at_points(Volume(array, Geometry(array.shape, affine)), points)
    np.testing.assert_allclose(seen, density.array, atol=1e-6)

    own = hd.imread(written.path).get_volume(apply_real_world_transform=True)
    array = own.array.transpose(2, 1, 0)
    affine = own.affine @ np.eye(4)[:, [2, 1, 0, 3]]
    seen = validators.at_points(Volume(array, Geometry(array.shape, affine)), points)
    np.testing.assert_allclose(seen, density.array, atol=1e-6)


@pytest.mark.parametrize(("statistic", "code"), [("mean", "373098007"), ("sd", "386136009")])
def test_the_map_says_which_statistic_of_what(
    statistic: str, code: str, sources: Sources, tmp_path: Path
) -> None:
    written = write(tmp_path / "map.dcm", sources, patients.density(sources.geometry), statistic=statistic)
    dataset = pydicom.dcmread(written.path)
    mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    quantity, derivation = mapping.QuantityDefinitionSequence
    assert quantity.ConceptCodeSequence[0].CodeValue == "OT1101"
    assert derivation.ConceptNameCodeSequence[0].CodeValue == "121401"
    assert derivation.ConceptCodeSequence[0].CodeValue == code
    assert (
        dataset.SeriesDescription == f"FORECAST +30 d density {statistic} - RESEARCH - not for clinical use"
    )
    assert dataset.ContentLabel.startswith("FORECAST")
    assert dataset.ContentQualification == "RESEARCH"
    assert dataset.FrameOfReferenceUID == sources.datasets[0].FrameOfReferenceUID
    source = dataset.SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == sources.datasets[0].SOPInstanceUID


def test_a_map_can_join_an_enhanced_source(tmp_path: Path) -> None:
    sources = patients.make_sources(tmp_path, enhanced=True)
    written = write(tmp_path / "map.dcm", sources, patients.density(sources.geometry))
    assert validators.dciodvfy_errors(written.path) == []


def test_another_frame_of_reference_is_refused(sources: Sources, tmp_path: Path) -> None:
    density = patients.density(sources.geometry)
    moved = density.geometry.moved(np.eye(4), factory.uid("another frame"))
    with pytest.raises(ValueError, match="frame of reference"):
        write(tmp_path / "map.dcm", sources, Volume(density.array, moved))


@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan])
def test_what_is_no_fraction_is_refused(value: float, sources: Sources, tmp_path: Path) -> None:
    density = patients.density(sources.geometry)
    density.array[3, 3, 3] = value
    with pytest.raises(ValueError, match="not a fraction"):
        write(tmp_path / "map.dcm", sources, density)


def test_a_sheared_grid_is_refused(sources: Sources, tmp_path: Path) -> None:
    density = patients.density(sources.geometry)
    shear = np.eye(4)
    shear[1, 2] = 0.3
    sheared = Geometry(density.geometry.shape, density.geometry.affine @ shear)
    with pytest.raises(ValueError, match="orthogonal"):
        write(tmp_path / "map.dcm", sources, Volume(density.array, sheared))
