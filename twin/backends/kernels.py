"""The numba kernels of the fused CPU backend; imported only when they are needed.

Arrays are flat, and a plane is one long loop over those of its rows that the tumour can have reached, whole rows
together: short loops, one for each row, spend most of their time outside vector instructions. Indices are unsigned and
every loop reads few arrays, or the compiler does not vectorise it. Scalars have the type of the fields.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from twin.model import GOMPERTZ_FLOOR

_log = logging.getLogger("oncotwin.twin")
_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])
_LOG_FLOOR = -math.log(GOMPERTZ_FLOOR)
_1 = np.uintp(1)


def _compiled(python: _Kernel) -> _Kernel:
    """Decorate a kernel; its machine code is kept on disk where numba finds a writable place for it."""
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        # no reassociation: differences must stay differences, or mass drifts in single precision
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
def gompertz(u: Any, amount: Any) -> Any:
    """Exact flow of u' = u min(1, ln u / ln floor) over ``amount``."""
    low = math.log(u)
    if low < -_LOG_FLOOR:
        free = -_LOG_FLOOR - low
        if free >= amount:
            return u * math.exp(amount)
        low = -_LOG_FLOOR
        amount = amount - free
    return math.exp(low * math.exp(-amount / _LOG_FLOOR))


@_compiled
def stage_plane(
    out: Any,
    into: Any,
    base: Any,
    start: Any,
    y: Any,
    at: Any,
    y2: Any,
    before: Any,
    y3: Any,
    first: Any,
    wx: Any,
    wy: Any,
    wz: Any,
    w: Any,
    layout: Any,
    c: Any,
    terms: int,
    flux: Any,
    mode: int,
) -> None:
    """Rows of one plane of one stage; see :mod:`twin.backends`.

    ``into``, ``start``, ``before``, ``first`` and ``w`` are the indices of the first voxel in ``out``, ``base``,
    ``y2``, ``y3`` and the faces; ``at`` those in ``y`` of it and of its neighbours in the planes before and after.
    ``layout`` holds the number of voxels and the strides of a row and a plane of faces. With two ``terms``, y2 and y3
    are not read. ``mode`` 1 keeps the divergence in ``flux``, 2 adds what was kept: the derivative of the operator in
    log diffusivity is the operator on the density.
    """
    count, sy, sx = layout[0], layout[1], layout[2]
    here, low, high = at[0], at[1], at[2]
    c1, c2, c3, c4 = c[0], c[1], c[2], c[3]
    west, north, down = w - sx, w - sy, w - _1
    left, right, below, above = here - sy, here + sy, here - _1, here + _1
    if mode == 0:
        for k in range(count):
            v, u = y[here + k], base[start + k]
            net = wx[w + k] * (y[high + k] - v) + wx[west + k] * (y[low + k] - v)
            net += wy[w + k] * (y[right + k] - v) + wy[north + k] * (y[left + k] - v)
            net += wz[w + k] * (y[above + k] - v) + wz[down + k] * (y[below + k] - v)
            out[into + k] = u + c1 * (v - u) + c4 * net
    elif mode == 1:
        for k in range(count):
            v = y[here + k]
            net = wx[w + k] * (y[high + k] - v) + wx[west + k] * (y[low + k] - v)
            net += wy[w + k] * (y[right + k] - v) + wy[north + k] * (y[left + k] - v)
            net += wz[w + k] * (y[above + k] - v) + wz[down + k] * (y[below + k] - v)
            flux[k] = net
        for k in range(count):
            v, u = y[here + k], base[start + k]
            out[into + k] = u + c1 * (v - u) + c4 * flux[k]
    else:
        for k in range(count):
            v, u = y[here + k], base[start + k]
            net = wx[w + k] * (y[high + k] - v) + wx[west + k] * (y[low + k] - v)
            net += wy[w + k] * (y[right + k] - v) + wy[north + k] * (y[left + k] - v)
            net += wz[w + k] * (y[above + k] - v) + wz[down + k] * (y[below + k] - v)
            out[into + k] = u + c1 * (v - u) + c4 * (net + flux[k])
    if terms > 2:
        for k in range(count):
            u = base[start + k]
            out[into + k] += c2 * (y2[before + k] - u) + c3 * (y3[first + k] - u)


