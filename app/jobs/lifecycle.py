"""What follows what in a job, and when a batch is due.

Pure: numbers and dates in, words out. Knows no clock and no table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum


class JobKind(StrEnum):
    """What a job is for."""

    ERASURE = "erasure"
    """Erases what waits."""
    COMPACTION = "compaction"
    """Takes nothing that waits; makes exact what was erased approximately, and moves the anchor."""


class JobState(StrEnum):
    """A job runs until it has concluded or failed."""

    RUNNING = "running"
    CONCLUDED = "concluded"
    FAILED = "failed"


class JobStage(StrEnum):
    """The stage that is due next; `done` ends the line."""

    PLAN = "plan"
    UNLEARN = "unlearn"
    VERIFY = "verify"
    CERTIFY = "certify"
    PUBLISH = "publish"
    CONCLUDE = "conclude"
    DONE = "done"


FOLLOWS = dict(zip(list(JobStage)[:-1], list(JobStage)[1:], strict=True))
"""The straight line; the one way back is `again`."""


def again(stage: JobStage) -> JobStage:
    """Return where a new attempt starts: only a refused run or a verdict may send a job back."""
    assert stage in {JobStage.UNLEARN, JobStage.VERIFY}, f"{stage} cannot be tried again"
    return JobStage.UNLEARN


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """One target that no job has taken yet."""

    since: datetime
    due_on: date


def batch_due(
    waiting: Sequence[Waiting],
    *,
    now: datetime,
    largest: int,
    wait_longest_hours: int,
    due_within_days: int,
    asked_for: bool,
) -> str | None:
    """Return why a batch should begin now, or None: size, age, a near deadline, or by hand."""
    if not waiting:
        return None
    if asked_for:
        return "asked_for"
    if len(waiting) >= largest:
        return "size"
    if min(each.since for each in waiting) <= now - timedelta(hours=wait_longest_hours):
        return "age"
    if min(each.due_on for each in waiting) <= now.date() + timedelta(days=due_within_days):
        return "deadline"
    return None
