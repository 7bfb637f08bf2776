"""Certificates of a job on a real Postgres: gathered, signed, issued, released, opened once, forgotten."""

import hashlib
import json
import threading
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, update

from app.audit import service as audit
from app.certificates import check
from app.certificates import service as certificates
from app.certificates.service import OPENING_KEPT
from app.errors import Conflict, Forbidden, NotFound, Unavailable
from app.http import ids
from app.jobs.lifecycle import JobStage
from app.signing import canonical, keys
from app.tables import Certificate, Model, VerdictRow
from app.transparency import keys as log_keys
from tests.app.certificates import making
from tests.app.certificates.issuing import (
    EXACT,
    FORM,
    GIVEN,
    MEASURED,
    RECORDS,
    STATEMENT,
    VERIFIED,
    Issuer,
    Judged,
    members,
    predicate,
)
from tests.app.jobs.batches import POLICY
from tests.fixtures.world import ADA, BOB


def states(issuer: Issuer) -> list[str]:
    with issuer.desk.transaction() as session:
        return list(session.scalars(select(Certificate.state)))


def nonces(issuer: Issuer) -> int:
    """Return how many certificates can still be led back to their records."""
    with issuer.desk.transaction() as session:
        found = session.scalar(text("SELECT count(*) FROM certificates WHERE opening IS NOT NULL"))
    return int(found)


# From rows to a statement


def test_what_is_said_is_what_the_rows_of_the_attempt_hold(issuer: Issuer, model: UUID) -> None:
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: EXACT})
    [draft] = issuer.drafts(view)
    said = predicate(draft.payload)
    assert said["certificateId"] == f"urn:uuid:{draft.certificate_id}"
    assert said["issuedOn"] == "2026-11-21T12:00:00Z"
    assert said["issuer"] == {"id": issuer.settings.issuer, "role": "controller"}
    assert said["request"]["receivedOn"] == "2026-11-21"
    model_said = said["model"]
    assert (model_said["line"], model_said["erasureEpoch"]) == ("assistant", 1)
    assert model_said["previous"]["digest"]["sha256"] == "00" * 32
    assert model_said["tensorRoot"] == making.TENSOR_ROOT
    manifest = making.sha256(making.manifest(making.WHOLE))
    assert model_said["forms"] == [{"form": FORM, "digest": {"sha256": manifest}}]
    method = said["method"]
    assert (method["engine"], method["class"], method["attempts"]) == ("retrain", "exact", 1)
    assert method["code"]["digest"]["sha256"] == STATEMENT["code"]
    configured = canonical.digest({"config": STATEMENT["config"], "given": GIVEN})
    assert method["config"]["digest"]["sha256"] == configured
    assert said["verification"]["policy"]["digest"]["sha256"] == POLICY
    assert (said["verification"]["verdict"], said["assurance"]["level"]) == ("V", "exact")
    assert draft.facts.measurements == {FORM: hashlib.sha256(MEASURED).hexdigest()}
    assert ids.encode("er", request_id).encode() not in draft.payload, "who asked is behind a nonce"
    assert ADA.encode() not in draft.payload


def test_two_requests_of_a_batch_have_a_certificate_each_and_nothing_in_common(
    issuer: Issuer, model: UUID
) -> None:
    found = {issuer.desk.asked(ADA): EXACT, issuer.desk.asked(BOB): replace(EXACT, verdict="I")}
    view = issuer.judged(model, found)
    drafts = {each.facts.request_id: predicate(each.payload) for each in issuer.drafts(view)}
    assert {each: said["verification"]["verdict"] for each, said in drafts.items()} == {
        request_id: finding.verdict for request_id, finding in found.items()
    }
    one, other = drafts.values()
    assert one["records"]["root"] != other["records"]["root"], "the same records, under other nonces"
    assert one["request"]["commitment"] != other["request"]["commitment"]
    assert one["evidence"][0]["digest"] != other["evidence"][0]["digest"], "salted"


def test_every_candidate_that_a_request_was_judged_on_is_counted(issuer: Issuer, model: UUID) -> None:
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: EXACT})
    with issuer.desk.transaction() as session:
        session.add(
            VerdictRow(
                job_id=view.id, request_id=request_id, attempt=0, verdict="I", level="inconclusive",
                policy_digest=POLICY, decision={},
            )
        )  # fmt: skip
    [draft] = issuer.drafts(view)
    assert predicate(draft.payload)["method"]["attempts"] == 2


