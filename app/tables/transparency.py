"""The public log: what waits to be logged, the tree, the checkpoints over it and who cosigned them.

Leaves, nodes and cosignatures are never changed or removed: triggers of the first migration refuse it,
and let a checkpoint only go on from `committed` to `signed` to `published`.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, one_of

_IS_LEAF_HASH = r"leaf_hash = sha256('\x00'::bytea || entry)"
"""RFC 6962's hash, which Postgres computes too: no leaf can stand for another entry."""


class LogOutbox(Base):
    """What is to be logged, written with the change that it is about; `idx` once it has its place."""

    __tablename__ = "log_outbox"
    __table_args__ = (
        CheckConstraint(_IS_LEAF_HASH, name="leaf_hash"),
        CheckConstraint("octet_length(entry) BETWEEN 1 AND 65535", name="entry"),
        UniqueConstraint("leaf_hash"),
        UniqueConstraint("idx"),
        Index("unsequenced", "id", postgresql_where=text("idx IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary)
    """Unique instead of the entry, which may be longer than an index can hold."""
    entry: Mapped[bytes] = mapped_column(LargeBinary)
    idx: Mapped[int | None] = mapped_column(BigInteger)


class LogLeaf(Base):
    """One entry in its place; `idx` has no gaps, because it is counted and not drawn from a sequence."""

    __tablename__ = "log_leaves"
    __table_args__ = (CheckConstraint(_IS_LEAF_HASH, name="leaf_hash"), UniqueConstraint("leaf_hash"))

    idx: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary)
    entry: Mapped[bytes] = mapped_column(LargeBinary)
    appended_at: Mapped[CreatedAt]


class LogNode(Base):
    """The root of a whole tile: level 1 of 256 leaves, level 2 of 256 nodes of level 1, and so on.

    A tile of any width is at most 256 rows of the level below, so partial tiles need no rows of their own.
    """

    __tablename__ = "log_nodes"
    __table_args__ = (
        CheckConstraint("level BETWEEN 1 AND 7", name="level"),
        CheckConstraint("octet_length(hash) = 32", name="hash"),
    )

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    idx: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class LogCheckpoint(Base):
    """A size of the tree that was committed; then signed; then shown to everybody."""

    __tablename__ = "log_checkpoints"
    __table_args__ = (
        CheckConstraint(one_of("state", "committed", "signed", "published"), name="state"),
        CheckConstraint("(state = 'committed') = (note IS NULL)", name="note"),
    )

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """The key: two checkpoints of one size cannot be."""
    root: Mapped[bytes] = mapped_column(LargeBinary)
    body: Mapped[str] = mapped_column(Text)
    """The text that is signed."""
    note: Mapped[str | None] = mapped_column(Text)
    """The text with the log's own signature."""
    state: Mapped[str] = mapped_column(Text)
    committed_at: Mapped[CreatedAt]
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class LogCosignature(Base):
    """A witness's word that the checkpoint only appended to what it had seen before."""

    __tablename__ = "log_cosignatures"

    size: Mapped[int] = mapped_column(
        ForeignKey("log_checkpoints.size"), primary_key=True, autoincrement=False
    )
    witness: Mapped[str] = mapped_column(Text, primary_key=True)
    """Its verifier key."""
    line: Mapped[str] = mapped_column(Text)
    signed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
