"""What can be done to a job that has begun: claim and record a stage, escalate, conclude, fail.

Every verb takes the caller's session. A verb that records names the lease epoch it was started
under; if another epoch holds the model by now, nothing is written and `LeaseLost` is raised. Which job
begins, and when: `scheduling`.

A job's new requests walk the stages with it. Those that it covers were erased before, approximately,
and are completed: whatever becomes of the job, they stay so, and what they were given stands.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.erasure import service as erasure
from app.errors import LeaseLost, NotFound
from app.jobs import escalation, failures, leases, lifecycle, views
from app.jobs.lifecycle import JobKind, JobStage, JobState
from app.jobs.repository import Jobs
from app.jobs.views import JobShown, JobView
from app.queue import Stage
from app.storage.database import Session
from app.tables import Job

# Reading -----------------------------------------------------------------------------------------


def read(session: Session, job_id: UUID) -> JobShown:
    """Return one job."""
    job = Jobs(session).get(job_id)
    if job is None:
        raise NotFound("there is no such job")
    return views.shown(session, job)


def past(session: Session, job_id: UUID) -> JobView:
    """Return a job as its stages saw it, to look at and not to go on with: it has no lease."""
    job = Jobs(session).get(job_id)
    if job is None:
        raise NotFound("there is no such job")
    return views.view(session, job, Jobs(session).model(job.model_id), epoch=0)


def listing(
    session: Session, *, model_id: UUID | None, limit: int, before: tuple[datetime, UUID] | None
) -> list[JobShown]:
    """Return jobs, newest first."""
    jobs = Jobs(session).listing(model_id=model_id, limit=limit, before=before)
    return [views.shown(session, job) for job in jobs]


def steps(session: Session, job_id: UUID) -> list[dict[str, object]]:
    """Return what a job has done, in order."""
    return [
        {
            "attempt": step.attempt,
            "stage": step.stage,
            "seconds": round(step.seconds, 2),
            "at": step.created_at,
            "output": step.output,
        }
        for step in Jobs(session).steps(job_id)
    ]


def verifications(
    session: Session, model_id: UUID, *, engine: str, since: datetime
) -> list[tuple[UUID, datetime, Mapping[str, object]]]:
    """Return (job, when, output) of every verification of one engine's work on a model, oldest first."""
    done = Jobs(session).verify_steps(model_id, engine=engine, since=since)
    return [(step.job_id, step.created_at, step.output) for step in done]


def earlier_sentinels(session: Session, job_id: UUID) -> dict[UUID, Sequence[int]]:
    """Return the sentinels' records of each published job of the model before this one, by job (E46)."""
    job = Jobs(session).get(job_id)
    return {} if job is None else dict(Jobs(session).earlier_sentinels(job))


# Stages ------------------------------------------------------------------------------------------


def planned(
    session: Session,
    view: JobView,
    *,
    engine: str,
    anchor_id: UUID,
    plan: Mapping[str, list[int]],
    sentinels: int,
    policy_digest: str,
    seconds: float,
    at: datetime,
) -> None:
    """Record the plan and ask for the weights to be changed.

    The policy's digest enters the audit chain here, before any weight is touched: a policy that was
    changed after the fact no longer matches (V31).
    """
    job = _job(session, view)
    job.engine, job.anchor_id, job.plan, job.policy_digest = engine, anchor_id, dict(plan), policy_digest
    _cover(session, job)
    _forward(session, job, view, output={"engine": engine}, seconds=seconds)
    audit.record(
        session,
        events.JobPlanned(
            job=job.id,
            engine=engine,
            sentinels=sentinels,
            verification_policy=policy_digest,
            at=at,
        ),
    )


def claim(session: Session, job_id: UUID, stage: JobStage, *, epoch: int, now: datetime) -> JobView | None:
    """Return the job if this stage of it is due; None if it was done already or is not due.

    Claiming `unlearn` begins the work on the requests: each set of records is hashed again and must
    equal what was approved. A request that was withdrawn or changed meanwhile leaves the batch. A batch
    that nobody is left in is over: what it would have covered besides waits for a compaction.
    """
    jobs = Jobs(session)
    job = jobs.get(job_id)
    if job is None or job.state != JobState.RUNNING or job.stage != stage:
        return None
    model = leases.hold(session, job.model_id, epoch=epoch)
    if stage is JobStage.UNLEARN:
        for target in jobs.targets(job_id):
            if target.stage == "unlearning":
                continue
            if not erasure.start(session, target.request_id, job.model_id, at=now):
                target.job_id = None
        session.flush()
        if job.kind == JobKind.ERASURE and not jobs.targets(job_id):
            jobs.uncover(job_id)
            job.state, job.stage, job.concluded_at = JobState.CONCLUDED, JobStage.DONE, now
            audit.record(session, events.JobSetAside(job=job.id, engine=str(job.engine), requests=0, at=now))
            queue.ring(session, Stage.PLAN, job.model_id)
            return None
    return views.view(session, job, model, epoch=epoch)


