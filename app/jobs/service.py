"""What can be done to a job: take the lease, open a batch, record a stage, escalate, conclude, fail.

Every verb takes the caller's session. A verb that records names the lease epoch it was started
under; if another epoch holds the model by now, nothing is written and `LeaseLost` is raised.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.erasure import service as erasure
from app.errors import Conflict, LeaseLost, NotFound
from app.jobs import escalation, lifecycle
from app.jobs.escalation import JobsPolicy
from app.jobs.lifecycle import JobStage, JobState
from app.jobs.repository import Jobs, Leases
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Job, Model, ModelVersion

FAILED_JOBS_MAX = 2
"""So many failed jobs in a row open the model's circuit breaker (R59)."""

PREPARE_FAILURES_MAX = 3
"""A version whose preparation has failed so often waits for a person."""

WAITING = "waiting"
"""A model's attention while something that its work needs is away."""

_SEED_MASK = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class JobView:
    """What a stage needs to know of its job, detached from any session."""

    id: UUID
    model_id: UUID
    model: str
    dataset_id: UUID
    stage: JobStage
    attempt: int
    engine: str | None
    seed: int
    epoch: int
    parent_id: UUID
    anchor_id: UUID | None
    candidate_id: UUID | None
    requests: tuple[UUID, ...]
    looks: Mapping[UUID, int]
    released: frozenset[UUID]
    """Requests whose held result a second person has released."""
    plan: Mapping[str, Sequence[int]]
    """`sentinels` and `controls`: the records that were drawn."""
    policy_digest: str | None
    """Of the verification policy, fixed at `plan`."""
    forms: tuple[str, ...]
    verification_policy: str
    jobs_policy: str
    assurance_min: str
    recorded: bool
    """Whether the line's training is recorded, so that an engine may start from its history."""

    @property
    def policy(self) -> JobsPolicy:
        """Return the line's policy, with the rungs that it can stand on."""
        return escalation.climbable(escalation.load(self.jobs_policy), recorded=self.recorded)


@dataclass(frozen=True, kw_only=True)
class JobShown:
    """A job as people see it."""

    id: UUID
    model: UUID
    state: str
    stage: str
    attempt: int
    engine: str | None
    requests: tuple[UUID, ...]
    history: Sequence[Mapping[str, object]]
    progress: Mapping[str, object]
    failure: str | None
    created_at: datetime
    concluded_at: datetime | None


# Reading -----------------------------------------------------------------------------------------


def read(session: Session, job_id: UUID) -> JobShown:
    """Return one job."""
    job = Jobs(session).get(job_id)
    if job is None:
        raise NotFound("there is no such job")
    return _shown(session, job)


def listing(
    session: Session, *, model_id: UUID | None, limit: int, before: tuple[datetime, UUID] | None
) -> list[JobShown]:
    """Return jobs, newest first."""
    jobs = Jobs(session).listing(model_id=model_id, limit=limit, before=before)
    return [_shown(session, job) for job in jobs]


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


def _shown(session: Session, job: Job) -> JobShown:
    return JobShown(
        id=job.id,
        model=job.model_id,
        state=job.state,
        stage=job.stage,
        attempt=job.attempt,
        engine=job.engine,
        requests=tuple(target.request_id for target in Jobs(session).targets(job.id)),
        history=job.history,
        progress=job.progress,
        failure=job.failure,
        created_at=job.created_at,
        concluded_at=job.concluded_at,
    )


# Leases ------------------------------------------------------------------------------------------


def take_lease(session: Session, model_id: UUID, *, owner: str, seconds: float) -> int | None:
    """Take the right to work on a model; return its epoch, or None if it cannot be had now."""
    return Leases(session).take(model_id, owner=owner, seconds=seconds)


def renew_lease(session: Session, model_id: UUID, *, epoch: int, seconds: float) -> bool:
    """Return whether this epoch still holds the model, now for `seconds` more."""
    return Leases(session).renew(model_id, epoch=epoch, seconds=seconds)


def release_lease(session: Session, model_id: UUID, *, epoch: int) -> None:
    """Give the model back; a lease that was lost meanwhile is nobody's loss."""
    Leases(session).release(model_id, epoch=epoch)