def test_an_approximate_version_names_the_anchor_that_is_kept(issuer: Issuer, model: UUID) -> None:
    [draft] = issuer.drafts(issuer.judged(model, {issuer.desk.asked(ADA): VERIFIED}))
    said = predicate(draft.payload)
    assert said["assurance"]["level"] == "verified"
    assert said["verification"]["bounds"][0]["value"] == "0.13"
    assert {"L-ANCHOR", "L-COHORT"} <= set(said["assurance"]["limitations"])


@pytest.mark.parametrize("pretrained", [True, False])
def test_a_base_that_came_with_weights_is_named_as_a_limit(
    issuer: Issuer, model: UUID, *, pretrained: bool
) -> None:
    files = making.WHOLE if pretrained else {"config.json": b"{}"}
    for content in files.values():
        issuer.objects.put_bytes(content)
    base = issuer.objects.put_manifest(making.manifest(files))
    with issuer.desk.transaction() as session:
        session.execute(update(Model).values(base_manifest=base))
    [draft] = issuer.drafts(issuer.judged(model, {issuer.desk.asked(ADA): EXACT}))
    limits = predicate(draft.payload)["assurance"]["limitations"]
    assert ("L-BASE" in limits) is pretrained
    assert "L-ANCHOR" not in limits


@pytest.mark.parametrize(
    ("found", "refused"),
    [
        (replace(VERIFIED, level="exact"), "above the ceiling"),
        (replace(VERIFIED, level="failed", verdict="F"), "failed"),
        (replace(VERIFIED, bounds=()), "states its bounds"),
    ],
)
def test_no_row_makes_a_certificate_claim_more_than_it_may(
    issuer: Issuer, model: UUID, found: Judged, refused: str
) -> None:
    view = issuer.judged(model, {issuer.desk.asked(ADA): found})
    with pytest.raises(ValueError, match=refused):
        issuer.drafts(view)


# Issue and release


def test_nobody_receives_anything_before_the_version_is_served(issuer: Issuer, model: UUID) -> None:
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: EXACT})
    certificate_id = issuer.issued(view)[request_id]
    assert states(issuer) == ["issued"]
    with issuer.desk.transaction() as session:
        for refused in (
            lambda: certificates.read(session, certificate_id),
            lambda: certificates.evidence(session, certificate_id),
            lambda: issuer.fetched(certificate_id),
            lambda: issuer.opened(certificate_id, caller=issuer.desk.world.owner),
        ):
            with pytest.raises(Conflict) as why:
                refused()
            assert why.value.code == "certificate-not-released"
    assert nonces(issuer) == 1, "what was asked for too early is not used up"


def test_what_was_released_checks_offline(issuer: Issuer, model: UUID) -> None:
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: EXACT})
    certificate_id = issuer.issued(view)[request_id]
    released = issuer.released(view)
    assert {each: (one.id, one.level) for each, one in released.items()} == {
        request_id: (certificate_id, "exact")
    }
    data = issuer.fetched(certificate_id)
    report = issuer.checked(data)
    assert report.exit_code == check.VALID, report.to_text()
    assert report.claim["level"] == "exact"
    assert check.OPENING not in members(data)
    assert data == issuer.fetched(certificate_id), "the same bytes each time"
    with issuer.desk.transaction() as session:
        shown = certificates.read(session, certificate_id)
        assert (shown.request, shown.model, shown.version) == (request_id, model, view.candidate_id)
        assert (shown.state, shown.level, shown.released_at) == ("released", "exact", issuer.desk.clock())
        events = [each.kind for each in audit.listing(session) if each.kind.startswith("certificate.")]
    assert events == ["certificate.issued", "certificate.released"]


def test_another_issuers_keys_vouch_for_nothing(issuer: Issuer, model: UUID) -> None:
    data = issuer.fetched(issuer.certificate(model, issuer.desk.asked(ADA)))
    assert check.check(data, making.trust(), at=making.LATER).exit_code == check.INVALID


def test_evidence_is_what_the_certificate_names(issuer: Issuer, model: UUID) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA), VERIFIED)
    with issuer.desk.transaction() as session:
        report = certificates.evidence(session, certificate_id)
        stored = session.get_one(Certificate, certificate_id)
        payload = json.loads(stored.envelope)["payload"]
        [named] = predicate(b64decode(payload))["evidence"]
    assert report["decision"]["bounds"] == VERIFIED.bounds
    assert report["measurements"] == {FORM: hashlib.sha256(MEASURED).hexdigest()}
    assert report["method"]["given"] == GIVEN
    assert named["digest"]["sha256"] == hashlib.sha256(canonical.encode(report)).hexdigest()


