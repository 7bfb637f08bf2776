"""What can be done to a request's clock: doubt and confirm the identity, extend, warn before the breach.

The only thing that stops a clock is a doubt about who asks, from asking to answer (Art. 12(6)); holds,
failures and waiting for a person do not. Dates are counted by `deadlines`, under the calendar that the
request came in with.
"""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.erasure import deadlines, policy, steps
from app.erasure.exemptions import ExtensionReason
from app.erasure.forgetting import sealed
from app.erasure.lifecycle import OPEN, State, begun
from app.erasure.repository import ErasureRequests
from app.erasure.steps import Expected, Notice, View
from app.errors import Conflict, NotFound
from app.storage.database import Session
from app.tables import ClockPause, ErasureRequest, new_id

WARNED_AT_ONCE_MAX = 500
DEADLINE, OVERDUE = "deadline", "overdue"
IDENTITY_REASONS = frozenset({"no_courier", "identity_by_hand", "code_undelivered"})
"""What a person was asked for as nobody could be sent a code: once the identity is proven, no longer."""


def extend(
    session: Session,
    request_id: UUID,
    *,
    reason: ExtensionReason,
    notice: Notice,
    by: Caller,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Take three months from receipt, once, if the person was told so inside the first (Art. 12(3))."""
    request = _open(steps.locked(session, request_id, expecting=expecting))
    if request.extended_at is not None:
        raise Conflict("the answer was put off once already", code="extended-already")
    calendar = steps.calendar_of(request)
    today, last = calendar.day_of(at), deadlines.extendable_until(request.received_on, calendar.days)
    if today > last:
        raise Conflict(f"an extension had to be told by {last}", code="extension-too-late")
    told_on = steps.day_said(request, notice.sent_on, today=today, pointer="/notice/sent_on")
    request.extended_at, request.extension_reason = at, reason
    request.extension_notified_on, request.notice_ref = told_on, notice.reference
    steps.set_dates(session, request)
    request.alerted_days = None
    if request.attention == DEADLINE:
        request.attention = None
    steps.touch(session, request)
    audit.record(
        session,
        events.RequestExtended(
            request=request.id,
            principal=by.principal_id,
            reason=reason,
            notified_on=told_on.isoformat(),
            due_on=request.due_on.isoformat(),
            at=at,
        ),
    )
    return steps.view(session, request)


def pause(
    session: Session,
    request_id: UUID,
    *,
    asked_on: date | None = None,
    by: Caller,
    expecting: Expected = None,
    at: datetime,
) -> tuple[View, ClockPause]:
    """Stop the clock, because the person was asked who they are; what was approved is approved anew after.

    A date that has passed is not brought back by a question asked after it.
    """
    request = _open(steps.locked(session, request_id, expecting=expecting))
    requests = ErasureRequests(session)
    if begun(steps.stages(requests.targets([request.id]))):
        raise Conflict("the erasure has begun in one model", code="already-executing")
    if request.clock_paused:
        raise Conflict("the clock stands still already", code="paused-already")
    today = steps.calendar_of(request).day_of(at)
    if today > request.due_on:
        raise Conflict(f"the answer was due on {request.due_on}", code="deadline-passed")
    asked = steps.day_said(request, asked_on, today=today, pointer="/asked_on")
    paused = ClockPause(id=new_id(), request_id=request.id, asked_on=asked, asked_by=by.principal_id)
    requests.add_pause(paused)
    request.clock_paused = True
    if request.state == State.SCHEDULED:
        steps.search_again(session, request, at=at)
    else:
        steps.touch(session, request)
    audit.record(session, events.ClockPaused(request.id, by.principal_id, asked.isoformat(), at))
    return steps.view(session, request), paused


def resume(
    session: Session,
    request_id: UUID,
    pause_id: UUID,
    *,
    answered_on: date | None = None,
    by: Caller,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Let the clock run again, because the person has answered, to our satisfaction or not."""
    request = _open(steps.locked(session, request_id, expecting=expecting))
    paused = next((each for each in ErasureRequests(session).pauses(request.id) if each.id == pause_id), None)
    if paused is None:
        raise NotFound("there is no such pause of this request")
    if paused.answered_on is not None:
        raise Conflict("the clock runs again already", code="pause-ended")
    _end(session, request, paused, answered_on, by=by.principal_id, at=at)
    return steps.view(session, request)


def confirm_identity(
    session: Session,
    request_id: UUID,
    *,
    method: str,
    evidence: str | None = None,
    by: Caller,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Accept a proof of who asks: the clock runs again, and what the request concerns is searched for.

    Being the duplicate of a request whose person was known excuses nobody from this.
    """
    request = _open(steps.locked(session, request_id, expecting=expecting))
    doubted = [each for each in ErasureRequests(session).pauses(request.id) if each.answered_on is None]
    if request.state != State.IDENTITY_PENDING and not doubted:
        raise Conflict("nobody doubts the identity", code="identity-not-doubted")
    if evidence is not None:
        sealed.seal(session, request.id, sealed.Field.EVIDENCE, evidence.encode())
    return accept(session, request, method=method, by=by.principal_id, at=at)


def accept(session: Session, request: ErasureRequest, *, method: str, by: UUID | None, at: datetime) -> View:
    """Take an identity for proven; `by` is nobody where the person did it without anybody's key."""
    request.identity_method = method
    if request.attention in IDENTITY_REASONS:
        request.attention = None
    audit.record(session, events.IdentityConfirmed(request.id, by, method, at))
    for paused in ErasureRequests(session).pauses(request.id):
        if paused.answered_on is None:
            _end(session, request, paused, None, by=by, at=at)
    if request.state == State.IDENTITY_PENDING:
        steps.move(session, request, State.TRIAGE, at=at)
        steps.locate(session, request, at=at)
    else:
        steps.touch(session, request)
    return steps.view(session, request)


def pauses(session: Session, request_id: UUID) -> Sequence[ClockPause]:
    """Return when the clock of a request stood still."""
    if ErasureRequests(session).get(request_id) is None:
        raise NotFound("there is no such request")
    return ErasureRequests(session).pauses(request_id)


# What nobody asks for ----------------------------------------------------------------------------


def to_warn_of(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Return requests whose next warning is due, nearest date first."""
    found: list[UUID] = []
    for name in policy.names():
        days = policy.load(name).warn_days
        found += ErasureRequests(session).to_warn_of(
            policy=name, warn_days=days, now=now, limit=WARNED_AT_ONCE_MAX
        )
    return found


def warn(session: Session, request_id: UUID, *, now: datetime) -> int | None:
    """Tell that a request is near its date, or past it; return the days of the warning if one was due.

    It runs on the date without pauses, as authorities differ on what stops a clock.
    """
    request = steps.locked(session, request_id)
    if request.state not in OPEN:
        return None
    rules = policy.load(request.policy)
    today = steps.calendar_of(request).day_of(now)
    days = deadlines.warning(today, request.due_without_pause, warn_days=rules.warn_days)
    if days is None or (request.alerted_days is not None and request.alerted_days <= days):
        return None
    request.alerted_days = days
    steps.touch(session, request)
    audit.record(session, events.DeadlineWarned(request.id, days, request.due_without_pause.isoformat(), now))
    if days <= rules.attention_days and request.attention in {None, DEADLINE}:
        # Whatever else a person was asked for stays: it is why the date is in danger.
        late = steps.view(session, request).overdue(now)
        steps.attend(session, request, OVERDUE if late else DEADLINE, at=now)
    return days


def _end(
    session: Session,
    request: ErasureRequest,
    paused: ClockPause,
    answered_on: date | None,
    *,
    by: UUID | None,
    at: datetime,
) -> None:
    today = steps.calendar_of(request).day_of(at)
    answered = steps.day_said(
        request, answered_on, today=today, since=paused.asked_on, pointer="/answered_on"
    )
    paused.answered_on, paused.answered_by = answered, by
    session.flush()
    steps.set_dates(session, request)
    steps.touch(session, request)
    ended = [
        (each.asked_on, each.answered_on)
        for each in ErasureRequests(session).pauses(request.id)
        if each.answered_on is not None
    ]
    audit.record(
        session,
        events.ClockResumed(
            request=request.id,
            principal=by,
            answered_on=answered.isoformat(),
            paused_days=deadlines.paused_days(ended),
            due_on=request.due_on.isoformat(),
            at=at,
        ),
    )


def _open(request: ErasureRequest) -> ErasureRequest:
    if request.state not in OPEN:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    return request
