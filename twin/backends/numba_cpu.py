"""Fused CPU backend: one numba kernel that needs no C compiler on the machine it runs on."""

import threading
from importlib.util import find_spec

import torch
from torch import Tensor

AVAILABLE = find_spec("numba") is not None

# numba's fallback threading layer must not be entered by two threads at once
_lock = threading.Lock()


def stage(
    out: Tensor,
    y0: Tensor,
    y1: Tensor,
    y2: Tensor,
    y3: Tensor,
    faces: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    coefficients: Tensor,
) -> None:
    """Compute one stage; see :class:`twin.backends.Stage`."""
    from twin.backends.kernels import sweep  # numba takes half a second to import

    flat = [tensor.detach().numpy().reshape(-1) for tensor in (out, y0, y1, y2, y3, *faces)]
    with _lock:
        sweep(*flat, rows.numpy(), coefficients.to(torch.float64).numpy(), out.shape[1])
