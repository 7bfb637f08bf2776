"""Who is told of what happens, what they were told, and every attempt at telling them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of


class EventCursor(Base):
    """How far one reader of the audit sequence has come; its lock makes the reader the only one."""

    __tablename__ = "event_cursors"

    reader: Mapped[str] = mapped_column(Text, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, default=0)


class WebhookEndpoint(Base):
    """A URL that is told of some kinds of events."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint(one_of("state", "active", "disabled", "removed"), name="state"),
        CheckConstraint(
            f"reason IS NULL OR {one_of('reason', 'asked', 'gone', 'failing', 'removed')}", name="reason"
        ),
        CheckConstraint("(state = 'active') = (reason IS NULL)", name="why"),
    )

    id: Mapped[Id]
    url: Mapped[str] = mapped_column(Text)
    kinds: Mapped[list[str]] = mapped_column(JSONB)
    """Kinds of events, or families of them: `request.moved`, `certificate.*`."""
    state: Mapped[str] = mapped_column(Text, default="active")
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it is not told any more."""
    after_seq: Mapped[int] = mapped_column(BigInteger)
    """What happened up to here is told on demand only."""
    failing_since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """The first failure since it last took anything."""
    created_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class WebhookSecret(Base):
    """What an endpoint's messages are signed with; sealed, and the one before for a day after a change."""

    __tablename__ = "webhook_secrets"

    id: Mapped[Id]
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id"), index=True)
    sealed_secret: Mapped[bytes] = mapped_column(LargeBinary)
    """`v1`: the shared secret."""
    sealed_key: Mapped[bytes] = mapped_column(LargeBinary)
    """`v1a`: our private Ed25519 key."""
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """None for the current one."""
    created_at: Mapped[CreatedAt]


class WebhookMessage(Base):
    """One event as it is told to whoever wants it: its bytes, and the id that never changes."""

    __tablename__ = "webhook_messages"

    id: Mapped[Id]
    seq: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    """Its place in the audit sequence; None for a test."""
    kind: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt]


class WebhookDelivery(Base):
    """One message to one endpoint."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint(one_of("state", "pending", "delivered", "failed", "stopped"), name="state"),
        Unique("endpoint_id", "message_id"),
        Index("ix_webhook_deliveries_due", "next_at", postgresql_where="state = 'pending'"),
        # What must be told before this one: the same subject, to the same endpoint.
        Index(
            "ix_webhook_deliveries_order",
            "endpoint_id",
            "subject",
            "seq",
            postgresql_where="state = 'pending'",
        ),
        Index("ix_webhook_deliveries_listed", "endpoint_id", "created_at", "id"),
    )

    id: Mapped[Id]
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoints.id"))
    message_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_messages.id"), index=True)
    subject: Mapped[str] = mapped_column(Text)
    """The public id that the event is about; one subject's events are told in order."""
    seq: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(Text, default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    """Attempts of this round; asking for it again begins a new one."""
    tries: Mapped[int] = mapped_column(default=0)
    """Attempts ever: the number of the last one."""
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    status: Mapped[int | None]
    """What the endpoint answered last."""
    error: Mapped[str | None] = mapped_column(Text)
    """Why there was no answer."""
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[CreatedAt]


class WebhookAttempt(Base):
    """One try, and how it ended: the evidence that somebody was told, or could not be."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
    milliseconds: Mapped[int]
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
