"""What can be done to a request: receive, resolve, approve, withdraw, reject, and what jobs do to it.

What the verbs are made of: `steps`; many requests at once: `receiving`. Its clock: `timing`; what holds
it: `holds`; what is read of it: `reading`; what it concerns: `matching`.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from app import failpoints, queue
from app.audit import events
from app.audit import service as audit
from app.auth import service as auth
from app.auth.service import Caller
from app.erasure import exemptions, matching, policy, receiving, steps
from app.erasure.calendars import Calendar
from app.erasure.exemptions import Exemption, Ground
from app.erasure.forgetting import sealed
from app.erasure.forgetting.sealed import Field
from app.erasure.holds.repository import Holds
from app.erasure.lifecycle import ENDS, State, advance_stage, begun, earliest
from app.erasure.matching import Contents, Identifier, NamedRecords, RecordSet
from app.erasure.receiving import Asked
from app.erasure.repository import ErasureRequests
from app.erasure.steps import Expected, Notice, View
from app.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from app.queue import Stage
from app.records import service as records
from app.registry import service as registry
from app.storage.database import Session, after_commit
from app.tables import ErasureRequest, RequestTarget

# What callers do ---------------------------------------------------------------------------------


def receive(
    session: Session,
    *,
    submitted_by: UUID,
    identifiers: Sequence[Identifier] = (),
    named: NamedRecords | None = None,
    contents: Contents | None = None,
    external_ref: str | None = None,
    note: str | None = None,
    vouched: bool = True,
    subject_key: bytes = b"",
    calendar: Calendar,
    rules: str = "default",
    received_at: datetime,
    submitted_at: datetime | None = None,
) -> View:
    """Receive a data subject's request to be forgotten (GDPR Art. 17), and find what it concerns.

    Where the source does not vouch for who asks, nothing is searched for before that is proven. Who asked
    another first (`submitted_at`), whom we serve, is answered in time from then on. Many: `receiving`.
    """
    asked = Asked(
        submitted_by=submitted_by,
        macs=matching.macs(subject_key, identifiers),
        named=named,
        external_ref=external_ref,
        content_macs=() if contents is None else contents.macs(),
        written=receiving.written(identifiers, note),
        vouched=vouched,
        received_at=received_at,
        submitted_at=submitted_at,
    )
    [view] = receiving.receive(session, [asked], calendar=calendar, rules=rules)
    if isinstance(view, Problem):
        raise view
    audit.settle(session)
    failpoints.reach("intake.audited")
    after_commit(session, lambda: failpoints.reach("intake.committed"))
    return view


def resolve(session: Session, request_id: UUID, *, expecting: Expected = None, at: datetime) -> View:
    """Search again: for what could not be searched before, or because the set has changed."""
    request = steps.locked(session, request_id, expecting=expecting)
    if request.state == State.AWAITING_APPROVAL:
        steps.move(session, request, State.TRIAGE, at=at)
    if request.state != State.TRIAGE:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    steps.locate(session, request, at=at)
    return steps.view(session, request)


def approve(
    session: Session,
    request_id: UUID,
    *,
    by: Caller,
    record_set_hash: bytes,
    notice: Notice | None = None,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Give a second person's word for exactly this set of records; the last one needed schedules it.

    Where records are kept, the last word also says that the person was told so (Art. 12(4)); where all
    of them are, it rejects the request.
    """
    request = steps.locked(session, request_id, expecting=expecting)
    current = _approvable(session, request, by, record_set_hash, at=at)
    requests = ErasureRequests(session)
    given = {approval.approver_id: approval.level for approval in requests.approvals(request.id)}
    if by.principal_id in given:
        raise Conflict("you have approved this set already", code="approved-already")
    rules, level = policy.load(request.policy), policy.level_of(by.scopes)
    if notice is not None and current.grounds:
        _tell_of_refusal(session, request, notice, by=by, at=at)
    enough = rules.enough(
        [*given.values(), level],
        records=request.records_matched,
        grounds=current.grounds,
        near=bool(request.records_near or request.records_mentioning),
    )
    if enough and current.grounds and request.notified_on is None:
        raise Conflict("the person must be told what is kept and why", code="notice-missing")
    requests.approve(request.id, by.principal_id, record_set_hash, level=level)
    audit.record(
        session,
        events.RequestApproved(request.id, by.principal_id, record_set_hash.hex(), level, rules.digest, at),
    )
    if not enough:
        steps.touch(session, request)
    elif (ground := exemptions.ground_of_all(current.exempt)) is not None:
        _refuse(session, request, Ground(ground), by=by, at=at)
    else:
        _schedule(session, request, current, at=at)
    return steps.view(session, request)


