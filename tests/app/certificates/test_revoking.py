"""The list of certificates that do not stand: stated daily and at once, logged, shown to everybody."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.audit import service as audit
from app.certificates import check, revoking, status
from app.errors import Conflict, NotFound
from app.jobs.lifecycle import JobStage
from app.signing import envelope, keys
from app.signing.keys import KeyUnusable
from app.tables import Certificate, Job, LogOutbox, StatusList
from app.transparency import entries, tree
from tests.app.certificates.issuing import EXACT, VERIFIED, Issuer, members
from tests.fixtures.api import Callers
from tests.fixtures.world import ADA, BOB

THERE = "/v1/certificates"
STATUS = "/.well-known/lethe-status.json"


def lists(issuer: Issuer) -> int:
    with issuer.desk.transaction() as session:
        return session.scalar(select(func.count()).select_from(StatusList)) or 0


def listed(issuer: Issuer) -> dict[str, str]:
    """Return reason by certificate, of the list that is shown."""
    with issuer.desk.transaction() as session:
        found = revoking.newest(session)
    assert found is not None
    said = status.revoked_in(envelope.payload_of(envelope.decode(found)))
    return {each["certificateId"].removeprefix("urn:uuid:"): each["reason"] for each in said}


def revoke(issuer: Issuer, certificate_id: UUID, reason: str = "issued-in-error") -> None:
    with issuer.desk.transaction() as session:
        revoking.revoke(session, certificate_id, reason=reason, at=issuer.desk.clock())


def test_a_list_is_stated_daily_and_logged(issuer: Issuer) -> None:
    for hours, count in ((0, 1), (0, 1), (23, 1), (1, 2), (0, 2)):
        issuer.desk.clock.advance(hours=hours)
        issuer.stated()
        assert lists(issuer) == count
    assert listed(issuer) == {}
    with issuer.desk.transaction() as session:
        newest = session.scalars(select(StatusList).order_by(StatusList.produced_at.desc())).first()
        assert newest is not None
        subject = status.subject(issuer.settings.issuer)
        entry = entries.build(status.KIND, pae_sha256=newest.pae_sha256, subject=subject)
        assert session.scalar(select(LogOutbox.id).where(LogOutbox.leaf_hash == tree.leaf_hash(entry)))
        assert revoking.is_fresh(session, now=newest.produced_at + timedelta(days=6))
        assert not revoking.is_fresh(session, now=newest.produced_at + timedelta(days=7))


def test_what_is_revoked_is_listed_at_once_and_every_bundle_says_so(issuer: Issuer, model: UUID) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    before = issuer.fetched(certificate_id)
    assert issuer.checked(before).exit_code == check.VALID
    revoke(issuer, certificate_id)
    issuer.stated()
    assert listed(issuer) == {str(certificate_id): "issued-in-error"}
    report = issuer.checked(issuer.fetched(certificate_id))
    assert (report.exit_code, report.failed) == (check.REVOKED, 8), report.to_text()
    newer = members(issuer.fetched(certificate_id))[check.STATUS]
    kept = check.check(before, issuer.trusted(), status=newer, at=issuer.desk.clock())
    assert kept.exit_code == check.REVOKED, "an old copy, with the list of today"
    assert issuer.checked(before).exit_code == check.VALID, "until its own list is no longer fresh"
    with issuer.desk.transaction() as session:
        kinds = [each.kind for each in audit.listing(session)]
    assert kinds.count("certificate.withdrawn") == 1


def test_nothing_is_revoked_twice_or_unknown(issuer: Issuer, model: UUID) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    revoke(issuer, certificate_id)
    with pytest.raises(Conflict, match="is revoked"):
        revoke(issuer, certificate_id)
    with pytest.raises(NotFound):
        revoke(issuer, uuid4())


def test_a_superseded_certificate_is_listed_and_the_newer_one_is_not(issuer: Issuer, model: UUID) -> None:
    desk = issuer.desk
    request_id = desk.asked(ADA)
    older = issuer.settled(issuer.judged(model, {request_id: VERIFIED}))[request_id]
    view = issuer.judge(
        desk.onward(desk.compacting(model), JobStage.UNLEARN, engine="retrain"), {request_id: EXACT}
    )
    newer = issuer.settled(view)[request_id]
    issuer.stated()
    assert listed(issuer) == {str(older.id): "superseded"}
    assert issuer.checked(issuer.fetched(older.id)).exit_code == check.REVOKED
    report = issuer.checked(issuer.fetched(newer.id))
    assert report.exit_code == check.VALID, report.to_text()


def test_what_was_signed_for_a_version_that_is_never_served_is_revoked(issuer: Issuer, model: UUID) -> None:
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: EXACT})
    certificate_id = issuer.issued(view)[request_id]
    issuer.stated()
    assert listed(issuer) == {}, "its job goes on"
    with issuer.desk.transaction() as session:
        session.execute(update(Job).where(Job.id == view.id).values(state="failed"))
    issuer.stated()
    assert listed(issuer) == {str(certificate_id): "not-published"}
    with pytest.raises(Conflict) as why:
        issuer.fetched(certificate_id)
    assert why.value.code == "certificate-not-released", "revoked, and still nobody's"


def test_the_list_of_a_version_grows_by_what_was_certified_on_it(issuer: Issuer, model: UUID) -> None:
    """An older certificate is honoured by the newer version: nothing was dropped."""
    desk = issuer.desk
    first = issuer.settled(issuer.judged(model, {desk.asked(ADA): EXACT}))
    second = issuer.settled(issuer.judged(model, {desk.asked(BOB): EXACT}))
    [one], [other] = first.values(), second.values()
    with desk.transaction() as session:
        rows = {each.id: each.place for each in session.scalars(select(Certificate))}
    assert rows == {one.id: 0, other.id: 1}
    reports = [issuer.checked(issuer.fetched(each.id)) for each in (one, other)]
    assert [each.exit_code for each in reports] == [check.VALID] * 2, reports[0].to_text()
    assert "1 erasure epochs later, was made live" in reports[0].steps[6]["detail"]
    assert reports[1].steps[6]["detail"].startswith("this version was made live")


def test_without_the_keys_nothing_is_stated(issuer: Issuer) -> None:
    for name in keys.PRIVATE_FILES.values():
        (issuer.settings.keys / name).unlink()
    with pytest.raises(KeyUnusable):
        issuer.stated()
    assert lists(issuer) == 0


# Keys that changed


def test_certificates_from_before_and_after_a_rotation_both_check(issuer: Issuer, model: UUID) -> None:
    desk = issuer.desk
    first = issuer.settled(issuer.judged(model, {desk.asked(ADA): EXACT}))
    desk.clock.advance(hours=1)
    before = keys.public_keys(issuer.settings.keys)
    issuer.rotated()
    desk.clock.advance(hours=1)
    second = issuer.settled(issuer.judged(model, {desk.asked(BOB): EXACT}))
    issuer.stated()
    for released in [*first.values(), *second.values()]:
        report = issuer.checked(issuer.fetched(released.id))
        assert report.exit_code == check.VALID, report.to_text()
    [newest] = second.values()
    old = keys.trust(before, issuer=issuer.settings.issuer)
    report = check.check(issuer.fetched(newest.id), old, at=desk.clock())
    assert (report.exit_code, report.failed) == (check.INVALID, 3), "an old trust file knows no new keys"
    desk.clock.advance(days=30)
    issuer.stated()
    [oldest] = first.values()
    report = issuer.checked(issuer.fetched(oldest.id))
    assert report.exit_code == check.VALID, "long after its keys have ended"


# Over HTTP


def test_the_list_and_the_keys_are_everybody_s(issuer: Issuer, model: UUID, client: TestClient) -> None:
    assert client.get(STATUS).status_code == 404
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    answer = client.get(STATUS)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=300")
    report = check.check(
        issuer.fetched(certificate_id), issuer.trusted(), status=answer.content, at=issuer.desk.clock()
    )
    assert report.exit_code == check.VALID
    assert client.get("/.well-known/lethe-keys.json").json() == {"statements": []}
    issuer.rotated()
    found = client.get("/.well-known/lethe-keys.json").json()["statements"]
    assert len(found) == 2
    assert client.get("/.well-known/lethe-trust.json").json()["status"] == f"https://issuer.example{STATUS}"


def test_a_person_revokes_and_says_why(issuer: Issuer, model: UUID, callers: Callers) -> None:
    officer = callers("officer", "privacy_officer")
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    path = f"{THERE}/{certificate_id}/revocation"
    assert callers("viewer", "viewer").post(path, {"reason": "resurfaced"}).status_code == 403
    assert officer.post(path, {"reason": "superseded"}).status_code == 422, "that is not a person's to say"
    assert officer.post(path, {"reason": "resurfaced"}).status_code == 204
    assert officer.post(path, {"reason": "resurfaced"}).status_code == 409
    issuer.stated()
    assert listed(issuer) == {str(certificate_id): "resurfaced"}
    assert officer.get(f"{THERE}/{certificate_id}").json()["state"] == "revoked"


def test_continuity_is_shown(issuer: Issuer, model: UUID, callers: Callers) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    shown = callers("viewer", "viewer").get(f"{THERE}/{certificate_id}/continuity").json()
    assert shown["continuity"]["certificateId"] == f"urn:uuid:{certificate_id}"
    assert shown["publication"]["signatures"]
    assert shown["proof"] is None, "there is no log here"
