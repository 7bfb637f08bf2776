"""What can be done to a request: receive, resolve, approve, withdraw, reject, and what jobs do to it.

Verbs that change a request lock it first, so two of them never decide on the same past; the audit
chain comes last (`app.audit`). What a request concerns: `matching`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app import failpoints, queue
from app.audit import events
from app.audit import service as audit
from app.audit.service import Entry
from app.erasure import deadlines, matching
from app.erasure.calendars import Calendar
from app.erasure.lifecycle import (
    ENDS,
    Ground,
    State,
    advance,
    advance_stage,
    approvals_needed,
    begun,
    earliest,
    weakest,
)
from app.erasure.matching import Identifier, NamedRecords, RecordSet
from app.erasure.repository import ErasureRequests
from app.errors import Conflict, Forbidden, NotFound
from app.http import ids
from app.queue import Stage
from app.records import service as records
from app.registry import service as registry
from app.storage.database import Session, after_commit
from app.tables import ErasureRequest, RequestTarget

NOT_TRAINED = "not_trained"


@dataclass(frozen=True, kw_only=True)
class View:
    """A request with its targets and approvals, as it is shown."""

    request: ErasureRequest
    targets: tuple[RequestTarget, ...]
    approvals: int

    @property
    def outcome(self) -> str | None:
        """Return what a completed request ended with: the weakest of its models, or `not_trained`."""
        if self.request.state != State.COMPLETED:
            return None
        outcomes = [target.outcome for target in self.targets if target.outcome is not None]
        return weakest(outcomes) if outcomes else NOT_TRAINED


# What callers do ---------------------------------------------------------------------------------


def receive(
    session: Session,
    *,
    submitted_by: UUID,
    identifiers: Sequence[Identifier] = (),
    named: NamedRecords | None = None,
    external_ref: str | None = None,
    subject_key: bytes,
    calendar: Calendar,
    received_at: datetime,
) -> View:
    """Receive a data subject's request to be forgotten (GDPR Art. 17), and find what it concerns."""
    macs = matching.macs(subject_key, identifiers)
    requests = ErasureRequests(session)
    if external_ref is not None and requests.by_external_ref(submitted_by, external_ref):
        raise Conflict("a request of yours has this reference", code="external-ref-used")
    received_on = calendar.day_of(received_at)
    due_on = deadlines.due(received_on, calendar.days)
    request = ErasureRequest(
        state=State.RECEIVED,
        version=1,
        submitted_by=submitted_by,
        external_ref=external_ref,
        subject_macs=macs,
        received_at=received_at,
        received_on=received_on,
        due_on=due_on,
        due_at=calendar.end_of(due_on),
        calendar=f"{deadlines.RULE} {calendar.name}",
        records_matched=0,
    )
    requests.add(request)
    audit.record(
        session,
        events.RequestReceived(request.id, submitted_by, len(macs), due_on.isoformat(), received_at),
    )
    failpoints.reach("intake.received")
    if named is not None:
        requests.name_records(request.id, matching.named(session, named))
    _move(session, request, State.TRIAGE, at=received_at)
    _locate(session, request, at=received_at)
    failpoints.reach("intake.located")
    audit.settle(session)
    failpoints.reach("intake.audited")
    after_commit(session, lambda: failpoints.reach("intake.committed"))
    return _view(session, request)


def resolve(session: Session, request_id: UUID, *, at: datetime) -> View:
    """Search again: for what could not be searched before, or because the set has changed."""
    request = _locked(session, request_id)
    if request.state == State.AWAITING_APPROVAL:
        _move(session, request, State.TRIAGE, at=at)
    if request.state != State.TRIAGE:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    _locate(session, request, at=at)
    return _view(session, request)


