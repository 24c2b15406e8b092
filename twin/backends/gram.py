"""numba kernel of the normal equations; see :mod:`twin.normal_equations`."""

import math
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def gram(
    fields: Any,
    values: Any,
    shifts: Any,
    region: Any,
    displaced: tuple[float, float],
    threshold: float,
    width: float,
    at_most: bool,
    nothing: float,
    first: int,
    last: int,
) -> Any:
    """Gram matrix (F + 2, F + 2) of planes ``first`` to ``last``, upper triangle alone.

    ``fields`` (F, X, Y, Z) are the density and its tangents; ``region`` has no plane where everything was measured;
    ``width`` is zero where the density itself is compared.
    """
    tangents = fields.shape[0] - 1
    size = tangents + 3
    found, row = np.zeros((size, size)), np.zeros(size)
    for x in range(first, last):
        for y in range(fields.shape[2]):
            for z in range(fields.shape[3]):
                if region.shape[0] > 0 and not region[x, y, z]:
                    continue
                density = float(fields[0, x, y, z])
                core, whole = float(shifts[0, x, y, z]), float(shifts[1, x, y, z])
                wanted = values[x, y, z] + displaced[0] * core + displaced[1] * whole
                if width > 0.0:
                    seen = 1.0 / (1.0 + math.exp((threshold - density) / width))
                    slope = seen * (1.0 - seen) / width
                else:
                    seen, slope = density, 1.0
                residual = seen - wanted
                if at_most:
                    if residual <= 0.0:
                        continue
                elif abs(residual) <= nothing and (slope <= nothing or density <= nothing):
                    continue
                for n in range(tangents):
                    row[n] = slope * fields[n + 1, x, y, z]
                row[tangents], row[tangents + 1], row[tangents + 2] = -core, -whole, residual
                for a in range(size):
                    for b in range(a, size):
                        found[a, b] += row[a] * row[b]
    return found