def paused(session: Session, model_id: UUID) -> bool:
    """Return whether the model's breaker is open: nothing is begun before somebody resumes it."""
    return Jobs(session).model(model_id).breaker == "open"


def hold(session: Session, model_id: UUID, *, epoch: int) -> Model:
    """Return the model locked until the commit, or raise `LeaseLost`: every recording starts so."""
    model = Leases(session).held(model_id, epoch=epoch)
    if model is None:
        raise LeaseLost(f"lease {epoch} on model {model_id} is void")
    return model


# What is due -------------------------------------------------------------------------------------


def model_of(session: Session, stage: Stage, id: UUID) -> UUID | None:  # noqa: A002  the bell's word
    """Return the model whose lease a stage needs; None where none is needed or none exists."""
    match stage:
        case Stage.REGISTER:
            return None
        case Stage.PLAN:
            return id
        case Stage.PREPARE:
            return Jobs(session).model_of_version(id)
        case _:
            job = Jobs(session).get(id)
            return None if job is None else job.model_id


def unfinished(session: Session) -> tuple[frozenset[UUID], frozenset[UUID]]:
    """Return the jobs that run and the versions that are prepared: their files are still needed."""
    jobs = Jobs(session)
    return jobs.all_running(), jobs.versions_in_preparation(failures_max=PREPARE_FAILURES_MAX)


def due(session: Session, *, now: datetime) -> list[tuple[Stage, UUID]]:
    """Return what a worker should look at, whether or not a bell was heard."""
    jobs = Jobs(session)
    found = [(Stage.REGISTER, id_) for id_ in jobs.datasets_to_register()]
    found += [(Stage(stage), id_) for id_, stage in jobs.unattended()]
    found += [(Stage.PREPARE, id_) for id_ in jobs.versions_to_prepare(failures_max=PREPARE_FAILURES_MAX)]
    found += [
        (Stage.PLAN, model_id)
        for model_id in jobs.idle_models_with_targets()
        if _reason_to_begin(session, jobs.model(model_id), now=now) is not None
    ]
    return found


def _reason_to_begin(session: Session, model: Model, *, now: datetime) -> str | None:
    if not registry.verifiable(model):
        return None  # Nothing could be said of the result; its requests wait for a person.
    policy = escalation.load(model.jobs_policy)
    waiting = Jobs(session).free_targets(model.id, limit=policy.batch_largest)
    return lifecycle.batch_due(
        [lifecycle.Waiting(since=request.received_at, due_on=request.due_on) for _, request in waiting],
        now=now,
        largest=policy.batch_largest,
        wait_longest_hours=policy.wait_longest_hours,
        due_within_days=policy.due_within_days,
        asked_for=model.run_requested_at is not None,
    )


def run_now(session: Session, model_name: str, *, at: datetime) -> Model:
    """Ask for a job by hand, whatever the batch policy says."""
    model = Jobs(session).model_named(model_name)
    if model is None:
        raise NotFound("there is no model of this name")
    if model.live_version_id is None:
        raise Conflict(f"model {model.id} serves no version yet", code="model-not-ready")
    if model.breaker == "open":
        raise Conflict(f"model {model.id} is paused after failed jobs; resume it", code="model-paused")
    if not registry.verifiable(model):
        raise Conflict(f"model {model.id} has no references to be judged by", code="model-not-verifiable")
    model.run_requested_at = at
    queue.ring(session, Stage.PLAN, model.id)
    return model


# Stages ------------------------------------------------------------------------------------------


