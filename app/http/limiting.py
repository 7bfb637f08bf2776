"""How many calls a caller may make in a minute: reads and writes apart, in a window that slides.

Counted in Redis, so that every process of the API counts together; while Redis is away each counts for
itself, because a limit that turns an outage into refusals protects nobody.
"""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from app.errors import Unavailable

READS = frozenset({"GET", "HEAD", "OPTIONS"})


class RateLimited(Unavailable):
    """This caller has made as many calls as a minute has room for."""

    code = "rate-limited"

    def __init__(self, *, retry_after: int) -> None:
        """Say when there is room again."""
        super().__init__(f"too many calls; there is room in {retry_after} s")
        self.retry_after = retry_after


class RateLimiter:
    """One per process."""

    def __init__(
        self, *, reads: int, writes: int, redis_url: str | None, imports: int = 10, logins: int = 30
    ) -> None:
        """Allow so many calls a minute to each caller, and imports an hour; connect with the first."""
        self._reads, self._writes = RateLimitItemPerMinute(reads), RateLimitItemPerMinute(writes)
        self._imports = RateLimitItemPerHour(imports)
        self._logins = RateLimitItemPerMinute(logins)
        self._alone = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = None if redis_url is None else SlidingWindowCounterRateLimiter(_storage(redis_url))

    def require(self, principal_id: UUID, method: str) -> None:
        """Count a call; RateLimited if it is one too many."""
        self._require(principal_id, method, calls=1)

    def refused(self, calls: Sequence[tuple[UUID, str]]) -> dict[int, RateLimited]:
        """Count calls (whose, method) that came at once; return which of them are too many, by their place.

        Those of one caller are counted by one question; only where there is no room for all, one by one.
        """
        found: dict[int, RateLimited] = {}
        of: dict[tuple[UUID, str], list[int]] = {}
        for place, (principal_id, method) in enumerate(calls):
            of.setdefault((principal_id, "GET" if method in READS else method), []).append(place)
        for (principal_id, method), places in of.items():
            try:
                self._require(principal_id, method, calls=len(places))
            except RateLimited as all_at_once:
                if len(places) == 1:
                    found[places[0]] = all_at_once
                    continue
                for place in places:
                    try:
                        self.require(principal_id, method)
                    except RateLimited as one:
                        found[place] = one
        return found

    def require_import(self, principal_id: UUID) -> None:
        """Count a file of requests; RateLimited if it is one too many."""
        self._count(principal_id, "import", self._imports)

    def require_login(self, address: UUID) -> None:
        """Count a login of an address, which is a keyed hash; RateLimited if it is one too many."""
        self._count(address, "login", self._logins)

    def _require(self, principal_id: UUID, method: str, *, calls: int) -> None:
        kind, item = ("read", self._reads) if method in READS else ("write", self._writes)
        self._count(principal_id, kind, item, calls)

    def _count(self, principal_id: UUID, kind: str, item: RateLimitItem, calls: int = 1) -> None:
        for limiter in (self._shared, self._alone):
            if limiter is None:
                continue
            with suppress(StorageError):
                if limiter.hit(item, kind, principal_id.hex, cost=calls):
                    return
                room_at = limiter.get_window_stats(item, kind, principal_id.hex).reset_time
                raise RateLimited(retry_after=max(1, math.ceil(room_at - time.time())))


def _storage(redis_url: str) -> Storage:
    """Return the storage; `limits` calls a socket `redis+unix`."""
    url = "redis+" + redis_url if redis_url.startswith("unix://") else redis_url
    found = storage_from_string(url, wrap_exceptions=True, socket_timeout=1, socket_connect_timeout=1)
    assert isinstance(found, Storage), "not an asynchronous one"
    return found
