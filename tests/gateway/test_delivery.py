"""Archives that are no Orthanc: one lacks a storage class, one answers queries in pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ParametricMapStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]

from gateway import delivery
from gateway.commitment import Commitments
from gateway.delivery import Receipt, ResultObject, Undeliverable, deliver, objects_of
from gateway.settings import StoreDestination, StowDestination
from tests.gateway.stand_in import write_result
from tests.gateway.world import make_study


@pytest.fixture
def objects(tmp_path: Path) -> list[ResultObject]:
    """A parametric map, which comes first, and a segmentation."""
    source = pydicom.dcmread(make_study(tmp_path / "study", 61)[0])
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("density", "segmentation"):
        write_result(folder / f"{name}.dcm", source, f"delivery {name}")
    density = pydicom.dcmread(folder / "density.dcm")
    density.SOPClassUID = density.file_meta.MediaStorageSOPClassUID = ParametricMapStorage
    density.save_as(folder / "density.dcm", enforce_file_format=True)
    return objects_of(folder)


@pytest.mark.parametrize("supported", [[SegmentationStorage], []])
def test_what_a_destination_takes_arrives_and_the_rest_is_named(
    objects: list[ResultObject], supported: list[str]
) -> None:
    arrived = []

    def store(event: Any) -> int:
        arrived.append(event.dataset.SOPClassUID)
        return 0

    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context("1.2.840.10008.1.1")
    for sop_class in supported:
        entity.add_supported_context(sop_class)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    port = int(server.server_address[1])
    destination = StoreDestination(kind="cstore", host="127.0.0.1", port=port, ae_title="ARCHIVE")
    with pytest.raises(Undeliverable, match="does not accept Parametric Map Storage"):
        deliver(objects, destination, Commitments(False))
    server.shutdown()
    assert arrived == supported


def test_presence_is_asked_for_our_series(
    objects: list[ResultObject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study has more instances than the archive gives at once."""
    study_uid = objects[0].study_uid

    class Paging:
        def __init__(self) -> None:
            self.held = [("1.9", f"1.9.{number}") for number in range(176)]
            self.stored = 0

        def search_for_instances(
            self, study: str, series: str | None = None, offset: int | None = None
        ) -> list[dict[str, Any]]:
            assert study == study_uid
            found = [uid for its_series, uid in self.held if series in (None, its_series)]
            return [{"00080018": {"Value": [uid]}} for uid in found[offset or 0 :][:100]]

        def store_instances(self, datasets: list[pydicom.Dataset]) -> None:
            for dataset in datasets:
                self.stored += 1
                self.held.append((dataset.SeriesInstanceUID, dataset.SOPInstanceUID))

    archive = Paging()
    monkeypatch.setattr(delivery, "dicomweb", lambda destination: archive)
    destination = StowDestination(kind="stow", url="http://127.0.0.1/dicom-web")
    assert deliver(objects, destination, Commitments(False)) == Receipt(2)
    assert deliver(objects, destination, Commitments(False)) == Receipt(0)
    assert archive.stored == 2
