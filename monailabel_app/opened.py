"""Who works on what: tells the second user of a case, and keeps what would be overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

_HOURS_OPEN = 8.0
_DAYS_KNOWN = 90.0


class OpenedCases:
    """What every client saw when it opened a case, kept across restarts.

    Parameters
    ----------
    path : pathlib.Path
        JSON file of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, dict[str, tuple[str, float]]] = {}
        if path.is_file():
            read = json.loads(path.read_text(encoding="utf-8"))
            self._seen = {key: {c: (t, w) for c, (t, w) in of.items()} for key, of in read.items()}

    def note(self, key: str, client: str, token: str, *, only_new: bool = False) -> None:
        """Remember that a client has seen the state ``token`` of a case.

        With ``only_new`` what it has seen earlier stands: running a model on a case does not show its label. A client
        that nobody knows (empty) is not noted, or the next such one would pass for it. What was noted long ago is
        forgotten: who comes back then is told of every drawing there is.
        """
        if not client:
            return
        since = time.time() - 86400 * _DAYS_KNOWN
        of = {who: noted for who, noted in self._seen.get(key, {}).items() if noted[1] > since}
        self._seen[key] = of
        known = of.get(_alias(client))
        kept = known[0] if only_new and known is not None else token
        of[_alias(client)] = (kept, time.time())
        self._write()

    def seen(self, key: str, client: str) -> str:
        """The state of a case that this client has seen; empty for unknown clients, which have seen nothing."""
        seen, _ = self._seen.get(key, {}).get(_alias(client), ("", 0.0))
        return seen

    def is_stale(self, key: str, client: str, token: str) -> bool:
        """Whether somebody saved since this client opened the case."""
        return self.seen(key, client) != token

    def by_others(self, key: str, client: str) -> bool:
        """Whether another client opened the case within a working day; any is another to one that nobody knows."""
        since = time.time() - 3600 * _HOURS_OPEN
        return any(
            who != _alias(client) and when > since for who, (_, when) in self._seen.get(key, {}).items()
        )

    def last_opened(self, key: str) -> float:
        """Seconds since the epoch; 0 for a case that nobody opened."""
        return max((when for _, when in self._seen.get(key, {}).values()), default=0.0)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(json.dumps(self._seen), encoding="utf-8")
        os.replace(part, self._path)


def _alias(client: str) -> str:
    """Clients send names of users or machines; the file needs to tell them apart only."""
    return hashlib.sha256(client.encode()).hexdigest()[:16]
