"""What can be done about text scans: claim a pass, keep what it found, conclude; decide, go on without."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.auth.service import Caller
from app.erasure import policy, steps
from app.erasure.near import service as near
from app.erasure.near.repository import Searches
from app.erasure.near.service import BEFORE_APPROVAL
from app.erasure.repository import ErasureRequests
from app.erasure.scan import looking
from app.erasure.scan.looking import HASHED, SEARCHING, UNAVAILABLE
from app.erasure.scan.repository import TEXTS, Mention, Scans
from app.erasure.steps import Expected, View
from app.errors import Conflict
from app.queue import Stage
from app.storage.database import Session

CLAIM_SECONDS, RENEW_SECONDS = 300, 30
WAIT_SECONDS, WAIT_SECONDS_MAX = 60, 3600
REQUESTS_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Owed:
    """What a worker is to seek for one request, and where."""

    request_id: UUID
    sought: tuple[tuple[str, str], ...] = field(repr=False)
    hashed: int
    datasets: frozenset[UUID]
    proposals_most: int


# What a worker does ------------------------------------------------------------------------------


def due(session: Session, *, now: datetime) -> list[UUID]:
    """Return a request for which a worker should read, if one waits and nobody is reading."""
    scans = Scans(session)
    waiting = scans.waiting(now)
    return [] if waiting is None or scans.under_way(now) else [waiting]


def claim(session: Session, *, now: datetime) -> list[Owed]:
    """Return all that is owed, now ours for a while; nothing while another worker reads.

    Of a request that has gone on nobody waits to know.
    """
    scans = Scans(session)
    scans.alone()
    if scans.under_way(now):
        return []
    until = now + timedelta(seconds=CLAIM_SECONDS)
    datasets, found = scans.datasets(), []
    for row in scans.claim(now=now, until=until, limit=REQUESTS_AT_ONCE):
        request = ErasureRequests(session).get(row.request_id)
        assert request is not None, "a scan goes with its request"
        queue.heard(session, Stage.SCAN, request.id)
        if request.state not in BEFORE_APPROVAL:
            row.state, row.claimed_until = "done", None
            continue
        given = looking.known(session, request)
        found.append(
            Owed(
                request_id=request.id,
                sought=given.sought,
                hashed=given.hashed,
                datasets=datasets.difference(row.datasets) if given.sought else frozenset(),
                proposals_most=policy.load(request.policy).text_scan.proposals_most,
            )
        )
    return found


def renew(session: Session, owed: Sequence[Owed], *, now: datetime) -> None:
    """Say that these are still being read for."""
    until = now + timedelta(seconds=CLAIM_SECONDS)
    Scans(session).renew([each.request_id for each in owed], until=until)


def unknown(
    session: Session, dataset_id: UUID, named: Mapping[UUID, Collection[str]]
) -> dict[UUID, dict[str, int]]:
    """Return, of records by their own ids, those that a request neither names nor was told of."""
    return Scans(session).unknown(dataset_id, named)


def keep(
    session: Session,
    dataset_id: UUID,
    found: Mapping[UUID, Mapping[int, Mention]],
    *,
    whole: Collection[UUID],
    records: int,
) -> None:
    """Keep what was found in a dataset that is read to its end; of `whole`, all that there is."""
    scans = Scans(session)
    still = frozenset(scans.still_open(found))
    scans.propose({request_id: mine for request_id, mine in found.items() if request_id in still})
    scans.read(still.intersection(whole), dataset_id, records=records)
    scans.read(still.difference(whole), None, records=records)


def conclude(session: Session, owed: Owed, *, more: bool, at: datetime) -> None:
    """Say that all is read, or as much as one person can look at; the request goes on."""
    request = steps.locked(session, owed.request_id)
    row = Scans(session).get(request.id)
    if row is None or row.state != "open":
        return
    row.state, row.claimed_until, row.more = "done", None, more
    session.flush()
    queue.heard(session, Stage.SCAN, request.id)
    proposed = Searches(session).counts(request.id).texts_open
    audit.record(
        session,
        events.TextsSought(
            request.id, len(owed.sought), owed.hashed, len(row.datasets), row.records, proposed, at
        ),
    )
    if request.state in BEFORE_APPROVAL:
        near.locate(session, request_id=request.id, at=at)


def lapsed(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Return those for whom somebody began to read, and was not heard of since."""
    return Scans(session).lapsed(now)


def put_off(session: Session, request_id: UUID, *, at: datetime, lapsed: bool = False) -> None:
    """Leave what could not be read to a later try, each after a longer while; what was found is shown.

    With `lapsed` only if nobody has come to read it meanwhile.
    """
    request = steps.locked(session, request_id)
    row = Scans(session).locked(request.id)
    if row is None or row.state != "open":
        return
    if lapsed and (row.claimed_until is None or row.claimed_until > at):
        return
    row.tries += 1
    row.claimed_until = None
    row.next_at = at + timedelta(seconds=min(WAIT_SECONDS * 2 ** (row.tries - 1), WAIT_SECONDS_MAX))
    session.flush()
    if request.state not in BEFORE_APPROVAL:
        return
    if Searches(session).counts(request.id).open:
        near.locate(session, request_id=request.id, at=at)
    else:
        request.indexes = {**request.indexes, TEXTS: UNAVAILABLE}
        session.flush()
        steps.leave(session, request, steps.INDEX_UNAVAILABLE, at=at)


# What callers do ---------------------------------------------------------------------------------


def decide(
    session: Session,
    request_id: UUID,
    *,
    adopt: bool,
    record_ids: Collection[int] | None,
    by: Caller,
    expecting: Expected = None,
    at: datetime,
) -> View:
    """Adopt records that name the person into the set, or decline them: these, or all that are undecided."""
    return near.decide(
        session,
        request_id,
        adopt=adopt,
        record_ids=record_ids,
        by=by,
        texts=True,
        expecting=expecting,
        at=at,
    )


def waive(
    session: Session, request_id: UUID, *, by: Caller, expecting: Expected = None, at: datetime
) -> View:
    """Go on without what cannot be sought, or cannot be read; a person says so, and it is kept who."""
    request = steps.locked(session, request_id, expecting=expecting)
    steps.person(by)
    if request.state not in BEFORE_APPROVAL:
        raise Conflict(f"the request is {request.state}", code="not-possible-now")
    if request.proposals_open:
        raise Conflict("records are proposed; decide on them", code="proposals-undecided")
    if request.indexes.get(TEXTS) not in {SEARCHING, UNAVAILABLE, HASHED}:
        raise Conflict("the texts were searched, or are not to be", code="nothing-to-waive")
    scans = Scans(session)
    scans.waive(request.id, scans.datasets(), at=at)
    queue.heard(session, Stage.SCAN, request.id)
    audit.record(session, events.TextsDecided(request.id, by.principal_id, "waived", 0, at))
    near.locate(session, request_id=request.id, at=at)
    return steps.view(session, request)
