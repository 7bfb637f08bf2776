"""OpenDSR end to end: an emulated controller asks over HTTP, is answered, and is called back."""

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.config import Settings
from app.erasure import service as erasure
from app.erasure.lifecycle import State
from app.http import ids, outbound
from app.intake import opendsr, processor, service
from app.intake.opendsr import Status
from app.intake.repository import Intake
from app.intake.signing import NotAProcessor
from app.main import create_app
from app.storage.database import Transaction
from app.tables import (
    AuditEvent,
    ErasureRequest,
    ModelVersion,
    OpenDsrCallback,
    OpenDsrRequest,
    intake,
)
from tests.app.intake.conftest import DOMAIN, PREFIX, Controller, Processing
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA

CANARY = "canary-7f3a9c"


def errors(answer: httpx.Response) -> list[str]:
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()["error"]
    assert said["code"] == answer.status_code
    return [each["message"] for each in said["errors"]]


def our(transaction: Transaction, subject_request_id: str) -> UUID:
    with transaction() as session:
        return session.scalars(
            select(OpenDsrRequest.request_id).where(
                OpenDsrRequest.subject_request_id == UUID(subject_request_id)
            )
        ).one()


def approve(officer: Caller, request_id: UUID) -> None:
    path = f"/v1/erasure-requests/{ids.encode('er', request_id)}"
    hash_ = officer.get(path).json()["record_set_hash"]
    answer = officer.post(f"{path}/approvals", {"record_set_hash": hash_})
    assert answer.status_code == 201, answer.text


def erase(transaction: Transaction, request_id: UUID, model_id: UUID, clock: StillClock) -> None:
    """Do what a job does, without its weights."""
    with transaction() as session:
        version = session.scalars(select(ModelVersion.id).where(ModelVersion.model_id == model_id)).one()
        assert erasure.start(session, request_id, model_id, at=clock())
        for to in ("verifying", "publishing"):
            erasure.advance_target(session, request_id, model_id, to, at=clock())
        erasure.conclude(
            session, request_id, model_id, outcome="exact", certificate_id=uuid4(), version_id=version,
            at=clock(),
        )  # fmt: skip


# The story -------------------------------------------------------------------------------------------


def test_from_discovery_to_the_last_callback(
    controller: Controller,
    processing: Processing,
    officer: Caller,
    people: UUID,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
    machine: Caller,
) -> None:
    # 1. What can you do, and by which certificate do you sign?
    can = controller.call("GET", "/discovery", anonymous=True).json()
    assert can["api_version"] == "2.0"
    assert can["supported_subject_request_types"] == ["erasure"]
    assert {"identity_type": "email", "identity_format": "sha256"} in can["supported_identities"]
    assert not [each for each in can["supported_identities"] if each["identity_format"] in {"md5", "sha1"}]

    # 2. Erase this person.
    asked = controller.body()
    raw = json.dumps(asked).encode()
    answer = controller.call("POST", "/requests", content=raw)
    receipt = answer.json()
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert base64.b64decode(receipt["encoded_request"]) == raw
    assert receipt["controller_id"] == ids.encode("pr", machine.principal_id)
    assert receipt["subject_request_id"] == asked["subject_request_id"]
    assert receipt["received_time"] == "2026-11-21T12:00:00Z"
    # Submitted to the controller on the 20th: our month runs from then, to the 20th, a Sunday, so the 21st.
    assert receipt["expected_completion_time"] == "2026-12-22T00:00:00Z"

    # 3. Where does it stand? A person of ours has to approve.
    reference = asked["subject_request_id"]
    assert controller.status(reference)["request_status"] == "pending"
    assert processing.work() == 0, "it was pending from the start"

    # 4. Approved, erased, published; each change is called back, in order, and signed.
    request_id = our(transaction, reference)
    approve(officer, request_id)
    assert controller.status(reference)["request_status"] == "in_progress"
    erase(transaction, request_id, model, clock)
    processing.work()
    called = controller.called_back()
    assert [each["request_status"] for each in called] == ["in_progress", "completed"]
    assert called[1]["results_count"] == 2
    assert "results_count" not in called[0]
    status = controller.status(reference)
    assert {**status, "status_callback_url": called[1]["status_callback_url"]} == called[1]
    assert processing.work() == 0

    # 5. Ours is a request like any other: same dates, same record, same chain.
    shown = officer.get(f"/v1/erasure-requests/{ids.encode('er', request_id)}").json()
    assert (shown["state"], shown["due_on"], shown["external_ref"]) == (
        "completed", "2026-12-21", f"opendsr:{reference}",
    )  # fmt: skip


