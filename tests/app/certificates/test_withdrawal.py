"""A certificate that does not stand: what its state says, who is asked to look, and how a change shows."""

from uuid import UUID

import pytest
from sqlalchemy import update

from app.audit import service as audit
from app.certificates import service as certificates
from app.tables import Certificate, Measurement, VerdictRow
from tests.app.certificates.issuing import VERIFIED, Issuer

ADA = "ada@example.org"


@pytest.fixture
def released(issuer: Issuer, model: UUID) -> tuple[UUID, UUID, UUID]:
    """Return a released certificate, its request and its job."""
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: VERIFIED})
    certificate_id = issuer.issued(view)[request_id]
    issuer.released(view)
    return certificate_id, request_id, view.id


def withdraw(issuer: Issuer, request_id: UUID, job_id: UUID) -> bool:
    with issuer.desk.transaction() as session:
        return certificates.withdraw(
            session, job_id=job_id, attempt=1, request_id=request_id, reason="detected_readout",
            at=issuer.desk.clock(),
        )  # fmt: skip


def altered(issuer: Issuer, job_id: UUID) -> frozenset[UUID]:
    with issuer.desk.transaction() as session:
        return certificates.altered(session, job_id=job_id, attempt=1)


def test_it_is_revoked_once_and_can_still_be_fetched(
    issuer: Issuer, released: tuple[UUID, UUID, UUID]
) -> None:
    certificate_id, request_id, job_id = released
    before = issuer.fetched(certificate_id)
    assert withdraw(issuer, request_id, job_id)
    assert not withdraw(issuer, request_id, job_id)
    with issuer.desk.transaction() as session:
        shown = certificates.read(session, certificate_id)
        assert session.get_one(Certificate, certificate_id).revoked_at == issuer.desk.clock()
        kinds = [each.kind for each in audit.listing(session)]
    assert (shown.state, shown.audit) == ("revoked", None)
    assert kinds.count("certificate.withdrawn") == 1
    assert issuer.desk.request(request_id)[1] == "certificate_withdrawn"
    assert issuer.fetched(certificate_id) == before, "what it says is not changed"


def test_somebody_who_has_no_certificate_of_it_loses_none(
    issuer: Issuer, released: tuple[UUID, UUID, UUID]
) -> None:
    _, _, job_id = released
    assert not withdraw(issuer, issuer.desk.asked("bob@example.org"), job_id)


def test_numbers_and_verdicts_that_are_changed_afterwards_no_longer_fit_what_was_signed(
    issuer: Issuer, released: tuple[UUID, UUID, UUID]
) -> None:
    certificate_id, request_id, job_id = released
    assert altered(issuer, job_id) == frozenset()
    with issuer.desk.transaction() as session:
        decision = session.scalars(VerdictRow.__table__.select().with_only_columns(VerdictRow.decision)).one()
        evidence = session.get_one(Certificate, certificate_id).evidence
    for spoil, mend in (
        (
            update(VerdictRow).values(decision={**decision, "verdict": "I"}),
            update(VerdictRow).values(decision=decision),
        ),
        (update(Measurement).values(body=b"{}"), None),
        (update(Certificate).values(evidence=evidence + b" "), None),
    ):
        with issuer.desk.transaction() as session:
            session.execute(spoil)
        assert altered(issuer, job_id) == {request_id}
        if mend is not None:
            with issuer.desk.transaction() as session:
                session.execute(mend)
            assert altered(issuer, job_id) == frozenset()
