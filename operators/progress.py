"""Progress lines: the steps of a run in words, without patient data."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger("oncotwin.progress")


def say(step: str) -> None:
    """Tell the user what is about to happen."""
    logger.info("%s", step)


def about(subject: str) -> Callable[[str], None]:
    """A progress callback whose lines begin with ``subject``."""
    return lambda step: say(f"{subject}: {step}")
