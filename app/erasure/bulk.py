"""The same verb on many requests: as many as were expected, or none; each with its own outcome.

Who acts says how many requests that will be. If by now it is another number, nothing is done: a filter
that was looked at a minute ago may mean more than its reader saw.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.erasure import service
from app.erasure.lifecycle import Sort
from app.erasure.repository import ErasureRequests, Filter
from app.erasure.scan import service as scan
from app.erasure.steps import View
from app.errors import Conflict, Invalid, Problem, Unavailable
from app.storage.database import Session, savepoint

REQUESTS_MAX = 200


class Action(StrEnum):
    """What can be done to many requests at once."""

    APPROVE = "approve"
    """Each names the hash of the set that was seen."""
    RESOLVE = "resolve"
    SEND_BACK = "send_back"
    WITHDRAW = "withdraw"
    WAIVE_TEXTS = "waive_texts"
    """Go on without texts that cannot be read, or do not have the hash that was given."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one request: done, or the code of why not."""

    request_id: UUID
    code: str | None
    version: int | None = None


def act(
    session: Session,
    action: Action,
    *,
    among: Collection[UUID] | Filter,
    excluded: Collection[UUID] = (),
    hashes: Mapping[UUID, bytes] | None = None,
    expected_count: int,
    dry_run: bool,
    by: Caller,
    at: datetime,
) -> list[Outcome]:
    """Do it to each request; what one refuses keeps no other from it. A trial does it and takes it back."""
    chosen = _chosen(session, among, excluded, at=at)
    if len(chosen) != expected_count:
        raise Conflict(f"it would be {len(chosen)} requests, not {expected_count}", code="count-mismatch")
    verb = _verb(action, hashes or {}, by=by, at=at)
    # In a fixed order, so that two such calls wait for each other instead of both.
    found = [_one(session, verb, request_id, dry_run=dry_run) for request_id in sorted(chosen)]
    if not dry_run:
        refused = sum(each.code is not None for each in found)
        audit.record(
            session,
            events.BulkActed(by.principal_id, action, len(found), len(found) - refused, refused, at),
        )
    return found


def _chosen(
    session: Session, among: Collection[UUID] | Filter, excluded: Collection[UUID], *, at: datetime
) -> set[UUID]:
    if not isinstance(among, Filter):
        return set(among) - set(excluded)
    limit = REQUESTS_MAX + len(excluded) + 1
    page = ErasureRequests(session).page(among, sort=Sort.NEWEST, now=at, after=None, limit=limit)
    found = [request for request, _ in page]
    chosen = {request.id for request in found} - set(excluded)
    if len(chosen) > REQUESTS_MAX:
        raise Invalid(
            f"at most {REQUESTS_MAX} requests at once; narrow the filter",
            errors=[("/filter", "too-many-requests")],
        )
    return chosen


def _verb(
    action: Action, hashes: Mapping[UUID, bytes], *, by: Caller, at: datetime
) -> Callable[[Session, UUID], View]:
    match action:
        case Action.APPROVE:
            return lambda session, id_: service.approve(
                session, id_, by=by, record_set_hash=hashes[id_], at=at
            )
        case Action.RESOLVE:
            return lambda session, id_: service.resolve(session, id_, at=at)
        case Action.SEND_BACK:
            return lambda session, id_: service.send_back(session, id_, by=by, at=at)
        case Action.WITHDRAW:
            return lambda session, id_: service.withdraw(session, id_, by=by, at=at)
        case Action.WAIVE_TEXTS:
            return lambda session, id_: scan.waive(session, id_, by=by, at=at)


def _one(
    session: Session, verb: Callable[[Session, UUID], View], request_id: UUID, *, dry_run: bool
) -> Outcome:
    try:
        with savepoint(session, keep=not dry_run):
            version = verb(session, request_id).request.version
    except Unavailable:
        raise
    except Problem as problem:
        return Outcome(request_id=request_id, code=problem.code)
    return Outcome(request_id=request_id, code=None, version=version)


def refused(outcomes: Sequence[Outcome]) -> int:
    """Return how many were not done."""
    return sum(each.code is not None for each in outcomes)
