"""What callers are told when something is wrong, and that none of it repeats what they sent."""

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from app import telemetry
from app.config import Settings
from app.errors import Conflict, Forbidden, Invalid, LeaseLost, NotFound, Problem, Unavailable
from app.http import problems
from app.storage.database import Transaction
from app.tables import Base
from tests.fixtures.api import Caller
from tests.fixtures.world import World

REQUESTS = "/v1/erasure-requests"
CANARY = "canary-7f3a9c"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Return what the process says, as production configures it."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    telemetry.configure(stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (LeaseLost("x"), 409),
        (Forbidden("x"), 403),
        (Invalid("x"), 422),
        (Unavailable("x"), 503),
        (Problem("x"), 400),
        (Forbidden("x", code="unauthenticated"), 401),
        (Invalid("x", code="idempotency-key-missing"), 400),
    ],
)
def test_one_map_from_errors_to_statuses(problem: Problem, status: int) -> None:
    answer = problems.response(problem, request_id="req_1")
    content = json.loads(bytes(answer.body))
    assert answer.status_code == content["status"] == status
    assert content["type"] == f"urn:lethe:problem:{problem.code}"
    assert content["request_id"] == "req_1"
    assert answer.media_type == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed-json"),
        (b"[1, 2", 400, "malformed-json"),
        (b"\xff\xfe\x00", 400, "malformed-json"),
        (b"[" * 100_000, 400, "malformed-json"),
        (b"nonsense " + CANARY.encode(), 400, "malformed-json"),
        (b"\xff\xfe", 400, "malformed-json"),
        (b"[]", 422, "invalid"),
        (b"null", 422, "invalid"),
        (b"", 422, "invalid"),
        (b'"' + CANARY.encode() + b'"', 422, "invalid"),
    ],
)
def test_a_body_that_is_not_what_we_take(
    client: TestClient, portal: Caller, content: bytes, status: int, code: str
) -> None:
    headers = portal.headers | {"Idempotency-Key": "k", "Content-Type": "application/json"}
    answer = client.post(REQUESTS, content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert CANARY not in answer.text


def test_an_unknown_path_and_a_wrong_method_are_problems_too(client: TestClient) -> None:
    assert client.get(f"/v1/{CANARY}").json()["code"] == "not-found"
    answer = client.put("/healthz")
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"]


def test_each_answer_has_an_id_of_ours(client: TestClient) -> None:
    answers = [client.get("/v1/erasure-requests", headers={"X-Request-Id": CANARY}) for _ in range(2)]
    found = {answer.headers["x-request-id"] for answer in answers}
    assert len(found) == 2
    assert {answer.json()["request_id"] for answer in answers} == found
    assert not any(CANARY in answer.text for answer in answers)


def test_an_accident_of_ours_says_where_and_not_what(
    app: FastAPI, client: TestClient, lines: io.StringIO
) -> None:
    @app.get("/accident")
    def accident() -> None:
        raise ValueError(CANARY)

    answer = client.get("/accident")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert CANARY not in answer.text + lines.getvalue()
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["event"] for line in said] == ["unexpected", "call"]
    assert said[0]["error"] == "ValueError"
    assert "accident" in said[0]["where"]
    assert said[0]["request_id"] == said[1]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.slow
def test_a_database_that_does_not_answer_is_a_503(
    portal: Caller, transaction: Transaction, world: World
) -> None:
    """Somebody holds the head of the audit chain for longer than we wait for a lock."""
    with transaction() as session:
        session.execute(text("SELECT 1 FROM audit_head FOR UPDATE"))
        started = time.monotonic()
        answer = portal.post(REQUESTS, {"subject": {"type": "email", "value": "a@b.example"}})
        assert time.monotonic() - started < 8
    assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")


# The canary: unique strings in every place where a person's data could be


def test_what_people_send_is_found_nowhere_afterwards(
    client: TestClient,
    portal: Caller,
    officer: Caller,
    world: World,
    transaction: Transaction,
    lines: io.StringIO,
) -> None:
    address = f"{CANARY}@example.org"
    world.dataset("people", {address: ["r-1"]})
    world.model("assistant", world.dataset("others", {address: ["r-2"]}))
    subject = {"type": "email", "value": address}
    receipt = portal.post(REQUESTS, {"subject": subject}).json()
    bodies: list[object] = [
        {"subject": {"type": "phone", "value": CANARY}},
        {"subject": {"type": CANARY, "value": address}},
        {"subject": subject, CANARY: 1},
        {"subject": {**subject, address: 1}},
        {"subject": subject, "external_ref": address},
        {"records": {"dataset": CANARY, "ids": [CANARY]}},
        {"records": {"dataset": "people", "ids": [CANARY, address]}},
        [address],
        address,
    ]
    answers = [portal.post(REQUESTS, body) for body in bodies]
    answers += [
        officer.post(f"{REQUESTS}/{receipt['id']}/approvals", {"record_set_hash": address}),
        officer.post(f"{REQUESTS}/{receipt['id']}/rejection", {"ground": address}),
        officer.get(f"{REQUESTS}/{address}"),
        officer.get(f"/v1/{address}"),
        officer.get(REQUESTS, state=address, cursor=address, limit=address),
        client.get(REQUESTS, headers={"Authorization": f"Bearer {address}"}),
        client.get(REQUESTS, headers=officer.headers | {"User-Agent": address, "X-Request-Id": address}),
        client.post(REQUESTS, content=address.encode(), headers=officer.headers | {"Idempotency-Key": "k"}),
    ]
    approved = officer.post(
        f"{REQUESTS}/{receipt['id']}/approvals", {"record_set_hash": receipt["record_set_hash"]}
    )
    assert approved.json()["state"] == "scheduled"
    assert all(answer.status_code in {400, 401, 404, 422} for answer in answers[:-2])
    said = "".join(answer.text + str(dict(answer.headers)) for answer in [*answers, approved])
    assert CANARY not in said
    assert CANARY not in lines.getvalue()
    assert len(lines.getvalue().splitlines()) >= len(answers)
    assert CANARY not in client.get("/metrics").text
    with transaction() as session:
        for table in Base.metadata.sorted_tables:
            rows = session.scalars(text(f"SELECT {table.name}::text FROM {table.name}")).all()
            assert not any(CANARY in row or CANARY.encode().hex() in row for row in rows), table.name


# The bound on a body


def test_a_body_over_the_bound_is_refused_by_its_declared_length(
    client: TestClient, settings: Settings
) -> None:
    answer = client.post(REQUESTS, content=b"x" * (settings.body_bytes_max + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_body_at_the_bound_is_read(client: TestClient, portal: Caller, settings: Settings) -> None:
    headers = portal.headers | {"Idempotency-Key": "k", "Content-Type": "application/json"}
    answer = client.post(REQUESTS, content=b" " * settings.body_bytes_max, headers=headers)
    assert answer.status_code == 400


def test_a_hundred_megabytes_are_answered_and_not_kept(app: FastAPI) -> None:
    """Over a real socket, with and without a declared length, against a caller that reads only at the end."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}{REQUESTS}"
        before = _resident_bytes()
        declared = httpx.post(url, content=_zeros(100), headers={"Content-Length": str(100 << 20)})
        assert (declared.status_code, declared.json()["code"]) == (413, "body-too-large")
        assert _resident_bytes() - before < 50 << 20
        chunked = httpx.post(url, content=_zeros(3), headers={"Content-Type": "application/json"})
        assert chunked.status_code == 413
    finally:
        server.should_exit = True
        thread.join()


def _zeros(megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes):
        yield bytes(1 << 20)


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  a pseudo file
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
