"""What came in by a foreign protocol or in a file: whose request it is there, and what became of it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
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


class Import(Base):
    """A file of requests, and how far it is."""

    __tablename__ = "imports"
    __table_args__ = (
        CheckConstraint(one_of("state", "working", "done"), name="state"),
        CheckConstraint(one_of("format", "ndjson", "csv"), name="format"),
        Index("ix_imports_created", "created_at", "id"),
        Index("ix_imports_fingerprint", "submitted_by", "fingerprint"),
        Index("ix_imports_working", "touched_at", postgresql_where="state = 'working'"),
    )

    id: Mapped[Id]
    submitted_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    format: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    """Keyed hash of the file, which itself is not kept: the same file again is the same import."""
    state: Mapped[str] = mapped_column(Text, default="working")
    rows: Mapped[int] = mapped_column(default=0)
    created: Mapped[int] = mapped_column(default=0)
    duplicate: Mapped[int] = mapped_column(default=0)
    invalid: Mapped[int] = mapped_column(default=0)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    touched_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When a worker last finished a batch of it."""
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[CreatedAt]


class ImportRow(Base):
    """One row of it; whom or what it names is gone once it has an outcome."""

    __tablename__ = "import_rows"
    __table_args__ = (
        CheckConstraint(one_of("outcome", "pending", "created", "duplicate", "invalid"), name="outcome"),
        CheckConstraint(
            "outcome = 'pending' OR num_nonnulls(subject_macs, dataset, record_ids) = 0", name="forgotten"
        ),
        Index("ix_import_rows_pending", "import_id", "number", postgresql_where="outcome = 'pending'"),
    )

    import_id: Mapped[UUID] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    line: Mapped[int]
    outcome: Mapped[str] = mapped_column(Text, default="pending")
    errors: Mapped[list[list[str]]] = mapped_column(JSONB, default=list)
    """[[pointer, code]]: where and why, never what stood there."""
    subject_macs: Mapped[list[bytes] | None] = mapped_column(ARRAY(LargeBinary))
    dataset: Mapped[str | None] = mapped_column(Text)
    record_ids: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    external_ref: Mapped[str | None] = mapped_column(Text)
    vouched: Mapped[bool]
    submitted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    request_id: Mapped[UUID | None] = mapped_column(ForeignKey("erasure_requests.id"), index=True)
