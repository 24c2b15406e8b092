"""What a request brought is gone when the request is done, whether it was taken, refused or not understood."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from monailabel_app.datastore import ExaminationDatastore
from monailabel_app.main import OncoTwinLabel
from monailabel_app.refusal import Refusal
from monailabel_app.server import web_application
from monailabel_app.upstream import upstream_datastore, upstream_infer
from tests.monailabel_app.test_server import served

ANY: Any = None
LABEL = {"label": ("label.nii.gz", b"patient" * 100_000)}


class StandIn:
    """An application that refuses everything but one drawing."""

    def datastore(self) -> StandIn:
        return self

    def info(self) -> dict[str, Any]:
        return {}

    def on_save_label(self, image: str, label: str) -> None:
        pass

    def save_label(self, image: str, file: str, tag: str, info: dict[str, Any]) -> str:
        assert Path(file).is_file()
        if image != "taken":
            raise Refusal("Somebody else has saved this case.", status=409)
        return image

    def add_image(self, *_: Any) -> str:
        raise Refusal("One volume is not enough.")

    def infer(self, request: Any, datastore: Any = None) -> Any:
        raise Refusal("There is no such case.", status=404)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's own temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def url(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for module in (upstream_datastore, upstream_infer):
        monkeypatch.setattr(module, "app_instance", StandIn)
    with served(web_application(2**20, None)) as address:
        yield address


@pytest.mark.parametrize(
    ("method", "path", "files", "params", "status"),
    [
        ("PUT", "/datastore/label?image=taken", LABEL, "{}", 200),
        ("PUT", "/datastore/label?image=1.2", LABEL, "{}", 409),
        ("PUT", "/datastore/label?image=1.2", LABEL, "no json", 500),
        ("PUT", "/datastore/image?image=1.2", {"file": LABEL["label"]}, "{}", 400),
        ("POST", "/infer/tumour?image=1.2", LABEL, "{}", 404),
        ("POST", "/infer/tumour?image=1.2", LABEL, '{"label": "ED"}', 404),
        ("POST", "/infer/tumour", {"file": LABEL["label"]}, "{}", 404),
    ],
)
def test_nothing_of_a_request_is_left(
    method: str, path: str, files: Any, params: str, status: int, url: str, temporary: Path
) -> None:
    answer = requests.request(method, f"{url}{path}", files=files, data={"params": params}, timeout=30)
    assert answer.status_code == status
    until = time.monotonic() + 10
    while status == 200 and any(temporary.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)  # what was taken is removed after the answer
    assert list(temporary.iterdir()) == []


def test_a_mask_is_gone_after_the_task(temporary: Path) -> None:
    """Also one that MONAI Label made of what OHIF sent, which it never removes."""
    examination = SimpleNamespace(visit=SimpleNamespace(series=()))
    seen: list[bool] = []

    def task(request: Any) -> tuple[str, dict[str, Any]]:
        seen.append(request.mask.is_file())
        return "answer.nrrd", {}

    task.parameters = ()  # type: ignore[attr-defined]
    studies = SimpleNamespace(find=lambda image: image, examination=lambda key: examination)
    application: Any = SimpleNamespace(_infers={"tumour": task}, server=SimpleNamespace(studies=studies))
    mask = temporary / "mask.nii.gz"
    mask.write_bytes(b"mask")
    request = {"model": "tumour", "image": "1.2", "label": str(mask)}
    assert OncoTwinLabel.infer(application, request)["file"] == "answer.nrrd"
    assert seen == [True] and not mask.exists()


def test_a_refused_drawing_is_gone_and_a_file_elsewhere_is_not(temporary: Path, tmp_path: Path) -> None:
    datastore = ExaminationDatastore(SimpleNamespace(find=lambda name: name), ANY, ANY, ANY, ANY, ANY)  # type: ignore[arg-type]
    (temporary / "elsewhere").mkdir()
    sent, own = temporary / "sent.nii.gz", temporary / "elsewhere" / "own.nii.gz"
    for file in (sent, own):
        file.write_bytes(b"drawing")
        with pytest.raises(Refusal, match="tag"):
            datastore.save_label("1.2", str(file), "draft", {})
    assert own.is_file() and not sent.exists()