def send_back(
    session: Session, request_id: UUID, *, by: Caller, expecting: Expected = None, at: datetime
) -> View:
    """Have a request looked at again instead of approving it; approvals of it are void."""
    request = steps.locked(session, request_id, expecting=expecting)
    steps.second_person(request, by)
    if begun(steps.stages(ErasureRequests(session).targets([request.id]))):
        raise Conflict("the erasure has begun in one model", code="already-executing")
    steps.reopen(session, request, at=at)
    audit.record(session, events.RequestSentBack(request.id, by.principal_id, at))
    steps.attend(session, request, "sent_back", at=at)
    return steps.view(session, request)


def exempt(
    session: Session,
    request_id: UUID,
    *,
    record_ids: Sequence[int] | None,
    ground: Exemption | None,
    by: Caller,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Propose to keep records on a ground of Art. 17(3), all of them or some; without one, no longer.

    The set is bound anew with what is kept and why, so a second person approves exactly that, and
    never the one who proposed it.
    """
    request = steps.locked(session, request_id, expecting=expecting)
    steps.person(by)
    if request.state not in {State.TRIAGE, State.AWAITING_APPROVAL}:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    requests = ErasureRequests(session)
    named = {row.id for row in requests.records(request.id)}
    unknown = [index for index, each in enumerate(record_ids or ()) if each not in named]
    if unknown:
        raise Invalid(
            "the request does not name these records",
            errors=[(f"/records/{index}", "unknown") for index in unknown],
        )
    changed = requests.exempt(
        request.id, record_ids, ground=ground, by=None if ground is None else by.principal_id
    )
    audit.record(session, events.RecordsExempted(request.id, by.principal_id, changed, ground, at))
    if request.state == State.AWAITING_APPROVAL:
        steps.move(session, request, State.TRIAGE, at=at)
    steps.locate(session, request, at=at)
    return steps.view(session, request)


def withdraw(
    session: Session, request_id: UUID, *, by: Caller, expecting: Expected = None, at: datetime
) -> View:
    """Take a request back; too late once one model has begun."""
    request = steps.locked(session, request_id, expecting=expecting)
    if begun(steps.stages(ErasureRequests(session).targets([request.id]))):
        raise Conflict("the erasure has begun in one model", code="already-executing")
    steps.move(session, request, State.WITHDRAWN, at=at)
    request.concluded_at, request.attention = at, None
    audit.record(session, events.RequestWithdrawn(request.id, by.principal_id, at))
    return steps.view(session, request)


def reject(
    session: Session,
    request_id: UUID,
    *,
    by: Caller,
    ground: Ground,
    notice: Notice,
    reason: str | None = None,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Refuse a request on a ground of the regulation; like an approval, a second person's word.

    The person was told why, and of the ways to complain to an authority and to go to court (Art. 12(4)).
    """
    request = steps.locked(session, request_id, expecting=expecting)
    steps.second_person(request, by)
    if reason is not None:
        sealed.seal(session, request.id, Field.REFUSAL, reason.encode())
    _tell_of_refusal(session, request, notice, by=by, at=at)
    _refuse(session, request, ground, by=by, at=at)
    return steps.view(session, request)


def release(
    session: Session, request_id: UUID, *, by: Caller, expecting: Expected = None, at: datetime
) -> View:
    """Let a held result be certified: a second person has looked, and nothing linked was found since.

    About one exact result in twenty is detected by chance alone; whether it was chance, a person says.
    """
    request = steps.locked(session, request_id, expecting=expecting)
    steps.second_person(request, by)
    held = [each for each in ErasureRequests(session).targets([request.id]) if each.held is not None]
    if not held:
        raise Conflict("no result of this request is held", code="nothing-held")
    if matching.record_set(session, request).hash != request.record_set_hash:
        raise Conflict(
            "records or models were added; that may be why it was detected", code="record-set-changed"
        )
    for target in held:
        reason = str(target.held)
        target.held, target.released_by, target.released_at = None, by.principal_id, at
        session.flush()
        audit.record(session, events.ResultReleased(request.id, target.model_id, by.principal_id, reason, at))
        queue.ring(session, Stage.PLAN, target.model_id)
    request.attention = None
    steps.touch(session, request)
    return steps.view(session, request)


def read(session: Session, request_id: UUID) -> View:
    """Return a request."""
    request = ErasureRequests(session).get(request_id)
    if request is None:
        raise NotFound("there is no such request")
    return steps.view(session, request)


# What jobs do ------------------------------------------------------------------------------------


def record_ids(session: Session, request_id: UUID, dataset_id: UUID) -> list[int]:
    """Return the records of one dataset that are to be erased for a request."""
    named = ErasureRequests(session).records(request_id)
    return [row.id for row in named if row.dataset_id == dataset_id and row.exempt is None]


def engine_floor(
    session: Session, request_ids: Collection[UUID], model_id: UUID, *, ladder: Sequence[str]
) -> str | None:
    """Return the weakest engine worth trying on all of these, on a ladder from weak to strong."""
    floors = ErasureRequests(session).floors(request_ids, model_id) & set(ladder)
    return max(floors, key=ladder.index, default=None)


def start(session: Session, request_id: UUID, model_id: UUID, *, at: datetime) -> bool:
    """Begin to erase a request from a model; False if it may not begin any more.

    It was withdrawn or put on hold, or its set is not what was approved: then it is searched again
    and waits for a new approval. Once another model has begun there is no way back, so a changed set
    raises attention instead, and what was approved is erased.
    """
    requests = ErasureRequests(session)
    request = steps.locked(session, request_id)
    targets = requests.targets([request.id])
    target = next((each for each in targets if each.model_id == model_id), None)
    if request.state in ENDS or target is None or target.stage != State.SCHEDULED or target.on_hold:
        return False
    if matching.record_set(session, request).hash != request.record_set_hash:
        if not begun(steps.stages(targets)):
            steps.search_again(session, request, at=at)
            return False
        steps.attend(session, request, "record_set_changed", at=at)
    _walk(session, request, target, State.UNLEARNING, at=at)
    return True


def forsake(session: Session, model_id: UUID, *, at: datetime) -> None:
    """Take a model that could not be made out of the requests that wait for it: it has learned nothing.

    Where nothing has begun the set is searched again and approved again; else a person is asked.
    """
    requests = ErasureRequests(session)
    for request_id in requests.waiting_for(model_id):
        request = steps.locked(session, request_id)
        targets = requests.targets([request.id])
        if not begun(steps.stages(targets)):
            steps.search_again(session, request, at=at)
        else:
            steps.attend(session, request, "model_failed", at=at)


def advance_target(session: Session, request_id: UUID, model_id: UUID, to: str, *, at: datetime) -> None:
    """Move one model's part to another stage, and the request with its slowest part."""
    request = steps.locked(session, request_id)
    _walk(session, request, steps.target_of(session, request, model_id), State(to), at=at)


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
    request = steps.locked(session, request_id)
    target = steps.target_of(session, request, model_id)
    target.job_id, target.engine_floor = None, engine_floor
    target.held = attention if held else None
    target.on_hold = bool(Holds(session).binding(request.id, [model_id], now=at))
    if target.stage != State.SCHEDULED:
        _walk(session, request, target, State.SCHEDULED, at=at)
    steps.attend(session, request, attention, at=at)


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
    request = steps.locked(session, request_id)
    target = steps.target_of(session, request, model_id)
    if target.stage == State.COMPLETED:
        return
    target.outcome, target.certificate_id, target.version_id = outcome, certificate_id, version_id
    audit.record(
        session, events.TargetConcluded(request.id, model_id, outcome, certificate_id, version_id, at)
    )
    _walk(session, request, target, State.COMPLETED, at=at)
    if request.state == State.COMPLETED:
        _close(session, request, at=at)


def upgrade(
    session: Session,
    request_id: UUID,
    model_id: UUID,
    *,
    outcome: str,
    certificate_id: UUID,
    version_id: UUID,
    at: datetime,
) -> None:
    """Record that what one model had erased approximately is exact now; the request stays completed."""
    request = steps.locked(session, request_id)
    target = steps.target_of(session, request, model_id)
    assert target.stage == State.COMPLETED, "only what is completed can be made better"
    if target.certificate_id == certificate_id:
        return
    target.outcome, target.certificate_id, target.version_id = outcome, certificate_id, version_id
    session.flush()
    audit.record(
        session, events.TargetUpgraded(request.id, model_id, outcome, certificate_id, version_id, at)
    )


def raise_attention(session: Session, request_id: UUID, reason: str, *, at: datetime) -> None:
    """Ask for a person; the clock goes on running."""
    steps.attend(session, steps.locked(session, request_id), reason, at=at)


# Steps -------------------------------------------------------------------------------------------


def _approvable(
    session: Session, request: ErasureRequest, by: Caller, record_set_hash: bytes, *, at: datetime
) -> RecordSet:
    """Return what an approval would be of; refuse whoever may not give it, and what may not be approved."""
    steps.second_person(request, by)
    if auth.hands_out_keys(session, by):
        raise Forbidden("who hands out keys does not approve", code="admin-cannot-approve")
    _ready(request)
    if record_set_hash != request.record_set_hash:
        raise Conflict("this is not the hash of the request's records", code="record-set-stale")
    current = matching.record_set(session, request)
    if current.hash != request.record_set_hash:
        raise Conflict("records or models were added; resolve the request again", code="record-set-changed")
    if Holds(session).binding(request.id, current.models, now=at):
        raise Conflict("the request stands under a hold", code="on-hold")
    if by.principal_id in ErasureRequests(session).exempted_by(request.id):
        raise Forbidden("this needs somebody else than who proposed to keep records", code="four-eyes")
    return current


def _ready(request: ErasureRequest) -> None:
    """Refuse an approval of what is not ready to be approved, and say what it waits for."""
    if request.state == State.TRIAGE and request.legal_hold:
        raise Conflict("the request stands under a hold", code="on-hold")
    if request.state == State.TRIAGE and request.proposals_open:
        raise Conflict("records are proposed; decide on them first", code="proposals-undecided")
    if request.state == State.TRIAGE and "searching" in request.indexes.values():
        raise Conflict("near duplicates, or mentions, are still being sought", code="search-open")
    if request.state != State.AWAITING_APPROVAL:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    if request.clock_paused:
        raise Conflict("it is in doubt who asks", code="identity-doubted")


def _tell_of_refusal(
    session: Session, request: ErasureRequest, notice: Notice, *, by: Caller, at: datetime
) -> None:
    today = steps.calendar_of(request).day_of(at)
    request.notified_on = steps.day_said(request, notice.sent_on, today=today, pointer="/notice/sent_on")
    request.notice_ref = notice.reference
    session.flush()
    audit.record(
        session,
        events.RefusalNotified(request.id, by.principal_id, request.notified_on.isoformat(), at),
    )


def _refuse(session: Session, request: ErasureRequest, ground: Ground, *, by: Caller, at: datetime) -> None:
    """End a request without an erasure; the person was told before."""
    assert request.notified_on is not None, "a refusal is told"
    steps.move(session, request, State.REJECTED, at=at)
    request.ground, request.decided_by = ground, by.principal_id
    request.concluded_at, request.attention = at, None
    audit.record(
        session,
        events.RequestRejected(request.id, by.principal_id, ground, request.notified_on.isoformat(), at),
    )


def _schedule(session: Session, request: ErasureRequest, current: RecordSet, *, at: datetime) -> None:
    """Make a target per model and ring for each; without a model there is nothing to unlearn."""
    if not current.models:
        steps.move(session, request, State.COMPLETED, at=at)
        _close(session, request, at=at)
        return
    requests = ErasureRequests(session)
    for model_id in current.models:
        requests.add_target(request.id, model_id)
    steps.move(session, request, State.SCHEDULED, at=at)
    if not all(registry.verifiable(registry.model(session, each)) for each in current.models):
        steps.attend(session, request, "model_not_verifiable", at=at)
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
        steps.move(session, request, slowest, at=at)
    else:
        steps.touch(session, request)


def _close(session: Session, request: ErasureRequest, *, at: datetime) -> None:
    """End a completed request: its records are gone from every model, and from what is compared.

    A model that learned them while the request was under way was no part of what was approved: it
    needs a request of its own, which must still find them.
    """
    request.concluded_at, request.attention = at, None
    named = [row.id for row in ErasureRequests(session).records(request.id) if row.exempt is None]
    if registry.that_know(session, named):
        steps.attend(session, request, "known_to_another_model", at=at)
    else:
        records.mark_erased(session, named, at=at)
