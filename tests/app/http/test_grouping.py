"""Calls that come at once are done together, and each is answered for itself."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from app.http.grouping import Group, Shared


class Work:
    """Doubles numbers, batch by batch, once it may; refuses what is odd, and all with a zero."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.may = threading.Event(), threading.Event()

    def __call__(self, calls: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append([*calls])
        self.begun.set()
        assert self.may.wait(10)
        if 0 in calls:
            raise ZeroDivisionError
        return [ValueError(call) if call % 2 else 2 * call for call in calls]


async def _together(work: Work, *calls: int, calls_max: int = 64) -> list[int | BaseException]:
    """Make the first call, and the others while it is being done."""
    group: Group[int, int] = Group(work, calls_max=calls_max)
    tasks = [asyncio.ensure_future(group(calls[0]))]
    await asyncio.to_thread(work.begun.wait, 10)
    tasks += [asyncio.ensure_future(group(call)) for call in calls[1:]]
    await asyncio.sleep(0)
    work.may.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_who_comes_meanwhile_is_done_together() -> None:
    work = Work()
    assert asyncio.run(_together(work, 2, 4, 6, 8)) == [4, 8, 12, 16]
    assert work.batches == [[2], [4, 6, 8]]


def test_a_batch_has_a_bound() -> None:
    work = Work()
    asyncio.run(_together(work, 2, 4, 6, 8, 10, 12, calls_max=2))
    assert work.batches == [[2], [4, 6], [8, 10], [12]]


def test_one_refusal_is_nobody_elses() -> None:
    first, second, third = asyncio.run(_together(Work(), 2, 3, 4))
    assert (first, third) == (4, 8)
    assert isinstance(second, ValueError)


def test_what_breaks_a_batch_is_told_to_all_of_it_and_the_next_goes_on() -> None:
    first, second, third = asyncio.run(_together(Work(), 2, 0, 4))
    assert first == 4
    assert isinstance(second, ZeroDivisionError)
    assert isinstance(third, ZeroDivisionError)


def test_a_caller_who_has_gone_takes_nobody_along() -> None:
    async def leave(work: Work) -> int:
        group: Group[int, int] = Group(work)
        gone, stays = asyncio.ensure_future(group(2)), asyncio.ensure_future(group(4))
        await asyncio.to_thread(work.begun.wait, 10)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        work.may.set()
        return await stays

    assert asyncio.run(leave(Work())) == 8


def test_it_goes_on_in_another_loop() -> None:
    work = Work()
    work.may.set()
    group: Group[int, int] = Group(work)
    assert [asyncio.run(_one(group, call)) for call in (2, 4)] == [4, 8]


async def _one(group: Group[int, int], call: int) -> int:
    return await group(call)


class Sight:
    """Looks at numbers, and counts; at 1 nothing is to be seen, and 2 takes until it may."""

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.begun, self.may = threading.Event(), threading.Event()

    def __call__(self, number: int) -> int:
        self.looked.append(number)
        if number == 1:
            raise ZeroDivisionError
        if number == 2:
            self.begun.set()
            assert self.may.wait(10)
        return self.looked.count(number)


def test_who_asks_the_same_meanwhile_shares_the_next_look_and_others_do_not_wait() -> None:
    async def ask(sight: Sight) -> tuple[list[int | BaseException], int, list[int]]:
        shared: Shared[int, int] = Shared(sight, kept_max=2)
        slow = [asyncio.ensure_future(shared(2))]
        await asyncio.to_thread(sight.begun.wait, 10)
        slow += [asyncio.ensure_future(shared(2)) for _ in range(3)]
        with pytest.raises(ZeroDivisionError):
            await shared(1)
        other = await shared(3)
        before = list(sight.looked)
        sight.may.set()
        return await asyncio.gather(*slow), other, before

    slow, other, before = asyncio.run(ask(Sight()))
    assert slow == [1, 2, 2, 2], "whoever asks sees nothing from before"
    assert (other, before) == (1, [2, 1, 3])
