"""What the verbs on requests are made of: lock, move, find what is concerned, ask for a person.

Whoever changes a request locks it first, so that two verbs never decide on the same past; every change
counts the version, by which callers say what they have seen. The audit chain comes last (`app.audit`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.erasure import calendars, deadlines, matching, policy
from app.erasure.calendars import Calendar
from app.erasure.holds.repository import Holds
from app.erasure.lifecycle import STAGES, State, advance, weakest
from app.erasure.near import looking
from app.erasure.near.looking import Standing
from app.erasure.near.repository import Searches
from app.erasure.repository import ErasureRequests
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.storage.database import Session
from app.tables import ErasureRequest, RequestTarget

NOT_TRAINED = "not_trained"
PARTIAL = "partial"

INDEX_UNAVAILABLE = "index_unavailable"
NEAR_DUPLICATES = "near_duplicates"
TEXT_SCAN = "text_scan"

Expected = Collection[int] | None
"""The versions that a caller has seen; None: whichever it is."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A request with its targets and approvals, as it is shown."""

    request: ErasureRequest
    targets: tuple[RequestTarget, ...]
    approvals: int
    approvals_needed: int

    @property
    def outcome(self) -> str | None:
        """Return what a completed request ended with: the weakest of its models, or `not_trained`.

        Where records are kept on a ground of Art. 17(3) it is `partial`, whatever its models reached.
        """
        if self.request.state != State.COMPLETED:
            return None
        if self.request.records_exempt:
            return PARTIAL
        outcomes = [target.outcome for target in self.targets if target.outcome is not None]
        return weakest(outcomes) if outcomes else NOT_TRAINED

    def overdue(self, now: datetime) -> bool:
        """Return whether it is open and past its date; while its clock stands still it is not."""
        request = self.request
        ended = request.concluded_at is not None
        return not ended and not request.clock_paused and request.due_at <= now


@dataclass(frozen=True, kw_only=True)
class Notice:
    """That the person was told: when, and under which number of ours."""

    sent_on: date
    reference: str | None = None


def locked(session: Session, request_id: UUID, *, expecting: Expected = None) -> ErasureRequest:
    """Return a request for changing it; Conflict if the caller has seen another version of it."""
    request = ErasureRequests(session).locked(request_id)
    if request is None:
        raise NotFound("there is no such request")
    if expecting is not None and request.version not in expecting:
        raise Conflict(f"the request is at version {request.version}", code="version-changed")
    return request


def view(session: Session, request: ErasureRequest) -> View:
    """Return a request as it is shown."""
    session.flush()
    requests = ErasureRequests(session)
    # A withdrawn request has nothing under way; its rows only tell that it once was scheduled.
    shown = requests.targets([request.id]) if request.state != State.WITHDRAWN else []
    return View(
        request=request,
        targets=tuple(shown),
        approvals=len(requests.approvals(request.id)),
        approvals_needed=approvals_needed(session, request),
    )


def approvals_needed(session: Session, request: ErasureRequest) -> int:
    """Return how many people must approve the request as it is."""
    grounds: Collection[str] = ()
    if request.purged_at is not None:
        grounds = request.grounds_kept or ()
    elif request.records_exempt:
        grounds = ErasureRequests(session).grounds(request.id)
    return policy.load(request.policy).people_needed(
        records=request.records_matched,
        grounds=grounds,
        near=bool(request.records_near or request.records_mentioning),
    )


def target_of(session: Session, request: ErasureRequest, model_id: UUID) -> RequestTarget:
    """Return one model's part of a request."""
    for target in ErasureRequests(session).targets([request.id]):
        if target.model_id == model_id:
            return target
    raise NotFound(f"model {model_id} is no target of request {request.id}")


def stages(targets: Sequence[RequestTarget]) -> list[State]:
    """Return where the parts of a request stand."""
    found = [State(target.stage) for target in targets]
    assert all(stage in STAGES for stage in found), "a target stands in one of its stages"
    return found


def move(session: Session, request: ErasureRequest, to: State, *, at: datetime) -> None:
    """Let another state follow, if it may."""
    origin = State(request.state)
    session.flush()
    ErasureRequests(session).move(request, to=advance(origin, to))
    audit.record(session, events.RequestMoved(request.id, origin, to, at))


def touch(session: Session, request: ErasureRequest) -> None:
    """Count the version of a request that stays in its state."""
    ErasureRequests(session).touch(request)


