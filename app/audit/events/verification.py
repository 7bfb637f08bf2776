"""What was found out about a result, of app.verification."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class VerdictReached(Event):
    """One request was judged on one attempt; the numbers are kept apart, for auditors."""

    KIND: ClassVar[str] = "verdict.reached"

    request: UUID
    job: UUID
    attempt: int
    engine: str
    verdict: str
    level: str
    reasons: tuple[str, ...]
    policy: str
    at: datetime


@dataclass(frozen=True)
class ConfigurationTested(Event):
    """A configuration of an engine was admitted for certificates on a model line, or refused."""

    KIND: ClassVar[str] = "configuration.tested"

    model: UUID
    engine: str
    configuration: str
    state: str
    tests: int
    sentinels: int
    losses: int
    risk_upper: str
    policy: str
    at: datetime


@dataclass(frozen=True)
class QualificationLapsed(Event):
    """A configuration may certify no longer: its time is over, or its sentinels' record broke."""

    KIND: ClassVar[str] = "qualification.lapsed"

    model: UUID
    engine: str
    configuration: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class AuditOpened(Event):
    """Certificates of a job's attempt are to be audited deeply; who and why was decided by rule and lot."""

    KIND: ClassVar[str] = "audit.opened"

    audit: UUID
    job: UUID
    attempt: int
    requests: int
    causes: tuple[str, ...]
    policy: str
    at: datetime


@dataclass(frozen=True)
class AuditConcluded(Event):
    """A deep audit came to an end; `void` if it could not be held."""

    KIND: ClassVar[str] = "audit.concluded"

    audit: UUID
    job: UUID
    outcome: str
    reasons: tuple[str, ...]
    withdrawn: int
    policy: str
    at: datetime
