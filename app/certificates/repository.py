"""All SQL about certificates."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update

from app.storage.database import Session
from app.tables import Certificate, ErasureRequest, Principal, VerdictRow


class Certificates:
    """Statements: inserted once, their text never updated."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, certificate_id: UUID) -> Certificate | None:
        """Return a certificate."""
        return self.session.get(Certificate, certificate_id)

    def of_attempt(self, job_id: UUID, attempt: int) -> Sequence[Certificate]:
        """Return what was issued for one attempt of a job."""
        return self.session.scalars(
            select(Certificate)
            .where(Certificate.job_id == job_id, Certificate.attempt == attempt)
            .order_by(Certificate.request_id)
        ).all()

    def add(self, certificate: Certificate) -> None:
        """Insert a certificate."""
        self.session.add(certificate)
        self.session.flush()

    def release(self, certificate: Certificate, *, at: datetime) -> None:
        """Let it be fetched."""
        certificate.state, certificate.released_at = "released", at

    def take_opening(self, certificate_id: UUID) -> dict[str, object] | None:
        """Return the nonces and destroy them; None if they were taken before."""
        row = self.session.execute(
            select(Certificate.opening).where(Certificate.id == certificate_id).with_for_update()
        ).scalar_one_or_none()
        if row is not None:
            self.session.execute(
                update(Certificate).where(Certificate.id == certificate_id).values(opening=None)
            )
        return row

    def forget_openings(self, *, before: datetime) -> int:
        """Destroy the nonces of certificates released so long ago."""
        gone = self.session.scalars(
            update(Certificate)
            .where(Certificate.released_at < before, Certificate.opening.is_not(None))
            .values(opening=None)
            .returning(Certificate.id)
        )
        return len(gone.all())

    def submitter(self, certificate: Certificate) -> Principal:
        """Return who made the request."""
        return self.session.scalars(
            select(Principal)
            .join(ErasureRequest, ErasureRequest.submitted_by == Principal.id)
            .where(ErasureRequest.id == certificate.request_id)
        ).one()

    def verdict(self, certificate: Certificate) -> VerdictRow:
        """Return the decision it states."""
        return self.session.scalars(
            select(VerdictRow).where(
                VerdictRow.job_id == certificate.job_id,
                VerdictRow.attempt == certificate.attempt,
                VerdictRow.request_id == certificate.request_id,
            )
        ).one()
