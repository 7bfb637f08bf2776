"""Who may call, and with what."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, LargeBinary, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of


class Principal(Base):
    """A person or a machine."""

    __tablename__ = "principals"
    __table_args__ = (CheckConstraint(one_of("kind", "person", "machine"), name="kind"),)

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str] = mapped_column(Text)
    provider_mac: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    """Of whom an identity provider knows: the keyed hash of its name and of theirs there."""
    manages_keys: Mapped[bool] = mapped_column(default=False)
    """Whether a token of theirs has ever allowed to make keys; who can make a second person is none."""
    created_at: Mapped[CreatedAt]


class ApiKey(Base):
    """A key, as the HMAC of what its holder has."""

    __tablename__ = "api_keys"

    id: Mapped[Id]
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    mac: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSONB)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[CreatedAt]
