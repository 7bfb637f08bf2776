"""All SQL about how the service does: counts, ages and durations; no row of anybody's."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Double, Float, cast, extract, func, literal, select, text
from sqlalchemy.dialects.postgresql import JSONB, distinct_on

from app.erasure.lifecycle import ENDS, State
from app.erasure.repository import overdue
from app.storage.database import Session
from app.tables import (
    AuditCheck,
    AuditEvent,
    ErasureRequest,
    Job,
    JobStep,
    Model,
    Outbox,
    VerdictRow,
    WebhookAttempt,
)

STEP_BUCKETS_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
MOVES_MAX = 100_000
"""Of so many events at most, the newest, is told how long requests stay where."""
SOON_DAYS = 7
YEAR_DAYS = 365


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How long the stages of one kind took: how many up to each bound, and in all."""

    stage: str
    counts: tuple[int, ...]
    """One per bucket, and one for what was longer; not cumulative."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the metrics tell besides the counts of requests."""

    outbox_lag_seconds: float
    lease_age_seconds: float
    steps: tuple[Steps, ...]
    fenced: int
    verdicts: dict[str, int]
    utility_delta: float | None
    webhook_attempts: dict[str, int]
    chain_ok: bool | None
    """None: nobody has looked yet."""
    chain_checked_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Dwell:
    """How many requests stand somewhere, and how long those stayed that have left."""

    state: str
    now: int
    left: int
    median_seconds: float | None
    p90_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Sla:
    """How requests stand to their dates; the answered ones are those of a year."""

    open: int
    overdue: int
    due_soon: int
    due_next_at: datetime | None
    past_target: int
    answered: int
    answered_late: int
    median_days: float | None
    p90_days: float | None


