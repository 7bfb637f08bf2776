"""Requests that have ended long enough ago: what leads to a person is destroyed, a tombstone stays.

    purge      the data key and the sealed fields, keyed hashes, the caller's numbers, links to others
    unlink     which records the request names, once no anchor holds them any more
    delete     the tombstone itself, after its years, unless a certificate is of it

A hold or a deep audit keeps a request as it is. An erasure that is only approximate keeps the list of its
records, and their rows, until it is made exact: without them the compaction could not leave them out,
nor certify that it did. What leads to the person is destroyed all the same.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app import retention
from app.audit import events
from app.audit import service as audit
from app.erasure import steps
from app.erasure.forgetting import sealed
from app.erasure.forgetting.repository import Purges
from app.erasure.repository import ErasureRequests
from app.failpoints import reach
from app.storage.database import Session

AT_ONCE_MAX = 200


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """What is past its date and still there, and what keeps it."""

    requests: int
    """To be purged, and kept by nothing: the next sweep does it."""
    held: int
    """Past their date, and under a hold or a deep audit."""
    anchored: int
    """Purged, but for the list of their records: an approximate erasure is still to be made exact."""
    tombstones: int
    """Past their years."""


def due(session: Session, *, now: datetime) -> Sequence[UUID]:
    """Return requests that are to be purged, the longest ended first."""
    return Purges(session).due(before=now - retention.POLICY.person, now=now, limit=AT_ONCE_MAX)


def purge(session: Session, request_id: UUID, *, at: datetime) -> bool:
    """Make a tombstone of a request; False if it is none too old, or something keeps it."""
    request = steps.locked(session, request_id)
    purges = Purges(session)
    if not purges.is_due(request_id, before=at - retention.POLICY.person, now=at):
        return False
    fields = sealed.destroy(session, request_id, at=at)
    request.grounds_kept = sorted(ErasureRequests(session).grounds(request_id))
    request.subject_macs = request.content_macs = []
    request.external_ref = request.notice_ref = request.duplicate_of = None
    request.purged_at = at
    session.flush()
    purges.forget_links(request_id)
    steps.touch(session, request)
    audit.record(session, events.RequestPurged(request_id, fields, at))
    reach("purge.done")
    return True


def unlink(session: Session) -> int:
    """Forget which records purged requests named, where nothing needs it any more; return how many links."""
    return Purges(session).unlink()


def delete(session: Session, *, now: datetime) -> int:
    """Delete the tombstones whose years are over and that no certificate is of; return how many."""
    gone = Purges(session).over(before=now - retention.POLICY.tombstone, limit=AT_ONCE_MAX)
    Purges(session).delete(gone)
    for request_id in gone:
        audit.record(session, events.TombstoneDeleted(request_id, now))
    return len(gone)


def purged(session: Session, request_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return which of these are tombstones."""
    return Purges(session).purged(request_ids)


def backlog(session: Session, now: datetime) -> Backlog:
    """Return what is past its date and still there."""
    before = now - retention.POLICY.person
    purges = Purges(session)
    free, all_ = purges.count_due(before=before, now=now)
    return Backlog(
        requests=free,
        held=all_ - free,
        anchored=purges.count_anchored(),
        tombstones=purges.count_over(before=now - retention.POLICY.tombstone),
    )
