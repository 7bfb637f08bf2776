"""Who waits for something to happen: one look at the audit sequence for all of them, and no thread each.

A waiting call holds neither a session nor a thread. While at least one waits, the process asks Postgres
once a second how far the sequence is; with nobody waiting it asks nothing. Knows no audit chain: it is
told how to read a number that only grows.
"""

import asyncio
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool

POLL_SECONDS = 1.0


class Hub:
    """One per process."""

    def __init__(self, head: Callable[[], int], *, seconds: float = POLL_SECONDS) -> None:
        """Look at `head` every so many seconds while anybody waits."""
        self.seconds = seconds
        self.closed = False
        self._head = head
        self._seen = 0
        self._look: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()

    async def now(self) -> int:
        """Return how far the sequence is, read afresh."""
        self._seen = max(self._seen, await run_in_threadpool(self._head))
        return self._seen

    async def beyond(self, seq: int, *, seconds: float) -> int:
        """Return how far it is once that is beyond `seq`; after so many seconds at the latest."""
        self._loop = asyncio.get_running_loop()
        deadline = self._loop.time() + seconds
        while self._seen <= seq and not self.closed and (left := deadline - self._loop.time()) > 0:
            if self._look is None or self._look.done() or self._look.get_loop() is not self._loop:
                self._look = self._loop.create_task(self._once())
            look = self._look
            await asyncio.wait({look}, timeout=left)
            if look.done():
                look.result()
        return self._seen

    def close(self) -> None:
        """Let everybody go, because the process ends; may be called from a signal handler."""
        self.closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._closing.set)

    async def _once(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        await asyncio.wait({closing}, timeout=self.seconds)
        closing.cancel()
        if not self.closed:
            await self.now()
