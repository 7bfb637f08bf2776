"""Model lines, their versions, and the reference models that teach and judge."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of


class Model(Base):
    """A model line: one sequence of versions, one of which is live, and one lease over all work."""

    __tablename__ = "models"
    __table_args__ = (CheckConstraint(one_of("breaker", "closed", "open", "frozen"), name="breaker"),)

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(Text, unique=True)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    base_uri: Mapped[str] = mapped_column(Text)
    """A Hugging Face directory: configuration and tokenizer, with weights when it is fine-tuned."""
    base_manifest: Mapped[str | None] = mapped_column(Text)
    """The base as it was copied into the store, so that a replay starts from the same bytes."""
    recipe: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    """None: trained elsewhere, and how is not known."""
    layout: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    """How its training is cut into recorded slices, fixed when the line was made; None: not recorded."""
    references_wanted: Mapped[int] = mapped_column(default=4)
    forms: Mapped[list[str]] = mapped_column(JSONB, default=lambda: ["float32/none"])
    verification_policy: Mapped[str] = mapped_column(Text, default="default")
    jobs_policy: Mapped[str] = mapped_column(Text, default="default")
    assurance_min: Mapped[str] = mapped_column(Text, default="executed")
    live_version_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("model_versions.id", use_alter=True, name="fk_models_live_version_id")
    )
    erasure_epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    publish_epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    fenced: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """How many stages found their lease lost; nothing of what they had computed counts."""
    breaker: Mapped[str] = mapped_column(Text, default="closed")
    """Open: nothing is begun. Frozen: nor is anything served or destroyed. A person closes it."""
    failed_jobs: Mapped[int] = mapped_column(default=0)
    """Failed jobs in a row; two open the breaker."""
    attention: Mapped[str | None] = mapped_column(Text)
    run_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Somebody asked for a job now, whatever the batch policy says; cleared when one begins."""
    compaction_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Somebody asked for a compaction now, whatever the policy says; cleared when one begins."""
    created_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class ModelVersion(Base):
    """One set of weights of a line, named by the SHA-256 of its manifest."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        CheckConstraint(
            one_of(
                "state", "preparing", "candidate", "live", "quarantined", "condemned", "destroyed", "failed"
            ),
            name="state",
        ),
    )

    id: Mapped[Id]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int | None]
    """1, 2, ... in order of publication; None until published."""
    state: Mapped[str] = mapped_column(Text)
    manifest: Mapped[str | None] = mapped_column(Text)
    """Hex SHA-256 of the manifest; None while `preparing`."""
    tensor_root: Mapped[str | None] = mapped_column(Text)
    engine: Mapped[str] = mapped_column(Text)
    """`train`, `upload`, or the engine that unlearned."""
    exact: Mapped[bool]
    """Whether it came from training alone, so that a job may start from it (an anchor)."""
    anchor_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    """The version that was live when the job began."""
    delta: Mapped[str | None] = mapped_column(Text)
    """Hex SHA-256 of the delta's file in the store, for versions made by an approximate engine."""
    curvature: Mapped[str | None] = mapped_column(Text)
    """Likewise, of what its engine left for the next job over the same anchor."""
    history: Mapped[str | None] = mapped_column(Text)
    """Hex SHA-256 of the manifest of what the recorder left of its training; as personal as weights."""
    history_condemned: Mapped[str | None] = mapped_column(Text)
    """A history that met somebody who is erased, until it is destroyed."""
    job_id: Mapped[UUID | None]
    erasure_epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    statement: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict)
    """How it was made: recipe or engine statement, environment, seconds; no personal data."""
    progress: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict)
    failures: Mapped[int] = mapped_column(default=0)
    """How often preparing it has failed in a row."""
    kills: Mapped[int] = mapped_column(default=0)
    """How often preparing it was killed; that is counted apart."""
    failure: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedAt]
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class ReferenceModel(Base):
    """A model of the same recipe on one shard of the subjects; it never saw the other shards."""

    __tablename__ = "reference_models"
    __table_args__ = (
        CheckConstraint(one_of("state", "ready", "condemned", "destroyed"), name="state"),
        Index(
            "one_reference_per_shard",
            "model_id",
            "shard",
            unique=True,
            postgresql_where="state = 'ready'",
        ),
    )

    id: Mapped[Id]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    shard: Mapped[int]
    state: Mapped[str] = mapped_column(Text, default="ready")
    manifest: Mapped[str] = mapped_column(Text)
    saw: Mapped[str] = mapped_column(Text)
    """Hex Merkle root over the content MACs of the records it was trained on."""
    created_at: Mapped[CreatedAt]
    destroyed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
