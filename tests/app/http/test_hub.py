"""Waiting for the sequence: one look for all, none for nobody, and everybody goes home at the end."""

import asyncio
import time

import pytest

from app.http.hub import Hub


class Head:
    """A number that a test lets grow, and how often it was asked."""

    def __init__(self) -> None:
        self.seq, self.asked = 7, 0

    def __call__(self) -> int:
        self.asked += 1
        return self.seq


@pytest.fixture
def head() -> Head:
    return Head()


def test_many_wait_and_one_looks(head: Head) -> None:
    hub = Hub(head, seconds=0.02)

    async def story() -> list[int]:
        since = await hub.now()
        waiting = [asyncio.ensure_future(hub.beyond(since, seconds=10)) for _ in range(100)]
        await asyncio.sleep(0.1)
        assert not any(each.done() for each in waiting)
        head.seq += 1
        return await asyncio.gather(*waiting)

    assert asyncio.run(story()) == [8] * 100
    assert head.asked < 30, "not once for each of them"


def test_with_nobody_waiting_nothing_is_asked(head: Head) -> None:
    hub = Hub(head, seconds=0.01)

    async def story() -> None:
        await hub.beyond(7, seconds=0.05)
        await asyncio.sleep(0.05)
        asked = head.asked
        await asyncio.sleep(0.1)
        assert head.asked == asked

    asyncio.run(story())


def test_waiting_ends_at_its_time(head: Head) -> None:
    started = time.monotonic()
    assert asyncio.run(Hub(head, seconds=0.01).beyond(7, seconds=0.1)) == 7
    assert time.monotonic() - started >= 0.1


def test_what_is_there_already_is_not_waited_for(head: Head) -> None:
    hub = Hub(head, seconds=60)

    async def story() -> int:
        await hub.now()
        return await hub.beyond(6, seconds=60)

    assert asyncio.run(story()) == 7


def test_everybody_goes_home_when_it_closes(head: Head) -> None:
    hub = Hub(head, seconds=60)

    async def story() -> float:
        waiting = asyncio.ensure_future(hub.beyond(7, seconds=60))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        hub.close()
        await waiting
        return time.monotonic() - started

    assert asyncio.run(story()) < 5
    assert asyncio.run(hub.beyond(7, seconds=60)) == 0, "closed is closed: it looks no more"


def test_who_waits_is_told_that_the_database_is_away(head: Head) -> None:
    def away() -> int:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(Hub(away, seconds=0.01).beyond(7, seconds=10))