def test_a_hashed_identity_finds_the_same_person(
    controller: Controller, people: UUID, transaction: Transaction
) -> None:
    digest = hashlib.sha256(ADA.encode()).hexdigest()
    hashed = [{"identity_type": "email", "identity_value": digest, "identity_format": "sha256"}]
    one = controller.submit(subject_identities=hashed).json()["subject_request_id"]
    two = controller.submit().json()["subject_request_id"]
    with transaction() as session:
        found = [session.get_one(ErasureRequest, our(transaction, each)) for each in (one, two)]
        assert [each.records_matched for each in found] == [2, 2]
        assert found[0].subject_macs == found[1].subject_macs


def test_nobody_found_is_completed_with_no_results(
    controller: Controller, processing: Processing, people: UUID
) -> None:
    nobody = [{"identity_type": "email", "identity_value": "no@example.org", "identity_format": "raw"}]
    reference = controller.submit(subject_identities=nobody).json()["subject_request_id"]
    status = controller.status(reference)
    assert (status["request_status"], status["results_count"]) == ("completed", 0)
    processing.work()
    assert [each["request_status"] for each in controller.called_back()] == ["completed"]


def test_a_refusal_is_cancelled_and_says_why(
    controller: Controller, processing: Processing, officer: Caller, people: UUID, transaction: Transaction
) -> None:
    reference = controller.submit().json()["subject_request_id"]
    path = f"/v1/erasure-requests/{ids.encode('er', our(transaction, reference))}/rejection"
    notice = {"sent_on": "2026-11-21", "complaint": True, "court": True}
    answer = officer.post(path, {"ground": "12.5", "notice": notice})
    assert answer.status_code in {200, 201}, answer.text
    processing.work()
    [called] = controller.called_back()
    assert called["request_status"] == "cancelled"
    assert called["extensions"] == {DOMAIN: {"outcome": "rejected", "reason": "12.5"}}


# Cancelling ------------------------------------------------------------------------------------------


def test_a_pending_request_is_cancelled(
    controller: Controller, processing: Processing, people: UUID, transaction: Transaction
) -> None:
    reference = controller.submit().json()["subject_request_id"]
    answer = controller.call("DELETE", f"/requests/{reference}")
    assert answer.status_code == 202
    assert answer.json() == {
        "controller_id": controller.status(reference)["controller_id"],
        "subject_request_id": reference,
        "received_time": "2026-11-21T12:00:00Z",
        "api_version": "2.0",
    }
    assert controller.status(reference)["request_status"] == "cancelled"
    assert "extensions" not in controller.status(reference)
    processing.work()
    assert [each["request_status"] for each in controller.called_back()] == ["cancelled"]
    assert controller.call("DELETE", f"/requests/{reference}").status_code == 202, "once more changes nothing"
    with transaction() as session:
        kinds = session.scalars(select(AuditEvent.kind)).all()
    assert kinds.count("request.withdrawn") == 1


def test_what_is_in_progress_is_not_cancelled(
    controller: Controller, officer: Caller, people: UUID, model: UUID, transaction: Transaction
) -> None:
    reference = controller.submit().json()["subject_request_id"]
    approve(officer, our(transaction, reference))
    answer = controller.call("DELETE", f"/requests/{reference}")
    assert answer.status_code == 400
    assert errors(answer) == ["/: not-pending"]
    assert controller.status(reference)["request_status"] == "in_progress"


# Whose it is -----------------------------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_answer_and_another_one_none(
    controller: Controller, transaction: Transaction, clock: StillClock, people: UUID
) -> None:
    raw = json.dumps(controller.body()).encode()
    first = controller.call("POST", "/requests", content=raw)
    clock.advance(hours=5)
    again = controller.call("POST", "/requests", content=raw)
    assert (again.status_code, again.content) == (201, first.content)
    other = controller.call("POST", "/requests", content=raw + b" ")
    assert other.status_code == 400
    assert errors(other) == ["/: id-used"]
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(ErasureRequest)) == 1


