"""Calls that come at once are done together: in one thread, one transaction, with one commit.

    calls ──> waiting ── all of them ──> do(batch) in a thread of the pool ──> each its own answer
                 └── who comes meanwhile waits for the next batch

A commit costs a batch as much as a call, and so does each statement that takes all of them. Nobody waits
for company: who comes alone is a batch of one. No call is answered before its batch is done. What `do`
does must not let one call's failure become another's: it returns an answer or an exception for each.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

CALLS_MAX = 64

Call = TypeVar("Call")
Answer = TypeVar("Answer")


class Group(Generic[Call, Answer]):
    """One per process and kind of call."""

    def __init__(
        self, do: Callable[[Sequence[Call]], Sequence[Answer | Exception]], *, calls_max: int = CALLS_MAX
    ) -> None:
        """Do so many calls at once at most."""
        self._do, self._calls_max = do, calls_max
        self._waiting: list[tuple[Call, asyncio.Future[Answer]]] = []
        self._busy: asyncio.Task[None] | None = None

    async def __call__(self, call: Call) -> Answer:
        """Return the call's answer once its batch is done."""
        loop = asyncio.get_running_loop()
        if self._busy is not None and self._busy.get_loop() is not loop:
            self._waiting, self._busy = [], None
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((call, answer))
        if self._busy is None or self._busy.done():
            self._busy = loop.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._calls_max], self._waiting[self._calls_max :]
            try:
                found = await run_in_threadpool(self._do, [call for call, _ in batch])
            except Exception as error:  # noqa: BLE001  each caller raises it, where it is handled
                found = [error] * len(batch)
            except BaseException:
                for _, answer in [*batch, *self._waiting]:
                    answer.cancel()
                raise
            assert len(found) == len(batch), "an answer for each"
            for (_, answer), each in zip(batch, found, strict=True):
                if answer.done():
                    continue  # its caller has gone
                if isinstance(each, Exception):
                    answer.set_exception(each)
                else:
                    answer.set_result(each)


class Shared(Generic[Call, Answer]):
    """Calls that ask the same at once share one look, which began after each of them had asked.

    Those that ask something else neither wait for it nor hear of its failure.
    """

    def __init__(self, look: Callable[[Call], Answer], *, kept_max: int = 256) -> None:
        """Look as `look` does; so many different calls are remembered."""
        self._look, self._kept_max = look, kept_max
        self._groups: dict[Call, Group[Call, Answer]] = {}

    async def __call__(self, call: Call) -> Answer:
        """Return what was seen."""
        group = self._groups.pop(call, None) or Group(lambda calls: [self._look(call)] * len(calls))
        self._groups[call] = group
        while len(self._groups) > self._kept_max:
            # Who still waits for it holds it; who asks the same now looks anew.
            del self._groups[next(iter(self._groups))]
        return await group(call)
