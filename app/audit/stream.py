"""The audit sequence as it grows, for whoever wants to be told: names of events and ids, nothing else.

The sequence has no gaps and is in the order of commits, so its number is all that a reader needs to
resume. Between two readings nothing is held: no session and no thread.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from app.audit import service
from app.audit.service import PREFIXES, Entry
from app.http.hub import Hub
from app.storage.database import Transaction

LIFE_SECONDS = 600.0
"""Then the reader comes again, by what `Last-Event-ID` is for: no connection outlives its key for long."""
BEHIND_MAX = 10_000
RESYNC = "resync"
"""Too far behind to be told each event: read the resources again."""

_IDS = frozenset({*PREFIXES, "certificate"})


@dataclass(frozen=True, kw_only=True)
class Told:
    """One event as it is streamed."""

    seq: int
    kind: str
    ids: dict[str, object]


async def follow(
    hub: Hub, transaction: Transaction, *, after: int | None, seconds: float = LIFE_SECONDS
) -> AsyncIterator[Told]:
    """Yield events after a sequence number, by default from now on, until the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    head = await hub.now()
    last = head if after is None else min(after, head)
    if head - last > BEHIND_MAX:
        last = head
        yield Told(seq=head, kind=RESYNC, ids={})
    while not hub.closed and (left := deadline - loop.time()) > 0:
        for entry in await run_in_threadpool(_read, transaction, last):
            last = entry.seq
            yield Told(
                seq=entry.seq,
                kind=entry.kind,
                ids={name: value for name, value in entry.body.items() if name in _IDS},
            )
        if last >= await hub.now():
            await hub.beyond(last, seconds=left)


def _read(transaction: Transaction, after: int) -> list[Entry]:
    with transaction() as session:
        return service.since(session, after)
