"""How many requests compute at once, and how many may wait: everything here has a bound."""

import asyncio

from app.errors import Unavailable

QUEUE_MAX = 256
QUEUE_SECONDS_MAX = 30.0


class Admission:
    """A bounded number of places to compute in, and a bounded queue before them, first come first served."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self.waiting = 0

    async def enter(self) -> None:
        """Wait for a place; `Unavailable` when too many wait already or it takes too long."""
        if self.waiting >= QUEUE_MAX:
            raise Unavailable(f"{QUEUE_MAX} requests are waiting already", code="overloaded")
        self.waiting += 1
        try:
            async with asyncio.timeout(QUEUE_SECONDS_MAX):
                await self._places.acquire()
        except TimeoutError as reason:
            raise Unavailable("no place became free in time", code="overloaded") from reason
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        """Give the place to the next one."""
        self._places.release()
