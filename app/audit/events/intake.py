"""Requests that others bring, and what those are told, of app.intake."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class ImportReceived(Event):
    """A file of requests came in; so many of its rows could not be read."""

    KIND: ClassVar[str] = "import.received"

    upload: UUID
    principal: UUID
    rows: int
    invalid: int
    at: datetime


@dataclass(frozen=True)
class ImportConcluded(Event):
    """Every row of a file has its outcome."""

    KIND: ClassVar[str] = "import.concluded"

    upload: UUID
    created: int
    duplicate: int
    invalid: int
    at: datetime


@dataclass(frozen=True)
class CallbackFailed(Event):
    """A controller could not be told of a request's status; its callback was given up."""

    KIND: ClassVar[str] = "request.callback_failed"

    request: UUID
    status: str
    attempts: int
    at: datetime
