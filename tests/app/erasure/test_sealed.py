"""What is written down of a person is sealed under the request's key, each field in its own place."""

import threading
from uuid import UUID

import pytest
from sqlalchemy import func, update

from app.erasure.forgetting import sealed
from app.erasure.forgetting.repository import Secrets
from app.erasure.forgetting.sealed import Field
from app.errors import Gone, NotFound
from app.storage.database import Session, Transaction
from app.storage.epochs import Epoch
from app.storage.sealing import SealBroken
from app.tables import KeyEpoch, RequestSecrets
from tests.app.erasure.asking import ask, id_of
from tests.fixtures.api import Caller
from tests.fixtures.world import ADA


@pytest.fixture
def requests(portal: Caller, people: UUID, model: UUID) -> list[UUID]:
    """Return two requests; the second names records, so that nothing is known of anybody."""
    named = portal.post("/v1/erasure-requests", {"records": {"dataset": "people", "ids": ["bob-1"]}}).json()
    return [id_of(ask(portal, ADA)), id_of(named)]


def test_identifiers_are_sealed_as_they_were_given(requests: list[UUID], session: Session) -> None:
    assert sealed.identifiers(session, requests[0]) == [{"type": "email", "value": ADA}]
    row = session.get_one(RequestSecrets, requests[0])
    assert row.identifiers is not None
    assert ADA.encode() not in bytes(row.identifiers)


def test_nothing_is_kept_of_whom_intake_was_told_nothing(requests: list[UUID], session: Session) -> None:
    assert session.get(RequestSecrets, requests[1]) is None
    assert sealed.fields(session, requests[1]) == []
    with pytest.raises(NotFound):
        sealed.unseal(session, requests[1], Field.IDENTIFIERS)


def test_a_field_is_sealed_later_and_anew(requests: list[UUID], transaction: Transaction) -> None:
    for request in requests:
        for text in (b"one", b"two"):
            with transaction() as session:
                sealed.seal(session, request, Field.NOTE, text)
            with transaction() as session:
                assert sealed.unseal(session, request, Field.NOTE) == text
    with transaction() as session:
        assert sealed.fields(session, requests[0]) == [Field.IDENTIFIERS, Field.NOTE]
        assert sealed.fields(session, requests[1]) == [Field.NOTE]


def test_what_is_moved_to_another_field_or_request_does_not_open(
    requests: list[UUID], transaction: Transaction
) -> None:
    with transaction() as session:
        for request in requests:
            sealed.seal(session, request, Field.NOTE, b"a note")
    with transaction() as session:
        one, two = (session.get_one(RequestSecrets, request) for request in requests)
        one.refusal, two.note, two.evidence = one.note, one.note, two.note
    with transaction() as session:
        for request, field in ((requests[0], Field.REFUSAL), (requests[1], Field.NOTE)):
            with pytest.raises(SealBroken):
                sealed.unseal(session, request, field)
    with transaction() as session:  # nor under another request's key
        one, two = (session.get_one(RequestSecrets, request) for request in requests)
        two.data_key = one.data_key
    with transaction() as session, pytest.raises(SealBroken):
        sealed.unseal(session, requests[1], Field.NOTE)


def test_without_the_weeks_key_it_is_gone(requests: list[UUID], transaction: Transaction) -> None:
    with transaction() as session:
        [epoch] = Secrets(session).epochs()
        sealed.epoch_keys(session).destroy(Epoch(epoch.week, epoch.id))
        with pytest.raises(Gone):
            sealed.unseal(session, requests[0], Field.IDENTIFIERS)


def test_who_come_first_at_once_use_one_key(requests: list[UUID], transaction: Transaction) -> None:
    """Each process knows nothing of the other's; the week has one key all the same."""
    with transaction() as session:
        session.execute(
            update(RequestSecrets).values(
                epoch_id=None, data_key=None, identifiers=None, destroyed_at=func.now()
            )
        )
        session.query(KeyEpoch).delete()
    start, found = threading.Barrier(4), []

    def first() -> None:
        start.wait()
        with transaction() as session:
            sealed.epoch_keys(session).current = None
            found.append(sealed.wrapping(session))

    threads = [threading.Thread(target=first) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
