"""Outputs that several tests look at are written once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imaging.report_content import Status
from tests.imaging import dicom_factory as factory
from tests.imaging.writers import patients
from tests.imaging.writers.patients import OutputSet, Sources

VISIT_DAYS = 61.0


@pytest.fixture(scope="session")
def two_visits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sources, Sources]:
    """An oblique classic series with its files in disorder, and an Enhanced multi-frame follow-up."""
    folder = tmp_path_factory.mktemp("sources")
    first = patients.make_sources(folder, "visit1_t1ce", file_order=[*range(13, -1, -2), *range(0, 14, 2)])
    later = {
        "StudyInstanceUID": factory.uid("second study"),
        "StudyDate": "20240501",
        "AcquisitionDate": "20240501",
    }
    return first, patients.make_sources(folder, "visit2_t1ce", enhanced=True, attributes=later)


@pytest.fixture(scope="session")
def output_set(two_visits: tuple[Sources, Sources], tmp_path_factory: pytest.TempPathFactory) -> OutputSet:
    """Everything a run on two visits writes."""
    first, second = two_visits
    flair = patients.make_sources(tmp_path_factory.mktemp("flair"), "visit1_flair", rotation=None)
    content = patients.report(
        Status.OK,
        [
            patients.visit(first, patients.tumour(first.geometry, 0.8)),
            patients.visit(second, patients.tumour(second.geometry), VISIT_DAYS),
        ],
        [patients.forecast(second, horizon, VISIT_DAYS) for horizon in (30.0, 90.0)],
        ["The FLAIR of visit 1 was acquired after contrast — Ödem may look brighter."],
    )
    content = replace(
        content, skill=patients.SKILL, conformal=patients.CONFORMAL, treatments=patients.TREATMENTS
    )
    folder = tmp_path_factory.mktemp("outputs")
    return patients.write_all(folder, content, (first, second), flair.datasets)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """One oblique, anisotropic classic series."""
    return patients.make_sources(tmp_path)
