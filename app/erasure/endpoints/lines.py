"""Pages of the list: each request written as JSON once, and again only when it has changed.

Dashboards ask for the same rows again and again, and few of them have changed. Which have, no version of ours
tells as surely as Postgres does: `xmin`, the transaction that wrote a row last, of the request and of each of
its parts. With how many have approved it, and whether it is past its date, that is all that a line says.

Those who ask for the same page at once share one look, which began after each had asked.

What is kept holds nothing personal, as nothing of a list does, and has a bound.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.audit import service as audit
from app.clock import Clock
from app.erasure import reading, schemas
from app.erasure.lifecycle import Sort
from app.erasure.reading import Line
from app.erasure.repository import Filter
from app.http import pagination, preconditions
from app.http.grouping import Shared
from app.http.pagination import Place
from app.http.watching import Seen
from app.storage.database import Session, Transaction, at_one_moment


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which requests to list, and in which order."""

    chosen: Filter
    sort: Sort

    @property
    def name(self) -> str:
        """Return what a cursor of this list is bound to."""
        return f"erasure-requests {self.chosen} {self.sort}"


@dataclass(frozen=True, kw_only=True)
class PageAsked:
    """One page of a list as somebody asks for it."""

    wanted: Wanted
    limit: int
    cursor: str | None
    after: Place | None
    """What the cursor says."""


Pages = Shared[PageAsked, Seen]

LINES_MAX = 4096
"""How many are kept: some 1.3 kB each."""


class Lines:
    """What a process has written of requests; any thread may ask."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: dict[UUID, tuple[Line, bytes]] = {}
        self._forgotten = 0
        """How often; what was read before is not kept."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    def of(self, session: Session, found: Sequence[Line], *, now: datetime) -> list[bytes]:
        """Return each request as JSON, in the order of `found`; what is not kept as it is is read anew."""
        with self._lock:
            forgotten = self._forgotten
            kept = {line.id: self._kept.get(line.id) for line in found}
        said = {line.id: kept_one[1] for line in found if (kept_one := kept[line.id]) and kept_one[0] == line}
        missing = [line for line in found if line.id not in said]
        if missing:
            views = reading.these(session, [line.id for line in missing])
            fresh = {
                line.id: schemas.shown(views[line.id], now).model_dump_json().encode()
                for line in missing
                if line.id in views
            }
            self._keep({line.id: (line, fresh[line.id]) for line in missing if line.id in fresh}, forgotten)
            said |= fresh
        return [said[line.id] for line in found if line.id in said]

    def forget(self) -> None:
        """Forget all of it: the database may be another one."""
        with self._lock:
            self._forgotten += 1
            self._kept.clear()

    def _keep(self, written: dict[UUID, tuple[Line, bytes]], forgotten: int) -> None:
        with self._lock:
            if forgotten != self._forgotten:
                return
            for id_, line in written.items():
                self._kept.pop(id_, None)
                self._kept[id_] = line
            for id_ in list(self._kept)[: max(0, len(self._kept) - LINES_MAX)]:
                del self._kept[id_]


def pages(transaction: Transaction, clock: Clock, lines: Lines, *, cursor_key: bytes) -> Pages:
    """Return the process's look at pages: dashboards ask for the same ones at once."""

    def look(asked: PageAsked) -> Seen:
        with transaction() as session:
            at_one_moment(session)
            return _page(session, asked, lines, cursor_key, clock())

    return Shared(look)


def _page(session: Session, asked: PageAsked, lines: Lines, cursor_key: bytes, now: datetime) -> Seen:
    seen = audit.last(session)
    found = reading.lines(
        session,
        chosen=asked.wanted.chosen,
        sort=asked.wanted.sort,
        now=now,
        after=(asked.after.created_at, asked.after.id) if asked.after else None,
        limit=asked.limit + 1,
    )
    following = None
    if len(found) > asked.limit:
        last = found[asked.limit - 1]
        following = pagination.encode(cursor_key, Place(last.at, last.id), of=asked.wanted.name)
    return Seen(
        body=pagination.page(lines.of(session, found[: asked.limit], now=now), following=following),
        # By the hour: a date can pass while nothing happens, and is told of within the next one anyway.
        tag=preconditions.weak_tag(seen, asked.wanted.name, asked.limit, asked.cursor, f"{now:%Y-%m-%dT%H}"),
    )
