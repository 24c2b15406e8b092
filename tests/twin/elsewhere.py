"""A device that is not the CPU, for machines that have no other: tensors that say so, and refuse to mix with the rest.

Values are kept on the CPU. As on a GPU, an operation on tensors of both devices is an error unless the others have no
axes, moving needs an explicit copy, and numpy cannot read the tensors.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""What the tensors say of their device: one that torch knows everywhere."""
_CPU = torch.device("cpu")
_COPY = torch.ops.aten.copy_.default


class _There(Tensor):
    """A tensor on the other device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_There":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{operation} was called outside the block that has the other device")


class OtherDevice(TorchDispatchMode):
    """Block in which ``DEVICE`` exists.

    Attributes
    ----------
    steps : int
        Operations on tensors there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = _CPU
        elif operation is not _COPY and _mixed(tensors):
            raise RuntimeError(f"{operation}: tensors on two devices")
        there = any(isinstance(value, _There) for value in tensors)
        self.steps += there
        made = operation(*tree_map(_opened, args), **tree_map(_opened, kwargs))
        if operation is _COPY:
            return args[0]
        there = there if asked is None else asked == DEVICE
        return tree_map(lambda value: _There(value) if there and isinstance(value, Tensor) else value, made)


def _mixed(tensors: list[Tensor]) -> bool:
    there = [isinstance(value, _There) for value in tensors]
    return any(there) and not all(
        other or value.ndim == 0 for other, value in zip(there, tensors, strict=True)
    )


def _opened(value: Any) -> Any:
    return value.inner if isinstance(value, _There) else value
