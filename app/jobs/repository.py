"""All SQL about leases, jobs and the targets they take."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ColumnElement, CursorResult, Select, and_, delete, exists, func, or_, select, update

from app.storage.database import Session
from app.tables import (
    Dataset,
    ErasureRequest,
    Job,
    JobCover,
    JobStep,
    Model,
    ModelVersion,
    RecordExclusion,
    ReferenceModel,
    RequestTarget,
    new_id,
)

DB_NOW = func.clock_timestamp()
"""The wall clock of the database: `now()` stands still inside a transaction (R55)."""

_OUTSTANDING: tuple[ColumnElement[bool], ...] = (
    RequestTarget.stage == "completed",
    RequestTarget.outcome.is_not(None),
    RequestTarget.outcome != "exact",
    # A held one has been exact, and was detected all the same: a person looks first.
    RequestTarget.held.is_(None),
)
"""Erased from a model by an approximate engine: the anchor still holds it."""


class Leases:
    """The right to work on a model, by epoch and by the database's clock."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def take(self, model_id: UUID, *, owner: str, seconds: float) -> int | None:
        """Return the new epoch, or None while another holds the model or its breaker is not closed."""
        return self.session.scalar(
            update(Model)
            .where(
                Model.id == model_id,
                Model.breaker == "closed",
                or_(Model.lease_expires_at.is_(None), Model.lease_expires_at < DB_NOW),
            )
            .values(
                lease_epoch=Model.lease_epoch + 1,
                lease_owner=owner,
                lease_expires_at=DB_NOW + timedelta(seconds=seconds),
            )
            .returning(Model.lease_epoch)
        )

    def renew(self, model_id: UUID, *, epoch: int, seconds: float) -> bool:
        """Return whether the lease was still held and is now good for `seconds` more."""
        return self._touch(model_id, epoch, DB_NOW + timedelta(seconds=seconds))

    def release(self, model_id: UUID, *, epoch: int) -> bool:
        """Give the model back at once."""
        return self._touch(model_id, epoch, None)

    def count_fenced(self, model_id: UUID) -> None:
        """Count a stage whose lease was lost."""
        self.session.execute(update(Model).where(Model.id == model_id).values(fenced=Model.fenced + 1))

    def _touch(self, model_id: UUID, epoch: int, until: Any) -> bool:
        result = self.session.execute(
            update(Model)
            .where(Model.id == model_id, Model.lease_epoch == epoch, Model.lease_expires_at > DB_NOW)
            .values(lease_expires_at=until)
        )
        return cast("CursorResult[Any]", result).rowcount == 1

    def held(self, model_id: UUID, *, epoch: int) -> Model | None:
        """Return the model, locked until the commit, if this epoch still holds it."""
        return self.session.scalar(
            select(Model)
            .where(Model.id == model_id, Model.lease_epoch == epoch, Model.lease_expires_at > DB_NOW)
            .with_for_update()
            .execution_options(populate_existing=True)
        )


