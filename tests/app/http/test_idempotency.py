"""A call that creates or acts runs once, however often and however simultaneously it is sent."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, text

from app.http import idempotency, receipts
from app.storage.database import Transaction
from app.tables import AuditEvent, ErasureRequest, IdempotencyKey, Outbox
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.refusing import refusing
from tests.fixtures.world import ADA, BOB

REQUESTS = "/v1/erasure-requests"


def body(email: str = ADA) -> dict[str, Any]:
    return {"subject": {"type": "email", "value": email}}


def count(transaction: Transaction, table: type[Any]) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_repeated_call_gets_the_stored_receipt(
    portal: Caller, transaction: Transaction, model: UUID
) -> None:
    first = portal.post(REQUESTS, body(), key="k1")
    second = portal.post(REQUESTS, body(), key="k1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert count(transaction, ErasureRequest) == 1


def test_another_payload_under_the_same_key_is_refused(portal: Caller, transaction: Transaction) -> None:
    portal.post(REQUESTS, body(), key="k1")
    answer = portal.post(REQUESTS, body(BOB), key="k1")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    assert count(transaction, ErasureRequest) == 1


def test_a_key_belongs_to_its_principal(portal: Caller, officer: Caller, transaction: Transaction) -> None:
    for caller in (portal, officer):
        assert "idempotency-replayed" not in caller.post(REQUESTS, body(), key="k1").headers
    assert count(transaction, ErasureRequest) == 2


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency-key-missing"),
        ("a b", "idempotency-key-malformed"),
        ("x" * 256, "idempotency-key-malformed"),
    ],
)
def test_a_key_is_needed(client: TestClient, portal: Caller, key: str | None, code: str) -> None:
    headers = portal.headers | ({} if key is None else {"Idempotency-Key": key})
    answer = client.post(REQUESTS, json=body(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_while_the_first_call_runs_the_second_does_not_wait(portal: Caller, transaction: Transaction) -> None:
    with transaction() as session:
        lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
        session.execute(lock, {"key": f"{portal.principal_id}|k1"})
        answer = portal.post(REQUESTS, body(), key="k1")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency-key-in-use")
    assert portal.post(REQUESTS, body(), key="k1").status_code == 201


def test_simultaneous_duplicates_have_one_effect(
    portal: Caller, transaction: Transaction, model: UUID
) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: portal.post(REQUESTS, body(), key="k1"), range(16)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in made}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in made) == 1
    assert count(transaction, ErasureRequest) == 1


def test_a_failed_call_frees_its_key(portal: Caller, transaction: Transaction, model: UUID) -> None:
    unknown = {"records": {"dataset": "people", "ids": ["nobody"]}}
    assert portal.post(REQUESTS, unknown, key="k1").status_code == 422
    assert count(transaction, IdempotencyKey) == 0
    assert portal.post(REQUESTS, body(), key="k1").status_code == 201


def test_a_commit_that_fails_is_not_answered_as_done(portal: Caller, transaction: Transaction) -> None:
    """The receipt, the request, its events and its bells are there together or not at all."""
    with refusing(transaction, "AFTER INSERT ON erasure_requests DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"):
        answer = portal.post(REQUESTS, body(), key="k1")
    assert (answer.status_code, answer.json()["code"]) == (503, "not-committed")
    assert answer.headers["retry-after"]
    with transaction() as session:
        before = session.scalar(select(func.count()).where(AuditEvent.kind.startswith("request.")))
    assert (before, count(transaction, ErasureRequest), count(transaction, Outbox)) == (0, 0, 0)
    assert portal.post(REQUESTS, body(), key="k1").status_code == 201


def test_a_receipt_is_kept_for_a_day(portal: Caller, transaction: Transaction, clock: StillClock) -> None:
    portal.post(REQUESTS, body(), key="k1")
    clock.advance(hours=23)
    assert "idempotency-replayed" in portal.post(REQUESTS, body(), key="k1").headers
    clock.advance(hours=2)
    assert "idempotency-replayed" not in portal.post(REQUESTS, body(), key="k1").headers
    assert count(transaction, ErasureRequest) == 2
    clock.advance(hours=25)
    with transaction() as session:
        assert receipts.forget(session, now=clock()) == 1


def test_an_answer_that_shows_a_secret_is_not_kept(callers: Callers, transaction: Transaction) -> None:
    admin = callers("admin", "admin")
    wish = {"name": "reader", "scopes": ["requests:read"]}
    first = admin.post("/v1/api-keys", wish, key="k1")
    assert first.json()["key"].startswith("lethe_")
    again = admin.post("/v1/api-keys", wish, key="k1")
    assert (again.status_code, again.json()["code"]) == (409, "receipt-not-kept")
    with transaction() as session:
        assert [bytes(row.body) for row in session.scalars(select(IdempotencyKey))] == [b""]


def test_a_fingerprint_tells_calls_apart_and_nothing_of_the_body() -> None:
    marks = {
        idempotency.fingerprint(secret, method, path, payload)
        for secret in (b"1" * 32, b"2" * 32)
        for method in ("POST", "DELETE")
        for path in ("/a", "/b")
        for payload in (b"", b"x")
    }
    assert len(marks) == 16
    assert all(len(mark) == 32 for mark in marks)
