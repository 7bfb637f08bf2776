"""All SQL about legal holds and what they concern."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, exists, or_, select, tuple_

from app.erasure.lifecycle import OPEN
from app.storage.database import Session
from app.tables import ErasureRequest, Hold, RequestRecord, RequestTarget

_OPEN: Final = tuple(sorted(state.value for state in OPEN))


class Holds:
    """Legal holds in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, hold: Hold) -> None:
        """Insert a hold."""
        self.session.add(hold)
        self.session.flush()

    def locked(self, hold_id: UUID) -> Hold | None:
        """Return a hold as it is now, locked until the commit."""
        return self.session.scalars(
            select(Hold).where(Hold.id == hold_id).with_for_update().execution_options(populate_existing=True)
        ).one_or_none()

    def page(
        self, *, active: bool | None, now: datetime, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Hold]:
        """Return holds, newest first, from after a place on."""
        query = select(Hold).order_by(Hold.created_at.desc(), Hold.id.desc()).limit(limit)
        if active is not None:
            query = query.where(_active(now) if active else ~_active(now))
        if after is not None:
            query = query.where(tuple_(Hold.created_at, Hold.id) < after)
        return self.session.scalars(query).all()

    def binding(self, request_id: UUID, model_ids: Collection[UUID], *, now: datetime) -> Sequence[Hold]:
        """Return the holds that a request stands under, by itself, its records or these models."""
        named = exists().where(
            RequestRecord.request_id == request_id, RequestRecord.record_id == Hold.record_id
        )
        of = or_(Hold.request_id == request_id, named, Hold.model_id.in_(model_ids))
        return self.session.scalars(
            select(Hold).where(_active(now), of).order_by(Hold.created_at, Hold.id)
        ).all()

    def on(self, record_ids: Collection[int], model_ids: Collection[UUID]) -> Sequence[Hold]:
        """Return the holds on any of these that nobody has lifted; some may have expired."""
        if not record_ids and not model_ids:
            return []
        of = or_(Hold.record_id.in_(record_ids), Hold.model_id.in_(model_ids))
        return self.session.scalars(select(Hold).where(Hold.ended_at.is_(None), of)).all()

    def requests_under(self, hold: Hold) -> Sequence[UUID]:
        """Return the open requests that a hold may concern, in a fixed order."""
        if hold.request_id is not None:
            of = ErasureRequest.id == hold.request_id
        elif hold.record_id is not None:
            of = exists().where(
                RequestRecord.request_id == ErasureRequest.id, RequestRecord.record_id == hold.record_id
            )
        else:
            # Which models an unapproved request concerns, its records say; whoever asks looks there.
            of = or_(
                ErasureRequest.state.in_(("identity_pending", "triage", "awaiting_approval")),
                exists().where(
                    RequestTarget.request_id == ErasureRequest.id, RequestTarget.model_id == hold.model_id
                ),
            )
        return self.session.scalars(
            select(ErasureRequest.id).where(of, ErasureRequest.state.in_(_OPEN)).order_by(ErasureRequest.id)
        ).all()

    def requests_held(self) -> Sequence[UUID]:
        """Return the open requests that stand under any hold, in a fixed order."""
        return self.session.scalars(
            select(ErasureRequest.id)
            .where(ErasureRequest.legal_hold.is_(True), ErasureRequest.state.in_(_OPEN))
            .order_by(ErasureRequest.id)
        ).all()

    def expired(self, now: datetime) -> Sequence[UUID]:
        """Return holds whose time is over and of which nobody has said so."""
        return self.session.scalars(
            select(Hold.id).where(Hold.ended_at.is_(None), Hold.expires_at <= now).order_by(Hold.id)
        ).all()


def _active(now: datetime) -> ColumnElement[bool]:
    return Hold.ended_at.is_(None) & (Hold.expires_at > now)
