"""Certificates: issued once, never changed; released when the version is served."""

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
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, one_of


class Certificate(Base):
    """The signed statement about one request and one model."""

    __tablename__ = "certificates"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id", "job_id", "attempt"),
        # What a request has to show for a model is one certificate; the others were superseded by it.
        Index(
            "one_current_certificate",
            "request_id",
            "model_id",
            unique=True,
            postgresql_where="state = 'released'",
        ),
        CheckConstraint(one_of("state", "issued", "released", "superseded", "revoked"), name="state"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """A UUIDv4: a v7 would carry the time (C26)."""
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"))
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"))
    level: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default="issued")
    pae_sha256: Mapped[str] = mapped_column(Text, unique=True)
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    evidence: Mapped[bytes] = mapped_column(LargeBinary)
    """The verification report (auditor scope): salted, its digest is in the statement."""
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    opening: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    """Nonces for the requester; gone after the one delivery."""
    issued_at: Mapped[CreatedAt]
    released_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    supersedes_id: Mapped[UUID | None] = mapped_column(ForeignKey("certificates.id"))
    """The older certificate of the same request and model that this one takes the place of."""
    superseded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When a newer one that takes its place was released."""
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When it was found not to stand."""
    revocation: Mapped[str | None] = mapped_column(Text)
    """Why, in the words of the status list."""
    place: Mapped[int] = mapped_column(BigInteger)
    """Where it stands in the list of all certificates that its version honours, from 0."""
    stamp_ed25519: Mapped[bytes | None] = mapped_column(LargeBinary)
    stamp_p256: Mapped[bytes | None] = mapped_column(LargeBinary)
    """RFC 3161 tokens over the two signatures, where an authority is configured."""


class Publication(Base):
    """The statement that a version went live, fixed by the transaction that made it so; signed after it."""

    __tablename__ = "publications"
    __table_args__ = (
        CheckConstraint("(envelope IS NULL) = (model_signature IS NULL)", name="signed"),
        Index("unsigned_publications", "version_id", postgresql_where="envelope IS NULL"),
    )

    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    pae_sha256: Mapped[str] = mapped_column(Text, unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    """How many certificates the version honours."""
    envelope: Mapped[bytes | None] = mapped_column(LargeBinary)
    model_signature: Mapped[bytes | None] = mapped_column(LargeBinary)
    """`model.sig`, of the version's files."""


class StatusList(Base):
    """One day's statement of which certificates do not stand."""

    __tablename__ = "status_lists"

    pae_sha256: Mapped[str] = mapped_column(Text, primary_key=True)
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    produced_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