def test_the_same_request_sent_twice_at_once_is_one(
    controller: Controller, transaction: Transaction, people: UUID
) -> None:
    raw, found = json.dumps(controller.body()).encode(), list[httpx.Response]()
    controller.call("GET", "/discovery")
    threads = [
        threading.Thread(target=lambda: found.append(controller.call("POST", "/requests", content=raw)))
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert [each.status_code for each in found] == [201] * 4
    assert len({each.content for each in found}) == 1
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(ErasureRequest)) == 1


def test_one_controller_sees_nothing_of_another(
    controller: Controller, callers: Callers, people: UUID
) -> None:
    body = controller.body()
    raw = json.dumps(body).encode()
    controller.call("POST", "/requests", content=raw)
    other = callers("rival", "intake", kind="machine")
    rival = Controller(controller.base, other.token, controller.root, controller.clock, controller.hook)
    for method in ("GET", "DELETE"):
        answer = rival.call(method, f"/requests/{body['subject_request_id']}")
        assert (answer.status_code, errors(answer)) == (404, ["/: not-found"])
    # Ids are each controller's own: the same one is another request.
    assert rival.call("POST", "/requests", content=raw).status_code == 201


def test_who_may(controller: Controller, callers: Callers) -> None:
    raw = json.dumps(controller.body()).encode()
    answer = controller.call("POST", "/requests", content=raw, anonymous=True)
    assert (answer.status_code, errors(answer)) == (401, ["/: unauthenticated"])
    assert answer.headers["www-authenticate"] == "Bearer"
    looker = callers("looker", "viewer")
    viewer = Controller(controller.base, looker.token, controller.root, controller.clock, controller.hook)
    answer = viewer.call("POST", "/requests", content=raw)
    assert (answer.status_code, errors(answer)) == (403, ["/: scope-missing"])


# What is refused -------------------------------------------------------------------------------------


IDENTITY: dict[str, Any] = {
    "identity_type": "email", "identity_value": f"{CANARY}@example.org", "identity_format": "raw",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"regulation": None}, "/regulation: missing"),
        ({"regulation": CANARY}, "/regulation: literal_error"),
        ({"subject_request_type": "access"}, "/subject_request_type: unsupported"),
        ({"subject_request_id": None}, "/subject_request_id: missing"),
        ({"subject_request_id": str(uuid4()).upper()}, "/subject_request_id: string_pattern_mismatch"),
        (
            {"subject_request_id": "00000000-0000-1000-8000-000000000000"},
            "/subject_request_id: string_pattern_mismatch",
        ),
        ({"submitted_time": "2026-11-20T15:00:00"}, "/submitted_time: timezone_aware"),
        ({"submitted_time": "2026-11-21T13:00:00Z"}, "/submitted_time: in-the-future"),
        ({"submitted_time": "0001-01-01T00:00:00+14:00"}, "/submitted_time: too-old"),
        ({"subject_identities": []}, "/subject_identities: too_short"),
        ({"subject_identities": [{**IDENTITY, "identity_format": "md5"}]},
         "/subject_identities/0/identity_format: unsupported"),
        ({"subject_identities": [{**IDENTITY, "identity_type": "shoe_size"}]},
         "/subject_identities/0/identity_type: unsupported"),
        ({"subject_identities": [IDENTITY, {**IDENTITY, "identity_format": "sha256"}]},
         "/subject_identities/1/identity_value: digest-form"),
        ({"subject_identities": [{**IDENTITY, "identity_value": CANARY}]},
         "/subject_identities/0/identity_value: email-form"),
        ({"subject_identities": [{CANARY: 1}]}, "/subject_identities/0/identity_type: missing"),
        ({"status_callback_urls": ["https://inner.example/"]}, "/status_callback_urls/0: host-not-listed"),
        ({"status_callback_urls": [CANARY]}, "/status_callback_urls/0: url-not-https"),
        ({"status_callback_urls": {CANARY: 1}}, "/status_callback_urls: list_type"),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_what_and_repeats_nothing(
    controller: Controller, transaction: Transaction, changes: dict[str, Any], said: str
) -> None:
    answer = controller.submit(**changes)
    assert answer.status_code == 400
    assert said in errors(answer)
    assert CANARY not in answer.text
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(ErasureRequest)) == 0, "nothing was kept of it"
        assert session.scalar(select(func.count()).select_from(OpenDsrRequest)) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"[" * 100_000])
