"""Jobs on the wire."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from app.http.ids import JobId, ModelId, RequestId, VersionId


class JobRun(BaseModel):
    """Ask for a job on a model now, whatever the batch policy says."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=63)]


class JobAsked(BaseModel):
    """The bell was rung; the job appears in the list once a worker has opened it."""

    model: ModelId
    asked_at: datetime


class Outstanding(BaseModel):
    """What a line has erased approximately: its anchor still holds it."""

    requests: int
    since: datetime | None
    """When the first of them was concluded."""
    records: int
    """Sentinels included."""
    share: str | None
    """Of the dataset's records."""
    retain_rise: str | None
    """Of the loss on retained records, nats per token, as far as engines have measured it."""


class Compaction(BaseModel):
    """How far a line is from its anchor, and whether that is to be mended."""

    model: ModelId
    anchor: VersionId
    anchor_live_at: datetime | None
    deltas: int
    """Approximate versions on top of the anchor; every job starts from it and applies them anew."""
    outstanding: Outstanding
    reason: str | None
    """Why a compaction is due, and begins as soon as nothing more urgent does; null while none is."""
    due_by: datetime | None
    """When one is due by age alone: as long as that the anchor may hold the erased."""
    not_before: datetime | None
    """After a failure: until when none begins by itself."""
    asked_at: datetime | None
    """When somebody asked for one that has not begun."""


class Tried(BaseModel):
    """One engine that was tried on the batch, and what came of it."""

    attempt: int
    engine: str
    outcome: str
    reasons: list[str]
    seconds: float


class Job(BaseModel):
    """A batch on its way."""

    id: JobId
    kind: str
    """`erasure` of what waited, or `compaction`: what was erased approximately is made exact."""
    model: ModelId
    state: str
    stage: str
    attempt: int
    engine: str | None
    requests: list[RequestId]
    """Those that it erases, and those erased before that its exact result covers again."""
    history: list[Tried]
    """Engines tried so far, oldest first: a ladder is climbed in the open."""
    progress: dict[str, Any]
    failure: str | None
    created_at: datetime
    concluded_at: datetime | None


class Step(BaseModel):
    """A stage that was done."""

    attempt: int
    stage: str
    seconds: float
    at: datetime
    output: dict[str, Any]


class JobDetail(Job):
    """A job with its steps."""

    steps: list[Step]
