"""What keeps anything from being erased from, of app.erasure.holds."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class HoldPlaced(Event):
    """A request, a record or a model (`subject`) must not be erased from for now."""

    KIND: ClassVar[str] = "hold.placed"

    hold: UUID
    principal: UUID
    subject: str
    reason: str
    expires_at: datetime
    at: datetime


@dataclass(frozen=True)
class HoldEnded(Event):
    """A hold was lifted by a second person, or expired without one."""

    KIND: ClassVar[str] = "hold.ended"

    hold: UUID
    principal: UUID | None
    how: str
    at: datetime


@dataclass(frozen=True)
class RequestHeld(Event):
    """A hold keeps a request out of batches; its clock goes on running."""

    KIND: ClassVar[str] = "request.held"

    request: UUID
    hold: UUID
    executing: int
    """In how many models it is too late: their jobs had begun."""
    at: datetime


@dataclass(frozen=True)
class RequestFreed(Event):
    """No hold keeps a request any longer."""

    KIND: ClassVar[str] = "request.freed"

    request: UUID
    at: datetime
