"""Certificates over HTTP: who may fetch what, the opening once, the checker, the public keys."""

from datetime import timedelta
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from app.certificates import bundle, check
from app.config import Settings
from app.http import ids
from app.signing import keys
from app.tables import IdempotencyKey, new_id
from tests.app.certificates.issuing import EXACT, Issuer, members
from tests.fixtures.api import Caller, Callers, Response, StillClock
from tests.fixtures.world import ADA

THERE = "/v1/certificates"
PROBLEM = "application/problem+json"


@pytest.fixture
def requester(callers: Callers) -> Caller:
    """Return whoever submits the request, and may read what comes of it."""
    return callers("requester", "privacy_officer")


@pytest.fixture
def viewer(callers: Callers) -> Caller:
    return callers("viewer", "viewer")


@pytest.fixture
def certificate(issuer: Issuer, model: UUID, requester: Caller) -> UUID:
    """Return the released certificate of the requester's request."""
    return issuer.certificate(model, issuer.desk.asked(ADA, by=requester.principal_id))


def refused(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == PROBLEM, answer.text
    return answer.status_code, answer.json()["code"]


def test_a_certificate_is_shown_without_what_confirms_membership(
    certificate: UUID, viewer: Caller, model: UUID
) -> None:
    shown = viewer.get(f"{THERE}/{certificate}").json()
    assert (shown["id"], shown["level"], shown["state"]) == (str(certificate), "exact", "released")
    assert shown["model"] == ids.encode("mdl", model)
    assert shown.keys() == {
        "id", "request", "model", "version", "level", "state", "pae_sha256", "issued_at", "released_at",
        "supersedes", "superseded_by", "audit",
    }  # fmt: skip
    assert (shown["supersedes"], shown["superseded_by"]) == (None, None)


def test_a_bundle_is_a_file_that_checks_offline(certificate: UUID, viewer: Caller, issuer: Issuer) -> None:
    answer = viewer.get(f"{THERE}/{certificate}/bundle")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert answer.headers["content-disposition"] == f'attachment; filename="lethe-{certificate}.zip"'
    assert check.OPENING not in members(answer.content)
    trust = viewer.get("/.well-known/lethe-trust.json").json()
    report = check.check(answer.content, trust, at=issuer.desk.clock() + timedelta(days=1))
    assert report.exit_code == check.VALID, report.to_text()


@pytest.mark.parametrize("part", ["", "/bundle", "/evidence", "/opening"])
def test_before_its_version_is_served_a_certificate_is_nobodys(
    issuer: Issuer, model: UUID, callers: Callers, part: str
) -> None:
    everybody = callers("everybody", "privacy_officer", "auditor")
    request_id = issuer.desk.asked(ADA, by=everybody.principal_id)
    certificate_id = issuer.issued(issuer.judged(model, {request_id: EXACT}))[request_id]
    path = f"{THERE}/{certificate_id}{part}"
    answer = everybody.post(path) if part == "/opening" else everybody.get(path)
    assert refused(answer) == (409, "certificate-not-released")


@pytest.mark.parametrize("part", ["", "/bundle", "/evidence", "/opening"])
def test_an_unknown_certificate(officer: Caller, part: str) -> None:
    path = f"{THERE}/{new_id()}{part}"
    assert refused(officer.post(path) if part == "/opening" else officer.get(path)) == (404, "not-found")


def test_what_is_no_id_is_pointed_at_and_not_repeated(officer: Caller) -> None:
    answer = officer.get(f"{THERE}/{ADA}")
    assert refused(answer) == (422, "invalid")
    assert "ada@" not in answer.text.lower()


@pytest.mark.parametrize("part", ["", "/bundle", "/evidence", "/opening"])
def test_reading_needs_its_scope_and_evidence_another(certificate: UUID, callers: Callers, part: str) -> None:
    may_read = callers("reader", scopes=["certificates:read"])
    may_audit = callers("auditing", scopes=["audit:read"])
    path = f"{THERE}/{certificate}{part}"

    def ask(caller: Caller) -> Response:
        return caller.post(path) if part == "/opening" else caller.get(path)

    able, unable = (may_audit, may_read) if part == "/evidence" else (may_read, may_audit)
    assert refused(ask(unable)) == (403, "scope-missing")
    answer = ask(able)
    if part == "/opening":
        assert refused(answer) == (403, "not-the-requester")
    else:
        assert answer.status_code == 200


def test_evidence_holds_the_numbers(certificate: UUID, officer: Caller) -> None:
    shown = officer.get(f"{THERE}/{certificate}/evidence").json()
    assert shown["version"] == "lethe/verification-report/1"
    assert shown["decision"]["guarantee"] == "exact"


def test_the_opening_is_handed_out_once_and_kept_nowhere(
    certificate: UUID, requester: Caller, officer: Caller, issuer: Issuer
) -> None:
    path = f"{THERE}/{certificate}/opening"
    assert refused(officer.post(path)) == (403, "not-the-requester")
    answer = requester.post(path, key="mine")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    opening = members(answer.content)[check.OPENING]
    assert refused(requester.post(path, key="mine")) == (409, "receipt-not-kept")
    assert refused(requester.post(path)) == (409, "opening-delivered")
    nonce = check.loads(opening)["request"]["nonce"]
    with issuer.desk.transaction() as session:
        [kept] = session.scalars(select(IdempotencyKey.body).where(IdempotencyKey.key == "mine"))
        row = session.scalar(text("SELECT certificates::text FROM certificates"))
    assert bytes(kept) == b""
    assert nonce not in str(row)


def test_whoever_has_a_bundle_can_have_it_checked(certificate: UUID, viewer: Caller) -> None:
    data = viewer.get(f"{THERE}/{certificate}/bundle").content

    def verify(body: bytes) -> Response:
        return viewer.client.post(f"{THERE}/verify", content=body, headers=viewer.headers)

    report = verify(data).json()
    assert (report["exit_code"], report["failed"], report["claim"]["level"]) == (0, None, "exact")
    assert [step["number"] for step in report["steps"]] == list(range(1, 13))
    other = verify(bundle.write({**members(data), check.MANIFEST: b'{"layers":[]}'}))
    assert (other.status_code, other.json()["exit_code"], other.json()["failed"]) == (200, check.INVALID, 5)
    assert verify(b"no zip at all").json()["failed"] == 2


# The public keys


def test_the_public_keys_are_for_everybody(settings: Settings, client: TestClient, clock: StillClock) -> None:
    made = keys.generate(settings.keys, at=clock())
    trust, jwks = (client.get(f"/.well-known/{name}").json() for name in ("lethe-trust.json", "jwks.json"))
    assert {each["keyid"] for each in trust["keys"]} == {key.keyid for key in made}
    assert {each["kid"] for each in jwks["keys"]} == {key.keyid for key in made}
    assert (trust["issuer"], trust["log"]) == (settings.issuer, None)
    assert "PRIVATE" not in str(trust)
    assert not any("d" in each for each in jwks["keys"]), "RFC 7517: `d` would be the private half"


@pytest.mark.parametrize("name", ["lethe-trust.json", "jwks.json"])
def test_without_keys_there_is_a_problem_to_wait_out(
    settings: Settings, client: TestClient, name: str
) -> None:
    answer = client.get(f"/.well-known/{name}")
    assert refused(answer) == (503, "keys-unusable")
    assert answer.headers["retry-after"]
    assert str(settings.keys) not in answer.text


def test_without_keys_nothing_is_handed_out_and_nothing_is_used_up(
    certificate: UUID, requester: Caller, settings: Settings
) -> None:
    public = settings.keys / keys.PUBLIC_FILE
    kept = public.read_bytes()
    public.unlink()
    assert refused(requester.get(f"{THERE}/{certificate}/bundle")) == (503, "keys-unusable")
    path = f"{THERE}/{certificate}/opening"
    assert refused(requester.post(path, key="mine")) == (503, "keys-unusable")
    public.write_bytes(kept)
    assert requester.post(path, key="mine").status_code == 200
