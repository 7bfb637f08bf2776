"""Measurements as they were handed over, and the decisions that were taken on them."""

from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, Text, UniqueConstraint
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
