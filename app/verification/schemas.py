"""The fleet's health on the wire."""

from decimal import Decimal

from pydantic import BaseModel


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


class FleetOut(BaseModel):
    """What many verdicts show together; `alarms` is for people, one sentence each."""

    alarms: list[str]
    groups: list[GroupOut]
    evidence: list[EvidenceOut]
    survival: list[SurvivalOut]
