"""What was compiled beforehand is all that a patient's calibration and forecast need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PATIENT = """
import numba.core.dispatcher
from tests.twin.heads import grow, head, noisy_visit
from twin import CalibrationSettings, calibrate, forecast
from twin.backends import gram, kernels
import numpy as np

days = (0.0, 40.0)
grown = grow(0.1, 0.03, days, spacing=3.0)
visits = [noisy_visit(d, u, 3.0, np.random.default_rng(1)) for d, u in zip(days, grown)]
tissue = head(3.0)[0]
found = calibrate(tissue, visits, settings=CalibrationSettings(importance_samples=0, refine=False))
forecast(found, tissue, visits, (30.0,))
for module in (kernels, gram):
    for kernel in vars(module).values():
        if isinstance(kernel, numba.core.dispatcher.Dispatcher):
            assert not kernel.stats.cache_misses, kernel
print(sum(kernels.step.stats.cache_hits.values()), "from the cache")
"""


@pytest.mark.slow
def test_a_patient_compiles_nothing_more(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "twin.compile_kernels"], env=environment, check=True)
    assert list(tmp_path.rglob("kernels.step*.nbc"))
    patient = subprocess.run(
        [sys.executable, "-c", _PATIENT], env=environment, check=True, capture_output=True, text=True
    )
    assert patient.stdout == "1 from the cache\n"