def open_batch(session: Session, model_id: UUID, *, epoch: int, now: datetime) -> JobView | None:
    """Return the job that is to be planned: the one already open, or a new one if a batch is due."""
    model = hold(session, model_id, epoch=epoch)
    jobs = Jobs(session)
    running = jobs.running(model_id)
    if running is not None:
        return _view(session, running, model, epoch) if running.stage == JobStage.PLAN else None
    if model.live_version_id is None:
        return None
    reason = _reason_to_begin(session, model, now=now)
    if reason is None:
        return None
    policy = escalation.load(model.jobs_policy)
    taken = jobs.free_targets(model_id, limit=policy.batch_largest)
    job = jobs.add(model, seed=_seed(session, model))
    for target, _ in taken:
        target.job_id = job.id
    model.run_requested_at = None
    audit.record(
        session,
        events.JobOpened(
            job=job.id, model=model_id, reason=reason, requests=len(taken), policy=policy.digest, at=now
        ),
    )
    session.flush()
    return _view(session, job, model, epoch)


def _seed(session: Session, model: Model) -> int:
    """Return the seed of the model's next job: of its parent's digest and its place in the sequence.

    Nobody chooses it, and who replays the job from the same parent finds the same one.
    """
    assert model.live_version_id is not None, "a job begins from the version that is live"
    parent = registry.version(session, model.live_version_id)
    place = Jobs(session).count(model.id)
    digest = sha256(f"lethe/job-seed/v1\n{parent.manifest}\n{place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & _SEED_MASK


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
    equal what was approved. A request that was withdrawn or changed meanwhile leaves the batch.
    """
    jobs = Jobs(session)
    job = jobs.get(job_id)
    if job is None or job.state != JobState.RUNNING or job.stage != stage:
        return None
    model = hold(session, job.model_id, epoch=epoch)
    if stage is JobStage.UNLEARN:
        for target in jobs.targets(job_id):
            if target.stage == "unlearning":
                continue
            if not erasure.start(session, target.request_id, job.model_id, at=now):
                target.job_id = None
        session.flush()
        if not jobs.targets(job_id):
            job.state, job.stage, job.concluded_at = JobState.CONCLUDED, JobStage.DONE, now
            audit.record(session, events.JobSetAside(job=job.id, engine=str(job.engine), requests=0, at=now))
            queue.ring(session, Stage.PLAN, job.model_id)
            return None
    return _view(session, job, model, epoch)


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
    for request_id in view.requests:
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
        attention = held.get(request_id, "verification")
        _return(session, job, request_id, floor=floor, attention=attention, held=request_id in held, at=at)
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
        _return(session, job, request_id, floor=job.engine, attention=reason, held=True, at=at)
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
        _fail(session, job, reason=outcome, attention="verification", at=at)
        return None
    if stage is JobStage.VERIFY:
        for request_id in view.requests:
            erasure.advance_target(session, request_id, view.model_id, "unlearning", at=at)
    job.stage, job.attempt, job.engine = lifecycle.again(stage), job.attempt + 1, engine
    job.candidate_id, job.failures, job.kills = None, 0, 0
    queue.ring(session, Stage.UNLEARN, job.id)
    return engine


def certified(
    session: Session, view: JobView, *, output: Mapping[str, object], seconds: float, at: datetime
) -> None:
    """Record that every request of the batch has its signed certificate, still unreleased."""
    job = _job(session, view)
    for request_id in view.requests:
        erasure.advance_target(session, request_id, view.model_id, "publishing", at=at)
    _forward(session, job, view, output=output, seconds=seconds)


def published(session: Session, view: JobView, *, output: Mapping[str, object], seconds: float) -> None:
    """Record that the candidate is what users get."""
    _forward(session, _job(session, view), view, output=output, seconds=seconds)


def concluded(
    session: Session, view: JobView, *, output: Mapping[str, object], seconds: float, at: datetime
) -> None:
    """Close the job; whoever waits for this model is looked at next."""
    job = _job(session, view)
    _forward(session, job, view, output=output, seconds=seconds)
    job.state, job.concluded_at = JobState.CONCLUDED, at
    hold(session, job.model_id, epoch=view.epoch).failed_jobs = 0
    audit.record(
        session, events.JobConcluded(job=job.id, engine=str(job.engine), attempts=job.attempt, at=at)
    )
    queue.ring(session, Stage.PLAN, job.model_id)


def progress(session: Session, job_id: UUID, body: Mapping[str, object]) -> None:
    """Show how far a stage is; never worth failing for, so no lease is asked."""
    job = Jobs(session).get(job_id)
    if job is not None:
        job.progress = dict(body)


def record_failure(
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
        model = hold(session, version.model_id, epoch=epoch)
        if _count(version, killed=killed) >= attempts_max:
            _give_up_preparing(session, model, version, code=code, at=at)
        return
    job = Jobs(session).running(id) if stage is Stage.PLAN else Jobs(session).get(id)
    if job is None or job.state != JobState.RUNNING:
        return
    model = hold(session, job.model_id, epoch=epoch)
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
        _fail(session, job, reason=code, attention="job_failed", at=at)


def record_wait(session: Session, model_id: UUID, *, epoch: int) -> None:
    """Tell people that something a model's work needs is away: it is tried again, and costs no attempt."""
    model = hold(session, model_id, epoch=epoch)
    # What a person must see to stays in sight: a wait is over by itself, and would take it along.
    model.attention = model.attention or WAITING


def prepared(session: Session, version_id: UUID, *, epoch: int) -> Model:
    """Hold the line of a version whose preparation has come further: failures before that are over."""
    version = registry.version(session, version_id)
    model = hold(session, version.model_id, epoch=epoch)
    version.failures, version.kills = 0, 0
    _waits_no_more(model)
    return model


def _count(counted: Job | ModelVersion, *, killed: bool) -> int:
    if killed:
        counted.kills += 1
        return counted.kills
    counted.failures += 1
    return counted.failures


def _waits_no_more(model: Model) -> None:
    if model.attention == WAITING:
        model.attention = None


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


def _fail(session: Session, job: Job, *, reason: str, attention: str, at: datetime) -> None:
    job.state, job.failure, job.concluded_at = JobState.FAILED, reason, at
    for target in Jobs(session).targets(job.id):
        # Before an engine was chosen nothing was learned, and what was known of the request stays.
        floor = job.engine or target.engine_floor
        _return(session, job, target.request_id, floor=floor, attention=attention, at=at)
    if job.candidate_id is not None:
        registry.condemn(session, job.candidate_id, at=at)
    model = Jobs(session).model(job.model_id)
    model.failed_jobs += 1
    if model.failed_jobs >= FAILED_JOBS_MAX:
        model.breaker, model.attention = "open", "breaker"
    audit.record(session, events.JobFailed(job=job.id, reason=reason, breaker=model.breaker, at=at))


def _return(
    session: Session,
    job: Job,
    request_id: UUID,
    *,
    floor: str | None,
    attention: str,
    held: bool = False,
    at: datetime,
) -> None:
    erasure.return_to_schedule(
        session, request_id, job.model_id, attention=attention, engine_floor=floor, held=held, at=at
    )


def _looked(session: Session, job: Job) -> None:
    """Count a use of the audit material against each request of the batch (V30)."""
    for target in Jobs(session).targets(job.id):
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
    hold(session, view.model_id, epoch=view.epoch)
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
    _waits_no_more(model)
    if model.attention == view.stage:
        model.attention = None  # what a person was asked to see to has come through
    if job.stage != JobStage.DONE:
        queue.ring(session, Stage(job.stage), job.id)


def _view(session: Session, job: Job, model: Model, epoch: int) -> JobView:
    targets = Jobs(session).targets(job.id)
    assert job.parent_id is not None, "a job begins from the version that is live"
    return JobView(
        id=job.id,
        model_id=model.id,
        model=model.name,
        dataset_id=model.dataset_id,
        stage=JobStage(job.stage),
        attempt=job.attempt,
        engine=job.engine,
        seed=job.seed,
        epoch=epoch,
        parent_id=job.parent_id,
        anchor_id=job.anchor_id,
        candidate_id=job.candidate_id,
        requests=tuple(target.request_id for target in targets),
        looks={target.request_id: target.looks for target in targets},
        released=frozenset(target.request_id for target in targets if target.released_at is not None),
        plan=job.plan,
        policy_digest=job.policy_digest,
        forms=tuple(model.forms),
        verification_policy=model.verification_policy,
        jobs_policy=model.jobs_policy,
        assurance_min=model.assurance_min,
        recorded=model.layout is not None,
    )
