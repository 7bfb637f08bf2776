"""Whether anything may be near to what a request concerns, asked with each search for certain matches.

One question to the index, in the caller's transaction; only where something shares a band is a worker
asked to read. Keeps on the request which indexes were searched (R15), the texts among them
(`app.erasure.scan`), and says what follows.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum

from app import queue
from app.erasure import policy
from app.erasure.matching import RecordSet
from app.erasure.near.repository import NEAR, Counts, Indexes, Searches
from app.erasure.scan import looking as scanning
from app.erasure.scan.repository import TEXTS
from app.queue import Stage
from app.storage.database import Session
from app.tables import ErasureRequest, RequestSearch

NONE = Counts(0, 0, 0, 0)
RECORDS_AT_ONCE_MAX = 100
"""Of larger sets a worker looks, without being asked first whether there is anything to look at."""

SEARCHED, SEARCHING, UNAVAILABLE, WAIVED, OFF = "searched", "searching", "unavailable", "waived", "off"


class Standing(Enum):
    """What follows for the request."""

    CLEAR = "clear"
    """Nothing else is found, all of it is decided on, or somebody goes on without."""
    MISSING = "missing"
    """Some index is not there, or cannot answer: what was found can be shown, "nothing" cannot be said."""
    SEARCHING = "searching"
    AWAY = "away"
    """There is something to look at, and it cannot be read now."""
    UNDECIDED = "undecided"


def of_new(
    session: Session,
    requests: Sequence[ErasureRequest],
    sets: Sequence[RecordSet | None],
    written: Sequence[bytes | None],
) -> list[Standing | None]:
    """Ask all indexes about new requests, the texts among them; None of one without a set.

    What the people are known by is given as it is about to be sealed. What is owed is begun by `begin_new`.
    """
    found = first(session, requests, sets)
    texts = scanning.first(session, requests, written)
    for place, (request, standing, text) in enumerate(zip(requests, found, texts, strict=True)):
        if standing is None:
            continue
        request.indexes = {**request.indexes, TEXTS: text}
        if standing is not Standing.SEARCHING:
            found[place] = Standing.SEARCHING if text == SEARCHING else _clear(request)
    return found


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


def begin_new(
    session: Session,
    requests: Sequence[ErasureRequest],
    sets: Sequence[RecordSet | None],
    *,
    at: datetime,
) -> None:
    """Owe new requests, now that they are stored, what `of_new` found to be owed to them."""
    for request, current in zip(requests, sets, strict=True):
        if current is not None and request.indexes[NEAR] == SEARCHING:
            begin(session, request, current, at=at)
    scanned = [
        request
        for request, current in zip(requests, sets, strict=True)
        if current is not None and request.indexes[TEXTS] == SEARCHING
    ]
    scanning.begin(session, scanned, at=at)


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
    counts = searches.counts(request.id) if request.indexes else NONE
    request.proposals_open = counts.open
    request.records_near, request.records_mentioning = counts.near_adopted, counts.texts_adopted
    near = OFF
    if policy.load(request.policy).near_duplicates.search:
        near = _near(
            session, request, known, current, counts.near_open, may_be=found.candidates or not few, at=at
        )
        if near == SEARCHED and found.unsketched:
            near = UNAVAILABLE
    certain = UNAVAILABLE if found.registering else SEARCHED
    texts = scanning.look(session, request, undecided=counts.texts_open, at=at)
    request.indexes = {_certain(request): certain, NEAR: near, TEXTS: texts}
    if request.proposals_open:
        return Standing.UNDECIDED
    if SEARCHING in (near, texts):
        return Standing.SEARCHING
    if texts == UNAVAILABLE or (near == UNAVAILABLE and _is_open(known, current)):
        return Standing.AWAY
    return _clear(request)


def _clear(request: ErasureRequest) -> Standing:
    """Return whether "nothing" can be said of every index."""
    nowhere = {UNAVAILABLE, scanning.HASHED}.intersection(request.indexes.values())
    return Standing.MISSING if nowhere else Standing.CLEAR


def _near(
    session: Session,
    request: ErasureRequest,
    known: RequestSearch | None,
    current: RecordSet,
    undecided: int,
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
        if undecided:
            return SEARCHING
    if not may_be:
        return SEARCHED
    begin(session, request, current, at=at)
    return SEARCHING


def _is_open(known: RequestSearch | None, current: RecordSet) -> bool:
    return known is not None and known.state == "open" and known.record_set_hash == current.hash
