"""SQL of foreign protocols: whose request is whose, and the callbacks that are owed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, Row, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from app.storage.database import Session
from app.tables import EventCursor, OpenDsrCallback, OpenDsrRequest

READER = "opendsr"
PENDING = "pending"


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A callback that this caller is to make; whoever claims it later has a higher number."""

    id: UUID
    request_id: UUID
    controller_id: UUID
    subject_request_id: UUID
    url: str
    status: str
    results_count: int | None
    outcome: str | None
    reason: str | None
    expected_at: datetime
    attempts: int


class Intake:
    """Requests that came in by OpenDSR, in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def alone(self, controller_id: UUID, subject_request_id: UUID) -> None:
        """Wait until nobody else receives the same request; held until the commit."""
        name = f"opendsr|{controller_id}|{subject_request_id}"
        self.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def add(self, row: OpenDsrRequest) -> None:
        """Insert a controller's name for a request."""
        self.session.add(row)
        self.session.flush()

    def find(self, controller_id: UUID, subject_request_id: UUID) -> OpenDsrRequest | None:
        """Return a controller's request by the controller's id."""
        return self.session.scalars(
            select(OpenDsrRequest).where(
                OpenDsrRequest.controller_id == controller_id,
                OpenDsrRequest.subject_request_id == subject_request_id,
            )
        ).one_or_none()

    def of(self, request_ids: Sequence[UUID]) -> dict[UUID, OpenDsrRequest]:
        """Return which of these requests came in by OpenDSR, locked until the commit."""
        found = self.session.scalars(
            select(OpenDsrRequest).where(OpenDsrRequest.request_id.in_(request_ids)).with_for_update()
        )
        return {row.request_id: row for row in found}

    def cursor(self) -> EventCursor | None:
        """Return how far the sequence was read, locked until the commit; None while another reads on."""
        self.session.execute(insert(EventCursor).values(reader=READER, seq=0).on_conflict_do_nothing())
        return self.session.scalars(
            select(EventCursor)
            .where(EventCursor.reader == READER)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()

    def any_requests(self) -> bool:
        """Return whether anything ever came in by OpenDSR."""
        return bool(self.session.scalar(select(exists().select_from(OpenDsrRequest))))

    def owe(self, callback: OpenDsrCallback) -> None:
        """Queue a callback."""
        self.session.add(callback)
        self.session.flush()

    def claim(self, *, at: datetime, until: datetime, limit: int) -> list[Owed]:
        """Take callbacks that are due, of each request and URL the earliest; until then nobody else does."""
        earlier = aliased(OpenDsrCallback)
        first = ~exists().where(
            earlier.request_id == OpenDsrCallback.request_id,
            earlier.url == OpenDsrCallback.url,
            earlier.state == PENDING,
            earlier.seq < OpenDsrCallback.seq,
        )
        due = (
            select(OpenDsrCallback.id)
            .where(OpenDsrCallback.state == PENDING, OpenDsrCallback.next_at <= at, first)
            .order_by(OpenDsrCallback.next_at, OpenDsrCallback.seq)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        taken = self.session.execute(
            update(OpenDsrCallback)
            .where(OpenDsrCallback.id.in_(due.scalar_subquery()))
            .values(next_at=until, attempts=OpenDsrCallback.attempts + 1)
            .returning(OpenDsrCallback.id)
        ).scalars()
        rows = self.session.execute(
            select(OpenDsrCallback, OpenDsrRequest)
            .join(OpenDsrRequest, OpenDsrRequest.request_id == OpenDsrCallback.request_id)
            .where(OpenDsrCallback.id.in_(list(taken)))
            .order_by(OpenDsrCallback.seq)
            .execution_options(populate_existing=True)
        )
        return [_owed(row) for row in rows]

    def settle(self, owed: Owed, **values: object) -> bool:
        """Write how an attempt left a callback; False if it was claimed again, or ended, meanwhile."""
        found = self.session.execute(
            update(OpenDsrCallback)
            .where(
                OpenDsrCallback.id == owed.id,
                OpenDsrCallback.attempts == owed.attempts,
                OpenDsrCallback.state == PENDING,
            )
            .values(**values)
        )
        return cast("CursorResult[Any]", found).rowcount > 0

    def forget(self, *, before: datetime) -> int:
        """Delete callbacks that ended before; return how many."""
        found = self.session.execute(delete(OpenDsrCallback).where(OpenDsrCallback.ended_at < before))
        return cast("CursorResult[Any]", found).rowcount


def _owed(row: Row[OpenDsrCallback, OpenDsrRequest]) -> Owed:
    callback, request = row[0], row[1]
    return Owed(
        id=callback.id,
        request_id=callback.request_id,
        controller_id=request.controller_id,
        subject_request_id=request.subject_request_id,
        url=callback.url,
        status=callback.status,
        results_count=callback.results_count,
        outcome=callback.outcome,
        reason=callback.reason,
        expected_at=callback.expected_at,
        attempts=callback.attempts,
    )
