"""Requests of a list, each written as JSON once, and again only when it has changed.

Dashboards ask for the same rows again and again, and few of them have changed. Which have, no version of ours
tells as surely as Postgres does: `xmin`, the transaction that wrote a row last, of the request and of each of
its parts. With how many have approved it, and whether it is past its date, that is all that a line says.

What is kept holds nothing personal, as nothing of a list does, and has a bound.
"""

import threading
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from app.erasure import reading, schemas
from app.erasure.reading import Line
from app.storage.database import Session

LINES_MAX = 4096
"""How many are kept: some 1.3 kB each."""


class Lines:
    """What a process has written of requests; any thread may ask."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: dict[UUID, tuple[Line, bytes]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    def of(self, session: Session, found: Sequence[Line], *, now: datetime) -> list[bytes]:
        """Return each request as JSON, in the order of `found`; what is not kept as it is is read anew."""
        with self._lock:
            kept = {line.id: self._kept.get(line.id) for line in found}
        said = {line.id: kept_one[1] for line in found if (kept_one := kept[line.id]) and kept_one[0] == line}
        missing = [line for line in found if line.id not in said]
        if missing:
            views = reading.these(session, [line.id for line in missing])
            # Read after its line was: what was written is what the line tells of, or newer, and then the
            # next line is another one.
            fresh = {
                line.id: schemas.shown(views[line.id], now).model_dump_json().encode()
                for line in missing
                if line.id in views
            }
            self._keep({line.id: (line, fresh[line.id]) for line in missing if line.id in fresh})
            said |= fresh
        return [said[line.id] for line in found if line.id in said]

    def forget(self) -> None:
        """Forget all of it: the database may be another one."""
        with self._lock:
            self._kept.clear()

    def _keep(self, written: dict[UUID, tuple[Line, bytes]]) -> None:
        with self._lock:
            for id_, line in written.items():
                self._kept.pop(id_, None)
                self._kept[id_] = line
            for id_ in list(self._kept)[: max(0, len(self._kept) - LINES_MAX)]:
                del self._kept[id_]
