"""The fleet's health and deep audits on the wire."""

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel

from app.http.ids import AuditId, JobId, VersionId


class GroupOut(BaseModel):
    """Requests on one model, by one engine, ranked among equally many people."""

    model: str
    engine: str
    m: int
    requests: int
    rank: int
    low: int
    low_max: int | None
    bins: list[int]
    alarm: bool


class EvidenceOut(BaseModel):
    """The running evidence against perfect erasure."""

    model: str
    engine: str
    looks: int
    releases: int
    e_value: Decimal
    alarm: bool


class SurvivalOut(BaseModel):
    """What the sentinels of an earlier batch say on a later candidate."""

    job: str
    on: str
    sentinels: int
    back: int
    upper: Decimal
    alarm: bool


class QualificationOut(BaseModel):
    """How the last test of an engine's configuration ended; only an admitted one may certify `verified`."""

    model: str
    engine: str
    configuration: str
    state: str
    """`admitted`, `refused` or `lapsed`."""
    sentinels: int
    losses: int
    """Planted people that were not erased, or whose job failed the utility gate."""
    tests: int
    risk_upper: Decimal
    decided_at: datetime


class FleetOut(BaseModel):
    """What many verdicts show together; `alarms` is for people, one sentence each."""

    alarms: list[str]
    groups: list[GroupOut]
    evidence: list[EvidenceOut]
    survival: list[SurvivalOut]
    qualifications: list[QualificationOut]


class AuditAsk(BaseModel):
    """Which job's certificates to audit."""

    job: JobId


class Audit(BaseModel):
    """A deep audit; how many people it concerns, never who."""

    id: AuditId
    job: JobId
    attempt: int
    version: VersionId
    state: str
    """`due`, `done`, or `void`: it could not be held, for the reason in `failure`."""
    causes: list[str]
    subjects: int
    outcome: str | None
    """`clean`, `suspected`, `withdrawn`, or `insensitive`: the tests could not see even who was kept."""
    reasons: list[str]
    withdrawn: int
    """Certificates that were taken back."""
    seen: dict[str, tuple[int, int]]
    """By kind of test: how many of the people who were kept it sees, of how many."""
    shadows: int | None
    """Models that stood in for shadow models."""
    failure: str | None
    policy: str
    created_at: datetime
    concluded_at: datetime | None
