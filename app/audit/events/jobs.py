"""The work on a model, of app.jobs."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class JobOpened(Event):
    """A batch of requests against one model began, or a compaction (`work`); `reason` says why now."""

    KIND: ClassVar[str] = "job.opened"

    job: UUID
    model: UUID
    work: str
    reason: str
    requests: int
    policy: str
    at: datetime


@dataclass(frozen=True)
class JobPlanned(Event):
    """What the live version still knows was measured, and an engine was chosen."""

    KIND: ClassVar[str] = "job.planned"

    job: UUID
    engine: str
    sentinels: int
    verification_policy: str
    at: datetime


@dataclass(frozen=True)
class JobEscalated(Event):
    """An engine refused, or its result did not suffice; `next` follows, or nobody is left."""

    KIND: ClassVar[str] = "job.escalated"

    job: UUID
    engine: str
    outcome: str
    reasons: tuple[str, ...]
    next: str | None
    at: datetime


@dataclass(frozen=True)
class StageFailed(Event):
    """A stage ended abnormally, for the `failures`-th time in a row."""

    KIND: ClassVar[str] = "job.stage_failed"

    job: UUID
    stage: str
    failures: int
    code: str
    at: datetime


@dataclass(frozen=True)
class JobFailed(Event):
    """A job gave up; its requests wait again, with attention."""

    KIND: ClassVar[str] = "job.failed"

    job: UUID
    reason: str
    breaker: str
    at: datetime


@dataclass(frozen=True)
class JobSetAside(Event):
    """A job ended without publishing: so many results wait for a person; none if every request had left."""

    KIND: ClassVar[str] = "job.set_aside"

    job: UUID
    engine: str
    requests: int
    at: datetime


@dataclass(frozen=True)
class JobConcluded(Event):
    """Every request of the batch is concluded."""

    KIND: ClassVar[str] = "job.concluded"

    job: UUID
    engine: str
    attempts: int
    at: datetime


@dataclass(frozen=True)
class ModelFrozen(Event):
    """Nothing of a line is begun, served or destroyed; `version` went live and is not known here."""

    KIND: ClassVar[str] = "model.frozen"

    model: UUID
    version: UUID
    reason: str
    at: datetime


@dataclass(frozen=True)
class ModelResumed(Event):
    """Somebody has looked at a line that was paused after failed jobs, or frozen; work on it begins again."""

    KIND: ClassVar[str] = "model.resumed"

    model: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class CompactionAsked(Event):
    """Somebody asked that what a line erased approximately be made exact now."""

    KIND: ClassVar[str] = "model.compaction_asked"

    model: UUID
    principal: UUID
    requests: int
    at: datetime
