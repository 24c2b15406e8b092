"""Patients for the end-to-end tests: phantoms as DICOM, with the truth drawn in as a clinician would."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from app.__main__ import main
from imaging.catalog import read_catalog
from imaging.reader import read_volume
from imaging.report_content import ModelIdentity, SoftwareIdentity
from imaging.role_selection import select_roles
from imaging.writers.identity import RunIdentity
from imaging.writers.segmentation import write_segmentation
from training.phantom import PhantomSettings, PhantomTruth, make_phantom

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """What a run of the command line gave."""

    exit_code: int
    output: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def quick_settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped settings on a coarser twin grid with one horizon, to keep the tests short."""
    document = yaml.safe_load((ROOT / "app.yaml").read_text())
    document["oncotwin"]["twin"]["grid_mm"] = 2.0
    document["oncotwin"]["forecast"]["horizons_days"] = [60]
    path = tmp_path_factory.mktemp("settings") / "app.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def run_app(tmp_path: Path, quick_settings: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs the command line in this process."""

    def run(patient: Path, *arguments: str, output: Path | None = None) -> Run:
        target = output or tmp_path / "results"
        code = main(["-i", str(patient), "-o", str(target), "--config", str(quick_settings), *arguments])
        captured = capsys.readouterr()
        return Run(code, target, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PhantomTruth:
    """Two visits, 60 days apart, of a growing tumour."""
    return make_phantom(
        tmp_path_factory.mktemp("phantom"), PhantomSettings(preset="small", visit_days=(0, 60))
    )


@pytest.fixture
def patient(phantom: PhantomTruth, tmp_path: Path) -> Path:
    """A copy of the phantom's DICOM that a test may change."""
    folder = tmp_path / "patient"
    shutil.copytree(phantom.dicom_folder, folder)
    return folder


@pytest.fixture
def drawn_patient(phantom: PhantomTruth, patient: Path) -> Path:
    """The phantom with its true tumour as a clinician's DICOM SEG at both visits."""
    draw(patient, phantom, tumour_at=(True, True))
    return patient


def draw(patient: Path, truth: PhantomTruth, tumour_at: tuple[bool, ...]) -> None:
    """Add a manual DICOM SEG to each visit: the true tumour, or an empty one that says "no tumour"."""
    software = SoftwareIdentity("3D Slicer", "5", "A clinician", "", "")
    model = ModelIdentity("by hand", "1", "")
    identity = RunIdentity.of(software, model)
    for number, visit in enumerate(read_catalog(patient).visits):
        series = select_roles(visit, required=frozenset()).chosen["t1ce"]
        grid = read_volume(series).geometry
        labels = truth.visits[number].labels.resampled(grid, interpolation="nearest")
        if not tumour_at[number]:
            labels = labels.with_array(np.zeros_like(labels.array))
        write_segmentation(
            patient / f"drawing{number}.dcm",
            sources=series.datasets(),
            labels=labels,
            kind="measured",
            identity=identity,
            software=software,
            model=model,
            date=visit.date,
            segmentation_source="dicom_seg",
        )
