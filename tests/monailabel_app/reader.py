"""A person at 3D Slicer."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import requests

from tests.monailabel_app.served import RunningServer
from tests.monailabel_app.slicer import export_segments

INFER = {"result_extension": ".nrrd", "result_dtype": "uint8"}


class Reader:
    """A person at Slicer.

    Parameters
    ----------
    slicer : module
        Of the client.
    server : RunningServer
        What it talks to.
    folder : pathlib.Path
        Of its own: client and server on one machine would otherwise write the same temporary files.
    """

    def __init__(self, slicer: ModuleType, server: RunningServer, folder: Path, name: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.url = folder, server.url
        self.failure = slicer.MONAILabelClientException
        self.client = slicer.MONAILabelClient(server.url, tmpdir=str(folder), client_id=name)

    def open(self, strategy: str) -> tuple[str, Path]:
        """Next Sample: the id, and the volume that Slicer downloads and shows."""
        sample = self.client.next_sample(strategy, {})
        path = self.folder / sample["name"]
        answer = requests.get(f"{self.url}/datastore/image", params={"image": sample["id"]}, timeout=60)
        path.write_bytes(answer.content)
        return sample["id"], path

    def run(self, model: str, key: str, **params: Any) -> tuple[Path, dict[str, Any]]:
        """Run a model, as the plugin does."""
        file, said = self.client.infer(model, key, {**INFER, **params})
        return Path(file), said

    def submit(self, key: str, volume: Path, segments: dict[str, np.ndarray]) -> dict[str, Any]:
        """Submit Label."""
        file, info = export_segments(segments, volume, self.folder / "submitted.nii.gz")
        answer: dict[str, Any] = self.client.save_label(key, str(file), params={"label_info": info})
        return answer
