"""Unlearning jobs and what each stage of them has done."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of


class Job(Base):
    """One batch of requests against one model, or one compaction of it; at most one runs per model."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("kind", "erasure", "compaction"), name="kind"),
        CheckConstraint(one_of("state", "running", "concluded", "failed"), name="state"),
        CheckConstraint(
            one_of("stage", "plan", "unlearn", "verify", "certify", "publish", "conclude", "done"),
            name="stage",
        ),
        Index("one_running_job", "model_id", unique=True, postgresql_where="state = 'running'"),
    )

    id: Mapped[Id]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    kind: Mapped[str] = mapped_column(Text, default="erasure")
    """`erasure` takes requests that wait; `compaction` takes none and makes exact what was approximate."""
    state: Mapped[str] = mapped_column(Text, default="running")
    stage: Mapped[str] = mapped_column(Text, default="plan")
    """The stage that is due next."""
    attempt: Mapped[int] = mapped_column(default=1)
    """Counts engines tried on this batch; a new attempt starts again at `unlearn`."""
    engine: Mapped[str | None] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    anchor_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    candidate_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    policy_digest: Mapped[str | None] = mapped_column(Text)
    failures: Mapped[int] = mapped_column(default=0)
    """Failures of the present stage in a row."""
    kills: Mapped[int] = mapped_column(default=0)
    """How often the present stage was killed; that is counted apart."""
    failure: Mapped[str | None] = mapped_column(Text)
    plan: Mapped[dict[str, list[int]]] = mapped_column(JSONB, default=dict)
    """`sentinels`, erased with the batch, and `controls` of the assay, as ids of their records."""
    history: Mapped[list[dict[str, object]]] = mapped_column(JSONB, default=list)
    """What was tried: {"attempt", "engine", "outcome", "reasons", "seconds"}; shown to people."""
    progress: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict)
    created_at: Mapped[CreatedAt]
    concluded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class JobStep(Base):
    """A stage that was done: a repeated delivery finds this row and returns."""

    __tablename__ = "job_steps"
    __table_args__ = (UniqueConstraint("job_id", "attempt", "stage"),)

    id: Mapped[Id]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    stage: Mapped[str] = mapped_column(Text)
    lease_epoch: Mapped[int] = mapped_column(BigInteger)
    output: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict)
    """Digests and counts of what the stage made."""
    seconds: Mapped[float]
    created_at: Mapped[CreatedAt]


class JobCover(Base):
    """A request that was erased before, approximately, and that a job's exact result covers again."""

    __tablename__ = "job_covers"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
