"""One request being computed: a thread that holds a slot, and the parts of the answer as they come.

The lease and the place in the queue belong to the *thread*, not to the connection: both end when the
thread does, however the client left. So a slot is never freed under a computation, and no client can
keep one from being freed.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Self

from app.errors import Unavailable
from workers.inference.admission import Admission
from workers.inference.openai import Delta, Usage
from workers.inference.replica import Replica
from workers.inference.slot import Ask, Revoked, Slot
from workers.inference.state import Version

STARTS_MAX = 3
"""A request is begun anew when its slot must go before it has said anything; more swaps in a row fail it."""


@dataclass(frozen=True, slots=True)
class _Begun:
    prompt_tokens: int


_Item = _Begun | tuple[Delta, int] | BaseException | None


class Computation:
    """An answer under way. Iterate it once; `usage` is complete when the iteration has ended."""

    def __init__(self, slot: Slot) -> None:
        self.version: Version = slot.version
        self.usage = Usage(0, 0)
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._first: _Item = None
        self._cancelled = threading.Event()

    @classmethod
    async def start(cls, replica: Replica, admission: Admission, threads: Executor, ask: Ask) -> Self:
        """Return a computation whose first part is there; nothing was sent until then.

        What is wrong with the request is raised here, so that it becomes a status and not a broken
        stream. A slot that must go hands the request back; it begins again on the one that is live.
        """
        for _ in range(STARTS_MAX):
            await admission.enter()
            try:
                slot = replica.lease(ask.model)
            except BaseException:
                admission.leave()
                raise
            self = cls(slot)
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(threads, self._compute, slot, ask, loop)
            future.add_done_callback(partial(_end, replica, admission, slot))
            try:
                if await self._begin():
                    return self
            except BaseException:
                self.cancel()
                raise
        raise Unavailable("the model is being replaced; ask again")

    def cancel(self) -> None:
        """Stop computing at the next token: nobody listens any more."""
        self._cancelled.set()

    async def parts(self) -> AsyncIterator[Delta]:
        """Yield the parts in order; raises `Revoked` if the slot had to go in the middle."""
        item = self._first
        try:
            while item is not None:
                if isinstance(item, BaseException):
                    raise item
                assert isinstance(item, tuple), "the beginning is announced once"
                part, drawn = item
                self.usage = Usage(self.usage.prompt, self.usage.drawn + drawn)
                yield part
                item = await self._items.get()
        finally:
            self.cancel()

    async def _begin(self) -> bool:
        """Take the first part; return False if the slot had to go before there was one."""
        item = await self._items.get()
        if isinstance(item, _Begun):
            self.usage = Usage(item.prompt_tokens, 0)
            item = await self._items.get()
        if isinstance(item, Revoked):
            return False
        if isinstance(item, BaseException):
            raise item
        self._first = item
        return True

    def _compute(self, slot: Slot, ask: Ask, loop: asyncio.AbstractEventLoop) -> None:
        """Run in a thread; say everything, the end and errors included, through the queue."""

        def say(item: _Item) -> None:
            loop.call_soon_threadsafe(self._items.put_nowait, item)

        try:
            prompts = slot.read(ask)
            say(_Begun(sum(map(len, prompts))))
            for part in slot.answer(ask, prompts):
                if self._cancelled.is_set():
                    break
                say(part)
        except Exception as error:  # noqa: BLE001  it is raised where the request is awaited
            # The traceback's frames would hold the weights for as long as the error is looked at.
            say(error.with_traceback(None))
        else:
            say(None)


def _end(replica: Replica, admission: Admission, slot: Slot, _future: "asyncio.Future[None]") -> None:
    replica.release(slot)
    admission.leave()