def test_what_is_no_request_at_all(controller: Controller, content: bytes) -> None:
    answer = controller.call("POST", "/requests", content=content)
    assert answer.status_code == 400
    assert errors(answer)


def test_the_body_itself_is_kept_nowhere(
    controller: Controller, transaction: Transaction, people: UUID
) -> None:
    identity = [{**IDENTITY}]
    controller.submit(subject_identities=identity)
    with transaction() as session:
        for table in ("opendsr_requests", "erasure_requests", "audit_events", "opendsr_callbacks"):
            rows = session.connection().exec_driver_sql(f"SELECT {table}::text FROM {table}").all()
            assert CANARY not in str(rows)


# Callbacks -------------------------------------------------------------------------------------------


def test_a_callback_that_fails_is_made_again_with_the_same_bytes(
    controller: Controller, processing: Processing, people: UUID
) -> None:
    reference = controller.submit().json()["subject_request_id"]
    controller.call("DELETE", f"/requests/{reference}")
    controller.hook.answers(503)
    assert processing.work() == 1
    controller.hook.answers(202)
    processing.clock.advance(seconds=6)
    assert processing.work() == 1
    one, two = controller.hook.calls
    assert one.body == two.body
    assert one.headers["x-opendsr-signature"] == two.headers["x-opendsr-signature"]
    processing.clock.advance(days=2)
    assert processing.work() == 0


def test_a_callback_that_is_given_up_is_on_record(
    controller: Controller, processing: Processing, people: UUID, transaction: Transaction
) -> None:
    reference = controller.submit().json()["subject_request_id"]
    controller.call("DELETE", f"/requests/{reference}")
    controller.hook.answers(500)
    for _ in range(outbound.ATTEMPTS_MAX):
        assert processing.work() == 1
        processing.clock.advance(hours=27)
    assert processing.work() == 0
    with transaction() as session:
        body = json.loads(
            session.scalars(select(AuditEvent.body).where(AuditEvent.kind == "request.callback_failed")).one()
        )
        assert session.scalars(select(OpenDsrCallback.state)).all() == ["failed"]
    assert (body["status"], body["attempts"]) == ("cancelled", 10)
    assert body["request"] == ids.encode("er", our(transaction, reference))


def test_later_news_waits_for_earlier_news_to_the_same_url(
    controller: Controller, processing: Processing, officer: Caller, people: UUID, model: UUID,
    transaction: Transaction, clock: StillClock,
) -> None:  # fmt: skip
    urls = [f"{controller.hook.url}/{name}" for name in ("deaf", "open", "open")]
    reference = controller.submit(status_callback_urls=urls).json()["subject_request_id"]
    request_id = our(transaction, reference)
    approve(officer, request_id)
    erase(transaction, request_id, model, clock)
    controller.hook.answer = lambda call: (500 if call.path == "/deaf" else 200, {})
    processing.work()

    def told(path: str) -> list[str]:
        return [json.loads(c.body)["request_status"] for c in controller.hook.calls if c.path == path]

    assert told("/open") == ["in_progress", "completed"], "a URL that is named twice is called once"
    assert told("/deaf") == ["in_progress"]
    controller.hook.answers(200)
    clock.advance(seconds=6)
    processing.work()
    assert told("/deaf") == ["in_progress", "in_progress", "completed"]


def test_changes_are_told_however_fast_they_follow(
    controller: Controller, processing: Processing, officer: Caller, people: UUID, model: UUID,
    transaction: Transaction,
) -> None:  # fmt: skip
    """Approved, sent back, cancelled before anybody looked: four changes, and each is told."""
    reference = controller.submit().json()["subject_request_id"]
    request_id = our(transaction, reference)
    approve(officer, request_id)
    path = f"/v1/erasure-requests/{ids.encode('er', request_id)}"
    hash_ = officer.get(path).json()["record_set_hash"]
    sent_back = officer.post(f"{path}/approvals", {"record_set_hash": hash_, "decision": "send_back"})
    assert sent_back.status_code == 201, sent_back.text
    assert controller.call("DELETE", f"/requests/{reference}").status_code == 202
    processing.work()
    assert [each["request_status"] for each in controller.called_back()] == [
        "in_progress", "pending", "cancelled",
    ]  # fmt: skip


