"""A job as others see it, detached from any session: stages, and people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.jobs import escalation
from app.jobs.escalation import JobsPolicy
from app.jobs.lifecycle import JobKind, JobStage
from app.jobs.repository import Jobs
from app.storage.database import Session
from app.tables import Job, Model


@dataclass(frozen=True, kw_only=True)
class JobView:
    """What a stage needs to know of its job."""

    id: UUID
    kind: JobKind
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
    """All that is judged and certified."""
    covered: frozenset[UUID]
    """Of these, the ones that were erased before, approximately: they are completed, and stay so."""
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
    def new(self) -> tuple[UUID, ...]:
        """Return the requests that are erased for the first time: only these move through the stages."""
        return tuple(each for each in self.requests if each not in self.covered)

    @property
    def policy(self) -> JobsPolicy:
        """Return the line's policy, with the rungs that it can stand on for this kind of job."""
        return ladder(self.jobs_policy, self.kind, recorded=self.recorded)


@dataclass(frozen=True, kw_only=True)
class JobShown:
    """A job as people see it."""

    id: UUID
    kind: str
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


def ladder(jobs_policy: str, kind: JobKind, *, recorded: bool) -> JobsPolicy:
    """Return a line's policy, with the rungs that it can stand on for a kind of job."""
    policy = escalation.climbable(escalation.load(jobs_policy), recorded=recorded)
    return escalation.exact_only(policy) if kind is JobKind.COMPACTION else policy


def view(session: Session, job: Job, model: Model, *, epoch: int) -> JobView:
    """Return a job as a stage under this lease sees it."""
    jobs = Jobs(session)
    covered = jobs.covered(job)
    targets = sorted([*jobs.targets(job.id), *covered], key=lambda target: target.request_id)
    assert job.parent_id is not None, "a job begins from the version that is live"
    return JobView(
        id=job.id,
        kind=JobKind(job.kind),
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
        covered=frozenset(target.request_id for target in covered),
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


def shown(session: Session, job: Job) -> JobShown:
    """Return a job as people see it, with the requests that it erases or covers again."""
    jobs = Jobs(session)
    targets = [*jobs.targets(job.id), *jobs.covered(job)]
    return JobShown(
        id=job.id,
        kind=job.kind,
        model=job.model_id,
        state=job.state,
        stage=job.stage,
        attempt=job.attempt,
        engine=job.engine,
        requests=tuple(sorted(target.request_id for target in targets)),
        history=job.history,
        progress=job.progress,
        failure=job.failure,
        created_at=job.created_at,
        concluded_at=job.concluded_at,
    )
