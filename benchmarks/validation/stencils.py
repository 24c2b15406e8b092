"""Compiled finite-volume kernels of the truth: fourth-order fluxes, not those of the twin.

Arrays are C-ordered (X, Y, Z); ``window`` holds first and last (exclusive) index of every axis, at least two voxels
away from the edge of the array. Fluxes are D (u[i+1] - u[i] - (u[i+2] - 3 u[i+1] + 3 u[i] - u[i-1]) / 12) where all
four cells are tissue, which is of fourth order for constant D, and D (u[i+1] - u[i]) elsewhere.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Window = tuple[int, int, int, int, int, int]


def face_weights(diffusivity: Field, axis: int) -> tuple[Field, Field]:
    """Weight of the two-point flux and of its correction on the face towards the next voxel of ``axis``.

    Parameters
    ----------
    diffusivity : ndarray
        Relative diffusivity, zero outside tissue.
    """
    moved = np.moveaxis(diffusivity, axis, 0)
    here, there = moved[:-1], moved[1:]
    total = here + there
    harmonic = np.divide(2 * here * there, total, out=np.zeros_like(total), where=(here > 0) & (there > 0))
    weight = np.zeros_like(moved)
    weight[:-1] = harmonic
    correction = np.zeros_like(moved)
    complete = (moved[:-3] > 0) & (moved[1:-2] > 0) & (moved[2:-1] > 0) & (moved[3:] > 0)
    correction[1:-2] = np.where(complete, weight[1:-2] / 12, 0)
    weight, correction = np.moveaxis(weight, 0, axis), np.moveaxis(correction, 0, axis)
    return np.ascontiguousarray(weight, np.float32), np.ascontiguousarray(correction, np.float32)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def add_diffusion(u, wx, cx, wy, cy, wz, cz, scale, window, out):  # type: ignore[no-untyped-def]
    """out = scale * div(D grad u) inside the window; ``scale`` is the diffusivity over the squared spacing, 1/day."""
    x0, x1, y0, y1, z0, z1 = window
    three = np.float32(3)
    for i in range(x0, x1):
        for j in range(y0, y1):
            # rows as views from index 0, without which the inner loop is not vectorised
            row, result = u[i, j, z0 - 2 : z1 + 2], out[i, j, z0:z1]
            east, west, east2, west2 = (
                u[i + 1, j, z0:z1],
                u[i - 1, j, z0:z1],
                u[i + 2, j, z0:z1],
                u[i - 2, j, z0:z1],
            )
            north, south, north2, south2 = (
                u[i, j + 1, z0:z1],
                u[i, j - 1, z0:z1],
                u[i, j + 2, z0:z1],
                u[i, j - 2, z0:z1],
            )
            we, ww, ce, cw = wx[i, j, z0:z1], wx[i - 1, j, z0:z1], cx[i, j, z0:z1], cx[i - 1, j, z0:z1]
            wn, ws, cn, cs = wy[i, j, z0:z1], wy[i, j - 1, z0:z1], cy[i, j, z0:z1], cy[i, j - 1, z0:z1]
            wu, cu = wz[i, j, z0 - 1 : z1], cz[i, j, z0 - 1 : z1]
            for k in range(z1 - z0):
                c = row[k + 2]
                e, w, n, s, up, down = east[k], west[k], north[k], south[k], row[k + 3], row[k + 1]
                flux = we[k] * (e - c) - ce[k] * (east2[k] - w - three * (e - c))
                flux -= ww[k] * (c - w) - cw[k] * (e - west2[k] - three * (c - w))
                flux += wn[k] * (n - c) - cn[k] * (north2[k] - s - three * (n - c))
                flux -= ws[k] * (c - s) - cs[k] * (n - south2[k] - three * (c - s))
                flux += wu[k + 1] * (up - c) - cu[k + 1] * (row[k + 4] - down - three * (up - c))
                flux -= wu[k] * (c - down) - cu[k] * (up - row[k] - three * (c - down))
                result[k] = scale * flux


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def logistic_stage(u, base, change, rate, share, step, window, out):  # type: ignore[no-untyped-def]
    """out = (1 - share) base + share (u + step (change + rate u (1 - u))), not negative: a stage of Heun's method."""
    x0, x1, y0, y1, z0, z1 = window
    zero, one = np.float32(0), np.float32(1)
    for i in range(x0, x1):
        for j in range(y0, y1):
            now, first = u[i, j, z0:z1], base[i, j, z0:z1]
            diffused, result = change[i, j, z0:z1], out[i, j, z0:z1]
            for k in range(z1 - z0):
                c = now[k]
                value = c + step * (diffused[k] + rate * c * (one - c))
                result[k] = max((one - share) * first[k] + share * value, zero)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def cross_flux(u, tissue, weight, ex, ey, ez, half, window, qx, qy, qz):  # type: ignore[no-untyped-def]
    """Off-diagonal part of weight (e e^T) grad u at the voxels of the window and one around.

    Central differences, ``half`` being 1 / (2 spacing); a neighbour outside ``tissue`` (1 or 0) has the voxel's own
    value.
    """
    x0, x1, y0, y1, z0, z1 = window
    for i in range(x0 - 1, x1 + 1):
        for j in range(y0 - 1, y1 + 1):
            row, m = u[i, j, z0 - 2 : z1 + 2], tissue[i, j, z0 - 2 : z1 + 2]
            east, west, me, mw = (
                u[i + 1, j, z0 - 1 : z1 + 1],
                u[i - 1, j, z0 - 1 : z1 + 1],
                tissue[i + 1, j, z0 - 1 : z1 + 1],
                tissue[i - 1, j, z0 - 1 : z1 + 1],
            )
            north, south, mn, ms = (
                u[i, j + 1, z0 - 1 : z1 + 1],
                u[i, j - 1, z0 - 1 : z1 + 1],
                tissue[i, j + 1, z0 - 1 : z1 + 1],
                tissue[i, j - 1, z0 - 1 : z1 + 1],
            )
            a, b, c_ = ex[i, j, z0 - 1 : z1 + 1], ey[i, j, z0 - 1 : z1 + 1], ez[i, j, z0 - 1 : z1 + 1]
            part = weight[i, j, z0 - 1 : z1 + 1]
            rx, ry, rz = qx[i, j, z0 - 1 : z1 + 1], qy[i, j, z0 - 1 : z1 + 1], qz[i, j, z0 - 1 : z1 + 1]
            for k in range(z1 - z0 + 2):
                c = row[k + 1]
                gx = half * (me[k] * (east[k] - c) + mw[k] * (c - west[k]))
                gy = half * (mn[k] * (north[k] - c) + ms[k] * (c - south[k]))
                gz = half * (m[k + 2] * (row[k + 2] - c) + m[k] * (c - row[k]))
                rx[k] = part[k] * a[k] * (b[k] * gy + c_[k] * gz)
                ry[k] = part[k] * b[k] * (a[k] * gx + c_[k] * gz)
                rz[k] = part[k] * c_[k] * (a[k] * gx + b[k] * gy)


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def add_divergence(qx, qy, qz, tissue, scale, window, out):  # type: ignore[no-untyped-def]
    """out += scale * divergence of the fluxes, averaged onto faces between two voxels of tissue.

    ``scale`` is the diffusivity over twice the spacing.
    """
    x0, x1, y0, y1, z0, z1 = window
    for i in range(x0, x1):
        for j in range(y0, y1):
            m, q = tissue[i, j, z0 - 1 : z1 + 1], qz[i, j, z0 - 1 : z1 + 1]
            me, mw, mn, ms = (
                tissue[i + 1, j, z0:z1],
                tissue[i - 1, j, z0:z1],
                tissue[i, j + 1, z0:z1],
                tissue[i, j - 1, z0:z1],
            )
            xc, xe, xw = qx[i, j, z0:z1], qx[i + 1, j, z0:z1], qx[i - 1, j, z0:z1]
            yc, yn, ys = qy[i, j, z0:z1], qy[i, j + 1, z0:z1], qy[i, j - 1, z0:z1]
            result = out[i, j, z0:z1]
            for k in range(z1 - z0):
                total = me[k] * (xc[k] + xe[k]) - mw[k] * (xc[k] + xw[k])
                total += mn[k] * (yc[k] + yn[k]) - ms[k] * (yc[k] + ys[k])
                total += m[k + 2] * (q[k + 1] + q[k + 2]) - m[k] * (q[k + 1] + q[k])
                result[k] += scale * m[k + 1] * total


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def two_species_stage(
    p, q, n, p_base, q_base, n_base, p_change, q_change, rate, share, step, window, p_out, q_out, n_out
):  # type: ignore[no-untyped-def]
    """A Heun stage of proliferating p, invading q and necrotic n cells; see ``truth.TwoSpecies``."""
    x0, x1, y0, y1, z0, z1 = window
    zero, one = np.float32(0), np.float32(1)
    half, crowding, starving = np.float32(0.5), np.float32(0.7**4), np.float32(0.9**12)
    fast, fifth = np.float32(1.5), np.float32(0.2)
    for i in range(x0, x1):
        for j in range(y0, y1):
            pr, qr, nr = p[i, j, z0:z1], q[i, j, z0:z1], n[i, j, z0:z1]
            pb, qb, nb = p_base[i, j, z0:z1], q_base[i, j, z0:z1], n_base[i, j, z0:z1]
            pc, qc = p_change[i, j, z0:z1], q_change[i, j, z0:z1]
            po, qo, no = p_out[i, j, z0:z1], q_out[i, j, z0:z1], n_out[i, j, z0:z1]
            for k in range(z1 - z0):
                a, b, c = pr[k], qr[k], nr[k]
                total = a + b + c
                t4 = total * total * total * total
                t12 = t4 * t4 * t4
                crowded, starved = t4 / (t4 + crowding), t12 / (t12 + starving)
                room = max(one - total, zero)
                leave, settle = fifth * rate * crowded * a, rate * (one - crowded) * b
                die = rate * starved * a
                dp = pc[k] + fast * rate * a * room - leave + settle - die
                dq = qc[k] + half * rate * b * room + leave - settle
                po[k] = max((one - share) * pb[k] + share * (a + step * dp), zero)
                qo[k] = max((one - share) * qb[k] + share * (b + step * dq), zero)
                no[k] = (one - share) * nb[k] + share * (c + step * die)
