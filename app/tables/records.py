"""Datasets, their records, and whose they are, as keyed hashes; content stays where it is."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of


class Dataset(Base):
    """A training set at a URI: registered whole or not at all."""

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint(one_of("state", "registering", "ready", "failed"), name="state"),
        CheckConstraint(one_of("format", "jsonl", "parquet"), name="format"),
    )

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(Text, unique=True)
    uri: Mapped[str] = mapped_column(Text)
    format: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default="registering")
    hold_back: Mapped[int | None]
    """Subjects never to be trained, as asked for at registration; None is the default share."""
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    """SHA-256 of the file's bytes as they were registered."""
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    records: Mapped[int | None] = mapped_column(BigInteger)
    subjects: Mapped[int | None] = mapped_column(BigInteger)
    held_back: Mapped[int | None] = mapped_column(BigInteger)
    forgotten: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """How many of its records were erased, and their rows deleted since."""
    forgotten_places: Mapped[list[int]] = mapped_column(ARRAY(Integer), default=list, server_default="{}")
    """Where those of them who were held back stood in the order of the draw: numbers, and nobody's."""
    lottery_commitment: Mapped[bytes | None] = mapped_column(LargeBinary)
    """SHA-256 of the lottery key, audited before the draw, so that the draw can be replayed."""
    progress: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict)
    failure: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    """{"code", "line", "pointer"}: what was wrong and where; never what stood there."""
    sketch: Mapped[str | None] = mapped_column(Text)
    """By what all of its records are sketched; None: near duplicates cannot be sought in it yet."""
    sketching: Mapped[dict[str, object]] = mapped_column(JSONB, default=dict, server_default="{}")
    """{"name", "after", "tries", "not_before"}: how far a pass is; empty while none is under way."""
    created_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class Record(Base):
    """One line of a dataset: where it is, what it hashes to, whose it is, which arm it fell in."""

    __tablename__ = "records"
    __table_args__ = (
        CheckConstraint(one_of("role", "person", "sentinel"), name="role"),
        CheckConstraint(one_of("arm", "train", "held_back"), name="arm"),
        Index("ix_records_dataset_external", "dataset_id", "external_id", unique=True),
        Index("ix_records_subject_macs", "subject_macs", postgresql_using="gin"),
        Index("ix_records_content_mac", "content_mac"),
        Index("ix_records_dataset_cluster", "dataset_id", "cluster"),
        # What was erased once is recognised when a file brings it back.
        Index("ix_records_erased_content", "content_mac", postgresql_where="erased_at IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id"))
    external_id: Mapped[str] = mapped_column(Text)
    position: Mapped[int] = mapped_column(BigInteger)
    """JSONL: byte offset of the line. Parquet: row number."""
    length: Mapped[int] = mapped_column(BigInteger)
    """JSONL: bytes of the line without its end. Parquet: 0."""
    content_mac: Mapped[bytes] = mapped_column(LargeBinary)
    subject_macs: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary))
    cluster: Mapped[bytes] = mapped_column(LargeBinary)
    """The home subject's keyed hash; subjects that share a record are one cluster."""
    suppression_mac: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What would bar it: compared with the list when a model is to learn from it."""
    key_version: Mapped[int] = mapped_column(default=1)
    role: Mapped[str] = mapped_column(Text)
    arm: Mapped[str] = mapped_column(Text)
    erased_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Gone from every model that knew it, and from comparison; no model may learn it again."""


class RecordSketch(Base):
    """What a record's text is like, as keyed hashes of bands of minima; unreadable without the key."""

    __tablename__ = "record_sketches"
    __table_args__ = (
        # Whoever shares one band with a record may be near it: one look per band. What was added last lies
        # unsorted and is read with each look, so only a little of it is left so.
        Index(
            "ix_record_sketches_bands",
            "bands",
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 64},
        ),
    )

    record_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("records.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    bands: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """Each the hash of its number and its minima, so that two bands are equal only in the same place."""


class Suppression(Base):
    """What no training may bring back: a keyed hash of a record's content, and of nobody."""

    __tablename__ = "suppressions"

    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    """In the order of commits, so that who has read up to one has missed nothing before it."""
    mac: Mapped[bytes | None] = mapped_column(LargeBinary, index=True)
    """None: the record could no longer be read when this was made, and cannot be recognised."""
    record_id: Mapped[int | None] = mapped_column(
        BigInteger, ForeignKey("records.id", ondelete="SET NULL"), unique=True
    )
    created_at: Mapped[CreatedAt]


class RecordExclusion(Base):
    """A record that one model does not know: it was erased there, or withheld from its training."""

    __tablename__ = "record_exclusions"
    __table_args__ = (CheckConstraint(one_of("reason", "erased", "withheld"), name="reason"),)

    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    record_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("records.id"), primary_key=True)
    reason: Mapped[str] = mapped_column(Text)
    job_id: Mapped[UUID | None]
    """The job that erased it."""
    created_at: Mapped[CreatedAt]
