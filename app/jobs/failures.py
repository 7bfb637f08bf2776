"""What goes wrong, counted and settled: stages that fail, jobs that are given up, requests given back.

A failure of a batch returns its requests to the planner and counts towards the model's breaker. A
failure of a compaction changes nothing for anybody: those whom it covers are completed, what was
certified stands, and the model's attention says that it came to nothing.
"""

from datetime import datetime
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.erasure import service as erasure
from app.jobs import leases
from app.jobs.lifecycle import JobKind, JobState
from app.jobs.repository import Jobs
from app.jobs.scheduling import PREPARE_FAILURES_MAX
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Job, Model, ModelVersion

FAILED_JOBS_MAX = 2
"""So many failed jobs in a row open the model's circuit breaker (R59)."""

WAITING = "waiting"
"""A model's attention while something that its work needs is away."""

COMPACTION = "compaction"
"""A model's attention after a compaction that came to nothing."""


def record(
    session: Session,
    stage: Stage,
    id: UUID,  # noqa: A002  the bell's word
    *,
    epoch: int,
    code: str,
    killed: bool,
    attempts_max: int,
    at: datetime,
) -> None:
    """Count a stage that failed or was killed; after `attempts_max` of the kind in a row it is given up."""
    if stage is Stage.PREPARE:
        version = registry.version(session, id)
        model = leases.hold(session, version.model_id, epoch=epoch)
        if _count(version, killed=killed) >= attempts_max:
            _give_up_preparing(session, model, version, code=code, at=at)
        return
    job = Jobs(session).running(id) if stage is Stage.PLAN else Jobs(session).get(id)
    if job is None or job.state != JobState.RUNNING:
        return
    model = leases.hold(session, job.model_id, epoch=epoch)
    failures = _count(job, killed=killed)
    audit.record(
        session, events.StageFailed(job=job.id, stage=stage.value, failures=failures, code=code, at=at)
    )
    if failures < attempts_max:
        return
    if stage in {Stage.PUBLISH, Stage.CONCLUDE}:
        # Users may be served the candidate already: there is no way back, only forward.
        model.attention = stage.value
    else:
        give_up(session, job, reason=code, attention="job_failed", at=at)


def wait(session: Session, model_id: UUID, *, epoch: int) -> None:
    """Tell people that something a model's work needs is away: it is tried again, and costs no attempt."""
    model = leases.hold(session, model_id, epoch=epoch)
    # What a person must see to stays in sight: a wait is over by itself, and would take it along.
    model.attention = model.attention or WAITING


def prepared(session: Session, version_id: UUID, *, epoch: int) -> Model:
    """Hold the line of a version whose preparation has come further: failures before that are over."""
    version = registry.version(session, version_id)
    model = leases.hold(session, version.model_id, epoch=epoch)
    version.failures, version.kills = 0, 0
    waits_no_more(model)
    return model


def waits_no_more(model: Model) -> None:
    """Let go of a wait that is over."""
    if model.attention == WAITING:
        model.attention = None


def give_up(session: Session, job: Job, *, reason: str, attention: str, at: datetime) -> None:
    """Fail a job: nothing of it is published, its candidate is destroyed, its requests go back."""
    job.state, job.failure, job.concluded_at = JobState.FAILED, reason, at
    for target in Jobs(session).targets(job.id):
        # Before an engine was chosen nothing was learned, and what was known of the request stays.
        floor = job.engine or target.engine_floor
        give_back(session, job, target.request_id, floor=floor, attention=attention, at=at)
    if job.candidate_id is not None:
        registry.condemn(session, job.candidate_id, at=at)
    model = Jobs(session).model(job.model_id)
    if job.kind == JobKind.COMPACTION:
        came_to_nothing(model)
    else:
        Jobs(session).uncover(job.id)
        model.failed_jobs += 1
        if model.failed_jobs >= FAILED_JOBS_MAX:
            model.breaker, model.attention = "open", "breaker"
    audit.record(session, events.JobFailed(job=job.id, reason=reason, breaker=model.breaker, at=at))


def give_back(
    session: Session,
    job: Job,
    request_id: UUID,
    *,
    floor: str | None,
    attention: str,
    held: bool = False,
    at: datetime,
) -> None:
    """Return a request to the planner; a held one waits there for a person."""
    erasure.return_to_schedule(
        session, request_id, job.model_id, attention=attention, engine_floor=floor, held=held, at=at
    )


def leave_as_it_was(session: Session, job: Job, request_id: UUID, *, attention: str, at: datetime) -> None:
    """Cover a request no longer: exact, it was detected all the same, and a person looks first.

    Its certificate stands, and until somebody releases it no job covers it again.
    """
    for target in Jobs(session).covered(job):
        if target.request_id == request_id:
            target.held, target.released_by, target.released_at = attention, None, None
    Jobs(session).uncover(job.id, [request_id])
    erasure.raise_attention(session, request_id, attention, at=at)


def came_to_nothing(model: Model) -> None:
    """Tell people that a compaction has to be looked at, unless something graver is shown already."""
    if model.attention in {None, WAITING}:
        model.attention = COMPACTION


def _count(counted: Job | ModelVersion, *, killed: bool) -> int:
    if killed:
        counted.kills += 1
        return counted.kills
    counted.failures += 1
    return counted.failures


def _give_up_preparing(
    session: Session, model: Model, version: ModelVersion, *, code: str, at: datetime
) -> None:
    """Give up a version, or the references of one that is served: then whoever waits for them is told."""
    if version.state == "preparing":
        registry.fail_version(session, version.id, code=code, at=at)
        erasure.forsake(session, model.id, at=at)
        return
    model.attention = "references"
    version.failures = max(version.failures, PREPARE_FAILURES_MAX)
    job = Jobs(session).running(model.id)
    for target in Jobs(session).targets(job.id) if job is not None else ():
        erasure.raise_attention(session, target.request_id, "references", at=at)
