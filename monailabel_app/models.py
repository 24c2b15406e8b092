"""Which model is in use: the one given at the start, or the newest that training has published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imaging.report_content import ModelIdentity
from segmentation.bundle import find_bundle
from segmentation.inference import TumourSegmenter

POINTER = "current.json"


class Models:
    """The model in use, loaded again when another one was published.

    Parameters
    ----------
    folder : pathlib.Path
        Published bundles, one folder each, and ``current.json`` that names the newest.
    shipped : pathlib.Path
        Bundle, or folder of one, to use until something is published.
    device : str
        See :func:`segmentation.resources.pick_device`.
    """

    def __init__(self, folder: Path, shipped: Path, device: str) -> None:
        self.folder = folder
        self._shipped = shipped
        self._device = device
        self._loaded: tuple[Path, TumourSegmenter] | None = None

    @property
    def published(self) -> dict[str, Any]:
        """Content of ``current.json``: ``bundle`` (folder name) and what was measured; empty before the first."""
        path = self.folder / POINTER
        if not path.is_file():
            return {}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    @property
    def bundle(self) -> Path:
        """Folder of the bundle in use.

        Raises
        ------
        ModelError
            If there is none.
        """
        name = self.published.get("bundle")
        return self.folder / str(name) if name else find_bundle(self._shipped)

    @property
    def segmenter(self) -> TumourSegmenter:
        """The model in use.

        Raises
        ------
        ModelError
            If it cannot be loaded.
        """
        bundle = self.bundle
        if self._loaded is None or self._loaded[0] != bundle:
            self._loaded = bundle, TumourSegmenter.load(bundle, device=self._device)
        return self._loaded[1]

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest of the model in use."""
        described = self.segmenter.description
        return ModelIdentity(described.name, described.version, described.sha256)
