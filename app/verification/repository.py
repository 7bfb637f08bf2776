"""All SQL about measurements and verdicts."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from app.storage.database import Session
from app.tables import Job, Measurement, VerdictRow, new_id


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