def made_candidate(
    session: Session,
    view: JobView,
    version_id: UUID,
    *,
    output: Mapping[str, object],
    seconds: float,
    at: datetime,
) -> None:
    """Record the candidate; its requests are being verified now."""
    job = _job(session, view)
    job.candidate_id = version_id
    for request_id in view.new:
        erasure.advance_target(session, request_id, view.model_id, "verifying", at=at)
    _forward(session, job, view, output=output, seconds=seconds)


def passed(
    session: Session,
    view: JobView,
    *,
    leaving: Collection[UUID],
    held: Mapping[UUID, str],
    output: Mapping[str, object],
    seconds: float,
    at: datetime,
) -> None:
    """Record a verdict good enough for all but `leaving`: they wait for a stronger engine, or a person."""
    job = _job(session, view)
    floor = escalation.after(view.policy, str(view.engine)) or view.engine
    _looked(session, job)
    for request_id in leaving:
        attention, is_held = held.get(request_id, "verification"), request_id in held
        _leave(session, job, view, request_id, floor=floor, attention=attention, held=is_held, at=at)
    _remember(job, view, outcome="passed", reasons=tuple(sorted(set(held.values()))), seconds=seconds)
    _forward(session, job, view, output=output, seconds=seconds)


def set_aside(
    session: Session,
    view: JobView,
    *,
    held: Mapping[UUID, str],
    output: Mapping[str, object],
    seconds: float,
    at: datetime,
) -> None:
    """End a job whose exact result was detected for every request: each waits for a person.

    No failure of the model's: about one exact result in twenty is detected by chance (V33).
    """
    job = _job(session, view)
    _looked(session, job)
    _step(session, job, view, output=output, seconds=seconds)
    _remember(job, view, outcome="held", reasons=tuple(sorted(set(held.values()))), seconds=seconds)
    for request_id, reason in held.items():
        _leave(session, job, view, request_id, floor=job.engine, attention=reason, held=True, at=at)
    if view.kind is JobKind.COMPACTION:
        failures.came_to_nothing(Jobs(session).model(job.model_id))
    job.state, job.stage, job.concluded_at, job.progress = JobState.CONCLUDED, JobStage.DONE, at, {}
    audit.record(session, events.JobSetAside(job=job.id, engine=str(job.engine), requests=len(held), at=at))
    queue.ring(session, Stage.PLAN, job.model_id)


def escalate(
    session: Session,
    view: JobView,
    *,
    stage: JobStage,
    outcome: str,
    reasons: Sequence[str],
    output: Mapping[str, object],
    seconds: float,
    at: datetime,
) -> str | None:
    """Try the next engine on the whole batch; return it, or None if none is left and the job failed.

    `stage` is where it came to this: a refusal in `unlearn`, an insufficient verdict in `verify`.
    """
    job = _job(session, view)
    if stage is JobStage.VERIFY:
        _looked(session, job)
    _step(session, job, view, output=output, seconds=seconds)
    _remember(job, view, outcome=outcome, reasons=reasons, seconds=seconds)
    engine = escalation.after(view.policy, str(view.engine))
    audit.record(
        session,
        events.JobEscalated(
            job=job.id, engine=str(view.engine), outcome=outcome, reasons=tuple(reasons), next=engine, at=at
        ),
    )
    if engine is None:
        failures.give_up(session, job, reason=outcome, attention="verification", at=at)
        return None
    if stage is JobStage.VERIFY:
        for request_id in view.new:
            erasure.advance_target(session, request_id, view.model_id, "unlearning", at=at)
    job.stage, job.attempt, job.engine = lifecycle.again(stage), job.attempt + 1, engine
    job.candidate_id, job.failures, job.kills = None, 0, 0
    _cover(session, job)
    queue.ring(session, Stage.UNLEARN, job.id)
    return engine


