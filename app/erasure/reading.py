"""What is read of requests: lists by filter, what happened, which records, how many are where."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.audit.service import Entry
from app.auth.service import Caller
from app.erasure import matching, steps
from app.erasure.forgetting import sealed
from app.erasure.forgetting.sealed import Field
from app.erasure.lifecycle import OPEN, STAGES, Sort
from app.erasure.matching import Identifier
from app.erasure.repository import ErasureRequests, Filter
from app.erasure.steps import View
from app.errors import Gone, NotFound
from app.http import ids
from app.storage.database import Session
from app.tables import ErasureRequest, RequestTarget

FOUND_MAX = 200


@dataclass(frozen=True, kw_only=True)
class NamedRecord:
    """A record that a request names, or that is proposed to it; never what it says."""

    id: int
    dataset: UUID
    named: bool
    declined: bool
    near: int | None
    jaccard: float | None
    found_by: tuple[str, ...]
    """The types of the identifiers that it says, where it was found by its text."""
    mentions: int | None
    exempt: str | None
    erased_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What is known of the person of a request, as it was written down."""

    identifiers: Sequence[Mapping[str, str]]
    note: str | None
    evidence: str | None
    refusal: str | None

    def __repr__(self) -> str:
        """Show nothing of it."""
        return "Identity(...)"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many open requests there are, and how near their dates."""

    open: dict[str, int]
    overdue: int
    due_seconds: float | None
    """Until the nearest date; negative once it has passed."""
    attention: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A request's place in a list, and what tells whether it is as it was."""

    id: UUID
    at: datetime
    """What the list is ordered by."""
    mark: str
    """Another after each change of what is shown, but for `overdue`."""
    overdue: bool


def lines(
    session: Session,
    *,
    chosen: Filter,
    sort: Sort,
    now: datetime,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Line]:
    """Return where the requests of a list stand, without what is shown of them."""
    found = ErasureRequests(session).lines(chosen, sort=sort, now=now, after=after, limit=limit)
    return [Line(id=id_, at=at, mark=mark, overdue=late) for id_, at, mark, late in found]


def listing(
    session: Session,
    *,
    chosen: Filter,
    sort: Sort = Sort.NEWEST,
    now: datetime,
    after: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[View]:
    """Return requests: newest first, or what is due next first."""
    found = ErasureRequests(session).page(chosen, sort=sort, now=now, after=after, limit=limit)
    return _views(session, found)


def these(session: Session, request_ids: Collection[UUID]) -> dict[UUID, View]:
    """Return requests by their ids, as far as they are known."""
    found = ErasureRequests(session).these(request_ids)
    return {view.request.id: view for view in _views(session, found)}


def search(
    session: Session,
    *,
    identifiers: Sequence[Identifier],
    subject_key: bytes,
    by: Caller,
    at: datetime,
) -> list[View]:
    """Return the requests of a person; who asked is kept, and whom about is not."""
    macs = matching.macs(subject_key, identifiers)
    found = listing(session, chosen=Filter(subject_macs=tuple(macs)), now=at, limit=FOUND_MAX)
    audit.record(session, events.RequestsSearched(by.principal_id, len(macs), len(found), at))
    return found


def identity(session: Session, request_id: UUID, *, by: Caller, at: datetime) -> Identity:
    """Return what is known of the person; who looked is kept, with which fields, and not what they say.

    Raises:
        Gone: the request is purged; nobody knows any more.
    """
    if _known(session, request_id).purged_at is not None:
        raise Gone("what was known of the person is destroyed", code="purged")
    held = {
        field: sealed.unseal(session, request_id, field).decode()
        for field in sealed.fields(session, request_id)
    }
    audit.record(session, events.IdentityRead(request_id, by.principal_id, tuple(sorted(held)), at))
    listed = held.get(Field.IDENTIFIERS)
    return Identity(
        identifiers=[] if listed is None else json.loads(listed),
        note=held.get(Field.NOTE),
        evidence=held.get(Field.EVIDENCE),
        refusal=held.get(Field.REFUSAL),
    )


def exported(session: Session, *, by: Caller, form: str, at: datetime) -> None:
    """Keep that somebody took a list of requests along."""
    audit.record(session, events.RequestsExported(by.principal_id, form, at))


def history(session: Session, request_id: UUID, *, after: int, limit: int) -> list[Entry]:
    """Return what happened to a request, from the audit chain."""
    _known(session, request_id)
    return audit.history(session, ids.encode("er", request_id), after=after, limit=limit)


def records(session: Session, request_id: UUID, *, after: int, limit: int) -> list[NamedRecord]:
    """Return the records that a request names and those near to one, by id; `Gone` once it is purged."""
    if _known(session, request_id).purged_at is not None:
        raise Gone("which records it named is forgotten", code="purged")
    found = ErasureRequests(session).records_page(request_id, after=after, limit=limit)
    return [
        NamedRecord(
            id=row["id"],
            dataset=row["dataset_id"],
            named=row["named"],
            declined=row["decision"] == "declined",
            near=row["near_id"],
            jaccard=row["jaccard"],
            found_by=tuple(row["found_by"] or ()),
            mentions=row["mentions"],
            exempt=row["exempt"],
            erased_at=row["erased_at"],
        )
        for row in found
    ]


def counts(session: Session, *, now: datetime) -> Counts:
    """Return how many open requests there are, for the metrics."""
    requests = ErasureRequests(session)
    by_state: dict[str, int] = {state.value: 0 for state in sorted(OPEN)}
    overdue, nearest = 0, None
    for state, count, late, due_at in requests.counts(now):
        by_state[state] = count
        overdue += late
        nearest = due_at if nearest is None or (due_at is not None and due_at < nearest) else nearest
    return Counts(
        open=by_state,
        overdue=overdue,
        due_seconds=None if nearest is None else (nearest - now).total_seconds(),
        attention={str(reason): count for reason, count in requests.attentions()},
    )


def _known(session: Session, request_id: UUID) -> ErasureRequest:
    request = ErasureRequests(session).get(request_id)
    if request is None:
        raise NotFound("there is no such request")
    return request


def _views(session: Session, found: Sequence[tuple[ErasureRequest, int]]) -> list[View]:
    """Return requests as they are shown; the models under way are asked for at once, if there are any."""
    targets = defaultdict[UUID, list[RequestTarget]](list)
    # A withdrawn request has nothing under way; its rows only tell that it once was scheduled.
    under_way = [request.id for request, _ in found if request.state in STAGES]
    for target in ErasureRequests(session).targets(under_way) if under_way else ():
        targets[target.request_id].append(target)
    return [
        View(
            request=request,
            targets=tuple(targets[request.id]),
            approvals=approvals,
            approvals_needed=steps.approvals_needed(session, request),
        )
        for request, approvals in found
    ]
