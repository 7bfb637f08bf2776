"""When a batch is due, and what follows what."""

from datetime import UTC, date, datetime, timedelta

import pytest

from app.jobs.lifecycle import FOLLOWS, JobStage, Waiting, again, batch_due

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FAR = date(2026, 12, 21)


def due(waiting: list[Waiting], *, asked_for: bool = False) -> str | None:
    return batch_due(
        waiting, now=NOW, largest=3, wait_longest_hours=24, due_within_days=7, asked_for=asked_for
    )


def since(hours: float, due_on: date = FAR) -> Waiting:
    return Waiting(since=NOW - timedelta(hours=hours), due_on=due_on)


def test_nothing_waits_nothing_begins() -> None:
    assert due([], asked_for=True) is None


def test_a_young_small_far_batch_waits() -> None:
    assert due([since(1), since(2)]) is None


def test_each_reason_alone_begins_a_batch() -> None:
    assert due([since(1), since(1), since(1)]) == "size"
    assert due([since(24)]) == "age"
    assert due([since(23.99)]) is None
    assert due([since(1, date(2026, 11, 28))]) == "deadline"
    assert due([since(1, date(2026, 11, 29))]) is None
    assert due([since(1)], asked_for=True) == "asked_for"


def test_the_line_is_straight_and_ends() -> None:
    seen = [JobStage.PLAN]
    while seen[-1] in FOLLOWS:
        seen.append(FOLLOWS[seen[-1]])
    assert seen == list(JobStage)


def test_only_a_run_or_a_verdict_sends_a_job_back() -> None:
    assert again(JobStage.VERIFY) is JobStage.UNLEARN
    assert again(JobStage.UNLEARN) is JobStage.UNLEARN
    with pytest.raises(AssertionError):
        again(JobStage.PUBLISH)
