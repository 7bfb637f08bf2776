"""What came in by a foreign protocol: whose request it is there, and what they are to be told."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of

STATUSES = ("pending", "in_progress", "completed", "cancelled")


class OpenDsrRequest(Base):
    """A controller's name for one of our requests."""

    __tablename__ = "opendsr_requests"
    __table_args__ = (
        CheckConstraint(one_of("status", *STATUSES), name="status"),
        Unique("controller_id", "subject_request_id"),
    )

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    controller_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    subject_request_id: Mapped[UUID]
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """Keyed hash of the body, which itself is not kept: a second one must be the same."""
    expected_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """When we said at receipt that it would be done."""
    callback_urls: Mapped[list[str]] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(Text, default="pending")
    """The last status that callbacks were queued for."""
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class OpenDsrCallback(Base):
    """One change of status, to be told to one URL."""

    __tablename__ = "opendsr_callbacks"
    __table_args__ = (
        CheckConstraint(one_of("status", *STATUSES), name="status"),
        CheckConstraint(one_of("state", "pending", "delivered", "failed"), name="state"),
        Unique("request_id", "url", "seq"),
        Index("ix_opendsr_callbacks_due", "next_at", postgresql_where="state = 'pending'"),
    )

    id: Mapped[Id]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("opendsr_requests.request_id"))
    url: Mapped[str] = mapped_column(Text)
    seq: Mapped[int] = mapped_column(BigInteger)
    """The place of the change in the audit sequence."""
    status: Mapped[str] = mapped_column(Text)
    results_count: Mapped[int | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    """Why it was cancelled, where that was our doing, or what is left of it."""
    reason: Mapped[str | None] = mapped_column(Text)
    expected_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    state: Mapped[str] = mapped_column(Text, default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    answered: Mapped[int | None]
    """The last HTTP status."""
    error: Mapped[str | None] = mapped_column(Text)
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[CreatedAt]
