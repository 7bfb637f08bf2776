"""What no training may bring back, of app.records.suppression."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class RecordsSuppressed(Event):
    """A file brought back what had been erased; it is registered as erased."""

    KIND: ClassVar[str] = "records.suppressed"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class RecordsBarred(Event):
    """No training may bring these records back; of so many nobody could read any more what they say."""

    KIND: ClassVar[str] = "suppression.extended"

    dataset: UUID
    records: int
    unreadable: int
    at: datetime


@dataclass(frozen=True)
class BarsLifted(Event):
    """Records may be trained on again: whoever asked for their erasure took it back before it began."""

    KIND: ClassVar[str] = "suppression.lifted"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class SuppressionListed(Event):
    """Somebody read the suppression list, from after a number on."""

    KIND: ClassVar[str] = "suppression.listed"

    principal: UUID
    after: int
    at: datetime


@dataclass(frozen=True)
class SuppressionScreened(Event):
    """Somebody asked which records of a training set are barred; `manifest` is its digest, if it has one."""

    KIND: ClassVar[str] = "suppression.screened"

    principal: UUID
    manifest: str | None
    digests: int
    hits: int
    list_version: int
    at: datetime
