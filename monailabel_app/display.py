"""The series that a viewer shows, which need not be the one that results lie on.

Slicer shows what the server gave it, the reference image. OHIF shows any series of the study, and puts the voxels of an
answer over those of that series one by one, whatever the answer's header says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from imaging.geometry import FloatArray, Geometry, Volume
from imaging.preparation import PreparedVisit
from imaging.series import Series


@dataclass(frozen=True, eq=False)
class Display:
    """Where the viewer's voxels lie.

    Parameters
    ----------
    grid : Geometry
        Of the series shown.
    to_reference : SimpleITK.Transform or None
        Maps its points to points of the reference image; None when both share them.
    is_reference : bool
        Whether the reference image itself is shown.
    """

    grid: Geometry
    to_reference: sitk.Transform | None
    is_reference: bool

    @classmethod
    def of(cls, visit: PreparedVisit, shown: Series | None) -> Display:
        """Of a series of the visit; None is the reference image."""
        if shown is None or shown.geometry is None or shown.uid == visit.reference_series.uid:
            return cls(visit.reference.geometry, None, True)
        role = next((role for role, series in visit.series.items() if series.uid == shown.uid), None)
        registration = None if role is None else visit.series_registrations.get(role)
        back = None if registration is None else registration.transform.GetInverse()
        return cls(shown.geometry, back, False)

    def labels(self, labels: Volume) -> Volume:
        """A label map of the reference image's grid as the viewer needs it."""
        if self.is_reference:
            return labels
        return labels.resampled(self.grid, self.to_reference, "nearest")

    def on_reference(self, voxels: FloatArray, reference: Geometry) -> FloatArray:
        """Voxel indices (n, 3) of the series shown as fractional indices of the reference image."""
        if self.is_reference:
            return np.asarray(voxels, dtype=np.float64)
        points = self.grid.to_patient(voxels)
        if self.to_reference is not None:
            points = np.array([self.to_reference.TransformPoint(point.tolist()) for point in points])
        return reference.to_index(points)
