"""Which model is in use: the one given at the start, or the newest that training has published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from imaging.report_content import ModelIdentity
from segmentation.bundle import find_bundle
from segmentation.inference import TumourSegmenter

CURRENT = "current"
"""Name of the link to the published bundle in use."""


class Models:
    """The model in use, loaded again when another one was published.

    Parameters
    ----------
    folder : pathlib.Path
        Published bundles, one folder each, and the link ``current`` to the one in use.
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
    def bundle(self) -> Path:
        """Folder of the bundle in use.

        Raises
        ------
        ModelError
            If there is none.
        """
        current = self.folder / CURRENT
        return current.resolve() if current.exists() else find_bundle(self._shipped)

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

    @property
    def metadata(self) -> dict[str, Any]:
        """What the bundle in use says about itself."""
        content: dict[str, Any] = json.loads(
            (self.bundle / "configs" / "metadata.json").read_text(encoding="utf-8")
        )
        return content

    @property
    def validation(self) -> dict[str, Any]:
        """What was measured when the model in use was published; empty for one that was not published here."""
        measured: dict[str, Any] = self.metadata.get("oncotwin", {}).get("label_validation", {})
        return measured

    def use(self, bundle: Path) -> None:
        """Make a bundle in ``folder`` the one in use, for this server and whoever follows the link."""
        link = self.folder / f".{CURRENT}.part"
        link.unlink(missing_ok=True)
        link.symlink_to(bundle.name)
        os.replace(link, self.folder / CURRENT)
