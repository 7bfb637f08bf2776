"""All SQL about measurements, verdicts, qualifications and audits."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on, insert

from app.storage.database import Session
from app.tables import Audit, Job, Measurement, Model, Qualification, VerdictRow, new_id


class Verifications:
    """What was measured, and what was decided on it."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def put(self, *, job_id: UUID, attempt: int, moment: str, form: str, body: bytes) -> None:
        """Store the numbers of one version in one form; the first that were stored stay."""
        self.session.execute(
            insert(Measurement)
            .values(id=new_id(), job_id=job_id, attempt=attempt, moment=moment, form=form, body=body)
            .on_conflict_do_nothing()
        )

    def bodies(self, *, job_id: UUID, attempt: int, moment: str) -> dict[str, bytes]:
        """Return the stored numbers by form."""
        rows = self.session.execute(
            select(Measurement.form, Measurement.body).where(
                Measurement.job_id == job_id, Measurement.attempt == attempt, Measurement.moment == moment
            )
        )
        return {row.form: row.body for row in rows}

    def first_job_of(self, request_id: UUID, *, model_id: UUID) -> UUID | None:
        """Return the first job that judged a request on a model: its baseline counts (V25)."""
        return self.session.scalar(
            select(VerdictRow.job_id)
            .join(Job, Job.id == VerdictRow.job_id)
            .where(VerdictRow.request_id == request_id, Job.model_id == model_id)
            .order_by(VerdictRow.created_at)
            .limit(1)
        )

    def first_job_from(self, version_id: UUID) -> UUID | None:
        """Return the first job that began from a version and measured it."""
        return self.session.scalar(
            select(Measurement.job_id)
            .join(Job, Job.id == Measurement.job_id)
            .where(Job.parent_id == version_id, Measurement.moment == "before")
            .order_by(Measurement.created_at)
            .limit(1)
        )

    def count(self, request_id: UUID, *, model_id: UUID) -> int:
        """Return how many decisions on a request concern a model."""
        found = self.session.scalar(
            select(func.count())
            .select_from(VerdictRow)
            .join(Job, Job.id == VerdictRow.job_id)
            .where(VerdictRow.request_id == request_id, Job.model_id == model_id)
        )
        return found or 0

    def add(self, row: VerdictRow) -> None:
        """Insert one decision."""
        self.session.add(row)
        self.session.flush()

    def of_request(self, request_id: UUID) -> Sequence[VerdictRow]:
        """Return every decision on a request, oldest first."""
        return self.session.scalars(
            select(VerdictRow).where(VerdictRow.request_id == request_id).order_by(VerdictRow.created_at)
        ).all()

    def of_attempt(self, job_id: UUID, attempt: int) -> dict[UUID, VerdictRow]:
        """Return the decisions of one attempt by request."""
        rows = self.session.scalars(
            select(VerdictRow).where(VerdictRow.job_id == job_id, VerdictRow.attempt == attempt)
        )
        return {row.request_id: row for row in rows}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the fleet's health needs of one decision."""

    request_id: UUID
    model: str
    engine: str
    job_id: UUID
    look: int
    m: int
    p: str | None


class Fleet:
    """Decisions and measurements of all models together."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def judged(self, *, limit: int) -> list[Judged]:
        """Return the newest decisions, oldest of them first; of each its first form's rank."""
        form = VerdictRow.decision["forms"][0]
        rows = self.session.execute(
            select(
                VerdictRow.request_id,
                Model.name.label("model"),
                VerdictRow.decision["engine"].astext.label("engine"),
                VerdictRow.job_id,
                VerdictRow.decision["look"].as_integer().label("look"),
                form["m"].as_integer().label("m"),
                form["p1_combined"].astext.label("p"),
            )
            .join(Job, Job.id == VerdictRow.job_id)
            .join(Model, Model.id == Job.model_id)
            .order_by(VerdictRow.created_at.desc(), VerdictRow.id.desc())
            .limit(limit)
        )
        return [Judged(**row) for row in rows.mappings()][::-1]

    def latest(self) -> Sequence[tuple[UUID, int, str]]:
        """Return (job, attempt, policy) of each model's candidate that was measured last."""
        rows = self.session.execute(
            select(Measurement.job_id, Measurement.attempt, Model.verification_policy)
            .join(Job, Job.id == Measurement.job_id)
            .join(Model, Model.id == Job.model_id)
            .where(Measurement.moment == "after")
            .ext(distinct_on(Job.model_id))
            .order_by(Job.model_id, Measurement.created_at.desc())
        )
        return [(row[0], row[1], row[2]) for row in rows]


