"""Who may do what: principals, keys and sessions, of app.auth."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class PrincipalCreated(Event):
    """There is a new person or machine."""

    KIND: ClassVar[str] = "principal.created"

    principal: UUID
    type: str
    at: datetime


@dataclass(frozen=True)
class PrincipalDisabled(Event):
    """No key, token or session of a principal opens anything from now on; so many sessions ended."""

    KIND: ClassVar[str] = "principal.disabled"

    principal: UUID
    actor: UUID
    sessions: int
    at: datetime


@dataclass(frozen=True)
class PrincipalEnabled(Event):
    """Keys and tokens of a principal count again; their sessions stay ended."""

    KIND: ClassVar[str] = "principal.enabled"

    principal: UUID
    actor: UUID
    at: datetime


@dataclass(frozen=True)
class RolesChanged(Event):
    """An identity provider says that somebody has other roles now; so many sessions ended for it."""

    KIND: ClassVar[str] = "principal.roles_changed"

    principal: UUID
    roles: tuple[str, ...]
    sessions: int
    at: datetime


@dataclass(frozen=True)
class KeyCreated(Event):
    """A key was made and shown once."""

    KIND: ClassVar[str] = "key.created"

    key: UUID
    principal: UUID
    scopes: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class KeyRevoked(Event):
    """A key opens nothing any more."""

    KIND: ClassVar[str] = "key.revoked"

    key: UUID
    at: datetime


@dataclass(frozen=True)
class SessionStarted(Event):
    """A person logged in."""

    KIND: ClassVar[str] = "session.started"

    session: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class SessionEnded(Event):
    """A session opens nothing any more; left idle, or at its time, it ends without a word."""

    KIND: ClassVar[str] = "session.ended"

    session: UUID
    principal: UUID
    how: str
    at: datetime