@_compiled
def grow_plane(
    out: Any,
    at: Any,
    fields: int,
    stride: Any,
    count: Any,
    amount: Any,
    law: int,
    growth: Any,
    capacity: Any,
    w: Any,
    scratch: Any,
) -> None:
    """Exact growth of some voxels over rate times time ``amount``, in place, with all tangents.

    ``growth`` and ``capacity`` are empty where there is no map; ``scratch`` (2, count) holds what all tangents need.
    """
    one = amount / amount
    mapped, bounded = growth.size > 0, capacity.size > 0
    slope, source = scratch[0], scratch[1]
    if law == 0 and not mapped and not bounded:
        factor = math.expm1(amount)
        if fields == 1:
            for k in range(count):
                u = out[at + k]
                out[at + k] = u * (factor + one) / (one + u * factor)
            return
        for k in range(count):
            u = out[at + k]
            shrink = one / (one + u * factor)
            grown = u * (factor + one) * shrink
            slope[k] = (factor + one) * shrink * shrink
            source[k] = amount * grown * (one - grown)
            out[at + k] = grown
    else:
        for k in range(count):
            local = amount * growth[w + k] if mapped else amount
            most = capacity[w + k] if bounded else one
            u = out[at + k] / most if most > 0 else 0 * one
            if law == 0:
                factor = math.expm1(local)
                shrink = one / (one + u * factor)
                grown = u * (factor + one) * shrink
                slope[k] = (factor + one) * shrink * shrink
                source[k] = local * grown * (one - grown) * most
            elif u > 0:
                grown = gompertz(u, local)
                speed = min(one, -math.log(grown) / _LOG_FLOOR)
                begin = min(one, -math.log(u) / _LOG_FLOOR)
                source[k] = local * grown * speed * most
                slope[k] = grown / u * (speed / begin if begin > 0 else math.exp(-local / _LOG_FLOOR))
            else:
                grown, source[k], slope[k] = 0 * one, 0 * one, math.exp(local)
            out[at + k] = grown * most
    for f in range(1, fields):
        p = at + np.uintp(f) * stride
        for k in range(count):
            out[p + k] *= slope[k]
    if fields > 2:
        p = at + _1 * stride + _1 * stride
        for k in range(count):
            out[p + k] += source[k]


@_compiled
def react_plane(
    out: Any,
    at: Any,
    fields: int,
    stride: Any,
    count: Any,
    reaction: Any,
    law: int,
    growth: Any,
    capacity: Any,
    w: Any,
    scratch: Any,
) -> None:
    """Growth, kill, growth of some voxels; see :class:`twin.backends.Reaction` for ``reaction``."""
    if reaction[2] == 0:
        amount = reaction[0] + reaction[1]
        if amount != 0:
            grow_plane(out, at, fields, stride, count, amount, law, growth, capacity, w, scratch)
        return
    if reaction[0] != 0:
        grow_plane(out, at, fields, stride, count, reaction[0], law, growth, capacity, w, scratch)
    survival = math.exp(-reaction[2])
    for f in range(1, fields):
        lost = reaction[2 + f]
        p = at + np.uintp(f) * stride
        for k in range(count):
            out[p + k] = survival * (out[p + k] - lost * out[at + k])
    for k in range(count):
        out[at + k] *= survival
    if reaction[1] != 0:
        grow_plane(out, at, fields, stride, count, reaction[1], law, growth, capacity, w, scratch)


@_compiled
def react(
    y: Any,
    shape: Any,
    spans: Any,
    reactions: Any,
    law: int,
    growth: Any,
    capacity: Any,
    begin: int,
    end: int,
) -> None:
    """Reaction of the planes ``begin`` to ``end``, counted over x and members, in place."""
    fields, sy = shape[1], np.uintp(shape[4])
    planes, sx = shape[2] - 2, np.uintp(shape[3] * shape[4])
    stride = np.uintp(shape[2]) * sx
    reaction = reactions.astype(y.dtype)
    scratch = np.empty((2, sx), y.dtype)
    for n in range(begin, end):
        b, i = n // planes, 1 + n % planes
        if spans[i, 0] < spans[i, 1]:
            w = np.uintp(i) * sx + np.uintp(spans[i, 0]) * sy
            count = np.uintp(spans[i, 1] - spans[i, 0]) * sy
            at = np.uintp(b * fields) * stride + w
            react_plane(y, at, fields, stride, count, reaction[b], law, growth, capacity, w, scratch)


