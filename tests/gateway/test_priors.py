"""Earlier studies from the archive: those that the application would refuse are left out, and the run goes on."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest

from app.engine import RunLimits, split_command
from gateway.attempt import Assignment, Report, perform
from gateway.folders import WorkFolder, instances_in
from gateway.settings import PriorsSection, RuleSection
from gateway.web import every_page
from imaging.catalog import read_catalog
from imaging.preparation import require_intervals
from imaging.role_selection import select_roles
from tests.gateway.world import STAND_IN, Orthanc
from tests.imaging.dicom_factory import uid, write_visit

NOW = datetime(2025, 6, 2, 9, 0)


def visit(folder: Path, when: datetime, name: str, patient: str, **options: Any) -> list[Path]:
    attributes = {"PatientID": patient, **options.pop("attributes", {})}
    options = {"contrasts": ("t1ce", "flair"), **options}
    made = write_visit(folder / name, when, name=name, attributes=attributes, **options)
    return [path for paths in made.values() for path in paths]


def attempt(root: Path, files: list[Path], priors: PriorsSection) -> Report:
    """As a worker performs it."""
    folders = WorkFolder(root / "work")
    study_uid = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    inbox = folders.inbox("received", study_uid)
    for path in files:
        folders.accept(path, inbox, str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID))
    return perform(
        Assignment(
            study_uid=study_uid,
            inbox=inbox,
            instances=tuple(instances_in(inbox)),
            folder=folders.job("job"),
            came_before=False,
            rules=(RuleSection(),),
            priors=priors,
            command=split_command(STAND_IN),
            limits=RunLimits(60.0),
        )
    )


def test_unsuitable_priors_are_left_out(orthanc: Orthanc, tmp_path: Path) -> None:
    """A spine, a navigation scan, a stranger and a broken series; of the two that fit, both are used."""
    patient = "PRIORS-1"
    made: dict[str, list[Path]] = {}

    def put(name: str, when: datetime, **options: Any) -> None:
        made[name] = visit(tmp_path, when, name, patient, **options)

    put("first", datetime(2024, 12, 2, 9))
    put("second", datetime(2025, 3, 3, 9))
    put("spine", datetime(2025, 5, 5, 9), contrasts=("t2",), attributes={"BodyPartExamined": "LSPINE"})
    put("navigation", datetime(2025, 6, 1, 18))
    put("after the second", datetime(2025, 3, 3, 17))
    put("stranger", datetime(2025, 4, 7, 9), attributes={"PatientBirthDate": "19550505"})
    put("broken", datetime(2025, 5, 12, 9))
    flair = sorted(path for path in made["broken"] if "flair" in path.name)
    made["broken"].remove(flair[3])
    # The later of two on one day comes first; the earlier is too close to it.
    orthanc.upload(path for paths in made.values() for path in paths)
    now = visit(tmp_path, NOW, "now", patient)

    report = attempt(tmp_path, now, PriorsSection(url=f"{orthanc.url}/dicom-web", max_studies=2))
    assert report.outcome.succeeded, report.outcome
    assert Counter(report.priors_left_out) == {
        "missing_sequence": 1, "zero_interval": 2, "several_patients": 1, "missing_slice": 1,
    }  # fmt: skip
    # What the application checks of the whole input.
    catalog = read_catalog(tmp_path / "work" / "work" / "job" / "input")
    require_intervals(catalog.visits)
    for found in catalog.visits:
        select_roles(found, required=frozenset({"t1ce", "flair"}))
    assert [found.date.date().isoformat() for found in catalog.visits] == [
        "2024-12-02",
        "2025-03-03",
        "2025-06-02",
    ]


def test_priors_must_agree_among_each_other(orthanc: Orthanc, tmp_path: Path) -> None:
    """The study states no issuer: of two priors that state different ones the later counts."""
    for name, when, issuer in (
        ("of A", datetime(2025, 1, 6, 9), "A"),
        ("of B", datetime(2025, 3, 3, 9), "B"),
    ):
        orthanc.upload(visit(tmp_path, when, name, "PRIORS-2", attributes={"IssuerOfPatientID": issuer}))
    now = visit(tmp_path, NOW, "alone", "PRIORS-2")
    report = attempt(tmp_path, now, PriorsSection(url=f"{orthanc.url}/dicom-web"))
    assert report.outcome.succeeded
    assert report.priors_left_out == ("several_patients",)
    catalog = read_catalog(tmp_path / "work" / "work" / "job" / "input")
    assert catalog.patient.issuer == "B"
    assert {series.study_uid for found in catalog.visits for series in found.series} == {
        uid("of B"),
        uid("alone"),
    }


@pytest.fixture
def refusing() -> Iterator[Callable[[int], str]]:
    """Archives that answer every request with one status; where they are."""
    servers = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(status)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/dicom-web"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_how_the_archive_fails_is_told(refusing: Callable[[int], str], tmp_path: Path) -> None:
    now = visit(tmp_path, NOW, "now", "PRIORS-3")
    report = attempt(tmp_path, now, PriorsSection(url=refusing(401)))
    assert report.outcome.reason == "priors_unavailable"
    assert "HTTP status 401" in report.outcome.sentence
    assert report.is_setback


@pytest.mark.parametrize("knows_offsets", [True, False])
def test_an_archive_that_pages_is_asked_to_the_end(knows_offsets: bool) -> None:
    stored = [{"0020000D": {"Value": [f"1.2.{number}"]}} for number in range(250)]

    def search(offset: int) -> list[dict[str, Any]]:
        return stored[offset : offset + 100] if knows_offsets else stored[:100]

    assert len(every_page(search, "0020000D")) == (250 if knows_offsets else 100)
