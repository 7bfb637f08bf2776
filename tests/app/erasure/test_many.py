"""Ten thousand requests listed and exported in constant memory, and in as many queries as there are pages.

ethyca/fides#6951: a list that asked for each of its rows, and kept them all.
"""

import asyncio
import tracemalloc
from collections.abc import Iterator, MutableMapping
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.storage.database import Transaction
from tests.app.erasure.asking import REQUESTS, ask
from tests.app.erasure.test_reading import counted
from tests.fixtures.api import Caller

pytestmark = pytest.mark.slow

MANY, FEW = 10_000, 400
PAGE = 200
GROWTH_BYTES_MAX = 512 * 1024
"""Of the peak, from one length to ten times it; the longer answer has some ten million bytes."""
COPIES = """INSERT INTO erasure_requests
    SELECT (jsonb_populate_record(r, jsonb_build_object('id', gen_random_uuid(), 'created_at',
        r.created_at - make_interval(secs => n), 'due_at', r.due_at + make_interval(secs => n)))).*
    FROM erasure_requests r, generate_series(1, :n) n WHERE r.id = (SELECT id FROM erasure_requests LIMIT 1)"""


def fill(transaction: Transaction, officer: Caller, rows: int) -> None:
    """Let there be so many requests."""
    there = len(officer.get(REQUESTS, limit=1).json()["items"])
    if not there:
        ask(officer)
    with transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = '60s'"))
        count = session.scalar(text("SELECT count(*) FROM erasure_requests")) or 0
        session.execute(text(COPIES), {"n": rows - count})


def pages(caller: Caller, **params: Any) -> Iterator[list[str]]:
    """Yield the ids of a list, page by page."""
    cursor: dict[str, Any] = {}
    while True:
        page = caller.get(REQUESTS, limit=PAGE, **params, **cursor).json()
        yield [each["id"] for each in page["items"]]
        if page["next"] is None:
            return
        cursor = {"cursor": page["next"]}


@pytest.mark.parametrize("sort", ["-created_at", "due_at"])
def test_a_list_of_ten_thousand(officer: Caller, transaction: Transaction, model: UUID, sort: str) -> None:
    fill(transaction, officer, MANY)
    seen: set[str] = set()
    queries = set()
    listed = pages(officer, sort=sort)
    while True:
        with counted() as said:
            page = next(listed, None)
        if page is None:
            break
        queries.add(len(said))
        assert seen.isdisjoint(page)
        seen.update(page)
    assert len(seen) == MANY
    assert len(queries) == 1, "each page takes as many as the first"


async def export(app: FastAPI, caller: Caller, form: str) -> tuple[int, int]:
    """Export every request as a server would send it; return bytes and lines, and keep neither."""
    size = lines = 0

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal size, lines
        assert message.get("status", 200) == 200
        size += len(message.get("body", b""))
        lines += message.get("body", b"").count(b"\n")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/v1/exports",
        "raw_path": b"/v1/exports",
        "query_string": f"format={form}".encode(),
        "headers": [(b"authorization", f"Bearer {caller.token}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return size, lines


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_an_export_of_ten_thousand(
    app: FastAPI, officer: Caller, transaction: Transaction, model: UUID, form: str
) -> None:
    def measured(rows: int) -> tuple[int, int, int]:
        fill(transaction, officer, rows)
        tracemalloc.start()
        with counted() as said:
            size, lines = asyncio.run(export(app, officer, form))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert lines == rows + (form == "csv")
        assert size > 100 * rows
        return peak, len(said), size

    measured(FEW)  # what is made once is made before
    few, few_queries, _ = measured(FEW)
    many, many_queries, size = measured(MANY)
    assert many - few < GROWTH_BYTES_MAX < size / 4
    # One look a page and, at the end, one that finds nothing.
    assert many_queries - few_queries == (MANY - FEW) / PAGE
