"""Images on the network's grid are kept on disk; a drawing lies where the tumour is on the reference image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.catalog import read_catalog
from imaging.geometry import Geometry, Volume
from monailabel_app import cases
from monailabel_app.cases import Cases
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation
from tests.imaging.drawings import LABELS

GRID = Geometry((4, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]), "1.2.3")


def test_images_of_an_older_version_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def images(visit: Any, spacing_mm: float) -> dict[str, Volume]:
        made.append(spacing_mm)
        return {"t1ce": Volume(np.full(GRID.shape, len(made), dtype=np.float32), GRID)}

    monkeypatch.setattr(cases, "network_images", images)
    monkeypatch.setattr(Cases, "prepared", lambda self, examination: None)
    chosen = {"t1ce": SimpleNamespace(digests=("1.2.3.4",))}
    examination: Any = SimpleNamespace(selection=SimpleNamespace(chosen=chosen))
    kept = Cases(tmp_path, seed=0)
    for _ in range(2):
        seen, grid = kept.network_inputs(examination, 2.0)
        assert float(seen["t1ce"].mean()) == 1 and np.array_equal(grid.affine, GRID.affine)
    (first,) = tmp_path.glob("*.npz")
    before = first.with_name(first.name.rpartition("-v")[0] + ".npz")  # the name of the first version
    before.write_bytes(b"")
    monkeypatch.setattr(cases, "NETWORK_IMAGES_VERSION", 3)
    assert float(kept.network_inputs(examination, 2.0)[0]["t1ce"].mean()) == 2
    assert [path.name for path in tmp_path.iterdir()] == [first.name.replace("-v2", "-v3")]


@pytest.mark.parametrize("drawn_on", ["t1ce", "flair"])
def test_a_drawing_moves_with_the_series_that_it_was_made_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn_on: str
) -> None:
    """The application moves it; shown and learned from it lay where the patient's head had been."""
    files = factory.write_visit(tmp_path / "study", contrasts=("t1ce", "flair"))
    mask = np.zeros(factory.SHAPE, dtype=bool)
    mask[4:8, 3:6, 3:5] = True
    masks = {label: mask if label == "ED" else np.zeros_like(mask) for label in LABELS}
    write_segmentation(tmp_path / "study" / "seg.dcm", files[drawn_on], masks)
    (visit,) = read_catalog(tmp_path / "study").visits
    series = {
        name: one
        for name in ("t1ce", "flair")
        for one in visit.series
        if one.uid == factory.uid(f"visit_{name}")
    }
    moved = sitk.Euler3DTransform()
    moved.SetTranslation((0.0, 0.0, -4.0))
    registered: list[str] = []

    class Registered:
        def motion_of(self, series_uid: str) -> sitk.Transform:
            registered.append(series_uid)
            return moved

    monkeypatch.setattr(Cases, "_undrawn", lambda self, examination: Registered())
    examination: Any = SimpleNamespace(
        visit=visit, reference=series["t1ce"], selection=SimpleNamespace(chosen=series)
    )
    found = Cases(tmp_path / "state", seed=0).drawing(examination)
    assert found is not None
    step = 2 if drawn_on == "flair" else 0  # of 2 mm
    np.testing.assert_array_equal(found.labels.array > 0, np.roll(mask, step, axis=2))
    assert bool(registered) == bool(step), "images are registered only where that matters"
