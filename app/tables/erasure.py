"""Erasure requests: their models, records, approvals, the pauses of their clock, what holds them."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.tables.base import Base, CreatedAt, Id, one_of

STATES = (
    "received",
    "identity_pending",
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


GROUNDS = ("12.5", "12.6", "17.3.a", "17.3.b", "17.3.c", "17.3.d", "17.3.e")
EXEMPTIONS = GROUNDS[2:]
HOLD_REASONS = ("litigation", "investigation", "regulator", "preservation_order")
LEVELS = ("reviewer", "privacy_officer")
DECISIONS = ("adopted", "declined")


class ErasureRequest(Base):
    """A data subject's request to be forgotten (GDPR Art. 17), without the subject's identity."""

    __tablename__ = "erasure_requests"
    __table_args__ = (
        CheckConstraint(one_of("state", *STATES), name="state"),
        CheckConstraint(f"ground IS NULL OR {one_of('ground', *GROUNDS)}", name="ground"),
        # Who submitted a request is never the one who refuses it, whatever a program believes.
        CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        Index("ix_erasure_requests_created", "created_at", "id"),
        # What is due next, and what is overdue: of the open ones only.
        Index("ix_erasure_requests_due", "due_at", "id", postgresql_where="concluded_at IS NULL"),
        Index("ix_erasure_requests_subject_macs", "subject_macs", postgresql_using="gin"),
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
    due_without_pause: Mapped[date] = mapped_column(Date)
    """As if no clock had been paused: what warnings run on, because authorities differ."""
    internal_target: Mapped[date] = mapped_column(Date)
    """When we want to have answered."""
    calendar: Mapped[str] = mapped_column(Text)
    """The rule and the dated list by which the dates were counted."""
    jurisdiction: Mapped[str] = mapped_column(Text, default="EU")
    time_zone: Mapped[str] = mapped_column(Text, default="UTC")
    policy: Mapped[str] = mapped_column(Text, default="default")
    alerted_days: Mapped[int | None]
    """The nearest warning that was given: 14, 7, 3, 1; 0 is the breach."""
    extended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    extension_reason: Mapped[str | None] = mapped_column(Text)
    extension_notified_on: Mapped[date | None] = mapped_column(Date)
    """When the subject was told that it takes longer, and why."""
    clock_paused: Mapped[bool] = mapped_column(Boolean, default=False)
    legal_hold: Mapped[bool] = mapped_column(Boolean, default=False)
    duplicate_of: Mapped[UUID | None] = mapped_column(ForeignKey("erasure_requests.id"))
    """An open request of the same person; linked, never merged, and it excuses nothing."""
    identity_method: Mapped[str | None] = mapped_column(Text)
    """How a doubted identity was proven."""
    records_exempt: Mapped[int] = mapped_column(default=0)
    records_near: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of the records, how many a person adopted as near duplicates of others."""
    proposals_open: Mapped[int] = mapped_column(default=0, server_default="0")
    """Proposals that nobody has decided on."""
    indexes: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict, server_default="{}")
    """Where was looked: each index `searched`, `searching`, `unavailable`, `waived` or `off`."""
    concluded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ground: Mapped[str | None] = mapped_column(Text)
    """Why it was rejected, as an article's code."""
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """Who rejected it."""
    notified_on: Mapped[date | None] = mapped_column(Date)
    """When the subject was told of a refusal, in whole or in part (Art. 12(4))."""
    notice_ref: Mapped[str | None] = mapped_column(Text)
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
    on_hold: Mapped[bool] = mapped_column(Boolean, default=False)
    """A legal hold keeps it out of batches; while it does, no job takes the target."""
    released_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """Who looked at a held result and let it be certified."""
    released_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    request: Mapped[ErasureRequest] = relationship(back_populates="targets", lazy="raise")


class RequestRecord(Base):
    """A record that the request names; one that is exempt is kept, and says on which ground."""

    __tablename__ = "request_records"
    __table_args__ = (
        CheckConstraint(f"exempt IS NULL OR {one_of('exempt', *EXEMPTIONS)}", name="exempt"),
        CheckConstraint("(exempt IS NULL) = (exempted_by IS NULL)", name="exempted_by"),
    )

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    record_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("records.id"), primary_key=True)
    exempt: Mapped[str | None] = mapped_column(Text)
    exempted_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))


class RequestSearch(Base):
    """A search for near duplicates of exactly one set of records that a worker is still owed, or has done."""

    __tablename__ = "request_searches"
    __table_args__ = (
        CheckConstraint(one_of("state", "open", "done", "waived"), name="state"),
        Index("ix_request_searches_open", "next_at", postgresql_where="state = 'open'"),
    )

    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), primary_key=True
    )
    record_set_hash: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(Text, default="open")
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """Until then another worker is at it, or what it needs was away a moment ago."""
    more: Mapped[bool] = mapped_column(Boolean, default=False)
    """It found more than one person can look at; once these are decided it begins again."""


class RequestProposal(Base):
    """A record that may concern a request, as it says nearly the same as one that does; a person decides."""

    __tablename__ = "request_proposals"
    __table_args__ = (
        CheckConstraint("jaccard > 0 AND jaccard <= 1", name="jaccard"),
        CheckConstraint(f"decision IS NULL OR {one_of('decision', *DECISIONS)}", name="decision"),
        CheckConstraint("(decision IS NULL) = (decided_by IS NULL)", name="decided_by"),
    )

    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), primary_key=True
    )
    record_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("records.id", ondelete="CASCADE"), primary_key=True
    )
    near_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("records.id", ondelete="CASCADE"))
    """The record of the set that it is nearest to."""
    jaccard: Mapped[float]
    decision: Mapped[str | None] = mapped_column(Text)
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class Approval(Base):
    """A second person's word for exactly one set of records."""

    __tablename__ = "approvals"
    __table_args__ = (CheckConstraint(one_of("level", *LEVELS), name="level"),)

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    approver_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    record_set_hash: Mapped[bytes] = mapped_column(LargeBinary)
    level: Mapped[str] = mapped_column(Text, default=LEVELS[0])
    created_at: Mapped[CreatedAt]


class ClockPause(Base):
    """A doubt about the identity, from asking to answer (Art. 12(6)); the only thing that stops the clock."""

    __tablename__ = "clock_pauses"
    __table_args__ = (
        CheckConstraint("answered_on IS NULL OR answered_on >= asked_on", name="in_order"),
        Index("one_open_pause", "request_id", unique=True, postgresql_where="answered_on IS NULL"),
    )

    id: Mapped[Id]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), index=True)
    asked_on: Mapped[date] = mapped_column(Date)
    answered_on: Mapped[date | None] = mapped_column(Date)
    asked_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    answered_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class Hold(Base):
    """A legal hold on a request, a record or a model: out of batches, and the clock runs on."""

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("num_nonnulls(request_id, record_id, model_id) = 1", name="one_subject"),
        CheckConstraint(one_of("reason", *HOLD_REASONS), name="reason"),
        CheckConstraint("lifted_by IS NULL OR lifted_by <> placed_by", name="second_person"),
        CheckConstraint("lifted_by IS NULL OR ended_at IS NOT NULL", name="ended"),
        Index("ix_holds_open", "expires_at", postgresql_where="ended_at IS NULL"),
    )

    id: Mapped[Id]
    request_id: Mapped[UUID | None] = mapped_column(ForeignKey("erasure_requests.id"), index=True)
    record_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("records.id"), index=True)
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    external_ref: Mapped[str | None] = mapped_column(Text)
    placed_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lifted_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """A second person; nobody, when it expired."""
    created_at: Mapped[CreatedAt]