class Jobs:
    """Jobs, their steps, their targets."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, job_id: UUID) -> Job | None:
        """Return a job."""
        return self.session.get(Job, job_id)

    def running(self, model_id: UUID) -> Job | None:
        """Return the model's job in progress."""
        return self.session.scalar(select(Job).where(Job.model_id == model_id, Job.state == "running"))

    def count(self, model_id: UUID) -> int:
        """Return how many jobs a model has had."""
        found = self.session.scalar(select(func.count()).select_from(Job).where(Job.model_id == model_id))
        return found or 0

    def listing(
        self, *, model_id: UUID | None, limit: int, before: tuple[datetime, UUID] | None
    ) -> Sequence[Job]:
        """Return jobs, newest first."""
        query = select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)
        if model_id is not None:
            query = query.where(Job.model_id == model_id)
        if before is not None:
            query = query.where(
                or_(Job.created_at < before[0], and_(Job.created_at == before[0], Job.id < before[1]))
            )
        return self.session.scalars(query).all()

    def free_targets(self, model_id: UUID, *, limit: int) -> Sequence[tuple[RequestTarget, ErasureRequest]]:
        """Return what no job has taken yet, nearest deadline first, locked until the commit."""
        rows = self.session.execute(
            select(RequestTarget, ErasureRequest)
            .join(ErasureRequest, ErasureRequest.id == RequestTarget.request_id)
            .where(
                RequestTarget.model_id == model_id,
                RequestTarget.job_id.is_(None),
                RequestTarget.stage == "scheduled",
                RequestTarget.held.is_(None),
                RequestTarget.on_hold.is_(False),
                ErasureRequest.state.in_(("scheduled", "unlearning", "verifying", "publishing")),
            )
            .order_by(ErasureRequest.due_on, ErasureRequest.received_at, ErasureRequest.id)
            .limit(limit)
            .with_for_update(of=RequestTarget, skip_locked=True)
        )
        return [(row[0], row[1]) for row in rows]

    def targets(self, job_id: UUID) -> Sequence[RequestTarget]:
        """Return the targets a job has taken, in a fixed order."""
        return self.session.scalars(
            select(RequestTarget).where(RequestTarget.job_id == job_id).order_by(RequestTarget.request_id)
        ).all()

    def add(self, model: Model, *, kind: str, seed: int) -> Job:
        """Insert a job at its first stage."""
        job = Job(id=new_id(), model_id=model.id, kind=kind, parent_id=model.live_version_id, seed=seed)
        self.session.add(job)
        self.session.flush()
        return job

    def add_step(
        self, job: Job, *, stage: str, epoch: int, output: dict[str, object], seconds: float
    ) -> None:
        """Insert the row that makes a repeated stage a no-op."""
        self.session.add(
            JobStep(
                job_id=job.id,
                attempt=job.attempt,
                stage=stage,
                lease_epoch=epoch,
                output=output,
                seconds=seconds,
            )
        )
        self.session.flush()

    def steps(self, job_id: UUID) -> Sequence[JobStep]:
        """Return what was done, in order."""
        return self.session.scalars(
            select(JobStep).where(JobStep.job_id == job_id).order_by(JobStep.created_at, JobStep.id)
        ).all()

    def verify_steps(self, model_id: UUID, *, engine: str, since: datetime) -> Sequence[JobStep]:
        """Return the verifications of one engine on one model, for the sentinels' record (V19)."""
        return self.session.scalars(
            select(JobStep)
            .join(Job, Job.id == JobStep.job_id)
            .where(
                Job.model_id == model_id,
                JobStep.stage == "verify",
                JobStep.created_at >= since,
                JobStep.output["engine"].astext == engine,
            )
            .order_by(JobStep.created_at, JobStep.id)
        ).all()

    def unattended(self) -> Sequence[tuple[UUID, str]]:
        """Return (job, stage) of running jobs whose model nobody holds."""
        rows = self.session.execute(
            select(Job.id, Job.stage, Job.model_id)
            .join(Model, Model.id == Job.model_id)
            .where(
                Job.state == "running",
                Model.breaker == "closed",
                or_(Model.lease_expires_at.is_(None), Model.lease_expires_at < DB_NOW),
            )
        )
        return [(row.model_id if row.stage == "plan" else row.id, row.stage) for row in rows]

    def idle_models_with_work(self) -> Sequence[UUID]:
        """Return models with free or outstanding targets, no running job, and nobody at work."""
        busy = exists().where(Job.model_id == Model.id, Job.state == "running")
        free = exists().where(
            RequestTarget.model_id == Model.id,
            RequestTarget.job_id.is_(None),
            RequestTarget.stage == "scheduled",
            RequestTarget.held.is_(None),
            RequestTarget.on_hold.is_(False),
        )
        return self.session.scalars(
            select(Model.id).where(
                ~busy,
                or_(free, exists().where(RequestTarget.model_id == Model.id, *_OUTSTANDING)),
                Model.breaker == "closed",
                Model.live_version_id.is_not(None),
                or_(Model.lease_expires_at.is_(None), Model.lease_expires_at < DB_NOW),
            )
        ).all()

    # Compaction

    def outstanding(self, model_id: UUID) -> tuple[int, datetime | None]:
        """Return how many requests a model has erased approximately, and when the first was concluded."""
        row = self.session.execute(
            select(func.count(), func.min(Job.concluded_at))
            .select_from(RequestTarget)
            .join(Job, Job.id == RequestTarget.job_id, isouter=True)
            .where(RequestTarget.model_id == model_id, *_OUTSTANDING)
        ).one()
        return row[0], row[1]

    def cover_outstanding(self, job: Job) -> None:
        """Have a job cover, from now on, all that its model has erased approximately, and nothing else."""
        self.uncover(job.id)
        rows = self.session.scalars(
            select(RequestTarget.request_id)
            .where(RequestTarget.model_id == job.model_id, *_OUTSTANDING)
            .order_by(RequestTarget.request_id)
        )
        self.session.add_all(JobCover(job_id=job.id, request_id=each) for each in rows)
        self.session.flush()

    def uncover(self, job_id: UUID, request_ids: Collection[UUID] | None = None) -> None:
        """Have a job cover nothing any more, or not these."""
        which = [JobCover.job_id == job_id]
        if request_ids is not None:
            which.append(JobCover.request_id.in_(request_ids))
        self.session.execute(delete(JobCover).where(*which).execution_options(synchronize_session="fetch"))

    def covered(self, job: Job) -> Sequence[RequestTarget]:
        """Return the targets that a job's exact result covers again, in a fixed order."""
        return self.session.scalars(
            select(RequestTarget)
            .join(JobCover, JobCover.request_id == RequestTarget.request_id)
            .where(JobCover.job_id == job.id, RequestTarget.model_id == job.model_id)
            .order_by(RequestTarget.request_id)
        ).all()

    def compactions_failed(self, model_id: UUID) -> tuple[int, datetime | None]:
        """Return how many compactions have failed since one went well, and when the last did."""
        of_model = and_(Job.model_id == model_id, Job.kind == "compaction")
        well = select(func.max(Job.created_at)).where(of_model, Job.state == "concluded").scalar_subquery()
        row = self.session.execute(
            select(func.count(), func.max(Job.concluded_at)).where(
                of_model, Job.state == "failed", or_(well.is_(None), Job.created_at > well)
            )
        ).one()
        return row[0], row[1]

    def records_erased_since(self, model_id: UUID, since: datetime, *, besides: UUID | None) -> int:
        """Return how many records were erased from a model after an instant, but for those of one job."""
        found = self.session.scalar(
            select(func.count())
            .select_from(RecordExclusion)
            .where(
                RecordExclusion.model_id == model_id,
                RecordExclusion.reason == "erased",
                RecordExclusion.created_at > since,
                RecordExclusion.job_id.is_distinct_from(besides),
            )
        )
        return found or 0

    def records_registered(self, model: Model) -> int | None:
        """Return how many records the model's dataset has."""
        return self.session.scalar(select(Dataset.records).where(Dataset.id == model.dataset_id))

    def earlier_sentinels(self, job: Job) -> Sequence[tuple[UUID, Sequence[int]]]:
        """Return (job, record ids) of the sentinels that were erased by the model's jobs before this one."""
        rows = self.session.execute(
            select(Job.id, Job.plan)
            .join(ModelVersion, ModelVersion.id == Job.candidate_id)
            .where(
                Job.model_id == job.model_id,
                Job.id != job.id,
                Job.state == "concluded",
                ModelVersion.number.is_not(None),
            )
            .order_by(Job.created_at, Job.id)
        )
        return [(row.id, row.plan["sentinels"]) for row in rows if row.plan.get("sentinels")]

    # Preparing

    def versions_to_prepare(self, *, failures_max: int) -> Sequence[UUID]:
        """Return versions that are not trained or not served yet, or whose references are incomplete."""
        # A job that is still to be planned has begun nothing, and may be waiting for its references.
        busy = exists().where(Job.model_id == Model.id, Job.state == "running", Job.stage != "plan")
        return self.session.scalars(
            self._unprepared(failures_max).where(
                ~busy,
                Model.breaker == "closed",
                or_(Model.lease_expires_at.is_(None), Model.lease_expires_at < DB_NOW),
            )
        ).all()

    def versions_in_preparation(self, *, failures_max: int) -> frozenset[UUID]:
        """Return versions that lack something, whoever is at work on them."""
        return frozenset(self.session.scalars(self._unprepared(failures_max)))

    def _unprepared(self, failures_max: int) -> Select[UUID]:
        ready = (
            select(func.count())
            .select_from(ReferenceModel)
            .where(ReferenceModel.model_id == Model.id, ReferenceModel.state == "ready")
            .scalar_subquery()
        )
        return (
            select(ModelVersion.id)
            .join(Model, Model.id == ModelVersion.model_id)
            .where(
                ModelVersion.failures < failures_max,
                or_(
                    ModelVersion.state == "preparing",
                    # Trained, and killed before it was served.
                    and_(ModelVersion.state == "candidate", Model.live_version_id.is_(None)),
                    and_(
                        ModelVersion.id == Model.live_version_id,
                        Model.recipe.is_not(None),
                        ready < Model.references_wanted,
                    ),
                ),
            )
        )

    def all_running(self) -> frozenset[UUID]:
        """Return the jobs in progress, of all models."""
        return frozenset(self.session.scalars(select(Job.id).where(Job.state == "running")))

    def datasets_to_register(self) -> Sequence[UUID]:
        """Return datasets that wait to be read."""
        return self.session.scalars(select(Dataset.id).where(Dataset.state == "registering")).all()

    def model_of_version(self, version_id: UUID) -> UUID | None:
        """Return the line of a version."""
        return self.session.scalar(select(ModelVersion.model_id).where(ModelVersion.id == version_id))

    def model_named(self, name: str) -> Model | None:
        """Return a model by its name."""
        return self.session.scalar(select(Model).where(Model.name == name))

    def model(self, model_id: UUID) -> Model:
        """Return a model that must exist."""
        return self.session.get_one(Model, model_id, populate_existing=True)