def test_what_came_in_otherwise_is_nobodys_callback(
    controller: Controller, processing: Processing, officer: Caller, people: UUID, transaction: Transaction
) -> None:
    controller.submit()
    officer.post("/v1/erasure-requests", {"subject": {"type": "email", "value": "no@example.org"}})
    processing.work()
    assert controller.hook.calls == []
    with transaction() as session:
        cursor = Intake(session).cursor()
        assert cursor is not None
        assert cursor.seq == session.scalar(select(func.max(AuditEvent.seq)))
    with transaction() as session:
        assert service.forget(session, now=datetime(2027, 1, 1, tzinfo=UTC)) == 0


# The vocabulary --------------------------------------------------------------------------------------


def test_every_state_of_ours_has_a_word_of_theirs() -> None:
    found = {state: opendsr.status_of(state) for state in State}
    assert {state for state, status in found.items() if status is Status.PENDING} == {
        State.RECEIVED, State.IDENTITY_PENDING, State.TRIAGE, State.AWAITING_APPROVAL,
    }  # fmt: skip
    assert {state for state, status in found.items() if status is Status.IN_PROGRESS} == {
        State.SCHEDULED, State.UNLEARNING, State.VERIFYING, State.PUBLISHING,
    }  # fmt: skip
    assert tuple(Status) == intake.STATUSES


def test_instants_are_whole_seconds_in_utc() -> None:
    assert opendsr.instant(datetime(2026, 11, 21, 12, 0, 0, 999999, tzinfo=UTC)) == "2026-11-21T12:00:00Z"


# Switches --------------------------------------------------------------------------------------------


def test_without_a_domain_it_is_off(settings: Settings) -> None:
    off = create_app(settings.model_copy(update={"opendsr_domain": None}))
    with TestClient(off) as client:
        assert client.get(f"{PREFIX}/discovery").status_code == 404


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"opendsr_key": None}, "needs"),
        ({"opendsr_chain": Path("/nonexistent")}, "cannot be read"),
        ({"public_url": "http://other.example"}, "not an address of"),
    ],
)
def test_half_of_an_identity_is_refused_at_the_start(
    settings: Settings, clock: StillClock, update: dict[str, object], why: str
) -> None:
    with pytest.raises(NotAProcessor, match=why):
        processor.of(settings.model_copy(update=update), clock=clock)


def test_the_older_names_and_a_missing_regulation_are_switches(
    settings: Settings, clock: StillClock, machine: Caller, controller: Controller
) -> None:
    update = {"opendsr_legacy_names": True, "opendsr_regulation_required": False}
    app: FastAPI = create_app(settings.model_copy(update=update), clock=clock)
    body = controller.body(regulation=None)
    with TestClient(app) as client:
        answer = client.post(f"{PREFIX}/opengdpr_requests", json=body, headers=machine.headers)
        assert answer.status_code == 201
        assert answer.headers["x-opengdpr-signature"] == answer.headers["x-opendsr-signature"]
        assert answer.headers["x-opengdpr-processor-domain"] == DOMAIN
        path = f"{PREFIX}/opengdpr_requests/{body['subject_request_id']}"
        assert client.get(path, headers=machine.headers).json()["request_status"] == "completed"
        assert client.delete(path, headers=machine.headers).status_code == 400
    # Without the switch neither the route nor the header is there.
    assert "x-opengdpr-signature" not in controller.call("GET", "/discovery").headers
    assert httpx.get(f"{controller.base}{PREFIX}/opengdpr_requests", trust_env=False).status_code == 404


def test_status_by_both_names(controller: Controller, people: UUID) -> None:
    reference = controller.submit().json()["subject_request_id"]
    by_status = controller.call("GET", f"/status/{reference}")
    assert by_status.json() == controller.status(reference)


def test_a_processor_counts_from_when_the_controller_was_asked(
    controller: Controller, officer: Caller, people: UUID, transaction: Transaction, clock: StillClock
) -> None:
    asked = clock() - timedelta(days=40)
    reference = controller.submit(submitted_time=asked.isoformat()).json()["subject_request_id"]
    shown = officer.get(f"/v1/erasure-requests/{ids.encode('er', our(transaction, reference))}").json()
    assert shown["overdue"]
    assert shown["received_at"] == "2026-11-21T12:00:00Z"
