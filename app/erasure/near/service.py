"""What can be done about near duplicates: claim a search, conclude it, decide on proposals, go on without."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.erasure import matching, policy, steps
from app.erasure.lifecycle import State
from app.erasure.near.looking import SEARCHING, UNAVAILABLE
from app.erasure.near.repository import NEAR, Candidate, Proposed, Searches
from app.erasure.repository import ErasureRequests
from app.erasure.steps import Expected, View
from app.errors import Conflict, Invalid
from app.queue import Stage
from app.records import service as records
from app.storage.database import Session

CLAIM_SECONDS = 600
WAIT_SECONDS, WAIT_SECONDS_MAX = 60, 3600
LOOKED_AT_AGAIN_MAX = 100

BEFORE_APPROVAL = (State.TRIAGE, State.AWAITING_APPROVAL)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a worker is to compare: each record of a set with what shares a band with it."""

    request_id: UUID
    records: tuple[tuple[int, UUID], ...]
    record_set_hash: bytes
    jaccard_least: float
    proposals_most: int


# What a worker does ------------------------------------------------------------------------------


def due(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Return the requests for which a worker should search, whether or not a bell was heard."""
    return Searches(session).due(now)


def claim(session: Session, request_id: UUID, *, now: datetime) -> Search | None:
    """Return a search that is owed, now ours for a while; None if there is nothing to do.

    A set that is not what was to be searched any more, or of which nobody waits to know, needs none.
    """
    request = ErasureRequests(session).get(request_id)
    if request is None:
        return None
    searches = Searches(session)
    search = searches.claim(request_id, now=now, until=now + timedelta(seconds=CLAIM_SECONDS))
    if search is None:
        return None
    if request.state not in BEFORE_APPROVAL:
        search.state = "done"
        return None
    rules = policy.load(request.policy).near_duplicates
    current = matching.record_set(session, request)
    return Search(
        request_id=request_id,
        records=current.records,
        record_set_hash=bytes(search.record_set_hash),
        jaccard_least=float(rules.jaccard_least),
        proposals_most=rules.proposals_most,
    )


def candidates(
    session: Session, search: Search, of: Collection[int], *, after: int, limit: int
) -> list[Candidate]:
    """Return the next records that share a band with some of a search's, by id."""
    besides = [id_ for id_, _ in search.records]
    return Searches(session).candidates(search.request_id, of, besides, after=after, limit=limit)


def conclude(
    session: Session, search: Search, found: Sequence[Proposed], *, more: bool, at: datetime
) -> None:
    """Propose what was found to a person, nearest first; nothing happens if that is owed no more."""
    request = steps.locked(session, search.request_id)
    searches = Searches(session)
    row = searches.get(request.id)
    if row is None or row.state != "open" or bytes(row.record_set_hash) != search.record_set_hash:
        return
    nearest = sorted(found, key=lambda each: (-each.jaccard, each.id))
    cut = len(nearest) > search.proposals_most
    proposed = searches.propose(request.id, nearest[: search.proposals_most])
    row.state, row.more = "done", more or cut
    session.flush()
    queue.heard(session, Stage.SEARCH, request.id)
    audit.record(
        session,
        events.NearDuplicatesSought(
            request.id, len(search.records), proposed, search.record_set_hash.hex(), at
        ),
    )
    if request.state in BEFORE_APPROVAL:
        locate(session, request_id=request.id, at=at)


def put_off(session: Session, search: Search, *, at: datetime) -> None:
    """Leave a search to a later try, each after a longer while: what is to be read is away or changed."""
    request, searches = steps.locked(session, search.request_id), Searches(session)
    row = searches.get(request.id)
    if row is None or row.state != "open" or bytes(row.record_set_hash) != search.record_set_hash:
        return
    row.tries += 1
    row.next_at = at + timedelta(seconds=min(WAIT_SECONDS * 2 ** (row.tries - 1), WAIT_SECONDS_MAX))
    session.flush()
    if request.state not in BEFORE_APPROVAL:
        return
    if searches.counts(request.id).open:
        locate(session, request_id=request.id, at=at)
        return
    request.indexes = {**request.indexes, NEAR: UNAVAILABLE}
    session.flush()
    steps.leave(session, request, steps.INDEX_UNAVAILABLE, at=at)


def to_look_at_again(session: Session) -> Sequence[UUID]:
    """Return the requests for which an index was away that is there now."""
    if records.unsearched(session) or not records.sketched(session):
        return []
    return Searches(session).unlooked(BEFORE_APPROVAL, limit=LOOKED_AT_AGAIN_MAX)


def look_again(session: Session, request_id: UUID, *, at: datetime) -> None:
    """Search again for a request, as what was away is there; nothing happens if it has gone on."""
    request = steps.locked(session, request_id)
    if request.state in BEFORE_APPROVAL and not request.legal_hold and not request.clock_paused:
        locate(session, request_id=request.id, at=at)


# What callers do ---------------------------------------------------------------------------------


def decide(
    session: Session,
    request_id: UUID,
    *,
    adopt: bool,
    record_ids: Collection[int] | None,
    by: Caller,
    texts: bool = False,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Adopt what is proposed into the set, or decline it: these, or all that are undecided.

    Near duplicates, or (`texts`) what names the person. The set is bound anew, and every approval of it is
    void; of one into which anything was adopted two people approve.
    """
    request = steps.locked(session, request_id, expecting=expecting)
    steps.person(by)
    if request.state not in BEFORE_APPROVAL:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    searches = Searches(session)
    counts = searches.counts(request.id)
    if record_ids is not None:
        known = searches.known(request.id, record_ids, texts=texts)
        unknown = [index for index, each in enumerate(record_ids) if each not in known]
        if unknown:
            raise Invalid(
                "these records are not proposed",
                errors=[(f"/records/{index}", "unknown") for index in unknown],
            )
    elif not (counts.texts_open if texts else counts.near_open):
        raise Conflict("nothing is proposed that nobody has decided on", code="nothing-proposed")
    decision = "adopted" if adopt else "declined"
    changed = searches.decide(request.id, record_ids, decision, texts=texts, by=by.principal_id)
    named = {row.id for row in ErasureRequests(session).records(request.id)}
    if adopt:
        ErasureRequests(session).name_records(request.id, [each for each in changed if each not in named])
    else:
        searches.unname(request.id, [each for each in changed if each in named])
    decided = events.TextsDecided if texts else events.ProposalsDecided
    audit.record(session, decided(request.id, by.principal_id, decision, len(changed), at))
    locate(session, request_id=request.id, at=at)
    return steps.view(session, request)


def waive(
    session: Session, request_id: UUID, *, by: Caller, expecting: Expected = None, at: datetime
) -> View:
    """Go on without near duplicates that cannot be sought; a person says so, and it is kept who."""
    request = steps.locked(session, request_id, expecting=expecting)
    steps.person(by)
    if request.state not in BEFORE_APPROVAL:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    if request.proposals_open:
        raise Conflict("records are proposed; decide on them", code="proposals-undecided")
    if request.indexes.get(NEAR) not in {SEARCHING, UNAVAILABLE}:
        raise Conflict("near duplicates were sought, or are not to be", code="nothing-to-waive")
    current = matching.record_set(session, request)
    Searches(session).put(request.id, current.hash, state="waived", at=at)
    queue.heard(session, Stage.SEARCH, request.id)
    audit.record(session, events.ProposalsDecided(request.id, by.principal_id, "waived", 0, at))
    locate(session, request_id=request.id, at=at)
    return steps.view(session, request)


def locate(session: Session, *, request_id: UUID, at: datetime) -> None:
    """Find what a request concerns now, whether or not somebody was about to approve it."""
    request = steps.locked(session, request_id)
    if request.state == State.AWAITING_APPROVAL:
        steps.move(session, request, State.TRIAGE, at=at)
    steps.locate(session, request, at=at)