def certified(
    session: Session, view: JobView, *, output: Mapping[str, object], seconds: float, at: datetime
) -> None:
    """Record that every request of the batch has its signed certificate, still unreleased."""
    job = _job(session, view)
    for request_id in view.new:
        erasure.advance_target(session, request_id, view.model_id, "publishing", at=at)
    _forward(session, job, view, output=output, seconds=seconds)


def published(session: Session, view: JobView, *, output: Mapping[str, object], seconds: float) -> None:
    """Record that the candidate is what users get."""
    _forward(session, _job(session, view), view, output=output, seconds=seconds)


def concluded(
    session: Session, view: JobView, *, output: Mapping[str, object], seconds: float, at: datetime
) -> None:
    """Close the job; whoever waits for this model is looked at next.

    Where nothing approximate is left, nobody need look at a compaction that once failed.
    """
    job = _job(session, view)
    _forward(session, job, view, output=output, seconds=seconds)
    job.state, job.concluded_at = JobState.CONCLUDED, at
    model = leases.hold(session, job.model_id, epoch=view.epoch)
    model.failed_jobs = 0
    outstanding, _ = Jobs(session).outstanding(job.model_id)
    if not outstanding:
        model.compaction_requested_at = None
        model.attention = None if model.attention == failures.COMPACTION else model.attention
    audit.record(
        session, events.JobConcluded(job=job.id, engine=str(job.engine), attempts=job.attempt, at=at)
    )
    queue.ring(session, Stage.PLAN, job.model_id)


def progress(session: Session, job_id: UUID, body: Mapping[str, object]) -> None:
    """Show how far a stage is; never worth failing for, so no lease is asked."""
    job = Jobs(session).get(job_id)
    if job is not None:
        job.progress = dict(body)


def _cover(session: Session, job: Job) -> None:
    """Have a batch cover what was erased approximately, as long as its engine is exact.

    Such a result moves the anchor whether or not it was made for that; so those whom the old anchor
    still holds are tested again and certified with it, and no compaction need repeat the training.
    """
    if job.kind == JobKind.COMPACTION:
        return  # It covers what it was opened for.
    if escalation.is_exact(str(job.engine)):
        Jobs(session).cover_outstanding(job)
    else:
        Jobs(session).uncover(job.id)


def _leave(
    session: Session,
    job: Job,
    view: JobView,
    request_id: UUID,
    *,
    floor: str | None,
    attention: str,
    held: bool,
    at: datetime,
) -> None:
    """Let a request leave the job: a new one goes back to the planner, a covered one stays as it was."""
    if request_id in view.covered:
        failures.leave_as_it_was(session, job, request_id, attention=attention, at=at)
    else:
        failures.give_back(session, job, request_id, floor=floor, attention=attention, held=held, at=at)


def _looked(session: Session, job: Job) -> None:
    """Count a use of the audit material against each request that was judged (V30)."""
    for target in [*Jobs(session).targets(job.id), *Jobs(session).covered(job)]:
        target.looks += 1


def _step(session: Session, job: Job, view: JobView, *, output: Mapping[str, object], seconds: float) -> None:
    Jobs(session).add_step(job, stage=view.stage, epoch=view.epoch, output=dict(output), seconds=seconds)


def _remember(job: Job, view: JobView, *, outcome: str, reasons: Sequence[str], seconds: float) -> None:
    tried: dict[str, object] = {
        "attempt": view.attempt,
        "engine": view.engine,
        "outcome": outcome,
        "reasons": list(reasons),
        "seconds": round(seconds, 1),
    }
    job.history = [*job.history, tried]


def _job(session: Session, view: JobView) -> Job:
    """Return the job if the view's epoch still holds its model and its stage is still the view's."""
    leases.hold(session, view.model_id, epoch=view.epoch)
    job = Jobs(session).get(view.id)
    if job is None or job.state != JobState.RUNNING or job.stage != view.stage or job.attempt != view.attempt:
        raise LeaseLost(f"stage {view.stage} of job {view.id} was done by another")
    return job


def _forward(
    session: Session, job: Job, view: JobView, *, output: Mapping[str, object], seconds: float
) -> None:
    _step(session, job, view, output=output, seconds=seconds)
    job.stage, job.progress = lifecycle.FOLLOWS[view.stage], {}
    job.failures, job.kills = 0, 0
    model = Jobs(session).model(job.model_id)
    failures.waits_no_more(model)
    if model.attention == view.stage:
        model.attention = None  # what a person was asked to see to has come through
    if job.stage != JobStage.DONE:
        queue.ring(session, Stage(job.stage), job.id)
