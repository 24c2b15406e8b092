"""The four contrasts of a glioma examination."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["t1", "t1ce", "t2", "flair"]

ROLES: tuple[Role, ...] = get_args(Role)
