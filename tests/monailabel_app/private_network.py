"""A network of the tests' own, so that an archive under test is out of everybody's reach.

The archive listens on every address of its machine and cannot be told otherwise; here the machine has only the
loopback address of a network namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from types import TracebackType

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class PrivateNetwork:
    """Context manager: this thread, and what it starts, see nothing but their own loopback address (needs root)."""

    def __enter__(self) -> PrivateNetwork:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._check(self._libc.unshare(_CLONE_NEWNET))
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._check(self._libc.setns(self._own, _CLONE_NEWNET))
        os.close(self._own)

    def _check(self, code: int) -> None:
        if code != 0:
            raise OSError(ctypes.get_errno(), "no network namespace: these tests run as root")
