"""The sequence as it is streamed: from where one left off, ids alone, and a fresh start from too far."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI

from app.audit import service as audit
from app.audit import stream
from app.audit.stream import Told
from app.http.hub import Hub
from app.storage.database import Transaction
from tests.app.erasure.asking import ask
from tests.fixtures.api import Caller, Callers


@pytest.fixture
def hub(transaction: Transaction) -> Hub:
    def head() -> int:
        with transaction() as session:
            return audit.last(session)

    return Hub(head, seconds=0.02)


def follow(hub: Hub, transaction: Transaction, *, after: int | None, count: int) -> list[Told]:
    """Return the next so many events."""

    async def read() -> list[Told]:
        found = []
        async for each in stream.follow(hub, transaction, after=after, seconds=30):
            found.append(each)
            if len(found) == count:
                break
        return found

    return asyncio.run(read())


def test_a_reader_resumes_where_it_left_off(
    portal: Caller, model: UUID, hub: Hub, transaction: Transaction
) -> None:
    receipt = ask(portal)
    with transaction() as session:
        head = audit.last(session)
    first = follow(hub, transaction, after=0, count=head)
    assert [each.seq for each in first] == list(range(1, head + 1))
    rest = follow(hub, transaction, after=3, count=head - 3)
    assert rest == first[3:]
    assert rest[-1].kind == "request.moved"
    assert rest[-1].ids == {"request": receipt["id"]}, "ids and nothing else"


def test_what_happens_later_comes_too(
    portal: Caller, model: UUID, hub: Hub, transaction: Transaction
) -> None:
    async def story() -> Told:
        later = asyncio.get_running_loop().run_in_executor(None, _soon, portal)
        async for each in stream.follow(hub, transaction, after=None, seconds=30):
            await later
            return each
        raise AssertionError("something happened")

    assert asyncio.run(story()).kind == "request.received"


def test_who_is_too_far_behind_reads_anew(
    portal: Caller, model: UUID, hub: Hub, transaction: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(portal)
    monkeypatch.setattr(stream, "BEHIND_MAX", 2)
    with transaction() as session:
        head = audit.last(session)
    assert follow(hub, transaction, after=0, count=1) == [Told(seq=head, kind="resync", ids={})]


def test_a_stream_ends_at_its_time_and_with_the_process(hub: Hub, transaction: Transaction) -> None:
    async def read(seconds: float) -> list[Told]:
        return [each async for each in stream.follow(hub, transaction, after=None, seconds=seconds)]

    assert asyncio.run(read(0.1)) == []
    hub.close()
    assert asyncio.run(read(60)) == []


@pytest.fixture
def brief(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    app.state.hub.seconds = 0.02
    follow = stream.follow

    def short(*given: Any, **named: Any) -> Any:
        return follow(*given, **named, seconds=0.5)

    monkeypatch.setattr(stream, "follow", short)
    yield
    monkeypatch.undo()


def test_it_is_served_as_server_sent_events(portal: Caller, model: UUID, brief: None) -> None:
    receipt = ask(portal)
    answer = portal.get("/v1/events/stream", given={"Last-Event-ID": "0"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [
        dict(line.split(": ", 1) for line in each.splitlines()) for each in answer.text.split("\n\n") if each
    ]
    located = next(each for each in told if each["event"] == "request.located")
    assert json.loads(located["data"]) == {"request": receipt["id"]}
    assert [int(each["id"]) for each in told] == list(range(1, len(told) + 1))


def test_who_may_not_read_requests_hears_of_none(callers: Callers) -> None:
    answer = callers("nobody", scopes=["jobs:read"]).get("/v1/events/stream")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")


def _soon(portal: Caller) -> None:
    ask(portal)
