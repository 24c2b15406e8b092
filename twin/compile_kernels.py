"""Compile the solver's CPU kernels, so that the first patient does not wait: ``python -m twin.compile_kernels``.

The machine code is kept under ``NUMBA_CACHE_DIR`` or next to the package. A small tumour is calibrated and forecast as
a patient's is: what that needs is what gets compiled.
"""

import torch

from twin.calibration import calibrate
from twin.inputs import TissueMaps, TumourObservation
from twin.prediction import forecast
from twin.settings import CalibrationSettings

_SPACING_MM = 3.0
_VOXELS = 20


def main() -> None:
    """Calibrate and forecast a ball that grows by 3 mm in a block of white matter."""
    axis = (torch.arange(_VOXELS) - _VOXELS / 2) * _SPACING_MM
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    everywhere = torch.ones_like(radius)
    tissue = TissueMaps(everywhere, 0.0 * everywhere, everywhere > 0, (_SPACING_MM,) * 3)
    visits = [
        TumourObservation(0.0, radius < 6.0, radius < 12.0),
        TumourObservation(30.0, radius < 9.0, radius < 15.0),
    ]
    settings = CalibrationSettings(samples=8, initial_ensemble=1, importance_samples=0, refine=False)
    forecast(calibrate(tissue, visits, settings=settings), tissue, visits, (30.0,))


if __name__ == "__main__":
    main()
