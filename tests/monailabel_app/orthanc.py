"""Orthanc, Debian's PACS, with its DICOMweb plugin."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import requests

URL = "http://127.0.0.1:8042"
DICOMWEB = f"{URL}/dicom-web"
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """A running archive; starts in the network of the calling thread.

    Parameters
    ----------
    folder : pathlib.Path
        Of its own.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if program is None or not _PLUGIN.exists():
            raise FileNotFoundError(
                "Orthanc or its DICOMweb plugin is missing: install orthanc orthanc-dicomweb (apt)"
            )
        folder.mkdir()
        settings = {
            "Name": "tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": 8042,
            "DicomPort": 4242,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "Plugins": [str(_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._log = (folder / "orthanc.log").open("wb")
        self._process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=self._log, stderr=subprocess.STDOUT
        )
        until = time.monotonic() + 60
        while True:
            try:
                requests.get(f"{URL}/system", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                if self._process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise
                time.sleep(0.2)

    def send(self, folder: Path) -> None:
        """Store every DICOM file below a folder."""
        with requests.Session() as session:
            for path in sorted(folder.rglob("*.dcm")):
                session.post(f"{URL}/instances", data=path.read_bytes(), timeout=30).raise_for_status()

    def segmentations(self) -> list[bytes]:
        """Every stored SEG object."""
        found = []
        for series in requests.get(f"{URL}/series?expand", timeout=30).json():
            if series["MainDicomTags"]["Modality"] == "SEG":
                for instance in series["Instances"]:
                    found.append(requests.get(f"{URL}/instances/{instance}/file", timeout=30).content)
        return found

    def delete_segmentations(self) -> list[bytes]:
        """Delete every SEG object; returns them."""
        gone = self.segmentations()
        for series in requests.get(f"{URL}/series?expand", timeout=30).json():
            if series["MainDicomTags"]["Modality"] == "SEG":
                requests.delete(f"{URL}/series/{series['ID']}", timeout=30).raise_for_status()
        return gone

    def store(self, objects: Sequence[bytes]) -> None:
        """Store objects."""
        for content in objects:
            requests.post(f"{URL}/instances", data=content, timeout=30).raise_for_status()

    def stop(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
