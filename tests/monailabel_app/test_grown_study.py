"""A study grows while its case is open: what is served afterwards is of the images that are there now."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from imaging.geometry import Volume
from imaging.reader import read_volume
from monailabel_app import growth
from monailabel_app.answers import Answer, Answers
from monailabel_app.click_task import present
from monailabel_app.datastore import ExaminationDatastore
from monailabel_app.growth import Growth
from monailabel_app.network import Network
from monailabel_app.opened import OpenedCases
from monailabel_app.studies import FolderStudies
from tests.imaging import dicom_factory as factory

KEY = factory.uid("study")
ANY: Any = None


class Study:
    """A study in a folder whose series arrive one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.studies = FolderStudies(folder / "studies", 4.0, ())

    def receive(self, *contrasts: str) -> None:
        factory.write_visit(self.folder / "sent", name="study")
        (self.folder / "studies").mkdir(exist_ok=True)
        for contrast in contrasts:
            shutil.move(self.folder / "sent" / f"study_{contrast}", self.folder / "studies")
        shutil.rmtree(self.folder / "sent")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_the_image_is_that_of_the_reference_as_it_is_now(study: Study, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    datastore = ExaminationDatastore(study.studies, ANY, ANY, ANY, ANY, tmp_path / "temporary")
    study.receive("flair")
    names = []
    for arriving, shown in (("t2", "t2_flair"), ("t1ce", "post GD")):
        study.receive(arriving)
        reference = study.studies.examination(KEY).reference
        assert shown in reference.description
        path = Path(datastore.get_image_uri(KEY))
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), read_volume(reference).array)
        # Slicer takes what it has under the same name instead of asking for it.
        assert datastore.get_image_info(KEY)["name"] == path.name
        assert [file.name for file in (tmp_path / "temporary").iterdir()] == [path.name]
        names.append(path.name)
    assert names[0] != names[1]


def test_the_network_is_asked_again_when_a_contrast_has_arrived(study: Study) -> None:
    asked: list[list[str]] = []

    class Segmenter:
        description = SimpleNamespace(sha256="weights", spacing_mm=2.0)

        def __call__(self, images: dict[str, Any], **_: Any) -> int:
            asked.append(sorted(images))
            return len(asked)

    cases: Any = SimpleNamespace(network_inputs=lambda one, spacing: (dict(one.selection.chosen), None))
    models: Any = SimpleNamespace(segmenter=Segmenter())
    network = Network(cases, models, 0.2)
    study.receive("t1ce", "flair")
    answers = [network.result(study.studies.examination(KEY))[0] for _ in range(2)]
    study.receive("t1", "t2")
    answers.append(network.result(study.studies.examination(KEY))[0])
    assert answers == [1, 1, 2]
    assert asked == [["flair", "t1ce"], ["flair", "t1", "t1ce", "t2"]]


def test_the_twin_is_calibrated_again_when_a_contrast_has_arrived(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth.Growth, "_calibrated", lambda self, chosen: object())
    settings = SimpleNamespace(rules=(), growth=SimpleNamespace(has_treatments=False))
    models = SimpleNamespace(segmenter=SimpleNamespace(description=SimpleNamespace(sha256="weights")))
    server: Any = SimpleNamespace(configuration=settings, models=models)
    twins = Growth(server)
    study.receive("t1ce", "flair")
    first, again = (twins.twin(study.studies.examination(KEY), 1) for _ in range(2))
    study.receive("t1")
    assert first is again is not twins.twin(study.studies.examination(KEY), 1)


def test_clicks_do_not_go_into_an_answer_on_an_older_image(study: Study, tmp_path: Path) -> None:
    study.receive("flair")
    server: Any = SimpleNamespace(answers=Answers(), opened=OpenedCases(tmp_path / "opened.json"))
    server.opened.note(KEY, "anna", "1.2.3")
    drawn = Volume(np.zeros(factory.SHAPE, np.uint8), study.studies.examination(KEY).reference.geometry)
    older = Volume(np.zeros((4, 4, 4), np.uint8), drawn.geometry.crop((0, 0, 0), (4, 4, 4)))
    request: Any = SimpleNamespace(examination=SimpleNamespace(key=KEY, token="1.2.3"), client="anna")
    visit: Any = SimpleNamespace(reference=drawn, correction=SimpleNamespace(labels=drawn))
    server.answers.put(KEY, "anna", Answer(older, True, seen="1.2.3"))
    assert present(server, request, visit).labels is drawn
    server.answers.put(KEY, "anna", Answer(drawn, True, seen="1.2.3"))
    assert present(server, request, visit).from_network


def test_slices_that_arrive_later_are_other_images(study: Study) -> None:
    study.receive("t1ce")
    last = sorted((study.folder / "studies" / "study_t1ce").iterdir())[-1]
    content = last.read_bytes()
    last.unlink()
    before = study.studies.examination(KEY).image_name
    last.write_bytes(content)
    assert study.studies.examination(KEY).image_name != before
