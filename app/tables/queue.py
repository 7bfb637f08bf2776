"""Bells that nobody has answered yet, and receipts of calls that must not run twice."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id


class Outbox(Base):
    """A bell: written with the change that asked for it, taken away by whoever answers."""

    __tablename__ = "outbox"

    id: Mapped[Id]
    stage: Mapped[str] = mapped_column(Text)
    target_id: Mapped[UUID]
    rung_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp(), index=True
    )


class IdempotencyKey(Base):
    """The receipt of a finished call, kept for a day, in the transaction of its effect."""

    __tablename__ = "idempotency_keys"

    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """HMAC of method, path and body."""
    status: Mapped[int]
    headers: Mapped[dict[str, str]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt]
