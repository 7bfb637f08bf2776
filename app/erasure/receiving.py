"""Requests received together, as many as are there: one statement for all where one will do.

    looked up    references used before; records named and found, models that know them, holds; duplicates
    decided      request by request, in their order, exactly as if each had come alone
    written      every request, every record it names, every event; what is wrong with one is so of that one

A new row has no rival, so it is written in the state to which it has come, its version counting the steps;
which step may follow which, `lifecycle` says as ever. The caller settles the audit chain and commits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from app import failpoints
from app.audit import events
from app.audit import service as audit
from app.audit.events import Event
from app.erasure import deadlines, matching, policy
from app.erasure.calendars import Calendar
from app.erasure.forgetting import sealed
from app.erasure.forgetting.sealed import Field
from app.erasure.holds.repository import Holds
from app.erasure.identity import service as identity
from app.erasure.lifecycle import OPEN, State, advance
from app.erasure.matching import Identifier, NamedRecords, RecordSet
from app.erasure.near import looking
from app.erasure.near.looking import Standing
from app.erasure.repository import ErasureRequests
from app.erasure.steps import View
from app.errors import Conflict, Problem
from app.records import service as records
from app.records.service import Match
from app.storage.database import Session
from app.tables import ErasureRequest, Hold, new_id


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request, as it comes in: whom by keyed hashes, or which records."""

    submitted_by: UUID
    macs: Sequence[bytes] = ()
    content_macs: Sequence[bytes] = ()
    named: NamedRecords | None = None
    written: Mapping[Field, bytes] = field(default_factory=dict, repr=False)
    """What of a person is sealed with it: what intake was given, and nothing else."""
    external_ref: str | None = None
    vouched: bool = True
    received_at: datetime
    submitted_at: datetime | None = None

    def about(self, macs: Sequence[bytes]) -> "Asked":
        """Return the same about these people."""
        return replace(self, macs=macs)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a request concerns, as far as it was looked for."""

    asked: Asked
    named: Sequence[Match]
    set: RecordSet | None
    """None: who asks is in doubt, and nothing is searched for before that is proven."""
    held: bool


def written(identifiers: Sequence[Identifier], note: str | None) -> dict[Field, bytes]:
    """Return what of a person is sealed with a new request."""
    given = {}
    if identifiers:
        listed = [(each.type, each.value, each.hashed) for each in identifiers]
        given[Field.IDENTIFIERS] = sealed.written(listed)
    if note is not None:
        given[Field.NOTE] = note.encode()
    return given


def receive(
    session: Session, asked: Sequence[Asked], *, calendar: Calendar, rules: str
) -> list[View | Problem]:
    """Receive requests to be forgotten (GDPR Art. 17), and find what each concerns; a Problem: why not."""
    named, became = _named(session, asked)
    going = [place for place, problem in enumerate(became) if problem is None]
    found = _located(session, [asked[place] for place in going], [named.get(place, ()) for place in going])
    requests = [_request(each, calendar, rules) for each in found]
    sets = [each.set for each in found]
    looks = looking.of_new(
        session, requests, sets, [each.asked.written.get(Field.IDENTIFIERS) for each in found]
    )
    told = [
        _decide(request, each, look, calendar=calendar)
        for request, each, look in zip(requests, found, looks, strict=True)
    ]
    _link_duplicates(session, requests)
    stored = ErasureRequests(session)
    stored.add_all(requests)
    sealed.begin_all(
        session, {request.id: each.asked.written for request, each in zip(requests, found, strict=True)}
    )
    failpoints.reach("intake.received")
    stored.name_all(
        [
            (request.id, record_id)
            for request, each in zip(requests, found, strict=True)
            for record_id in _names(each)
        ]
    )
    if requests:
        looking.begin_new(session, requests, sets, at=requests[0].received_at)
    for request, each, story in zip(requests, found, told, strict=True):
        for event in story:
            audit.record(session, event)
        if each.set is None and Field.IDENTIFIERS in each.asked.written:
            identity.begin(session, request.id, at=request.received_at)
    failpoints.reach("intake.located")
    for place, request in zip(going, requests, strict=True):
        became[place] = View(
            request=request,
            targets=(),
            approvals=0,
            approvals_needed=policy.load(rules).people_needed(records=request.records_matched, grounds=()),
        )
    return [each for each in became if each is not None]


def _named(
    session: Session, asked: Sequence[Asked]
) -> tuple[dict[int, Sequence[Match]], list[View | Problem | None]]:
    """Return the records that requests name, by their places, and what is wrong with which."""
    given = [(each.submitted_by, each.external_ref) for each in asked if each.external_ref is not None]
    used = ErasureRequests(session).references(given)
    named: dict[int, Sequence[Match]] = {}
    wrong: list[View | Problem | None] = [None] * len(asked)
    for place, each in enumerate(asked):
        mark = (each.submitted_by, each.external_ref)
        if mark in used:
            wrong[place] = Conflict("a request of yours has this reference", code="external-ref-used")
            continue
        try:
            if each.named is not None:
                named[place] = matching.named_matches(session, each.named)
        except Problem as problem:
            wrong[place] = problem
        else:
            used |= {mark} if each.external_ref is not None else set()
    return named, wrong


def _located(session: Session, asked: Sequence[Asked], named: Sequence[Sequence[Match]]) -> list[_Found]:
    """Return what each request concerns, and whether a hold is on it."""
    macs = {mac for each in asked if each.vouched for mac in each.macs}
    about: dict[bytes, list[Match]] = {}
    for match, whose in records.locate_each(session, macs):
        for mac in whose:
            about.setdefault(mac, []).append(match)
    saying: dict[bytes, list[Match]] = {}
    for match in records.locate_contents(
        session, {mac for each in asked if each.vouched for mac in each.content_macs}
    ):
        saying.setdefault(match.content_mac, []).append(match)
    matches = [
        {
            match.id: match
            for match in [
                *named[place],
                *(m for mac in each.macs for m in about.get(mac, ())),
                *(m for mac in each.content_macs for m in saying.get(mac, ())),
            ]
        }
        for place, each in enumerate(asked)
    ]
    known = matching.models_that_know(
        session, [each.values() for each, ask in zip(matches, asked, strict=True) if ask.vouched]
    )
    sets = [
        matching.new_set(each.values(), known) if ask.vouched else None
        for each, ask in zip(matches, asked, strict=True)
    ]
    holds = Holds(session).on(
        {id_ for each in sets if each for id_, _ in each.records},
        {model_id for each in sets if each for model_id in each.models},
    )
    return [
        _Found(
            asked=ask, named=named[place], set=sets[place], held=_held(sets[place], holds, ask.received_at)
        )
        for place, ask in enumerate(asked)
    ]


def _held(found: RecordSet | None, holds: Sequence[Hold], at: datetime) -> bool:
    if found is None or not holds:
        return False
    ids, models = {id_ for id_, _ in found.records}, set(found.models)
    return any(hold.expires_at > at and (hold.record_id in ids or hold.model_id in models) for hold in holds)


def _request(found: _Found, calendar: Calendar, rules: str) -> ErasureRequest:
    """Return the row of a request that has just come in, with its dates."""
    asked = found.asked
    received_on = calendar.day_of(asked.submitted_at or asked.received_at)
    dates = deadlines.dates(received_on, calendar.days, target_days=policy.load(rules).internal_target_days)
    return ErasureRequest(
        id=new_id(),
        state=State.RECEIVED,
        version=1,
        submitted_by=asked.submitted_by,
        external_ref=asked.external_ref,
        subject_macs=[*asked.macs],
        content_macs=[*asked.content_macs],
        received_at=asked.received_at,
        received_on=received_on,
        due_on=dates.due_on,
        due_at=calendar.end_of(dates.due_on),
        due_without_pause=dates.due_without_pause,
        internal_target=dates.internal_target,
        calendar=f"{deadlines.RULE} {calendar.name}",
        jurisdiction=calendar.jurisdiction,
        time_zone=calendar.zone.key,
        policy=rules,
        records_matched=0,
        records_exempt=0,
        indexes={},
        legal_hold=found.held,
        clock_paused=False,
    )


def _decide(
    request: ErasureRequest, found: _Found, look: Standing | None, *, calendar: Calendar
) -> list[Event]:
    """Let a request take its first steps, which touch its own row alone; return what is told of them."""
    at, current = found.asked.received_at, found.set
    due_on = request.due_on.isoformat()
    given = len(request.subject_macs) + len(request.content_macs)
    story: list[Event] = [events.RequestReceived(request.id, request.submitted_by, given, due_on, at)]

    def move(to: State) -> None:
        origin, request.state = State(request.state), advance(State(request.state), to)
        request.version += 1
        story.append(events.RequestMoved(request.id, origin, to, at))

    def attend(reason: str) -> None:
        request.attention = reason
        request.version += 1
        story.append(events.AttentionRaised(request.id, reason, at))

    move(State.TRIAGE if current is not None else State.IDENTITY_PENDING)
    if current is None and Field.IDENTIFIERS not in found.asked.written:
        attend(identity.BY_HAND)
    if current is not None:
        request.records_matched, request.record_set_hash = len(current.records), current.hash
        story.append(
            events.RecordsLocated(
                request.id, len(current.records), len(current.models), current.hash.hex(), at
            )
        )
        if look is Standing.SEARCHING or (current.records and found.held):
            request.version += 1
        elif current.records:
            move(State.AWAITING_APPROVAL)
        elif look is Standing.MISSING:
            # "Nothing found" must never be said about a place in which we could not look.
            attend("index_unavailable")
        else:
            request.concluded_at = at
            move(State.NO_MATCH)
    if not calendar.knows(request.due_on):
        attend("calendar")
    return story


def _link_duplicates(session: Session, requests: Sequence[ErasureRequest]) -> None:
    """Link each request to the oldest open one of the same person; it may have come with it."""
    pairs = [(place, mac) for place, request in enumerate(requests) for mac in request.subject_macs]
    before = ErasureRequests(session).open_of_each(pairs)
    came: dict[bytes, UUID] = {}
    for place, request in enumerate(requests):
        with_it = (came[mac] for mac in request.subject_macs if mac in came)
        request.duplicate_of = before.get(place) or min(with_it, default=None)
        if request.state in OPEN:
            for mac in request.subject_macs:
                came.setdefault(mac, request.id)


def _names(found: _Found) -> Sequence[int]:
    if found.set is not None:
        return [id_ for id_, _ in found.set.records]
    return [match.id for match in found.named]
