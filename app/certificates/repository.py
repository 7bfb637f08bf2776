"""All SQL about certificates."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, literal, select, update

from app.storage.database import Session
from app.tables import (
    Certificate,
    ErasureRequest,
    Job,
    Model,
    ModelVersion,
    Principal,
    Publication,
    StatusList,
    VerdictRow,
)


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

    def current(self, request_id: UUID, model_id: UUID) -> Certificate | None:
        """Return the certificate that a request holds for a model now."""
        return self.session.scalars(
            select(Certificate).where(
                Certificate.request_id == request_id,
                Certificate.model_id == model_id,
                Certificate.state == "released",
            )
        ).one_or_none()

    def successor(self, certificate_id: UUID) -> UUID | None:
        """Return the certificate that has taken the place of one, if any has."""
        return self.session.scalar(
            select(Certificate.id).where(
                Certificate.supersedes_id == certificate_id, Certificate.state != "issued"
            )
        )

    def supersede(self, certificate_id: UUID, *, at: datetime) -> bool:
        """Say that another has taken its place; False if it was revoked meanwhile."""
        superseded = self.session.scalar(
            update(Certificate)
            .where(Certificate.id == certificate_id, Certificate.state == "released")
            .values(state="superseded", superseded_at=at)
            .returning(Certificate.id)
        )
        return superseded is not None

    def revoke(self, certificate_id: UUID, *, reason: str, at: datetime) -> bool:
        """Say that a certificate does not stand; False if it was not held any more."""
        revoked = self.session.scalar(
            update(Certificate)
            .where(Certificate.id == certificate_id, Certificate.state == "released")
            .values(state="revoked", revoked_at=at, revocation=reason)
            .returning(Certificate.id)
        )
        return revoked is not None

    def revoke_unpublished(self, *, reason: str, at: datetime) -> Sequence[Certificate]:
        """Revoke what was signed for candidates that will never be served; return it."""
        never = (Job.attempt != Certificate.attempt) | (Job.state == "failed")
        return self.session.scalars(
            update(Certificate)
            .where(Certificate.state == "issued", Certificate.job_id == Job.id, never)
            .values(state="revoked", revoked_at=at, revocation=reason)
            .returning(Certificate)
            .execution_options(synchronize_session=False)
        ).all()

    def fallen(self) -> Sequence[tuple[UUID, str | None, datetime]]:
        """Return every certificate that does not stand: why (None: superseded), and since when."""
        since = func.coalesce(Certificate.revoked_at, Certificate.superseded_at)
        rows = self.session.execute(
            select(Certificate.id, Certificate.revocation, since).where(
                Certificate.state.in_(("revoked", "superseded"))
            )
        )
        return [(id_, reason, at) for id_, reason, at in rows]

    def honoured(self, model_id: UUID, *, up_to: int | None = None) -> Sequence[UUID]:
        """Return what the line's versions that were served honour, in order of issue; the first `up_to`."""
        return self.session.scalars(
            select(Certificate.id)
            .join(ModelVersion, ModelVersion.id == Certificate.version_id)
            .where(Certificate.model_id == model_id, ModelVersion.number.is_not(None))
            .order_by(Certificate.place)
            .limit(up_to)
        ).all()

    def unstamped(self, *, limit: int) -> Sequence[Certificate]:
        """Return certificates over which no time stamp was taken, newest first."""
        return self.session.scalars(
            select(Certificate)
            .where(Certificate.stamp_p256.is_(None), Certificate.state != "revoked")
            .order_by(Certificate.issued_at.desc())
            .limit(limit)
        ).all()

    def stamp(self, certificate_id: UUID, *, ed25519: bytes, p256: bytes) -> None:
        """Keep time stamps; the first that were taken stay."""
        self.session.execute(
            update(Certificate)
            .where(Certificate.id == certificate_id, Certificate.stamp_p256.is_(None))
            .values(stamp_ed25519=ed25519, stamp_p256=p256)
        )

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


class Publications:
    """Statements that a version went live."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def add(self, publication: Publication) -> None:
        """Insert a statement, not signed yet."""
        self.session.add(publication)
        self.session.flush()

    def get(self, version_id: UUID) -> Publication | None:
        """Return the statement about a version."""
        return self.session.get(Publication, version_id)

    def newest(self, model_id: UUID, *, limit: int) -> Sequence[Publication]:
        """Return the signed statements of a line, the last published first."""
        return self.session.scalars(
            select(Publication)
            .where(Publication.model_id == model_id, Publication.envelope.is_not(None))
            .order_by(Publication.number.desc())
            .limit(limit)
        ).all()

    def unsigned(self) -> Sequence[tuple[Publication, str]]:
        """Return what is to be signed, each with the name of its line."""
        rows = self.session.execute(
            select(Publication, Model.name)
            .join(Model, Model.id == Publication.model_id)
            .where(Publication.envelope.is_(None))
            .order_by(Publication.version_id)
        )
        return [(publication, name) for publication, name in rows]

    def sign(self, version_id: UUID, *, envelope: bytes, model_signature: bytes) -> None:
        """Keep the signatures; who came first has signed the same payload."""
        self.session.execute(
            update(Publication)
            .where(Publication.version_id == version_id, Publication.envelope.is_(None))
            .values(envelope=envelope, model_signature=model_signature)
        )


class StatusLists:
    """Statements of which certificates do not stand."""

    LOCK = 0x737461  # "sta"

    def __init__(self, session: Session) -> None:
        self.session = session

    def alone(self) -> None:
        """Wait until nobody else adds a list; held until the commit."""
        self.session.execute(select(func.pg_advisory_xact_lock(literal(self.LOCK))))

    def newest(self) -> StatusList | None:
        """Return the list that is shown."""
        return self.session.scalars(
            select(StatusList).order_by(StatusList.produced_at.desc()).limit(1)
        ).first()

    def add(self, status: StatusList) -> None:
        """Insert a list."""
        self.session.add(status)
        self.session.flush()
