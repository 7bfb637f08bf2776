"""Training sets and their records, of app.records."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class LotteryCommitted(Event):
    """The hash of the lottery key, before a line is read: the draw can be replayed, not repeated."""

    KIND: ClassVar[str] = "lottery.committed"

    dataset: UUID
    commitment: bytes
    at: datetime


@dataclass(frozen=True)
class DatasetSubmitted(Event):
    """A training set is to be registered."""

    KIND: ClassVar[str] = "dataset.submitted"

    dataset: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class DatasetRegistered(Event):
    """A training set is registered whole; `digest` is of the file's bytes."""

    KIND: ClassVar[str] = "dataset.registered"

    dataset: UUID
    records: int
    subjects: int
    held_back: int
    digest: bytes
    at: datetime


@dataclass(frozen=True)
class DatasetFailed(Event):
    """Nothing of a training set is registered, because of one line of it."""

    KIND: ClassVar[str] = "dataset.failed"

    dataset: UUID
    code: str
    line: int | None
    at: datetime


@dataclass(frozen=True)
class DatasetSketched(Event):
    """Near duplicates can be sought among the records of a dataset."""

    KIND: ClassVar[str] = "dataset.sketched"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class RecordsListed(Event):
    """Somebody was shown ids of a dataset's records."""

    KIND: ClassVar[str] = "records.listed"

    dataset: UUID
    principal: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class RecordsErased(Event):
    """Records are no part of one model's data any more; without a model, of nobody's."""

    KIND: ClassVar[str] = "records.erased"

    dataset: UUID
    model: UUID | None
    records: int
    held_back: int
    at: datetime
