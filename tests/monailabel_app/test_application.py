"""A drawing that Slicer saved through the server, in a whole run of the application."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from imaging.catalog import read_catalog
from imaging.geometry import Volume
from imaging.labels import volumes_ml
from imaging.role_selection import select_roles
from tests.monailabel_app.reader import Reader
from tests.monailabel_app.served import ROOT, RunningServer
from training.phantom import PhantomTruth


@pytest.mark.slow
def test_the_application_goes_by_the_drawing(
    slicer: ModuleType,
    server: RunningServer,
    studies: Path,
    phantom: PhantomTruth,
    small_bundle: Path,
    tmp_path: Path,
) -> None:
    reader = Reader(slicer, server, tmp_path / "anna", "slicer-anna")
    key, volume = reader.open("random")
    visit = next(v for v in read_catalog(studies).visits if v.series[0].study_uid == key)
    truth = next(v for v in phantom.visits if v.study_instance_uid == key)
    grid = Volume.load_nifti(volume).geometry
    drawn = truth.labels.resampled(grid, interpolation="nearest").array
    reader.submit(key, volume, {"ED": drawn == 2, "NCR": drawn == 1, "ET": drawn == 3})

    series = select_roles(visit, required=frozenset()).chosen["t1ce"]
    patient = tmp_path / "patient"
    shutil.copytree(series.files[0].parent.parent, patient)
    document = yaml.safe_load((ROOT / "app.yaml").read_text())
    document["oncotwin"]["twin"]["grid_mm"] = 4.0
    document["oncotwin"]["forecast"]["horizons_days"] = [60]
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(document))
    results = tmp_path / "results"
    command = [sys.executable, "-m", "app", "-i", str(patient), "-o", str(results), "-m", str(small_bundle)]
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "app.yaml")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    result = json.loads((results / "result.json").read_text())
    (found,) = result["visits"]
    assert found["segmentation_source"] == "dicom_seg"
    expected = volumes_ml(drawn.astype(np.uint8), grid.voxel_volume_mm3)
    for region, volume_ml in expected.items():
        assert found["volumes_ml"][region] == pytest.approx(volume_ml, rel=1e-3), region
