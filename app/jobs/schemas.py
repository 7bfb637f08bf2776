"""Jobs on the wire."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from app.http.ids import JobId, ModelId, RequestId


class JobRun(BaseModel):
    """Ask for a job on a model now, whatever the batch policy says."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=63)]


class JobAsked(BaseModel):
    """The bell was rung; the job appears in the list once a worker has opened it."""

    model: ModelId
    asked_at: datetime


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
    model: ModelId
    state: str
    stage: str
    attempt: int
    engine: str | None
    requests: list[RequestId]
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
