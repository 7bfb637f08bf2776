"""What is to be done next, and for whom: what is due, what was asked for, and the job that begins.

Two kinds of job share one lease and one sequence per model: a batch of what waits, and a compaction of
what was erased approximately. Which of the two begins is decided here, by the rules of `lifecycle` and
`compaction`; how a job then goes on is `service`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.errors import Conflict, NotFound
from app.jobs import compaction, escalation, leases, lifecycle, views
from app.jobs.compaction import Outstanding
from app.jobs.lifecycle import JobKind, JobStage
from app.jobs.repository import Jobs
from app.jobs.views import JobView
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import ErasureRequest, Job, Model, RequestTarget

PREPARE_FAILURES_MAX = 3
"""A version whose preparation has failed so often waits for a person."""

_SEED_MASK = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a line is from its anchor, and what follows."""

    model: UUID
    anchor: UUID
    anchor_live_at: datetime | None
    deltas: int
    outstanding: Outstanding
    reason: str | None
    """Why a compaction is due; None while none is."""
    due_by: datetime | None
    """When one is due by age alone: as long as that the anchor may hold the erased (C69)."""
    not_before: datetime | None
    """After a failure: until when none begins by itself."""
    asked_at: datetime | None
    """When somebody asked for one that has not begun."""


# What is due -------------------------------------------------------------------------------------


def model_of(session: Session, stage: Stage, id: UUID) -> UUID | None:  # noqa: A002  the bell's word
    """Return the model whose lease a stage needs; None where none is needed or none exists."""
    match stage:
        case Stage.REGISTER | Stage.SKETCH | Stage.IMPORT | Stage.CHALLENGE | Stage.AUDIT:
            return None
        case Stage.SEARCH | Stage.SCAN:
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
        for model_id in jobs.idle_models_with_work()
        if _next(session, jobs.model(model_id), now=now) is not None
    ]
    return found


def _next(session: Session, model: Model, *, now: datetime) -> tuple[JobKind, str] | None:
    """Return what kind of job should begin now, and why; None if none should."""
    if model.live_version_id is None or not registry.verifiable(model):
        return None  # Nothing could be said of the result; its requests wait for a person.
    batch = _batch_due(_waiting(session, model), model, now=now)
    compacting = standing(session, model, now=now).reason
    if compaction.goes_first(compacting, batch):
        assert compacting is not None, "what goes first is due"
        return JobKind.COMPACTION, compacting
    return None if batch is None else (JobKind.ERASURE, batch)


def _waiting(session: Session, model: Model) -> Sequence[tuple[RequestTarget, ErasureRequest]]:
    policy = escalation.load(model.jobs_policy)
    return Jobs(session).free_targets(model.id, limit=policy.batch_largest)


def _batch_due(
    waiting: Sequence[tuple[RequestTarget, ErasureRequest]], model: Model, *, now: datetime
) -> str | None:
    policy = escalation.load(model.jobs_policy)
    return lifecycle.batch_due(
        [lifecycle.Waiting(since=request.received_at, due_on=request.due_on) for _, request in waiting],
        now=now,
        largest=policy.batch_largest,
        wait_longest_hours=policy.wait_longest_hours,
        due_within_days=policy.due_within_days,
        asked_for=model.run_requested_at is not None,
    )


def standing(session: Session, model: Model, *, now: datetime) -> Standing:
    """Return how far a line that serves something is from its anchor, and whether it is to be compacted."""
    assert model.live_version_id is not None, "what serves nothing stands nowhere"
    jobs = Jobs(session)
    limits = escalation.load(model.jobs_policy).compaction
    anchor, *later = registry.lineage(session, model.live_version_id)
    requests, since = jobs.outstanding(model.id)
    outstanding = Outstanding(requests=requests)
    if requests:
        outstanding = Outstanding(
            requests=requests,
            since=since,
            records=jobs.records_erased_since(model.id, anchor.created_at, besides=anchor.job_id),
            registered=jobs.records_registered(model),
            retain_rise=compaction.summed_rise(registry.telemetry(each) for each in later),
        )
    asked_for = model.compaction_requested_at is not None
    wait = compaction.not_before(*jobs.compactions_failed(model.id), limits)
    reason = compaction.due(outstanding, limits, now=now, asked_for=asked_for)
    waits = wait is not None and now < wait and not asked_for
    return Standing(
        model=model.id,
        anchor=anchor.id,
        anchor_live_at=anchor.published_at,
        deltas=len(later),
        outstanding=outstanding,
        reason=reason if _exact_rungs(model) and not waits else None,
        due_by=compaction.latest(outstanding, limits),
        not_before=wait,
        asked_at=model.compaction_requested_at,
    )


