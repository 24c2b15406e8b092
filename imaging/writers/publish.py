"""An output folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from imaging.errors import ImagingError, Reason

_PREFIX = ".partial-"
# Appears last: whoever sees it sees a whole output, even after a power cut between two renames.
_LAST = "result.json"


def require_free_folder(output: Path) -> None:
    """Refuse an output folder that cannot be filled, before anything is computed for it.

    Raises
    ------
    ImagingError
        ``BAD_OUTPUT_FOLDER`` when it is not empty, no folder, or not writable. A folder that is absent is fine.
    """
    try:
        if not output.exists():
            return
        occupied = any(not entry.name.startswith(_PREFIX) for entry in output.iterdir())
    except OSError as error:
        raise _refusal(output, error) from error
    if occupied:
        raise ImagingError(
            Reason.BAD_OUTPUT_FOLDER, f"The output folder {output} is not empty; name a new one."
        )
    if not os.access(output, os.W_OK | os.X_OK):
        raise _refusal(output, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


class StagedFolder:
    """Context manager: write into ``.path``; what is there appears in the output folder when all went well.

    The files are written into ``OUT/.partial-<hex>``, flushed to disk and renamed into ``OUT``. On any error,
    including an interrupt, nothing stays behind. The staging folder lies inside ``OUT`` because a container
    often may write nowhere else, and because a rename must not cross file systems.

    Parameters
    ----------
    output : pathlib.Path
        Folder to fill; made if missing, must otherwise be empty.

    Raises
    ------
    ImagingError
        ``BAD_OUTPUT_FOLDER`` when the folder is not empty, no folder, not writable, or the disk is full.
    """

    def __init__(self, output: Path) -> None:
        self._output = output
        self._made_output = False
        self.path = output / f"{_PREFIX}{secrets.token_hex(8)}"

    def __enter__(self) -> StagedFolder:
        try:
            # Only the last level is removed again on failure: parents may be shared with others.
            self._made_output = not self._output.exists()
            require_free_folder(self._output)
            self._output.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
        except OSError as error:
            raise _refusal(self._output, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._discard()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _refusal(self._output, error) from error
            return
        try:
            self._publish()
        except OSError as failure:
            self._discard()
            raise _refusal(self._output, failure) from failure

    def _publish(self) -> None:
        for entry in sorted(self.path.rglob("*")):
            _flush(entry)
        moved: list[Path] = []
        try:
            for entry in sorted(self.path.iterdir(), key=lambda entry: (entry.name == _LAST, entry.name)):
                target = self._output / entry.name
                entry.rename(target)
                moved.append(target)
            self.path.rmdir()
            _flush(self._output)
        except OSError:
            for target in moved:
                _remove(target)
            raise

    def _discard(self) -> None:
        _remove(self.path)
        if self._made_output and not any(self._entries()):
            self._output.rmdir()

    def _entries(self) -> Iterator[Path]:
        return self._output.iterdir() if self._output.is_dir() else iter(())


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _refusal(output: Path, error: OSError) -> ImagingError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        sentence = f"The disk of the output folder {output} is full; free some space and run again."
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        sentence = f"The output {output} is not a folder; name a new one."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        sentence = f"The output folder {output} cannot be written; give this user permission or name another."
    else:
        sentence = f"The output folder {output} cannot be used ({error.strerror})."
    return ImagingError(Reason.BAD_OUTPUT_FOLDER, sentence)
