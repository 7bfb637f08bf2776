"""Who may call, and with what."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, LargeBinary, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base, CreatedAt, Id, one_of

ENDINGS = ("logout", "replaced", "revoked", "roles_changed", "disabled", "provider")


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
    roles: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    """What of our roles an identity provider said last that they have; when these change, sessions end."""
    roles_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When it said so, by its own clock: an older token does not take back what a newer one says."""
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Since when no key, token or session of theirs opens anything."""
    created_at: Mapped[CreatedAt]


class ApiKey(Base):
    """A key, as the HMAC of what its holder has."""

    __tablename__ = "api_keys"

    id: Mapped[Id]
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    mac: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSONB)
    vouches: Mapped[bool] = mapped_column(default=True)
    """Whether its holder knows who asks; if not, whoever asks must prove who they are."""
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[CreatedAt]


class PersonSession(Base):
    """A person's browser, logged in through the identity provider; as the HMAC of what its cookie says."""

    __tablename__ = "person_sessions"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (ended_how IS NULL)", name="ended"),
        CheckConstraint(f"ended_how IS NULL OR {one_of('ended_how', *ENDINGS)}", name="ended_how"),
        Index("ix_person_sessions_created", "created_at", "id"),
        Index("ix_person_sessions_open", "principal_id", postgresql_where="ended_at IS NULL"),
    )

    id: Mapped[Id]
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    mac: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSONB)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    seen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """When it was used last, to the minute: left idle it ends."""
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_how: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[CreatedAt]


class Login(Base):
    """A login under way: gone to the identity provider, and not yet come back. Taken once."""

    __tablename__ = "logins"

    mac: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """Of the `state` that comes back."""
    browser_mac: Mapped[bytes] = mapped_column(LargeBinary)
    """Of the cookie of the browser that it was begun in."""
    return_to: Mapped[str] = mapped_column(Text)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)
