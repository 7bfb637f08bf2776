"""Holds: placed, lifted, expired, listed; what each does to the requests it concerns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.erasure import matching, steps
from app.erasure.exemptions import HoldReason
from app.erasure.holds.repository import Holds
from app.erasure.lifecycle import OPEN, State, begun
from app.erasure.matching import NamedRecords
from app.erasure.repository import ErasureRequests
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import ErasureRequest, Hold, RequestTarget, new_id


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a hold is on: exactly one of the three."""

    request: UUID | None = None
    record: NamedRecords | None = None
    model: UUID | None = None

    @property
    def kind(self) -> str:
        """Return which of the three it is."""
        return "request" if self.request else "model" if self.model else "record"


def place(
    session: Session,
    *,
    on: Subject,
    reason: HoldReason,
    days: int,
    external_ref: str | None = None,
    by: Caller,
    at: datetime,
) -> Hold:
    """Keep a request, a record or a model out of every batch from now on."""
    hold = Hold(
        id=new_id(),
        request_id=None if on.request is None else steps.locked(session, on.request).id,
        record_id=None if on.record is None else _record(session, on.record),
        model_id=None if on.model is None else registry.model(session, on.model).id,
        reason=reason,
        external_ref=external_ref,
        placed_by=by.principal_id,
        expires_at=at + timedelta(days=days),
    )
    holds = Holds(session)
    holds.add(hold)
    audit.record(
        session,
        events.HoldPlaced(
            hold=hold.id,
            principal=by.principal_id,
            subject=on.kind,
            reason=reason,
            expires_at=hold.expires_at,
            at=at,
        ),
    )
    for request_id in holds.requests_under(hold):
        _hold_request(session, steps.locked(session, request_id), hold, at=at)
    return hold


def lift(session: Session, hold_id: UUID, *, by: Caller, at: datetime) -> Hold:
    """End a hold: another person than who placed it."""
    hold = Holds(session).locked(hold_id)
    if hold is None:
        raise NotFound("there is no such hold")
    steps.person(by)
    if by.principal_id == hold.placed_by:
        raise Forbidden("this needs somebody else than who placed the hold", code="four-eyes")
    if hold.ended_at is not None or hold.expires_at <= at:
        raise Conflict("the hold has ended already", code="hold-ended")
    hold.lifted_by = by.principal_id
    _end(session, hold, how="lifted", at=at)
    return hold


def expired(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Return the holds whose time is over."""
    return Holds(session).expired(now)


def expire(session: Session, hold_id: UUID, *, now: datetime) -> bool:
    """End a hold whose time is over; return whether it had not ended before."""
    hold = Holds(session).locked(hold_id)
    if hold is None or hold.ended_at is not None or hold.expires_at > now:
        return False
    _end(session, hold, how="expired", at=now)
    return True


def listing(
    session: Session,
    *,
    active: bool | None,
    now: datetime,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> Sequence[Hold]:
    """Return holds, newest first."""
    return Holds(session).page(active=active, now=now, after=after, limit=limit)


def _record(session: Session, named: NamedRecords) -> int:
    try:
        [found] = matching.named(session, named)
    except Invalid as error:
        wrong = "/record/dataset" if error.errors == (("/records/dataset", "unknown"),) else "/record/id"
        raise Invalid("there is no such record", errors=[(wrong, "unknown")]) from None
    return found


def _end(session: Session, hold: Hold, *, how: str, at: datetime) -> None:
    hold.ended_at = at
    session.flush()
    audit.record(session, events.HoldEnded(hold.id, hold.lifted_by, how, at))
    for request_id in Holds(session).requests_held():
        _free_request(session, steps.locked(session, request_id), at=at)


def _hold_request(session: Session, request: ErasureRequest, hold: Hold, *, at: datetime) -> None:
    """Keep one request out of batches, as far as it is not too late."""
    if request.state not in OPEN:
        return
    targets = ErasureRequests(session).targets([request.id])
    if hold.model_id is not None and hold.model_id not in _models(session, request, targets):
        return
    request.legal_hold = True
    executing = 0
    if begun(steps.stages(targets)):
        concerned = [each for each in targets if hold.model_id in {None, each.model_id}]
        for target in concerned:
            target.on_hold = target.stage == State.SCHEDULED
        executing = sum(each.stage not in {State.SCHEDULED, State.COMPLETED} for each in concerned)
        steps.touch(session, request)
    elif request.state in {State.AWAITING_APPROVAL, State.SCHEDULED}:
        steps.reopen(session, request, at=at)
    else:
        steps.touch(session, request)
    audit.record(session, events.RequestHeld(request.id, hold.id, executing, at))
    if executing:
        steps.attend(session, request, "hold_while_executing", at=at)


def _free_request(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """Let go of a request as far as no other hold keeps it."""
    targets = ErasureRequests(session).targets([request.id])
    models = _models(session, request, targets)
    others = Holds(session).binding(request.id, models, now=at)
    for target in targets:
        kept = any(each.model_id in {None, target.model_id} for each in others)
        if target.on_hold and not kept:
            target.on_hold = False
            queue.ring(session, Stage.PLAN, target.model_id)
    if others or request.state not in OPEN:
        return
    request.legal_hold = False
    if request.attention == "hold_while_executing":
        request.attention = None
    audit.record(session, events.RequestFreed(request.id, at))
    if request.state == State.TRIAGE:
        steps.locate(session, request, at=at)
    else:
        steps.touch(session, request)


def _models(session: Session, request: ErasureRequest, targets: Sequence[RequestTarget]) -> frozenset[UUID]:
    """Return the models that a request concerns: those approved, or those that an approval would name."""
    if targets:
        return frozenset(each.model_id for each in targets)
    return frozenset(matching.record_set(session, request).models)
