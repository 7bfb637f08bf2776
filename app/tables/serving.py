"""Model servers and what each said it holds."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, ForeignKey, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, Id


class ServingReplica(Base):
    """One model server of one model; it counts as confirmed when it attested the digest it holds."""

    __tablename__ = "serving_replicas"
    __table_args__ = (UniqueConstraint("model_id", "address"),)

    id: Mapped[Id]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"))
    address: Mapped[str] = mapped_column(Text)
    manifest: Mapped[str | None] = mapped_column(Text)
    publish_epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    attestation: Mapped[dict[str, object] | None] = mapped_column(JSONB)
    confirmed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