def attend(session: Session, request: ErasureRequest, reason: str, *, at: datetime) -> None:
    """Ask for a person; the clock goes on running."""
    if request.attention != reason:
        request.attention = reason
        touch(session, request)
        audit.record(session, events.AttentionRaised(request.id, reason, at))


def second_person(request: ErasureRequest, by: Caller) -> None:
    """Refuse whoever submitted the request, and every machine."""
    person(by)
    if by.principal_id == request.submitted_by:
        raise Forbidden("this needs somebody else than who submitted the request", code="four-eyes")


def person(by: Caller) -> None:
    """Refuse a machine."""
    if not by.person:
        raise Forbidden("this needs a person; the key belongs to a machine", code="person-needed")


# What it concerns --------------------------------------------------------------------------------


def locate(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """Find and bind what the request concerns; it stays in triage under a hold, or where none could look."""
    requests = ErasureRequests(session)
    current = matching.record_set(session, request)
    known = {row.id for row in requests.records(request.id)}
    requests.name_records(request.id, [id_ for id_, _ in current.records if id_ not in known])
    requests.void_approvals(request.id)
    request.records_matched, request.record_set_hash = len(current.records), current.hash
    request.records_exempt = sum(ground is not None for ground in current.exempt)
    session.flush()
    request.legal_hold = bool(Holds(session).binding(request.id, current.models, now=at))
    audit.record(
        session,
        events.RecordsLocated(request.id, len(current.records), len(current.models), current.hash.hex(), at),
    )
    standing = looking.look(session, request, current, at=at)
    if standing is Standing.UNDECIDED:
        near = Searches(session).counts(request.id).near_open
        leave(session, request, NEAR_DUPLICATES if near else TEXT_SCAN, at=at)
    elif standing is Standing.AWAY:
        leave(session, request, INDEX_UNAVAILABLE, at=at)
    elif standing is Standing.SEARCHING:
        request.attention = None
        touch(session, request)
    elif current.records:
        request.attention = None
        if request.legal_hold:
            touch(session, request)
        else:
            move(session, request, State.AWAITING_APPROVAL, at=at)
    elif standing is Standing.MISSING:
        # "Nothing found" must never be said about a place in which we could not look.
        leave(session, request, INDEX_UNAVAILABLE, at=at)
    else:
        request.attention, request.concluded_at = None, at
        move(session, request, State.NO_MATCH, at=at)


def leave(session: Session, request: ErasureRequest, reason: str, *, at: datetime) -> None:
    """Leave a request in triage to a person; it is another version, asked for before or not."""
    if request.attention == reason:
        touch(session, request)
    else:
        attend(session, request, reason, at=at)


def reopen(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """Send a request that nothing was begun for back to triage; every approval of it is void."""
    requests = ErasureRequests(session)
    requests.drop_targets(requests.targets([request.id]))
    requests.void_approvals(request.id)
    move(session, request, State.TRIAGE, at=at)


def search_again(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """Send a request back to where its records are found, and find them."""
    reopen(session, request, at=at)
    locate(session, request, at=at)


# Its clock ---------------------------------------------------------------------------------------


def calendar_of(request: ErasureRequest) -> Calendar:
    """Return the calendar under which a request came in."""
    return calendars.load(request.jurisdiction, request.time_zone)


def set_dates(session: Session, request: ErasureRequest) -> None:
    """Count the dates of a request from its receipt, its pauses and its extension."""
    calendar = calendar_of(request)
    pauses = ErasureRequests(session).pauses(request.id)
    found = deadlines.dates(
        request.received_on,
        calendar.days,
        extended=request.extended_at is not None,
        pauses=[(each.asked_on, each.answered_on) for each in pauses if each.answered_on is not None],
        target_days=policy.load(request.policy).internal_target_days,
    )
    request.due_on, request.due_at = found.due_on, calendar.end_of(found.due_on)
    request.due_without_pause, request.internal_target = found.due_without_pause, found.internal_target
    request.calendar = f"{deadlines.RULE} {calendar.name}"
    request.clock_paused = any(each.answered_on is None for each in pauses)


def day_said(
    request: ErasureRequest, said: date | None, *, today: date, since: date | None = None, pointer: str
) -> date:
    """Return the day that a caller names, by default today; Invalid before the receipt or in the future."""
    first = request.received_on if since is None else since
    day = today if said is None else said
    if not first <= day <= today:
        raise Invalid("a day is outside of what is possible", errors=[(pointer, "date-out-of-range")])
    return day
