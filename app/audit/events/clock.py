"""When an answer is due, of app.erasure.timing."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class ClockPaused(Event):
    """The person was asked who they are; until they answer, the clock stands still."""

    KIND: ClassVar[str] = "request.clock_paused"

    request: UUID
    principal: UUID
    asked_on: str
    at: datetime


@dataclass(frozen=True)
class ClockResumed(Event):
    """The question was answered; `paused_days` counts all pauses of the request."""

    KIND: ClassVar[str] = "request.clock_resumed"

    request: UUID
    principal: UUID | None
    answered_on: str
    paused_days: int
    due_on: str
    at: datetime


@dataclass(frozen=True)
class RequestExtended(Event):
    """The answer may take three months from receipt; the person was told so inside the first."""

    KIND: ClassVar[str] = "request.extended"

    request: UUID
    principal: UUID
    reason: str
    notified_on: str
    due_on: str
    at: datetime


@dataclass(frozen=True)
class DeadlineWarned(Event):
    """A request is so many days before its date, pauses not counted; 0 days: the date has passed."""

    KIND: ClassVar[str] = "request.deadline"

    request: UUID
    days: int
    due_on: str
    at: datetime