def _exact_rungs(model: Model) -> tuple[str, ...]:
    """Return the engines that could compact a line: all of them repeat its recipe."""
    if model.recipe is None:
        return ()
    return views.ladder(model.jobs_policy, JobKind.COMPACTION, recorded=model.layout is not None).ladder


# Asking by hand ----------------------------------------------------------------------------------


def run_now(session: Session, model_name: str, *, at: datetime) -> Model:
    """Ask for a job by hand, whatever the batch policy says."""
    model = _named(session, model_name)
    _require_workable(model)
    model.run_requested_at = at
    queue.ring(session, Stage.PLAN, model.id)
    return model


def compact_now(session: Session, model_name: str, *, principal_id: UUID, at: datetime) -> Standing:
    """Ask for a compaction by hand, whatever the policy says.

    Raises:
        Conflict: nothing was erased approximately, or no exact engine could ever run on this line.
    """
    model = _named(session, model_name)
    requests, _ = Jobs(session).outstanding(model.id)
    if not requests:
        raise Conflict(
            f"model {model.id} has nothing outstanding: all that was erased is exact",
            code="nothing-outstanding",
        )
    if not _exact_rungs(model):
        raise Conflict(
            f"model {model.id} has no recipe, or its policy no exact engine, to make it exact with",
            code="no-exact-engine",
        )
    _require_workable(model)
    model.compaction_requested_at = at
    audit.record(session, events.CompactionAsked(model.id, principal_id, requests, at))
    queue.ring(session, Stage.PLAN, model.id)
    return standing(session, model, now=at)


def read_standing(session: Session, model_name: str, *, now: datetime) -> Standing:
    """Return how far a line is from its anchor."""
    model = _named(session, model_name)
    if model.live_version_id is None:
        raise Conflict(f"model {model.id} serves no version yet", code="model-not-ready")
    return standing(session, model, now=now)


def _named(session: Session, model_name: str) -> Model:
    model = Jobs(session).model_named(model_name)
    if model is None:
        raise NotFound("there is no model of this name")
    return model


def _require_workable(model: Model) -> None:
    """Refuse a line on which no job could begin, and say why."""
    if model.live_version_id is None:
        raise Conflict(f"model {model.id} serves no version yet", code="model-not-ready")
    if model.breaker == "open":
        raise Conflict(f"model {model.id} is paused after failed jobs; resume it", code="model-paused")
    if model.breaker == "frozen":
        raise Conflict(f"model {model.id} is frozen until somebody resumes it", code="model-frozen")
    if not registry.verifiable(model):
        raise Conflict(f"model {model.id} has no references to be judged by", code="model-not-verifiable")


# Beginning ---------------------------------------------------------------------------------------


def open_next(session: Session, model_id: UUID, *, epoch: int, now: datetime) -> JobView | None:
    """Return the job that is to be planned: the one already open, or a new one if one is due."""
    model = leases.hold(session, model_id, epoch=epoch)
    running = Jobs(session).running(model_id)
    if running is not None:
        is_open = running.stage == JobStage.PLAN
        return views.view(session, running, model, epoch=epoch) if is_open else None
    found = _next(session, model, now=now)
    if found is None:
        return None
    kind, reason = found
    job = Jobs(session).add(model, kind=kind, seed=_seed(session, model))
    if kind is JobKind.COMPACTION:
        Jobs(session).cover_outstanding(job)
        model.compaction_requested_at = None
    else:
        for target, _ in _waiting(session, model):
            target.job_id = job.id
        model.run_requested_at = None
    session.flush()
    _tell(session, job, model, reason=reason, at=now)
    return views.view(session, job, model, epoch=epoch)


def _tell(session: Session, job: Job, model: Model, *, reason: str, at: datetime) -> None:
    requests = views.shown(session, job).requests
    policy = escalation.load(model.jobs_policy).digest
    audit.record(
        session,
        events.JobOpened(
            job=job.id,
            model=model.id,
            work=job.kind,
            reason=reason,
            requests=len(requests),
            policy=policy,
            at=at,
        ),
    )


def _seed(session: Session, model: Model) -> int:
    """Return the seed of the model's next job: of its parent's digest and its place in the sequence.

    Nobody chooses it, and who replays the job from the same parent finds the same one.
    """
    assert model.live_version_id is not None, "a job begins from the version that is live"
    parent = registry.version(session, model.live_version_id)
    place = Jobs(session).count(model.id)
    digest = sha256(f"lethe/job-seed/v1\n{parent.manifest}\n{place}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & _SEED_MASK
