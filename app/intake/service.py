"""What a controller can do by OpenDSR, and what it is told; every verb ends in one of `app.erasure`."""

import base64
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app import retention
from app.audit import events
from app.audit import service as audit
from app.audit.service import Entry
from app.auth.service import Caller
from app.erasure import service as erasure
from app.erasure.calendars import Calendar
from app.erasure.lifecycle import State
from app.erasure.matching import Identifier
from app.erasure.steps import PARTIAL, View
from app.errors import Conflict, Invalid, NotFound
from app.http import ids, outbound
from app.http.outbound import Answer, Reach
from app.intake import opendsr
from app.intake.opendsr import ErasureAsked, Standing, Status
from app.intake.repository import Intake, Owed
from app.storage.database import Session
from app.tables import OpenDsrCallback, OpenDsrRequest

AHEAD_MAX = timedelta(minutes=5)
AGE_MAX = timedelta(days=366)
BATCH_EVENTS = 200
KEPT = retention.POLICY.deliveries
MOVED = "request.moved"


@dataclass(frozen=True, kw_only=True)
class Received:
    """That a request was received: now, or when its first copy came."""

    controller_id: str
    subject_request_id: UUID
    received_at: datetime
    expected_at: datetime
    encoded: str


# What controllers do -----------------------------------------------------------------------------


def receive(
    session: Session,
    asked: ErasureAsked,
    raw: bytes,
    *,
    by: Caller,
    subject_key: bytes,
    mark_key: bytes,
    calendar: Calendar,
    rules: str,
    regulation_required: bool,
    reach: Reach,
    at: datetime,
) -> Received:
    """Receive a controller's request; a repeated one is answered as the first, if it is the same."""
    intake = Intake(session)
    intake.alone(by.principal_id, asked.id)
    mark = hmac.digest(mark_key, b"lethe/opendsr/v1\x00" + raw, "sha256")
    known = intake.find(by.principal_id, asked.id)
    if known is not None:
        if not hmac.compare_digest(bytes(known.fingerprint), mark):
            raise Conflict("another request has this subject_request_id", code="id-used")
        return _received(known, raw)
    _refuse(asked, regulation_required=regulation_required, reach=reach, at=at)
    try:
        view = erasure.receive(
            session,
            submitted_by=by.principal_id,
            identifiers=[
                Identifier(
                    type=opendsr.IDENTIFIER_TYPES[each.identity_type],
                    value=each.identity_value.get_secret_value(),
                    hashed=each.identity_format == "sha256",
                )
                for each in asked.subject_identities
            ],
            external_ref=f"opendsr:{asked.subject_request_id}",
            vouched=by.vouches,
            subject_key=subject_key,
            calendar=calendar,
            rules=rules,
            received_at=at,
            submitted_at=min(asked.submitted_time, at),
        )
    except Invalid as invalid:
        places = [(opendsr.pointer(where), code) for where, code in invalid.errors]
        raise Invalid(str(invalid), errors=places) from invalid
    row = OpenDsrRequest(
        request_id=view.request.id,
        controller_id=by.principal_id,
        subject_request_id=asked.id,
        fingerprint=mark,
        expected_at=view.request.due_at,
        callback_urls=list(dict.fromkeys(asked.status_callback_urls)),
        status=Status.PENDING,
        received_at=at,
    )
    intake.add(row)
    return _received(row, raw)


def status(session: Session, subject_request_id: UUID, *, by: Caller) -> Standing:
    """Return where a controller's own request stands."""
    row = _own(session, subject_request_id, by)
    view = erasure.read(session, row.request_id)
    return _standing(row, view, opendsr.status_of(State(view.request.state)))


def cancel(session: Session, subject_request_id: UUID, *, by: Caller, at: datetime) -> Standing:
    """Take a request back while it is `pending`; once more changes nothing."""
    row = _own(session, subject_request_id, by)
    state = State(erasure.read(session, row.request_id).request.state)
    if state is not State.WITHDRAWN:
        if opendsr.status_of(state) is not Status.PENDING:
            raise Conflict("only a pending request can be cancelled", code="not-pending")
        erasure.withdraw(session, row.request_id, by=by, at=at)
    return _standing(row, erasure.read(session, row.request_id), Status.CANCELLED)


# What the worker does ----------------------------------------------------------------------------


