"""How the service itself forgets, of app.erasure.forgetting and app.records.forgetting."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class RequestPurged(Event):
    """What was known of the person is destroyed; the request is a tombstone from here on."""

    KIND: ClassVar[str] = "request.purged"

    request: UUID
    sealed: int
    """How many sealed fields there were."""
    at: datetime


@dataclass(frozen=True)
class RecordsForgotten(Event):
    """The rows of records that were erased long enough ago are deleted; what bars them stays."""

    KIND: ClassVar[str] = "dataset.records_forgotten"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class TombstoneDeleted(Event):
    """A purged request is deleted itself, its years being over; this chain is what is left of it."""

    KIND: ClassVar[str] = "request.deleted"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class EpochRetired(Event):
    """Nothing is wrapped by a week's key any more, and its file is destroyed."""

    KIND: ClassVar[str] = "keys.epoch_retired"

    week: str
    rewrapped: int
    at: datetime
