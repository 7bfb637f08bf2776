"""A read that says whether anything is new: ETag and 304, and `Prefer: wait=N` until something is.

The endpoint is async and tells only how to read; each reading is a short transaction in the thread
pool, and between two of them nothing is held (A6). `wait` counts only with `If-None-Match`: who has
nothing yet is answered at once.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.http.hub import Hub
from app.http.preconditions import IfNoneMatch, same
from app.storage.database import Session, Transaction

WAIT_SECONDS_MAX = 25

Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description=f"`wait=N` (RFC 7240) holds the answer for up to N <= {WAIT_SECONDS_MAX} seconds until"
        " the version is another than that of `If-None-Match`.",
        examples=["wait=20"],
    ),
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a reading found: the body, its tag, and in how many seconds looking again is worth while."""

    body: BaseModel | bytes
    """JSON, where it is bytes."""
    tag: str
    retry_after: int | None = None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """One read as its caller wants it."""

    request: Request
    if_none_match: str | None
    wait_seconds: int

    async def answer(self, read: Callable[[Session, datetime], Seen]) -> Response:
        """Return what is read, or 304 if it is what the caller has and stays so."""
        return await self.answer_by(lambda: run_in_threadpool(self._read, read))

    async def answer_by(self, look: Callable[[], Awaitable[Seen]]) -> Response:
        """Return the same of what is looked up in a way of its own."""
        hub: Hub = self.request.app.state.hub
        deadline = time.monotonic() + self.wait_seconds
        while True:
            seq = await hub.now() if self.wait_seconds else 0
            seen = await look()
            left = deadline - time.monotonic()
            if not same(self.if_none_match, seen.tag):
                return self._response(seen, status=200)
            if left <= 0 or hub.closed or await self.request.is_disconnected():
                return self._response(seen, status=304)
            await hub.beyond(seq, seconds=left)

    def _read(self, read: Callable[[Session, datetime], Seen]) -> Seen:
        transaction: Transaction = self.request.app.state.transaction
        with transaction() as session:
            return read(session, self.request.app.state.clock())

    def _response(self, seen: Seen, *, status: int) -> Response:
        headers = {"ETag": seen.tag, "Cache-Control": "private, no-cache"}
        if seen.retry_after is not None:
            headers["Retry-After"] = str(seen.retry_after)
        if self.wait_seconds:
            headers["Preference-Applied"] = f"wait={self.wait_seconds}"
        if status != 200:
            return Response(status_code=status, headers=headers)
        body = seen.body if isinstance(seen.body, bytes) else seen.body.model_dump_json()
        return Response(body, headers=headers, media_type="application/json")


async def watch(request: Request, if_none_match: IfNoneMatch = None, prefer: Prefer = None) -> Watch:
    """Read the two headers."""
    wait = _wait(prefer) if if_none_match is not None else 0
    return Watch(request=request, if_none_match=if_none_match, wait_seconds=wait)


WatchDep = Annotated[Watch, Depends(watch)]


def _wait(prefer: str | None) -> int:
    """Return the seconds of `wait=N`, bounded; a preference that we do not know is none."""
    for preference in (prefer or "").replace(";", ",").split(","):
        name, _, value = preference.partition("=")
        digits = value.strip().strip('"')
        if name.strip().lower() == "wait" and digits.isascii() and digits.isdigit():
            return min(int(digits[:9]), WAIT_SECONDS_MAX)
    return 0
