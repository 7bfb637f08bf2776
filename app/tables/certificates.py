"""Certificates: issued once, never changed; released when the version is served."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, LargeBinary, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, one_of


class Certificate(Base):
    """The signed statement about one request and one model."""

    __tablename__ = "certificates"
    __table_args__ = (
        UniqueConstraint("request_id", "model_id", "job_id", "attempt"),
        CheckConstraint(one_of("state", "issued", "released", "revoked"), name="state"),
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
