"""What happened, in order, each event chained to the one before."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, DateTime, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class AuditEvent(Base):
    """One event: RFC 8785 bytes of ids, codes and counts; nothing personal."""

    __tablename__ = "audit_events"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text, index=True)
    subject_id: Mapped[str | None] = mapped_column(Text, index=True)
    """The public id that the event is about, to list a request's events."""
    body: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    prev_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)


class AuditHead(Base):
    """The one row whose lock puts events in order."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class StatedHead(Base):
    """A signed statement of where the chain was: whoever holds one knows of any other past."""

    __tablename__ = "stated_heads"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    pae_sha256: Mapped[str] = mapped_column(Text)
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    produced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AuditCheck(Base):
    """The one row that says how far the chain was recomputed last, and whether it held."""

    __tablename__ = "audit_checks"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    broken_at: Mapped[int | None] = mapped_column(BigInteger)
    checked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    whole_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """When it was last recomputed from its beginning."""
