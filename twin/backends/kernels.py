"""The numba kernels of the fused CPU backend; imported only when they are needed."""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

_log = logging.getLogger("oncotwin.twin")
_Kernel = TypeVar("_Kernel", bound=Callable[..., None])


def _compiled(python: _Kernel) -> _Kernel:
    """Decorate a kernel; its machine code is kept on disk where numba finds a writable place for it."""
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        # no reassociation: differences to y0 must stay differences, or mass drifts in single precision
        "fastmath": {"contract", "nsz", "arcp"},
    }
    kernel: _Kernel
    try:
        kernel = numba.njit(cache=True, **options)(python)
    except RuntimeError:
        # numba's answer when neither NUMBA_CACHE_DIR, the package nor the user's cache folder is writable
        _log.info("solver kernel compiled for this process only: no writable cache folder")
        kernel = numba.njit(cache=False, **options)(python)
    return kernel


@_compiled
def row(
    out: Any,
    y0: Any,
    y1: Any,
    y2: Any,
    y3: Any,
    wx: Any,
    wy: Any,
    wz: Any,
    c: Any,
    flux: Any,
    layout: Any,
    at: Any,
    cell: Any,
) -> None:
    """One row along z of all fields of a member.

    All arrays are flat. ``at`` and ``cell`` index the row's first voxel among the fields and among the faces;
    ``layout`` holds the row's length, the number of fields and the strides of a field, x and y; ``flux`` (2, length) is
    scratch. Loops are vectorised only because indices are unsigned (no check for negative ones), because each touches
    few arrays (LLVM gives up on more than eight overlap checks) and because ``c`` has the type of the fields.
    """
    c1, c2, c3, c4, reaction, growth, one = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
    length, fields, stride, sx, sy = layout[0], layout[1], layout[2], layout[3], layout[4]
    sz = np.uintp(1)
    for f in range(fields):
        p = at + f * stride
        net = flux[1] if f else flux[0]
        for k in range(length):
            n, q = p + k, cell + k
            net[k] = wx[q] * (y1[n + sx] - y1[n]) + wx[q - sx] * (y1[n - sx] - y1[n])
        for k in range(length):
            n, q = p + k, cell + k
            net[k] += wy[q] * (y1[n + sy] - y1[n]) + wy[q - sy] * (y1[n - sy] - y1[n])
        for k in range(length):
            n, q = p + k, cell + k
            net[k] += wz[q] * (y1[n + sz] - y1[n]) + wz[q - sz] * (y1[n - sz] - y1[n])
        if f == sz:
            # the derivative of the operator with respect to log diffusivity is the operator on the density
            for k in range(length):
                net[k] += flux[0, k]
        for k in range(length):
            n = p + k
            u = y0[n]
            out[n] = u + c1 * (y1[n] - u) + c2 * (y2[n] - u) + c3 * (y3[n] - u) + c4 * net[k]
    if reaction != 0:
        slope, source = flux[0], flux[1]
        for k in range(length):
            u = out[at + k]
            shrink = one / (one + u * growth)
            grown = u * (growth + one) * shrink
            slope[k] = (growth + one) * shrink * shrink
            source[k] = reaction * grown * (one - grown)
            out[at + k] = grown
        for f in range(sz, fields):
            p = at + f * stride
            for k in range(length):
                out[p + k] *= slope[k]
            if f == sz + sz:
                for k in range(length):
                    out[p + k] += source[k]


@_compiled
def sweep(
    out: Any,
    y0: Any,
    y1: Any,
    y2: Any,
    y3: Any,
    wx: Any,
    wy: Any,
    wz: Any,
    rows: Any,
    coefficients: Any,
    fields: int,
    begin: int,
    end: int,
) -> None:
    """The rows of the planes ``begin`` to ``end``, counted over x and members; field and face arrays are flat."""
    members = coefficients.shape[0]
    planes, lines = rows.shape[0] - 2, rows.shape[1] - 2
    stride = wx.size
    sx = stride // rows.shape[0]
    sy = sx // rows.shape[1]
    table = np.empty((members, 7), out.dtype)
    for b in range(members):
        for n in range(5):
            table[b, n] = coefficients[b, n]
        table[b, 5] = math.expm1(coefficients[b, 4])
        table[b, 6] = 1
    layout = np.array([0, fields, stride, sx, sy], np.uintp)
    flux = np.empty((2, sy), out.dtype)
    for n in range(begin, end):
        b = n // planes
        i = 1 + n % planes
        for j in range(1, lines + 1):
            first = rows[i, j, 0]
            if first < rows[i, j, 1]:
                layout[0] = rows[i, j, 1] - first
                cell = i * sx + j * sy + first
                at = b * fields * stride + cell
                row(out, y0, y1, y2, y3, wx, wy, wz, table[b], flux, layout, np.uintp(at), np.uintp(cell))