class Operations:
    """Facts in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read in the caller's transaction."""
        self.session = session

    def facts(self, *, lease_seconds: float, now: datetime) -> Facts:
        """Return all that the metrics tell besides the counts of requests."""
        checked = self.session.get(AuditCheck, 1)
        return Facts(
            outbox_lag_seconds=self._outbox_lag(now),
            lease_age_seconds=self._lease_age(lease_seconds),
            steps=self._steps(),
            fenced=int(self.session.scalar(select(func.coalesce(func.sum(Model.fenced), 0))) or 0),
            verdicts=self._verdicts(),
            utility_delta=self._utility_delta(),
            webhook_attempts=self._webhook_attempts(),
            chain_ok=None if checked is None else checked.broken_at is None,
            chain_checked_seconds=None if checked is None else (now - checked.checked_at).total_seconds(),
        )

    def _outbox_lag(self, now: datetime) -> float:
        """Return how long the oldest bell has been ringing; ids begin with the millisecond they were made."""
        oldest: UUID | None = self.session.scalar(select(Outbox.id).order_by(Outbox.id).limit(1))
        return 0.0 if oldest is None else max(0.0, now.timestamp() - (oldest.int >> 80) / 1000)

    def _lease_age(self, lease_seconds: float) -> float:
        """Return how long ago the stalest lease that nobody gave back was renewed."""
        left = func.min(extract("epoch", Model.lease_expires_at - func.clock_timestamp()))
        found = self.session.scalar(select(cast(left, Float)))
        return 0.0 if found is None else max(0.0, lease_seconds - found)

    def _steps(self) -> tuple[Steps, ...]:
        bounds = literal(list(STEP_BUCKETS_SECONDS), ARRAY(Double))
        # A step of exactly a bound belongs below it.
        bucket = func.width_bucket(cast(JobStep.seconds, Double) - 1e-9, bounds).label("bucket")
        rows = self.session.execute(
            select(JobStep.stage, bucket, func.count(), func.sum(JobStep.seconds)).group_by(
                JobStep.stage, bucket
            )
        ).all()
        return tuple(
            Steps(
                stage=stage,
                counts=tuple(
                    sum(row[2] for row in rows if row[0] == stage and row[1] == place)
                    for place in range(len(STEP_BUCKETS_SECONDS) + 1)
                ),
                seconds=sum(row[3] for row in rows if row[0] == stage),
            )
            for stage in sorted({row[0] for row in rows})
        )

    def _verdicts(self) -> dict[str, int]:
        rows = self.session.execute(select(VerdictRow.level, func.count()).group_by(VerdictRow.level))
        return {str(level): count for level, count in rows}

    def _utility_delta(self) -> float | None:
        """Return the worst change of what models still know, over the last candidate of each line."""
        drop = JobStep.output[("batch", "utility", "drop", "drop")].as_string()
        last = (
            select(drop.label("drop"))
            .join(Job, Job.id == JobStep.job_id)
            .where(JobStep.stage == "verify")
            .ext(distinct_on(Job.model_id))
            .order_by(Job.model_id, JobStep.created_at.desc())
            .subquery()
        )
        worst = self.session.scalar(select(func.max(cast(last.c.drop, Float))))
        return None if worst is None else -worst

    def _webhook_attempts(self) -> dict[str, int]:
        delivered = WebhookAttempt.status.between(200, 299)
        row = self.session.execute(
            select(
                func.count().filter(delivered),
                func.count().filter(WebhookAttempt.status.is_not(None), ~delivered),
                func.count().filter(WebhookAttempt.status.is_(None)),
            ).select_from(WebhookAttempt)
        ).one()
        return {"delivered": row[0], "refused": row[1], "unanswered": row[2]}

    # For people

    def funnel(self) -> list[Dwell]:
        """Return how many requests stand where, and how long they stayed, in the order of their lives."""
        now = dict(
            self.session.execute(
                select(ErasureRequest.state, func.count()).group_by(ErasureRequest.state)
            ).all()
        )
        dwelt = {row[0]: row[1:] for row in self._dwelt()}
        return [
            Dwell(
                state=state.value,
                now=now.get(state.value, 0),
                left=dwelt[state.value][0] if state.value in dwelt else 0,
                median_seconds=dwelt[state.value][1] if state.value in dwelt else None,
                p90_seconds=dwelt[state.value][2] if state.value in dwelt else None,
            )
            for state in State
        ]

    def _dwelt(self) -> Sequence[tuple[str, int, float, float]]:
        """Return (state, how many left it, median, p90 of the seconds) from what the chain has of moves."""
        body = cast(func.convert_from(AuditEvent.body, "UTF8"), JSONB)
        newest = (
            select(
                AuditEvent.seq,
                AuditEvent.subject_id,
                func.coalesce(body["state"].as_string(), State.RECEIVED.value).label("state"),
                cast(body["at"].as_string(), BigInteger).label("at"),
            )
            .where(AuditEvent.kind.in_(("request.received", "request.moved")))
            .order_by(AuditEvent.seq.desc())
            .limit(MOVES_MAX)
            .subquery()
        )
        following = func.lead(newest.c.at).over(partition_by=newest.c.subject_id, order_by=newest.c.seq)
        stays = select(newest.c.state, ((following - newest.c.at) / text("1e6")).label("seconds")).subquery()
        of = stays.c.seconds
        rows = self.session.execute(
            select(
                stays.c.state,
                func.count(),
                cast(func.percentile_cont(0.5).within_group(of), Float),
                cast(func.percentile_cont(0.9).within_group(of), Float),
            )
            .where(of.is_not(None), stays.c.state.not_in([each.value for each in ENDS]))
            .group_by(stays.c.state)
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def sla(self, *, now: datetime) -> Sla:
        """Return how requests stand to their dates."""
        request = ErasureRequest
        is_open = request.concluded_at.is_(None)
        soon = request.due_at.between(now, now + timedelta(days=SOON_DAYS))
        opened = self.session.execute(
            select(
                func.count(),
                func.count().filter(overdue(now)),
                func.count().filter(soon),
                func.min(request.due_at),
                func.count().filter(request.internal_target < now.date()),
            ).where(is_open)
        ).one()
        days = extract("epoch", request.concluded_at - request.received_at) / 86_400
        ended = self.session.execute(
            select(
                func.count(),
                func.count().filter(request.concluded_at >= request.due_at),
                cast(func.percentile_cont(0.5).within_group(days), Float),
                cast(func.percentile_cont(0.9).within_group(days), Float),
            ).where(
                request.concluded_at > now - timedelta(days=YEAR_DAYS), request.state != State.WITHDRAWN.value
            )
        ).one()
        return Sla(
            open=opened[0],
            overdue=opened[1],
            due_soon=opened[2],
            due_next_at=opened[3],
            past_target=opened[4],
            answered=ended[0],
            answered_late=ended[1],
            median_days=ended[2],
            p90_days=ended[3],
        )
