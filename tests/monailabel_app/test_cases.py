"""Images on the network's grid are kept on disk, and made anew when the way they are made has changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imaging.geometry import Geometry, Volume
from monailabel_app import cases
from monailabel_app.cases import Cases

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