@_compiled
def step(
    out: Any,
    y: Any,
    shape: Any,
    spans: Any,
    wx: Any,
    wy: Any,
    wz: Any,
    scheme: Any,
    reactions: Any,
    law: int,
    growth: Any,
    capacity: Any,
    begin: int,
    end: int,
) -> None:
    """All stages of a step and the reaction for the planes ``begin`` to ``end``, in one sweep.

    Fields are (B, F, X + 2, Y + 2, Z + 2) of ``shape``, flat; ``spans`` (X + 2, 2) are the first row and one past the
    last row to visit in every plane. Stage m + 1 follows one plane behind stage m, and of every stage but the last only
    the planes that are still needed are kept. They stay in cache, so that memory is read and written once a step.
    """
    fields, planes, stages = shape[1], shape[2] - 2, scheme.shape[1]
    sy, sx = np.uintp(shape[4]), np.uintp(shape[3] * shape[4])
    stride = np.uintp(shape[2]) * sx
    table, reaction = scheme.astype(out.dtype), reactions.astype(out.dtype)
    kept = stages + 1
    slab = np.uintp(kept) * sx
    level = np.uintp(fields) * slab
    work = np.zeros((stages - 1) * fields * kept * shape[3] * shape[4], out.dtype)
    filled = np.zeros((stages - 1, kept, 2), np.int64)
    flux, scratch = np.empty(sx, out.dtype), np.empty((2, sx), out.dtype)
    layout, at = np.array([0, sy, sx], np.uintp), np.empty(3, np.uintp)
    n = begin
    while n < end:
        b, first = n // planes, 1 + n % planes
        stop = min(first + end - n, planes + 1)
        n += stop - first
        member = np.uintp(b * fields) * stride
        for front in range(first - stages + 1, stop + stages - 1):
            for m in range(stages):
                i, halo = front - m, stages - 1 - m
                if i < first - halo or i >= stop + halo:
                    continue
                last = m == stages - 1
                inside = 0 < i <= planes and spans[i, 0] < spans[i, 1]
                here = np.uintp(i % kept) * sx
                below, above = np.uintp((i + kept - 1) % kept) * sx, np.uintp((i + 1) % kept) * sx
                if not last:
                    # what an earlier plane left where this one has nothing
                    slot = i % kept
                    old, kept_rows = filled[m, slot, 0], filled[m, slot, 1]
                    for f in range(fields):
                        p = np.uintp(m) * level + np.uintp(f) * slab + here
                        for k in range(np.uintp(old) * sy, np.uintp(kept_rows) * sy):
                            work[p + k] = 0
                    filled[m, slot, 0] = spans[i, 0] if inside else 0
                    filled[m, slot, 1] = spans[i, 1] if inside else 0
                if not inside:
                    continue
                row = np.uintp(spans[i, 0]) * sy
                count = np.uintp(spans[i, 1]) * sy - row
                layout[0] = count
                w = np.uintp(i) * sx + row
                for f in range(fields):
                    mode = 0 if fields == 1 or f > 1 else 1 + f
                    field = np.uintp(f)
                    start = member + field * stride + w
                    own = field * slab + row
                    now = np.uintp(m) * level + own
                    target, into = (out, start) if last else (work, now + here)
                    if m == 0:
                        at[0], at[1], at[2] = start, start - sx, start + sx
                        source = y
                    else:
                        back = now - level
                        at[0], at[1], at[2] = back + here, back + below, back + above
                        source = work
                    older = now - level - level + here if m > 1 else own + here
                    terms = 2 if m < 2 else 4
                    stage_plane(
                        target,
                        into,
                        y,
                        start,
                        source,
                        at,
                        work,
                        older,
                        work,
                        own + here,
                        wx,
                        wy,
                        wz,
                        w,
                        layout,
                        table[b, m],
                        terms,
                        flux,
                        mode,
                    )
                if last:
                    react_plane(
                        out, member + w, fields, stride, count, reaction[b], law, growth, capacity, w, scratch
                    )


@_compiled
def extents(y: Any, spans: Any, threshold: float) -> Any:
    """Where the density of any member exceeds ``threshold``, looked for within ``spans``.

    Returns the first row and one past the last row in every plane, (X + 2, 2), and for all together that along z, (2,).
    """
    members, nx, ny, nz = y.shape[0], y.shape[2], y.shape[3], y.shape[4]
    found = np.zeros((nx, 2), np.int32)
    low, high = nz, 0
    for i in range(1, nx - 1):
        a, b = ny, 0
        for m in range(members):
            for j in range(spans[i, 0], spans[i, 1]):
                most = y[m, 0, i, j, 0]
                for k in range(nz):
                    most = max(most, y[m, 0, i, j, k])
                if most > threshold:
                    a, b = min(a, j), max(b, j + 1)
                    k = 0
                    while y[m, 0, i, j, k] <= threshold:
                        k += 1
                    low = min(low, k)
                    k = nz - 1
                    while y[m, 0, i, j, k] <= threshold:
                        k -= 1
                    high = max(high, k + 1)
        if a < b:
            found[i, 0], found[i, 1] = a, b
    return found, np.array([low, high])
