"""SQL of webhooks: endpoints and their keys, messages, deliveries, attempts, and the reader's place."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, Row, case, delete, exists, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from app.storage.database import Session
from app.tables import (
    EventCursor,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookMessage,
    WebhookSecret,
    new_id,
)

READER = "webhooks"
AT_ONCE_HEALTHY, AT_ONCE_FAILING = 4, 1
"""How many deliveries of one endpoint a claim takes: who does not answer keeps few others waiting."""

PENDING = "pending"


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """A delivery that this caller is to attempt: whoever claims it later has a higher number."""

    id: UUID
    endpoint_id: UUID
    message_id: UUID
    url: str
    body: bytes
    attempts: int
    number: int


class Webhooks:
    """Endpoints and deliveries in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    # Endpoints and keys

    def add(self, row: WebhookEndpoint | WebhookSecret | WebhookMessage) -> None:
        """Insert a row."""
        self.session.add(row)
        self.session.flush()

    def endpoint(self, id: UUID) -> WebhookEndpoint | None:  # noqa: A002  the column's own name
        """Return an endpoint that was not removed."""
        return self.session.scalars(
            select(WebhookEndpoint).where(WebhookEndpoint.id == id, WebhookEndpoint.state != "removed")
        ).one_or_none()

    def locked(self, id: UUID) -> WebhookEndpoint | None:  # noqa: A002  the column's own name
        """Return an endpoint that was not removed, locked until the commit."""
        return self.session.scalars(
            select(WebhookEndpoint)
            .where(WebhookEndpoint.id == id, WebhookEndpoint.state != "removed")
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()

    def endpoints(self, *, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[WebhookEndpoint]:
        """Return the endpoints, newest first, from after a place on."""
        query = (
            select(WebhookEndpoint)
            .where(WebhookEndpoint.state != "removed")
            .order_by(WebhookEndpoint.created_at.desc(), WebhookEndpoint.id.desc())
            .limit(limit)
        )
        if after is not None:
            query = query.where(tuple_(WebhookEndpoint.created_at, WebhookEndpoint.id) < after)
        return self.session.scalars(query).all()

    def active(self) -> Sequence[WebhookEndpoint]:
        """Return the endpoints that are told of what happens."""
        return self.session.scalars(
            select(WebhookEndpoint).where(WebhookEndpoint.state == "active").order_by(WebhookEndpoint.id)
        ).all()

    def count(self) -> int:
        """Return how many endpoints there are."""
        return self.session.scalars(
            select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.state != "removed")
        ).one()

    def secrets(self, endpoint_id: UUID, *, at: datetime) -> Sequence[WebhookSecret]:
        """Return the keys that sign for an endpoint now, the newest first."""
        return self.session.scalars(
            select(WebhookSecret)
            .where(
                WebhookSecret.endpoint_id == endpoint_id,
                WebhookSecret.expires_at.is_(None) | (WebhookSecret.expires_at > at),
            )
            .order_by(WebhookSecret.created_at.desc(), WebhookSecret.id.desc())
        ).all()

    def destroy_secrets(self, endpoint_id: UUID) -> None:
        """Delete every key of an endpoint."""
        self.session.execute(delete(WebhookSecret).where(WebhookSecret.endpoint_id == endpoint_id))

    # The sequence

    def cursor(self) -> EventCursor | None:
        """Return how far the sequence was read, locked until the commit; None while another reads on."""
        self.session.execute(insert(EventCursor).values(reader=READER, seq=0).on_conflict_do_nothing())
        return self.session.scalars(
            select(EventCursor)
            .where(EventCursor.reader == READER)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()

    def message_of(self, seq: int, *, kind: str, body: bytes, at: datetime) -> UUID:
        """Return the message of an event; it is made once, however often it is asked for."""
        self.session.execute(
            insert(WebhookMessage)
            .values(id=new_id(), seq=seq, kind=kind, body=body, created_at=at)
            .on_conflict_do_nothing(index_elements=["seq"])
        )
        return self.session.scalars(select(WebhookMessage.id).where(WebhookMessage.seq == seq)).one()

    def message(self, id: UUID) -> WebhookMessage | None:  # noqa: A002  the column's own name
        """Return a message."""
        return self.session.get(WebhookMessage, id)

    # Deliveries

    def deliver(
        self,
        endpoint_id: UUID,
        message_id: UUID,
        *,
        subject: str,
        seq: int,
        at: datetime,
        again: bool = False,
    ) -> None:
        """Queue a message for an endpoint; one that was queued before stays, or with `again` begins anew."""
        query = insert(WebhookDelivery).values(
            id=new_id(),
            endpoint_id=endpoint_id,
            message_id=message_id,
            subject=subject,
            seq=seq,
            next_at=at,
            state=PENDING,
            attempts=0,
            tries=0,
            created_at=at,
        )
        same = ["endpoint_id", "message_id"]
        if again:
            query = query.on_conflict_do_update(
                index_elements=same, set_={"state": PENDING, "attempts": 0, "next_at": at, "ended_at": None}
            )
        else:
            query = query.on_conflict_do_nothing(index_elements=same)
        self.session.execute(query)

    def delivery(self, id: UUID) -> WebhookDelivery | None:  # noqa: A002  the column's own name
        """Return a delivery."""
        return self.session.get(WebhookDelivery, id)

    def delivery_of(self, endpoint_id: UUID, message_id: UUID) -> WebhookDelivery:
        """Return the delivery of a message to an endpoint."""
        return self.session.scalars(
            select(WebhookDelivery)
            .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.message_id == message_id)
            .execution_options(populate_existing=True)
        ).one()

    def deliveries(
        self,
        endpoint_id: UUID,
        *,
        state: str | None,
        after: tuple[datetime, UUID] | None,
        limit: int,
    ) -> Sequence[Row[WebhookDelivery, WebhookMessage]]:
        """Return what an endpoint was told, newest first, from after a place on."""
        query = (
            select(WebhookDelivery, WebhookMessage)
            .join(WebhookMessage, WebhookMessage.id == WebhookDelivery.message_id)
            .where(WebhookDelivery.endpoint_id == endpoint_id)
            .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
            .limit(limit)
        )
        if state is not None:
            query = query.where(WebhookDelivery.state == state)
        if after is not None:
            query = query.where(tuple_(WebhookDelivery.created_at, WebhookDelivery.id) < after)
        return self.session.execute(query).all()

    def attempts(self, delivery_id: UUID) -> Sequence[WebhookAttempt]:
        """Return the attempts of a delivery, in order."""
        return self.session.scalars(
            select(WebhookAttempt)
            .where(WebhookAttempt.delivery_id == delivery_id)
            .order_by(WebhookAttempt.number)
        ).all()

    def pending(self) -> Mapping[UUID, int]:
        """Return how many deliveries each endpoint still waits for."""
        found = self.session.execute(
            select(WebhookDelivery.endpoint_id, func.count())
            .where(WebhookDelivery.state == PENDING)
            .group_by(WebhookDelivery.endpoint_id)
        )
        return {row[0]: row[1] for row in found}

    def claim(self, *, at: datetime, until: datetime, limit: int) -> list[Claimed]:
        """Take deliveries that are due; until then nobody else does, even if the caller dies.

        Of each subject only the first that is pending: the later ones wait until it has ended.
        """
        earlier = aliased(WebhookDelivery)
        first = ~exists().where(
            earlier.endpoint_id == WebhookDelivery.endpoint_id,
            earlier.subject == WebhookDelivery.subject,
            earlier.state == PENDING,
            earlier.seq < WebhookDelivery.seq,
        )
        place = func.row_number().over(
            partition_by=WebhookDelivery.endpoint_id, order_by=(WebhookDelivery.next_at, WebhookDelivery.seq)
        )
        ranked = (
            select(WebhookDelivery.id, place.label("place"), WebhookEndpoint.failing_since)
            .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
            .where(
                WebhookDelivery.state == PENDING,
                WebhookDelivery.next_at <= at,
                WebhookEndpoint.state == "active",
                first,
            )
            .subquery()
        )
        at_once = case((ranked.c.failing_since.is_(None), AT_ONCE_HEALTHY), else_=AT_ONCE_FAILING)
        due = (
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.id.in_(select(ranked.c.id).where(ranked.c.place <= at_once)),
                # Once more, for the row as it is locked: another may have claimed it meanwhile.
                WebhookDelivery.state == PENDING,
                WebhookDelivery.next_at <= at,
            )
            .order_by(WebhookDelivery.next_at, WebhookDelivery.seq)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        taken = self.session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.id.in_(due.scalar_subquery()))
            .values(next_at=until, attempts=WebhookDelivery.attempts + 1, tries=WebhookDelivery.tries + 1)
            .returning(WebhookDelivery.id)
        ).scalars()
        return self._claimed(list(taken))

    def settle(self, claimed: Claimed, **values: object) -> bool:
        """Write how an attempt left its delivery; False if it was claimed again, or ended, meanwhile."""
        found = self.session.execute(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.id == claimed.id,
                WebhookDelivery.tries == claimed.number,
                WebhookDelivery.state == PENDING,
            )
            .values(**values)
        )
        return cast("CursorResult[Any]", found).rowcount > 0

    def attempted(self, claimed: Claimed, **values: object) -> None:
        """Keep an attempt, once."""
        self.session.execute(
            insert(WebhookAttempt)
            .values(delivery_id=claimed.id, number=claimed.number, **values)
            .on_conflict_do_nothing()
        )

    def stop(self, endpoint_id: UUID, *, at: datetime) -> int:
        """End every pending delivery of an endpoint; return how many."""
        found = self.session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.state == PENDING)
            .values(state="stopped", ended_at=at)
        )
        return cast("CursorResult[Any]", found).rowcount

    def forget(self, *, before: datetime, at: datetime) -> int:
        """Delete deliveries that ended before, messages that nobody has any more, and expired keys."""
        over = delete(WebhookDelivery).where(WebhookDelivery.ended_at < before)
        gone = cast("CursorResult[Any]", self.session.execute(over)).rowcount
        wanted = exists().where(WebhookDelivery.message_id == WebhookMessage.id)
        self.session.execute(delete(WebhookMessage).where(WebhookMessage.created_at < before, ~wanted))
        self.session.execute(delete(WebhookSecret).where(WebhookSecret.expires_at <= at))
        return gone

    def _claimed(self, taken: Collection[UUID]) -> list[Claimed]:
        rows = self.session.execute(
            select(
                WebhookDelivery.id,
                WebhookDelivery.endpoint_id,
                WebhookDelivery.message_id,
                WebhookEndpoint.url,
                WebhookMessage.body,
                WebhookDelivery.attempts,
                WebhookDelivery.tries,
            )
            .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
            .join(WebhookMessage, WebhookMessage.id == WebhookDelivery.message_id)
            .where(WebhookDelivery.id.in_(taken))
            .order_by(WebhookDelivery.seq, WebhookDelivery.id)
        )
        return [
            Claimed(
                id=row.id,
                endpoint_id=row.endpoint_id,
                message_id=row.message_id,
                url=row.url,
                body=bytes(row.body),
                attempts=row.attempts,
                number=row.tries,
            )
            for row in rows
        ]