def approve(
    session: Session,
    request_id: UUID,
    *,
    approver_id: UUID,
    person: bool,
    record_set_hash: bytes,
    at: datetime,
) -> View:
    """Give a second person's word for exactly this set of records; the last one needed schedules it."""
    request = _locked(session, request_id)
    _second_person(request, approver_id, person=person)
    if request.state != State.AWAITING_APPROVAL:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    if record_set_hash != request.record_set_hash:
        raise Conflict("this is not the hash of the request's records", code="record-set-stale")
    current = matching.record_set(session, request)
    if current.hash != request.record_set_hash:
        raise Conflict("records or models were added; resolve the request again", code="record-set-changed")
    requests = ErasureRequests(session)
    given = {approval.approver_id for approval in requests.approvals(request.id)}
    if approver_id in given:
        raise Conflict("you have approved this set already", code="approved-already")
    requests.approve(request.id, approver_id, record_set_hash)
    audit.record(session, events.RequestApproved(request.id, approver_id, record_set_hash.hex(), at))
    if len(given) + 1 >= approvals_needed(request.records_matched):
        _schedule(session, request, current, at=at)
    return _view(session, request)


def withdraw(session: Session, request_id: UUID, *, principal_id: UUID, at: datetime) -> View:
    """Take a request back; too late once one model has begun."""
    request = _locked(session, request_id)
    stages = [State(target.stage) for target in ErasureRequests(session).targets([request.id])]
    if begun(stages):
        raise Conflict("the erasure has begun in one model", code="already-executing")
    _move(session, request, State.WITHDRAWN, at=at)
    request.concluded_at, request.attention = at, None
    audit.record(session, events.RequestWithdrawn(request.id, principal_id, at))
    return _view(session, request)


def reject(
    session: Session, request_id: UUID, *, principal_id: UUID, person: bool, ground: Ground, at: datetime
) -> View:
    """Refuse a request on a ground of the regulation; like an approval, a second person's word."""
    request = _locked(session, request_id)
    _second_person(request, principal_id, person=person)
    _move(session, request, State.REJECTED, at=at)
    request.ground, request.concluded_at, request.attention = ground, at, None
    audit.record(session, events.RequestRejected(request.id, principal_id, ground, at))
    return _view(session, request)


def release(session: Session, request_id: UUID, *, principal_id: UUID, person: bool, at: datetime) -> View:
    """Let a held result be certified: a second person has looked, and nothing linked was found since.

    About one exact result in twenty is detected by chance alone; whether it was chance, a person says.
    """
    request = _locked(session, request_id)
    _second_person(request, principal_id, person=person)
    held = [each for each in ErasureRequests(session).targets([request.id]) if each.held is not None]
    if not held:
        raise Conflict("no result of this request is held", code="nothing-held")
    if matching.record_set(session, request).hash != request.record_set_hash:
        raise Conflict(
            "records or models were added; that may be why it was detected", code="record-set-changed"
        )
    for target in held:
        reason = str(target.held)
        target.held, target.released_by, target.released_at = None, principal_id, at
        session.flush()
        audit.record(session, events.ResultReleased(request.id, target.model_id, principal_id, reason, at))
        queue.ring(session, Stage.PLAN, target.model_id)
    request.attention = None
    return _view(session, request)


def read(session: Session, request_id: UUID) -> View:
    """Return a request."""
    request = ErasureRequests(session).get(request_id)
    if request is None:
        raise NotFound("there is no such request")
    return _view(session, request)