class Qualifications:
    """Which configuration of which engine was tested on a model line, and how that ended."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def of_configuration(self, model_id: UUID, configuration: str) -> Sequence[Qualification]:
        """Return every test of a configuration, newest first."""
        return self.session.scalars(
            select(Qualification)
            .where(Qualification.model_id == model_id, Qualification.configuration == configuration)
            .order_by(Qualification.decided_at.desc(), Qualification.id.desc())
        ).all()

    def newest(self) -> Sequence[tuple[Qualification, str]]:
        """Return the last test of each configuration and its model's name."""
        rows = self.session.execute(
            select(Qualification, Model.name)
            .join(Model, Model.id == Qualification.model_id)
            .ext(distinct_on(Qualification.model_id, Qualification.configuration))
            .order_by(
                Qualification.model_id,
                Qualification.configuration,
                Qualification.decided_at.desc(),
                Qualification.id.desc(),
            )
        )
        return [(row[0], row[1]) for row in rows]

    def add(self, row: Qualification) -> Qualification:
        """Insert one."""
        self.session.add(row)
        self.session.flush()
        return row


class Audits:
    """Deep audits: one for each attempt that is audited at all."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, row: Audit) -> Audit:
        """Insert one."""
        self.session.add(row)
        self.session.flush()
        return row

    def get(self, audit_id: UUID) -> Audit | None:
        """Return one."""
        return self.session.get(Audit, audit_id)

    def locked(self, audit_id: UUID) -> Audit | None:
        """Return one as it is now, locked until the commit."""
        return self.session.get(Audit, audit_id, with_for_update=True, populate_existing=True)

    def of_attempt(self, job_id: UUID, attempt: int) -> Audit | None:
        """Return the audit of an attempt."""
        return self.session.scalars(
            select(Audit).where(Audit.job_id == job_id, Audit.attempt == attempt)
        ).one_or_none()

    def knows(self, model_id: UUID, configuration: str) -> bool:
        """Return whether a configuration of a model's engine was audited, or is about to be."""
        found = self.session.scalar(
            select(Audit.id)
            .join(Job, Job.id == Audit.job_id)
            .where(Job.model_id == model_id, Audit.configuration == configuration, Audit.state != "void")
            .limit(1)
        )
        return found is not None

    def due(self) -> Sequence[UUID]:
        """Return what is to be audited on models that have nothing better to do, oldest first."""
        busy = select(Job.model_id).where(Job.state == "running")
        frozen = select(Model.id).where(Model.breaker == "frozen")
        return self.session.scalars(
            select(Audit.id)
            .join(Job, Job.id == Audit.job_id)
            .where(Audit.state == "due", Job.model_id.not_in(busy), Job.model_id.not_in(frozen))
            .order_by(Audit.created_at, Audit.id)
        ).all()

    def open(self) -> frozenset[UUID]:
        """Return every audit that is still to be held."""
        return frozenset(self.session.scalars(select(Audit.id).where(Audit.state == "due")))

    def listing(self, *, limit: int, before: tuple[datetime, UUID] | None) -> Sequence[Audit]:
        """Return audits, newest first."""
        query = select(Audit).order_by(Audit.created_at.desc(), Audit.id.desc()).limit(limit)
        if before is not None:
            query = query.where(tuple_(Audit.created_at, Audit.id) < before)
        return self.session.scalars(query).all()

    def latest_attempt(self, job_id: UUID) -> int | None:
        """Return the attempt of a job that was judged last."""
        return self.session.scalar(select(func.max(VerdictRow.attempt)).where(VerdictRow.job_id == job_id))
