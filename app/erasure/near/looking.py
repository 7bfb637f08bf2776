"""Whether anything may be near to what a request concerns, asked with each search for certain matches.

One question to the index, in the caller's transaction; only where something shares a band is a worker
asked to read. Keeps on the request which indexes were searched (R15), and says what follows.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum

from app import queue
from app.erasure import policy
from app.erasure.matching import RecordSet
from app.erasure.near.repository import NEAR, Indexes, Searches
from app.queue import Stage
from app.storage.database import Session
from app.tables import ErasureRequest, RequestSearch

RECORDS_AT_ONCE_MAX = 100
"""Of larger sets a worker looks, without being asked first whether there is anything to look at."""

SEARCHED, SEARCHING, UNAVAILABLE, WAIVED, OFF = "searched", "searching", "unavailable", "waived", "off"


class Standing(Enum):
    """What follows for the request."""

    CLEAR = "clear"
    """Nothing is near, all of it is decided on, or somebody goes on without."""
    MISSING = "missing"
    """Some index is not there: what was found can be shown, "nothing" cannot be said."""
    SEARCHING = "searching"
    AWAY = "away"
    """There is something to look at, and it cannot be read now."""
    UNDECIDED = "undecided"


def first(
    session: Session, requests: Sequence[ErasureRequest], sets: Sequence[RecordSet | None]
) -> list[Standing | None]:
    """Ask the indexes about the sets of new requests, of which nothing was sought before; None of no set.

    Keeps on each which indexes were searched; to one that is `SEARCHING`, `begin` is owed once it is stored.
    """
    chosen = [None if current is None else [id_ for id_, _ in current.records] for current in sets]
    few = [ids if len(ids) <= RECORDS_AT_ONCE_MAX else () for ids in chosen if ids is not None]
    asked = iter(Searches(session).indexes_of_new(few)) if few else iter(())
    found: list[Standing | None] = []
    for request, ids in zip(requests, chosen, strict=True):
        if ids is None:
            found.append(None)
            continue
        indexes = next(asked)
        found.append(_first(request, indexes, owed=indexes.candidates or len(ids) > RECORDS_AT_ONCE_MAX))
    return found


def _first(request: ErasureRequest, indexes: Indexes, *, owed: bool) -> Standing:
    near = OFF
    if policy.load(request.policy).near_duplicates.search:
        near = SEARCHING if owed else UNAVAILABLE if indexes.unsketched else SEARCHED
    certain = UNAVAILABLE if indexes.registering else SEARCHED
    request.indexes = {_certain(request): certain, NEAR: near}
    if near == SEARCHING:
        return Standing.SEARCHING
    return Standing.MISSING if UNAVAILABLE in (certain, near) else Standing.CLEAR


def begin(session: Session, request: ErasureRequest, current: RecordSet, *, at: datetime) -> None:
    """Owe a search to exactly this set, and ring for it."""
    Searches(session).put(request.id, current.hash, state="open", at=at)
    queue.ring(session, Stage.SEARCH, request.id)


def _certain(request: ErasureRequest) -> str:
    """Return by what certain matches are found."""
    return "subjects" if request.subject_macs else "contents" if request.content_macs else "records"


def look(session: Session, request: ErasureRequest, current: RecordSet, *, at: datetime) -> Standing:
    """Ask the indexes about a set; a worker is rung for where one must read."""
    searches = Searches(session)
    known = searches.get(request.id) if request.indexes else None
    sets = [id_ for id_, _ in current.records]
    few = len(sets) <= RECORDS_AT_ONCE_MAX
    found = searches.indexes(request.id, sets if few else ())
    request.proposals_open, adopted = searches.counts(request.id) if known is not None else (0, 0)
    request.records_near = adopted
    near = OFF
    if policy.load(request.policy).near_duplicates.search:
        near = _near(session, request, known, current, may_be=found.candidates or not few, at=at)
        if near == SEARCHED and found.unsketched:
            near = UNAVAILABLE
    certain = UNAVAILABLE if found.registering else SEARCHED
    request.indexes = {_certain(request): certain, NEAR: near}
    if request.proposals_open:
        return Standing.UNDECIDED
    if near == SEARCHING:
        return Standing.SEARCHING
    if near == UNAVAILABLE and _is_open(known, current):
        return Standing.AWAY
    return Standing.MISSING if UNAVAILABLE in request.indexes.values() else Standing.CLEAR


def _near(
    session: Session,
    request: ErasureRequest,
    known: RequestSearch | None,
    current: RecordSet,
    *,
    may_be: bool,
    at: datetime,
) -> str:
    """Return how the search for near duplicates of a set stands; begin one if it is owed."""
    if known is not None and known.record_set_hash == current.hash:
        if known.state == "waived":
            return WAIVED
        if known.state == "open":
            return UNAVAILABLE if known.tries else SEARCHING
        if not known.more:
            return SEARCHED
        if request.proposals_open:
            return SEARCHING
    if not may_be:
        return SEARCHED
    begin(session, request, current, at=at)
    return SEARCHING


def _is_open(known: RequestSearch | None, current: RecordSet) -> bool:
    return known is not None and known.state == "open" and known.record_set_hash == current.hash