def listing(
    session: Session,
    *,
    states: Collection[State] = (),
    attention: bool | None = None,
    after: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[View]:
    """Return requests, newest first."""
    requests = ErasureRequests(session)
    found = requests.page(states=states, attention=attention, after=after, limit=limit)
    targets = requests.targets([request.id for request in found])
    return [
        View(
            request=request,
            targets=tuple(target for target in targets if target.request_id == request.id),
            approvals=0,
        )
        for request in found
    ]


def history(session: Session, request_id: UUID, *, after: int, limit: int) -> list[Entry]:
    """Return what happened to a request, from the audit chain."""
    read(session, request_id)
    return audit.history(session, ids.encode("er", request_id), after=after, limit=limit)


# What jobs do ------------------------------------------------------------------------------------


def record_ids(session: Session, request_id: UUID, dataset_id: UUID) -> list[int]:
    """Return the records of one dataset that a request names."""
    return [row.id for row in ErasureRequests(session).records(request_id) if row.dataset_id == dataset_id]


def engine_floor(
    session: Session, request_ids: Collection[UUID], model_id: UUID, *, ladder: Sequence[str]
) -> str | None:
    """Return the weakest engine worth trying on all of these, on a ladder from weak to strong."""
    floors = ErasureRequests(session).floors(request_ids, model_id) & set(ladder)
    return max(floors, key=ladder.index, default=None)


def start(session: Session, request_id: UUID, model_id: UUID, *, at: datetime) -> bool:
    """Begin to erase a request from a model; False if it may not begin any more.

    It was withdrawn, or its set is not what was approved: then it is searched again and waits for a
    new approval. Once another model has begun there is no way back, so a changed set raises
    attention instead, and what was approved is erased.
    """
    requests = ErasureRequests(session)
    request = _locked(session, request_id)
    targets = requests.targets([request.id])
    target = next((each for each in targets if each.model_id == model_id), None)
    if request.state in ENDS or target is None or target.stage != State.SCHEDULED:
        return False
    if matching.record_set(session, request).hash != request.record_set_hash:
        if not begun(State(each.stage) for each in targets):
            _search_again(session, request, targets, at=at)
            return False
        _attend(session, request, "record_set_changed", at=at)
    _walk(session, request, target, State.UNLEARNING, at=at)
    return True


def forsake(session: Session, model_id: UUID, *, at: datetime) -> None:
    """Take a model that could not be made out of the requests that wait for it: it has learned nothing.

    Where nothing has begun the set is searched again and approved again; else a person is asked.
    """
    requests = ErasureRequests(session)
    for request_id in requests.waiting_for(model_id):
        request = _locked(session, request_id)
        targets = requests.targets([request.id])
        if not begun(State(each.stage) for each in targets):
            _search_again(session, request, targets, at=at)
        else:
            _attend(session, request, "model_failed", at=at)


def advance_target(session: Session, request_id: UUID, model_id: UUID, to: str, *, at: datetime) -> None:
    """Move one model's part to another stage, and the request with its slowest part."""
    request = _locked(session, request_id)
    _walk(session, request, _target(session, request, model_id), State(to), at=at)


def return_to_schedule(
    session: Session,
    request_id: UUID,
    model_id: UUID,
    *,
    attention: str,
    engine_floor: str | None,
    held: bool = False,
    at: datetime,
) -> None:
    """Give one model's part back to the planner: its job failed, or went on without it.

    A held one is taken by no job before a second person has released it.
    """
    request = _locked(session, request_id)
    target = _target(session, request, model_id)
    target.job_id, target.engine_floor = None, engine_floor
    target.held = attention if held else None
    if target.stage != State.SCHEDULED:
        _walk(session, request, target, State.SCHEDULED, at=at)
    _attend(session, request, attention, at=at)


def conclude(
    session: Session,
    request_id: UUID,
    model_id: UUID,
    *,
    outcome: str,
    certificate_id: UUID,
    version_id: UUID,
    at: datetime,
) -> None:
    """Record that one model is rid of the records; close the request if it was the last."""
    request = _locked(session, request_id)
    target = _target(session, request, model_id)
    if target.stage == State.COMPLETED:
        return
    target.outcome, target.certificate_id, target.version_id = outcome, certificate_id, version_id
    audit.record(
        session, events.TargetConcluded(request.id, model_id, outcome, certificate_id, version_id, at)
    )
    _walk(session, request, target, State.COMPLETED, at=at)
    if request.state == State.COMPLETED:
        _close(session, request, at=at)


def raise_attention(session: Session, request_id: UUID, reason: str, *, at: datetime) -> None:
    """Ask for a person; the clock goes on running."""
    _attend(session, _locked(session, request_id), reason, at=at)


# Steps -------------------------------------------------------------------------------------------


def _locate(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """Find and bind what the request concerns; leave it in triage where we could not look."""
    requests = ErasureRequests(session)
    current = matching.record_set(session, request)
    known = {row.id for row in requests.records(request.id)}
    requests.name_records(request.id, [id_ for id_, _ in current.records if id_ not in known])
    requests.void_approvals(request.id)
    request.records_matched, request.record_set_hash = len(current.records), current.hash
    audit.record(
        session,
        events.RecordsLocated(request.id, len(current.records), len(current.models), current.hash.hex(), at),
    )
    if current.records:
        request.attention = None
        _move(session, request, State.AWAITING_APPROVAL, at=at)
    elif records.unsearched(session):
        # "Nothing found" must never be said about a place in which we could not look.
        _attend(session, request, "index_unavailable", at=at)
    else:
        request.attention, request.concluded_at = None, at
        _move(session, request, State.NO_MATCH, at=at)


def _search_again(
    session: Session, request: ErasureRequest, targets: Sequence[RequestTarget], *, at: datetime
) -> None:
    """Send a scheduled request back to where its records are found; every approval is void."""
    ErasureRequests(session).drop_targets(targets)
    _move(session, request, State.TRIAGE, at=at)
    _locate(session, request, at=at)


def _schedule(session: Session, request: ErasureRequest, current: RecordSet, *, at: datetime) -> None:
    """Make a target per model and ring for each; without a model there is nothing to unlearn."""
    if not current.models:
        _move(session, request, State.COMPLETED, at=at)
        _close(session, request, at=at)
        return
    requests = ErasureRequests(session)
    for model_id in current.models:
        requests.add_target(request.id, model_id)
    _move(session, request, State.SCHEDULED, at=at)
    if not all(registry.verifiable(registry.model(session, each)) for each in current.models):
        _attend(session, request, "model_not_verifiable", at=at)
    for model_id in current.models:
        queue.ring(session, Stage.PLAN, model_id)


def _walk(
    session: Session, request: ErasureRequest, target: RequestTarget, to: State, *, at: datetime
) -> None:
    target.stage = advance_stage(State(target.stage), to)
    session.flush()
    audit.record(session, events.TargetMoved(request.id, target.model_id, to, at))
    slowest = earliest(State(each.stage) for each in ErasureRequests(session).targets([request.id]))
    if slowest != request.state:
        _move(session, request, slowest, at=at)


def _close(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """End a completed request: its records are gone from every model, and from what is compared.

    A model that learned them while the request was under way was no part of what was approved: it
    needs a request of its own, which must still find them.
    """
    request.concluded_at, request.attention = at, None
    named = [row.id for row in ErasureRequests(session).records(request.id)]
    if registry.that_know(session, named):
        _attend(session, request, "known_to_another_model", at=at)
    else:
        records.mark_erased(session, named, at=at)


def _move(session: Session, request: ErasureRequest, to: State, *, at: datetime) -> None:
    origin = State(request.state)
    session.flush()
    ErasureRequests(session).move(request, to=advance(origin, to))
    audit.record(session, events.RequestMoved(request.id, origin, to, at))


def _attend(session: Session, request: ErasureRequest, reason: str, *, at: datetime) -> None:
    if request.attention != reason:
        request.attention = reason
        session.flush()
        audit.record(session, events.AttentionRaised(request.id, reason, at))


def _second_person(request: ErasureRequest, principal_id: UUID, *, person: bool) -> None:
    if not person:
        raise Forbidden("this needs a person; the key belongs to a machine", code="person-needed")
    if principal_id == request.submitted_by:
        raise Forbidden("this needs somebody else than who submitted the request", code="four-eyes")


def _locked(session: Session, request_id: UUID) -> ErasureRequest:
    request = ErasureRequests(session).locked(request_id)
    if request is None:
        raise NotFound("there is no such request")
    return request


def _target(session: Session, request: ErasureRequest, model_id: UUID) -> RequestTarget:
    for target in ErasureRequests(session).targets([request.id]):
        if target.model_id == model_id:
            return target
    raise NotFound(f"model {model_id} is no target of request {request.id}")


def _view(session: Session, request: ErasureRequest) -> View:
    session.flush()
    requests = ErasureRequests(session)
    # A withdrawn request has nothing under way; its rows only tell that it once was scheduled.
    shown = requests.targets([request.id]) if request.state != State.WITHDRAWN else []
    return View(request=request, targets=tuple(shown), approvals=len(requests.approvals(request.id)))
