"""The audit chain: the page's vector, order under concurrency, and that no change goes unnoticed."""

import threading
from datetime import UTC, datetime
from uuid import UUID

import pytest
import rfc8785
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.audit import events, service
from app.storage.database import Session, Transaction
from app.tables import AuditEvent, AuditHead, new_id

AT = datetime(2026, 11, 21, tzinfo=UTC)


def test_the_vector_of_the_design() -> None:
    body = rfc8785.dumps({"at": 1795219200000000, "kind": "request.received", "request": "er_1"})
    assert body == b'{"at":1795219200000000,"kind":"request.received","request":"er_1"}'
    found = service.link(1, bytes(32), body).hex()
    assert found == "5ea4ada0e1ae5831d086959ebe135a39b26febc5b2e878e02b380614506bcda1"


def test_an_instant_is_integer_microseconds() -> None:
    event = events.KeyRevoked(key=UUID(int=0), at=datetime(2026, 11, 21, 0, 0, 0, 123456, tzinfo=UTC))
    assert service.canonical(event) == (
        b'{"at":1795219200123456,"key":"key_00000000000000000000000000","kind":"key.revoked"}'
    )


def test_events_are_chained_and_found_by_what_they_are_about(session: Session) -> None:
    key, other = new_id(), new_id()
    service.record(session, events.KeyRevoked(key, AT))
    service.record(session, events.KeyRevoked(other, AT))
    service.record(session, events.KeyRevoked(key, AT))
    public = str(service.about(events.KeyRevoked(key, AT)))
    assert [entry.seq for entry in service.history(session, public)] == [1, 3]
    assert service.verify(session) == service.Verification(
        events=3, head=service.listing(session)[-1].hash, stated=0, broken_at=None
    )


def test_an_event_of_a_failed_transaction_never_happened(transaction: Transaction) -> None:
    def fail(session: Session) -> None:
        service.record(session, events.KeyRevoked(new_id(), AT))
        service.settle(session)
        raise RuntimeError

    with pytest.raises(RuntimeError), transaction() as session:
        fail(session)
    with transaction() as session:
        assert service.verify(session).events == 0


def test_many_writers_make_one_chain_without_gaps(transaction: Transaction) -> None:
    def write() -> None:
        for _ in range(10):
            with transaction() as session:
                service.record(session, events.KeyRevoked(new_id(), AT))

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with transaction() as session:
        found = service.verify(session)
        assert (found.events, found.broken_at) == (50, None)
        assert list(session.scalars(select(AuditEvent.seq).order_by(AuditEvent.seq))) == list(range(1, 51))


@pytest.mark.parametrize("change", ["body = 'x'", "hash = decode(repeat('11', 32), 'hex')", "seq = 9"])
def test_a_changed_event_breaks_the_chain_where_it_stands(transaction: Transaction, change: str) -> None:
    _write(transaction, 3)
    _as_owner(transaction, f"UPDATE audit_events SET {change} WHERE seq = 2")
    with transaction() as session:
        assert service.verify(session).broken_at == 2


def test_a_lost_tail_is_noticed_by_the_head(transaction: Transaction) -> None:
    _write(transaction, 3)
    _as_owner(transaction, "DELETE FROM audit_events WHERE seq = 3")
    with transaction() as session:
        assert service.verify(session).broken_at == 3


def test_postgres_itself_refuses_to_change_what_happened(transaction: Transaction) -> None:
    _write(transaction, 1)
    with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
        session.execute(text("DELETE FROM audit_events"))


def test_the_head_is_one_fixed_row(session: Session) -> None:
    assert [head.id for head in session.scalars(select(AuditHead))] == [1]


def _write(transaction: Transaction, count: int) -> None:
    with transaction() as session:
        for _ in range(count):
            service.record(session, events.KeyRevoked(new_id(), AT))


def _as_owner(transaction: Transaction, statement: str) -> None:
    """Do what only somebody with the database in their hands can do."""
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(statement))
