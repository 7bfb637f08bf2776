"""Who asks: proven, challenged, refused, looked at; of app.erasure.identity and app.erasure.timing."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class IdentityConfirmed(Event):
    """A doubted identity was proven; `method` says how, never by what."""

    KIND: ClassVar[str] = "request.identity_confirmed"

    request: UUID
    principal: UUID | None
    """Nobody, where the person brought a code without anybody's key."""
    method: str
    at: datetime


@dataclass(frozen=True)
class IdentityChallenged(Event):
    """A one-time code was sent to the address that a request names."""

    KIND: ClassVar[str] = "request.identity_challenged"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class IdentityRefused(Event):
    """A code was shown that is not the one that was sent."""

    KIND: ClassVar[str] = "request.identity_refused"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class IdentityRead(Event):
    """Somebody looked at what is known of the person of a request; `what` names fields, never values."""

    KIND: ClassVar[str] = "identity.read"

    request: UUID
    principal: UUID
    what: tuple[str, ...]
    at: datetime
