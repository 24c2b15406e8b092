"""A clinician's drawing that reaches the gateway after the images of its study were deleted there."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from app.engine import RunLimits, split_command
from gateway.attempt import Assignment, Report, perform
from gateway.folders import WorkFolder, instances_in
from gateway.jobs import JobTable
from gateway.settings import PriorsSection, RuleSection
from tests.gateway.world import STAND_IN, Orthanc
from tests.imaging.dicom_factory import SHAPE, uid, write_visit
from tests.imaging.drawing_factory import write_segmentation

STUDY = uid("visit")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    visit = write_visit(tmp_path / "visit", contrasts=("t1ce", "flair"))
    return [*visit["t1ce"], *visit["flair"]]


@pytest.fixture
def drawing(images: list[Path], tmp_path: Path) -> Path:
    nothing = np.zeros(SHAPE, dtype=bool)
    nodule = nothing.copy()
    nodule[2:5, 2:5, 2:5] = True
    t1ce = [path for path in images if "t1ce" in path.name]
    return write_segmentation(tmp_path / "drawing.dcm", t1ce, {"ET": nodule, "ED": nothing, "NCR": nothing})


def late(root: Path, images: list[Path], drawing: Path, priors: PriorsSection | None) -> Report:
    """The images came, were deleted after a week, and then the drawing came alone."""
    folders, jobs = WorkFolder(root / "work"), JobTable(f"sqlite:///{root}/jobs.sqlite")
    inbox = folders.inbox("received", STUDY)
    first = _arrive(folders, jobs, inbox, images)
    old = time.time() - 8 * 86400
    os.utime(inbox, (old, old))
    folders.forget(7, [], [])
    inbox = folders.inbox("received", STUDY)
    second = _arrive(folders, jobs, inbox, [drawing])
    assert first != second
    job = jobs.get(second)
    assert job is not None
    assert len(job.instances) == 1
    return perform(
        Assignment(
            study_uid=STUDY,
            inbox=inbox,
            instances=job.instances,
            folder=folders.job(job.id),
            came_before=jobs.has_other_versions(job),
            rules=(RuleSection(),),
            priors=priors,
            command=split_command(STAND_IN),
            limits=RunLimits(60.0),
        )
    )


def _arrive(folders: WorkFolder, jobs: JobTable, inbox: Path, files: list[Path]) -> str:
    for path in files:
        aside = folders.aside()
        shutil.copy(path, aside)
        folders.accept(aside, inbox, str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
    job = jobs.add(STUDY, instances_in(inbox), "test")
    assert job is not None
    return job.id


def test_it_is_parked_and_the_images_are_asked_for(images: list[Path], drawing: Path, tmp_path: Path) -> None:
    report = late(tmp_path, images, drawing, None)
    assert not report.is_ignored
    assert report.outcome.is_final
    assert report.outcome.reason == "images_missing"


def test_the_archive_gives_the_images_back(
    orthanc: Orthanc, images: list[Path], drawing: Path, tmp_path: Path
) -> None:
    orthanc.upload([*images, drawing])
    priors = PriorsSection.model_validate({"url": f"{orthanc.url}/dicom-web", "max_studies": 0})
    report = late(tmp_path, images, drawing, priors)
    assert report.outcome.succeeded, report.outcome
    (result,) = (tmp_path / "work" / "work").glob("*/results/result.json")
    assert json.loads(result.read_text())["studies"] == [STUDY]
    given = list(result.parents[1].glob("input/study/*.dcm"))
    assert len(given) == len(images) + 1
