"""What is read of requests: lists by filter, what happened, which records, how many are where."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.audit.service import Entry
from app.auth.service import Caller
from app.erasure import matching, steps
from app.erasure.lifecycle import OPEN, STAGES, Sort
from app.erasure.matching import Identifier
from app.erasure.repository import ErasureRequests, Filter
from app.erasure.steps import View
from app.errors import NotFound
from app.http import ids
from app.storage.database import Session
from app.tables import ErasureRequest, RequestTarget

FOUND_MAX = 200


@dataclass(frozen=True, kw_only=True)
class NamedRecord:
    """A record that a request names: where it is from and what becomes of it; never what it says."""

    id: int
    dataset: UUID
    exempt: str | None
    erased_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many open requests there are, and how near their dates."""

    open: dict[str, int]
    overdue: int
    due_seconds: float | None
    """Until the nearest date; negative once it has passed."""
    attention: dict[str, int]


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


def exported(session: Session, *, by: Caller, form: str, at: datetime) -> None:
    """Keep that somebody took a list of requests along."""
    audit.record(session, events.RequestsExported(by.principal_id, form, at))


def history(session: Session, request_id: UUID, *, after: int, limit: int) -> list[Entry]:
    """Return what happened to a request, from the audit chain."""
    _known(session, request_id)
    return audit.history(session, ids.encode("er", request_id), after=after, limit=limit)


def records(session: Session, request_id: UUID, *, after: int, limit: int) -> list[NamedRecord]:
    """Return the records that a request names, by id."""
    _known(session, request_id)
    found = ErasureRequests(session).records_page(request_id, after=after, limit=limit)
    return [
        NamedRecord(id=row.id, dataset=row.dataset_id, exempt=row.exempt, erased_at=row.erased_at)
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


def _known(session: Session, request_id: UUID) -> None:
    if ErasureRequests(session).get(request_id) is None:
        raise NotFound("there is no such request")


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
