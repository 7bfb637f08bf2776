"""Measurements as they were handed over, the decisions taken on them, and which methods may certify."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of


class Measurement(Base):
    """The numbers of one version in one form, byte for byte, so that a verdict can be recomputed."""

    __tablename__ = "measurements"
    __table_args__ = (UniqueConstraint("job_id", "attempt", "moment", "form"),)

    id: Mapped[Id]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    """0 for the baseline, which is measured once per job, before anything was unlearned."""
    moment: Mapped[str] = mapped_column(Text)
    """`before` (the baseline) or `after` (the candidate)."""
    form: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    """RFC 8785 bytes of what the library wrote."""
    created_at: Mapped[CreatedAt]


class VerdictRow(Base):
    """One request's decision under one attempt."""

    __tablename__ = "verdicts"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt", "request_id"),
        CheckConstraint(one_of("verdict", "V", "I", "N", "F"), name="verdict"),
    )

    id: Mapped[Id]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"))
    attempt: Mapped[int]
    verdict: Mapped[str] = mapped_column(Text)
    level: Mapped[str] = mapped_column(Text)
    policy_digest: Mapped[str] = mapped_column(Text)
    decision: Mapped[dict[str, object]] = mapped_column(JSONB)
    """Reasons and bounds as `verification.verdict` returned them (decimal strings)."""
    created_at: Mapped[CreatedAt]


class Qualification(Base):
    """One test of an engine's configuration on one model line, and how it ended; numbers never change."""

    __tablename__ = "qualifications"
    __table_args__ = (
        CheckConstraint(one_of("state", "admitted", "refused", "lapsed"), name="state"),
        Index(
            "one_admission_per_configuration",
            "model_id",
            "configuration",
            unique=True,
            postgresql_where="state = 'admitted'",
        ),
    )

    id: Mapped[Id]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    engine: Mapped[str] = mapped_column(Text)
    configuration: Mapped[str] = mapped_column(Text)
    """Hex SHA-256 of all that was tried: engine, version, code, settings, line, recipe, forms."""
    state: Mapped[str] = mapped_column(Text)
    tests: Mapped[int]
    """Configurations tried and refusals: what the level of the test was divided by."""
    sentinels: Mapped[int]
    losses: Mapped[int]
    risk_upper: Mapped[str] = mapped_column(Text)
    """Decimal string: bound of the risk at the confidence that `tests` leaves."""
    rows_min: Mapped[int]
    rows_max: Mapped[int]
    """Smallest and largest forget set that was tried; no other is covered."""
    jobs: Mapped[list[str]] = mapped_column(JSONB)
    """Ids of the jobs whose sentinels were counted; stored measurements repeat the test."""
    policy_digest: Mapped[str] = mapped_column(Text)
    through: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """The last run that was counted: only later ones count in another test."""
    decided_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    lapsed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lapse: Mapped[str | None] = mapped_column(Text)
    """`expired`, or `sentinels`: the record of the window no longer carries the bound."""
    created_at: Mapped[CreatedAt]


class Audit(Base):
    """A deep audit of one attempt's candidate: of whom and why, what was measured, what came of it."""

    __tablename__ = "audits"
    __table_args__ = (
        UniqueConstraint("job_id", "attempt"),
        CheckConstraint(one_of("state", "due", "done", "void"), name="state"),
        CheckConstraint(one_of("outcome", "clean", "suspected", "withdrawn", "insensitive"), name="outcome"),
        CheckConstraint("(state = 'done') = (outcome IS NOT NULL)", name="outcome_when_done"),
    )

    id: Mapped[Id]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    configuration: Mapped[str] = mapped_column(Text)
    """Hex SHA-256 of what made the version (`qualifications.configuration`)."""
    causes: Mapped[dict[str, list[str]]] = mapped_column(JSONB)
    """By request audited: `drawn`, `escalated`, `new_configuration`, `asked_for`; empty for a worst case."""
    state: Mapped[str] = mapped_column(Text, default="due")
    """`void`: it cannot be held any more, see `failure`; that takes no certificate away."""
    tries: Mapped[int] = mapped_column(default=0)
    failure: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str | None] = mapped_column(Text)
    decision: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """RFC 8785 bytes of what the library measured, so that the decision can be repeated."""
    policy_digest: Mapped[str] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    concluded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
