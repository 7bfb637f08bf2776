"""Erasure requests, the models they concern, the records they name, and who approved what."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.tables.base import Base, CreatedAt, Id, one_of

STATES = (
    "received",
    "triage",
    "awaiting_approval",
    "no_match",
    "scheduled",
    "unlearning",
    "verifying",
    "publishing",
    "completed",
    "withdrawn",
    "rejected",
)


class ErasureRequest(Base):
    """A data subject's request to be forgotten (GDPR Art. 17), without the subject's identity."""

    __tablename__ = "erasure_requests"
    __table_args__ = (
        CheckConstraint(one_of("state", *STATES), name="state"),
        Index("ix_erasure_requests_created", "created_at", "id"),
        Index(
            "uq_erasure_requests_external",
            "submitted_by",
            "external_ref",
            unique=True,
            postgresql_where="external_ref IS NOT NULL",
        ),
    )

    id: Mapped[Id]
    version: Mapped[int] = mapped_column(default=1)
    state: Mapped[str] = mapped_column(Text)
    attention: Mapped[str | None] = mapped_column(Text)
    submitted_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    external_ref: Mapped[str | None] = mapped_column(Text)
    """The caller's own ticket number."""
    subject_macs: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary), default=list)
    """Keyed hashes of the identifiers given; empty when records were named instead."""
    record_set_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    records_matched: Mapped[int] = mapped_column(default=0)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    received_on: Mapped[date] = mapped_column(Date)
    """The local date of receipt in the controller's zone; the clock of Art. 12(3) starts here."""
    due_on: Mapped[date] = mapped_column(Date)
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """The first instant that is too late."""
    calendar: Mapped[str] = mapped_column(Text)
    concluded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ground: Mapped[str | None] = mapped_column(Text)
    """Why it was rejected, as an article's code."""
    created_at: Mapped[CreatedAt]

    targets: Mapped[list["RequestTarget"]] = relationship(back_populates="request", lazy="raise")


class RequestTarget(Base):
    """One model that learned one of the request's records; each walks the stages by itself."""

    __tablename__ = "request_targets"
    __table_args__ = (
        CheckConstraint(
            one_of("stage", "scheduled", "unlearning", "verifying", "publishing", "completed"), name="stage"
        ),
        # The planner's one query: what no job has taken yet, for one model.
        Index("unplanned", "model_id", postgresql_where="job_id IS NULL AND stage = 'scheduled'"),
    )

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(Text, default="scheduled")
    job_id: Mapped[UUID | None]
    engine_floor: Mapped[str | None] = mapped_column(Text)
    """The weakest engine that is still worth trying, after another one failed on this request."""
    looks: Mapped[int] = mapped_column(default=0)
    """How often its audit material has been used (V30: at most twice)."""
    version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    certificate_id: Mapped[UUID | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    held: Mapped[str | None] = mapped_column(Text)
    """Why its result waits for a person; while it does, no job takes the target."""
    released_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """Who looked at a held result and let it be certified."""
    released_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    request: Mapped[ErasureRequest] = relationship(back_populates="targets", lazy="raise")


class RequestRecord(Base):
    """A record that the request names."""

    __tablename__ = "request_records"

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    record_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("records.id"), primary_key=True)


class Approval(Base):
    """A second person's word for exactly one set of records."""

    __tablename__ = "approvals"

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    approver_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    record_set_hash: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[CreatedAt]
