"""Files that came with a request: told from paths, and gone when the request is done, however it ends."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.background import BackgroundTasks


def uploaded(name: object) -> Path | None:
    """A file that came with the request: only files in the server's own temporary folder count.

    A parameter of the same name can hold any text, such as a segment's name or somebody's path.
    """
    if not isinstance(name, str):
        return None
    path = Path(name)
    inside = path.is_absolute() and path.parent == Path(tempfile.gettempdir())
    return path if inside and path.is_file() else None


@contextmanager
def used_up(upload: Path | None) -> Iterator[None]:
    """An upload that nobody needs any more afterwards, whether it was taken or refused."""
    try:
        yield
    finally:
        if upload is not None:
            upload.unlink(missing_ok=True)


def cleaning_up(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint of MONAI Label whose clean-up also happens when it raises.

    It puts uploads into the temporary folder and leaves their removal to background tasks, which run only after an
    answer; after an error up to the largest request of patient data would stay there until the server stops.
    """

    @functools.wraps(endpoint)
    def cleaned(background_tasks: BackgroundTasks, *args: Any, **kwargs: Any) -> Any:
        try:
            return endpoint(background_tasks, *args, **kwargs)
        except BaseException:
            for task in background_tasks.tasks:
                task.func(*task.args, **task.kwargs)
            raise

    return cleaned
