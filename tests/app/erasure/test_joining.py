"""Requests that come in at once share a commit, and nothing else."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from app.audit import service as audit
from app.storage.database import Transaction
from app.tables import AuditHead, ErasureRequest, IdempotencyKey
from tests.app.erasure.asking import REQUESTS
from tests.fixtures.api import Caller, Response
from tests.fixtures.world import ADA

PATIENCE_SECONDS = 10


def at_once(transaction: Transaction, caller: Caller, bodies: list[dict[str, Any]]) -> list[Response]:
    """Send the bodies while somebody else holds the chain's head, so that they wait, and are together."""
    with ThreadPoolExecutor(len(bodies)) as threads:
        with transaction() as session:
            session.execute(select(AuditHead).with_for_update())
            sent = [
                threads.submit(caller.post, REQUESTS, body, key=f"k{place}")
                for place, body in enumerate(bodies)
            ]
            _until(transaction, lambda each: each.scalar(text(WAITING)) or 0)
            time.sleep(0.3)
        return [each.result() for each in sent]


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def _until(transaction: Transaction, true: Any) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with transaction() as session:
            if true(session):
                return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def subject(name: str, **more: Any) -> dict[str, Any]:
    return {"subject": {"type": "customer_id", "value": name}, **more}


def test_what_comes_at_once_is_received_each_as_if_alone(
    portal: Caller, transaction: Transaction, model: UUID
) -> None:
    bodies = [
        subject("first"),
        {"subject": {"type": "email", "value": ADA}},
        subject("one", external_ref="T-1"),
        subject("another", external_ref="T-1"),
        {"records": {"dataset": "nowhere", "ids": ["x"]}},
        {"subject": {"type": "email", "value": "no address"}},
        {"subject": {"type": "email", "value": ADA}},
        subject("last", identity="doubted"),
    ]
    answers = at_once(transaction, portal, bodies)
    states = [answer.json().get("state", answer.json().get("code")) for answer in answers]
    assert sorted(states[2:4]) == ["external-ref-used", "no_match"]
    assert [states[0], states[1], *states[4:]] == [
        "no_match",
        "awaiting_approval",
        "invalid",
        "invalid",
        "awaiting_approval",
        "identity_pending",
    ]
    with transaction() as session:
        assert audit.verify(session).broken_at is None
        duplicates = session.scalars(
            select(ErasureRequest.duplicate_of).where(ErasureRequest.duplicate_of.is_not(None))
        ).all()
        assert len(duplicates) == 1
        assert session.scalar(select(func.count()).select_from(ErasureRequest)) == 5
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == 5


def test_one_that_the_database_refuses_takes_no_other_along(
    portal: Caller, transaction: Transaction, model: UUID
) -> None:
    """Its reference is taken by a rival whose commit comes between the look and the insert."""
    made = portal.post(REQUESTS, subject("model"))
    assert made.status_code == 201
    with ThreadPoolExecutor(6) as threads:
        with transaction() as session:
            session.execute(text(COPY), {"reference": "T-9"})
            sent = [
                threads.submit(portal.post, REQUESTS, subject(f"c{each}", external_ref=f"T-{each}"))
                for each in range(6, 12)
            ]
            _until(transaction, lambda each: each.scalar(text(WAITING)) or 0)
            time.sleep(0.3)
        answers = [each.result() for each in sent]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 409, 201, 201]
    with transaction() as session:
        assert audit.verify(session).broken_at is None


COPY = """INSERT INTO erasure_requests SELECT (jsonb_populate_record(r, jsonb_build_object(
    'id', gen_random_uuid(), 'external_ref', CAST(:reference AS text)))).* FROM erasure_requests r"""


@pytest.mark.parametrize("same", [True, False])
def test_of_two_with_one_key_at_once_one_is_done(
    portal: Caller, transaction: Transaction, model: UUID, *, same: bool
) -> None:
    ready = threading.Barrier(8)

    def send(number: int) -> Response:
        ready.wait()
        return portal.post(REQUESTS, subject("a" if same else f"a{number}"), key="one-key")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(send, range(8)))
    assert {answer.status_code for answer in answers} <= ({201, 409} if same else {201, 409, 422})
    assert sum(answer.status_code == 201 for answer in answers) >= 1
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(ErasureRequest)) == 1