def test_an_attempt_is_certified_once(issuer: Issuer, model: UUID) -> None:
    view = issuer.judged(model, {issuer.desk.asked(ADA): EXACT})
    issuer.issued(view)
    signed = certificates.sign(issuer.drafts(view), issuer.settings.keys)
    with pytest.raises(AssertionError, match="once"), issuer.desk.transaction() as session:
        certificates.issue(session, view, signed, at=issuer.desk.clock())
    assert len(states(issuer)) == 1


def test_there_is_no_other_certificate(issuer: Issuer) -> None:
    with pytest.raises(NotFound):
        issuer.fetched(uuid4())


# Superseding


def test_a_compactions_certificate_takes_the_place_of_the_one_before(issuer: Issuer, model: UUID) -> None:
    desk = issuer.desk
    request_id = desk.asked(ADA)
    older = issuer.settled(issuer.judged(model, {request_id: VERIFIED}))[request_id]
    view = issuer.judge(
        desk.onward(desk.compacting(model), JobStage.UNLEARN, engine="retrain"), {request_id: EXACT}
    )
    [draft] = issuer.drafts(view)
    with desk.transaction() as session:
        named = session.get_one(Certificate, older.id).pae_sha256
    said = predicate(draft.payload)
    assert said["supersedes"] == named
    assert (said["assurance"]["level"], said["method"]["class"]) == ("exact", "exact")
    assert "L-ANCHOR" not in said["assurance"]["limitations"], "the old anchor goes with this very job"
    newer = issuer.settled(view)[request_id]
    assert (older.level, newer.level) == ("verified", "exact")
    with desk.transaction() as session:
        before, after = certificates.read(session, older.id), certificates.read(session, newer.id)
    assert (before.state, before.superseded_by, before.supersedes) == ("superseded", newer.id, None)
    assert (after.state, after.superseded_by, after.supersedes) == ("released", None, older.id)
    report = issuer.checked(issuer.fetched(newer.id))
    assert report.exit_code == check.VALID, report.to_text()
    assert report.claim["level"] == "exact"
    assert report.steps[11]["detail"].endswith(f"supersedes {named}")
    with desk.transaction() as session:
        kinds = [each.kind for each in audit.listing(session) if each.kind.startswith("certificate.")]
    assert kinds[-2:] == ["certificate.superseded", "certificate.released"]
    assert desk.target(request_id).certificate_id == newer.id


def test_until_the_newer_one_is_released_the_older_stands(issuer: Issuer, model: UUID) -> None:
    desk = issuer.desk
    request_id = desk.asked(ADA)
    older = issuer.settled(issuer.judged(model, {request_id: VERIFIED}))[request_id]
    view = issuer.judge(
        desk.onward(desk.compacting(model), JobStage.UNLEARN, engine="retrain"), {request_id: EXACT}
    )
    issuer.issued(view)
    with desk.transaction() as session:
        shown = certificates.read(session, older.id)
    assert (shown.state, shown.superseded_by) == ("released", None)


def test_a_superseded_certificate_can_be_fetched_and_still_says_what_was_so(
    issuer: Issuer, model: UUID
) -> None:
    desk = issuer.desk
    request_id = desk.asked(ADA)
    older = issuer.settled(issuer.judged(model, {request_id: VERIFIED}))[request_id]
    before = members(issuer.fetched(older.id))
    issuer.settled(
        issuer.judge(
            desk.onward(desk.compacting(model), JobStage.UNLEARN, engine="retrain"), {request_id: EXACT}
        )
    )
    after = members(issuer.fetched(older.id))
    assert after[check.CERTIFICATE] == before[check.CERTIFICATE], "never updated"
    opened = issuer.opened(older.id, caller=desk.world.owner)
    assert check.OPENING in members(opened)


def test_a_first_certificate_supersedes_nothing(issuer: Issuer, model: UUID) -> None:
    [draft] = issuer.drafts(issuer.judged(model, {issuer.desk.asked(ADA): EXACT}))
    assert predicate(draft.payload)["supersedes"] is None
    assert draft.facts.supersedes is None


# The public log


def test_where_a_log_is_kept_a_certificate_is_released_only_under_its_checkpoint(
    issuer: Issuer, model: UUID
) -> None:
    directory = issuer.settings.keys
    request_id = issuer.desk.asked(ADA)
    view = issuer.judged(model, {request_id: EXACT})
    certificate_id = issuer.issued(view)[request_id]

    def logged() -> bool:
        with issuer.desk.transaction() as session:
            return certificates.logged(session, view, directory=directory, now=issuer.desk.clock())

    assert not logged(), "its version is not published"
    issuer.released(view)
    assert logged(), "there is no log to wait for"
    log_keys.generate(directory, issuer=issuer.settings.issuer, at=issuer.desk.clock())
    assert not logged()
    assert issuer.checked(issuer.fetched(certificate_id)).exit_code == check.INVALID, "whoever trusts the log"
    assert issuer.sequenced() == 3, "the certificate, the publication of its version, the list"
    assert logged()
    data = issuer.fetched(certificate_id)
    assert check.PROOF in members(data)
    report = issuer.checked(data)
    assert report.exit_code == check.VALID, report.to_text()
    assert [report.steps[number - 1]["state"] for number in (6, 7, 8)] == ["passed"] * 3