def tell(session: Session, *, at: datetime) -> int:
    """Queue a callback to every URL for each change of status; return how far the sequence was read on.

    Read from the audit sequence, so no change is left out however fast the next one follows.
    """
    intake = Intake(session)
    cursor = intake.cursor()
    if cursor is None:
        return 0
    before, head = cursor.seq, audit.last(session)
    if not intake.any_requests():
        # What came in before the first request has nothing to do with any.
        cursor.seq = max(before, head)
        return 0
    found = audit.since(session, before, limit=BATCH_EVENTS)
    moved = [each for each in found if each.kind == MOVED]
    of = intake.of([ids.decode("er", str(each.body["request"])) for each in moved])
    for entry in moved:
        row = of.get(ids.decode("er", str(entry.body["request"])))
        if row is not None:
            _owe(session, row, entry, at=at)
    if found:
        cursor.seq = found[-1].seq
    return cursor.seq - before


def settle(session: Session, owed: Owed, answer: Answer, *, at: datetime) -> str:
    """Write down how a callback went, and when it is tried again; a last failure is on record."""
    intake, said = Intake(session), {"answered": answer.status, "error": answer.error}
    if answer.taken:
        intake.settle(owed, state="delivered", ended_at=at, **said)
        return "delivered"
    again = outbound.next_attempt(owed.attempts, answer, at=at)
    if again is not None:
        intake.settle(owed, next_at=again, **said)
        return "retried"
    if intake.settle(owed, state="failed", ended_at=at, **said):
        audit.record(session, events.CallbackFailed(owed.request_id, owed.status, owed.attempts, at))
    return "failed"


def forget(session: Session, *, now: datetime) -> int:
    """Delete callbacks that ended a month ago; return how many."""
    return Intake(session).forget(before=now - KEPT)


def standing_of(owed: Owed) -> Standing:
    """Return what a callback says: how things stood when it was queued."""
    return Standing(
        controller_id=ids.encode("pr", owed.controller_id),
        subject_request_id=owed.subject_request_id,
        status=Status(owed.status),
        expected_at=owed.expected_at,
        results_count=owed.results_count,
        outcome=owed.outcome,
        reason=owed.reason,
    )


# What they are made of ---------------------------------------------------------------------------


def _refuse(asked: ErasureAsked, *, regulation_required: bool, reach: Reach, at: datetime) -> None:
    """Refuse what is well-formed and cannot be done."""
    found = opendsr.refusals(asked, regulation_required=regulation_required)
    if asked.submitted_time > at + AHEAD_MAX:
        found.append(("/submitted_time", "in-the-future"))
    if asked.submitted_time < at - AGE_MAX:
        found.append(("/submitted_time", "too-old"))
    for index, url in enumerate(asked.status_callback_urls):
        code = reach.refusal(url)
        if code is not None:
            found.append((f"/status_callback_urls/{index}", code))
    if found:
        raise Invalid("the request cannot be taken; see the errors", errors=found)


def _owe(session: Session, row: OpenDsrRequest, entry: Entry, *, at: datetime) -> None:
    status = opendsr.status_of(State(str(entry.body["state"])))
    if status == row.status:
        return
    row.status = status
    standing = _standing(row, erasure.read(session, row.request_id), status)
    for url in row.callback_urls:
        Intake(session).owe(
            OpenDsrCallback(
                request_id=row.request_id,
                url=url,
                seq=entry.seq,
                status=status,
                results_count=standing.results_count,
                outcome=standing.outcome,
                reason=standing.reason,
                expected_at=standing.expected_at,
                state="pending",
                attempts=0,
                next_at=at,
            )
        )


def _standing(row: OpenDsrRequest, view: View, status: Status) -> Standing:
    request = view.request
    state = State(request.state)
    rejected = status is Status.CANCELLED and state is State.REJECTED
    partial = status is Status.COMPLETED and view.outcome == PARTIAL
    outcome = "rejected" if rejected else PARTIAL if partial else None
    return Standing(
        controller_id=ids.encode("pr", row.controller_id),
        subject_request_id=row.subject_request_id,
        status=status,
        expected_at=request.due_at,
        results_count=request.records_matched if status is Status.COMPLETED else None,
        outcome=outcome,
        reason=request.ground if rejected else None,
    )


def _own(session: Session, subject_request_id: UUID, by: Caller) -> OpenDsrRequest:
    found = Intake(session).find(by.principal_id, subject_request_id)
    if found is None:
        raise NotFound("there is no such request")
    return found


def _received(row: OpenDsrRequest, raw: bytes) -> Received:
    return Received(
        controller_id=ids.encode("pr", row.controller_id),
        subject_request_id=row.subject_request_id,
        received_at=row.received_at,
        expected_at=row.expected_at,
        encoded=base64.b64encode(raw).decode("ascii"),
    )
