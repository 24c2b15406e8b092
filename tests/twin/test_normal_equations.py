"""The fused sums of the likelihood against plain torch, for every kind of target."""

import numpy as np
import pytest
import torch

from twin import CalibrationSettings
from twin.normal_equations import gram, reference
from twin.targets import Target

SETTINGS = CalibrationSettings()
SHAPE = (40, 33, 21)


def target(kind):
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(SHAPE, generator=generator)
    shifts = torch.randn(2, *SHAPE, generator=generator) / 5
    region = torch.rand(SHAPE, generator=generator) > 0.4
    if kind == "mask":
        return Target(1, 1, 0.6, values, shifts, None, False)
    if kind == "cellularity":
        return Target(1, 1, None, values, torch.zeros(()).expand(2, *SHAPE), region, False)
    return Target(1, 1, 0.2, torch.full((), 0.3).expand(SHAPE), torch.zeros(()).expand(2, *SHAPE), None, True)


@pytest.mark.parametrize("kind", ["mask", "cellularity", "empty mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 3])
def test_fused_sums_are_those_of_plain_torch(kind, dtype, threads):
    generator = torch.Generator().manual_seed(5)
    # a view with a halo around it, as solvers hand out, and mostly empty, as tumours are
    fields = torch.randn(6, *(n + 2 for n in SHAPE), generator=generator, dtype=dtype)[:, 1:-1, 1:-1, 1:-1]
    fields[0] = fields[0].clamp(0, 1)
    fields[:, :15] = 0.0
    position = np.array([0.0, 0.4, -0.3])
    found = gram(target(kind), fields, position, SETTINGS, threads)
    expected = reference(target(kind), fields, position, SETTINGS)
    assert found.shape == (8, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