# The opening


def test_the_opening_is_delivered_once_to_whoever_asked_and_destroyed(issuer: Issuer, model: UUID) -> None:
    desk = issuer.desk
    certificate_id = issuer.certificate(model, desk.asked(ADA))
    with pytest.raises(Forbidden) as refused:
        issuer.opened(certificate_id, caller=desk.approver)
    assert refused.value.code == "not-the-requester"
    assert nonces(issuer) == 1
    data = issuer.opened(certificate_id, caller=desk.world.owner)
    opening = json.loads(members(data)[check.OPENING])
    assert [each["canonicalSha256"] for each in opening["records"]] == RECORDS
    report = issuer.checked(data)
    assert (report.exit_code, report.steps[10]["state"]) == (check.VALID, "passed"), report.to_text()
    assert nonces(issuer) == 0
    with pytest.raises(Conflict) as again:
        issuer.opened(certificate_id, caller=desk.world.owner)
    assert again.value.code == "opening-delivered"
    left = members(issuer.fetched(certificate_id))
    assert check.OPENING not in left
    assert not any(opening["request"]["nonce"].encode() in content for content in left.values())
    with desk.transaction() as session:
        kinds = [each.kind for each in audit.listing(session)]
    assert kinds.count("certificate.opening_delivered") == 1


def test_an_opening_that_could_not_be_delivered_is_still_there(issuer: Issuer, model: UUID) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    public = issuer.settings.keys / keys.PUBLIC_FILE
    public.rename(public.with_suffix(".away"))
    with pytest.raises(Unavailable):
        issuer.opened(certificate_id, caller=issuer.desk.world.owner)
    assert nonces(issuer) == 1
    public.with_suffix(".away").rename(public)
    assert issuer.opened(certificate_id, caller=issuer.desk.world.owner)


def test_of_two_who_ask_at_once_one_gets_it(issuer: Issuer, model: UUID) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    barrier = threading.Barrier(2)

    def ask(_: int) -> str:
        barrier.wait()
        try:
            issuer.opened(certificate_id, caller=issuer.desk.world.owner)
        except Conflict as refused:
            return refused.code
        return "delivered"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, range(2))) == ["delivered", "opening-delivered"]


def test_an_opening_that_nobody_fetches_is_forgotten_after_thirty_days(issuer: Issuer, model: UUID) -> None:
    desk = issuer.desk
    certificate_id = issuer.certificate(model, desk.asked(ADA))

    def forgotten() -> int:
        with desk.transaction() as session:
            return certificates.forget_openings(session, now=desk.clock())

    desk.clock.advance(seconds=OPENING_KEPT.total_seconds())
    assert forgotten() == 0
    desk.clock.advance(seconds=1)
    assert (forgotten(), nonces(issuer)) == (1, 0)
    assert forgotten() == 0, "what is gone is not gone twice"
    with pytest.raises(Conflict, match="destroyed"):
        issuer.opened(certificate_id, caller=desk.world.owner)
    issuer.stated()
    assert issuer.checked(issuer.fetched(certificate_id)).exit_code == check.VALID


def test_an_opening_of_what_is_not_served_yet_is_not_forgotten(issuer: Issuer, model: UUID) -> None:
    """The clock starts when it can be fetched, not when it was signed."""
    view = issuer.judged(model, {issuer.desk.asked(ADA): EXACT})
    issuer.issued(view)
    with issuer.desk.transaction() as session:
        much_later = issuer.desk.clock() + timedelta(days=365)
        assert certificates.forget_openings(session, now=much_later) == 0
    assert nonces(issuer) == 1


# Keys


def test_who_has_no_public_keys_says_so(issuer: Issuer, model: UUID) -> None:
    certificate_id = issuer.certificate(model, issuer.desk.asked(ADA))
    directory, name = issuer.settings.keys, issuer.settings.issuer
    (directory / keys.PUBLIC_FILE).unlink()
    for call in (
        lambda: certificates.trust(directory=directory, issuer=name),
        lambda: certificates.jwks(directory=directory),
        lambda: issuer.fetched(certificate_id),
    ):
        with pytest.raises(Unavailable) as why:
            call()
        assert why.value.code == "keys-unusable"
        assert str(directory) not in str(why.value)
