"""All SQL about what is sealed, the weekly keys, and what is purged."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ColumnElement, CursorResult, Text, and_, delete, exists, func, or_, select, update
from sqlalchemy import cast as as_type
from sqlalchemy.dialects.postgresql import insert

from app.storage.database import Session
from app.tables import (
    Approval,
    Audit,
    Certificate,
    ClockPause,
    ErasureRequest,
    Hold,
    IdentityChallenge,
    JobCover,
    KeyEpoch,
    Model,
    OpenDsrCallback,
    OpenDsrRequest,
    RequestProposal,
    RequestRecord,
    RequestScan,
    RequestSearch,
    RequestSecrets,
    RequestTarget,
    VerdictRow,
)


class Secrets:
    """Sealed fields and their keys, in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, row: RequestSecrets) -> None:
        """Insert what is sealed of a request."""
        self.session.add(row)
        self.session.flush()

    def add_all(self, rows: Sequence[RequestSecrets]) -> None:
        """Insert what is sealed of several."""
        self.session.add_all(rows)
        self.session.flush()

    def get(self, request_id: UUID) -> RequestSecrets | None:
        """Return what is sealed of a request, as it is now."""
        return self.session.get(RequestSecrets, request_id, populate_existing=True)

    def locked(self, request_id: UUID) -> RequestSecrets | None:
        """Return what is sealed of a request, locked until the commit."""
        return self.session.scalars(
            select(RequestSecrets)
            .where(RequestSecrets.request_id == request_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one_or_none()

    # Weekly keys

    def epoch_of(self, week: date) -> UUID | None:
        """Return the id of a week's key."""
        return self.session.scalar(select(KeyEpoch.id).where(KeyEpoch.week == week))

    def week_of(self, epoch_id: UUID) -> date:
        """Return the week of a key."""
        return self.session.scalars(select(KeyEpoch.week).where(KeyEpoch.id == epoch_id)).one()

    def add_epoch(self, epoch_id: UUID, week: date) -> bool:
        """Say that a week has this key; False if it has another one."""
        added = self.session.scalar(
            insert(KeyEpoch)
            .values(id=epoch_id, week=week)
            .on_conflict_do_nothing(index_elements=[KeyEpoch.week])
            .returning(KeyEpoch.id)
        )
        return added is not None

    def epochs(self) -> Sequence[KeyEpoch]:
        """Return the weekly keys that something may be wrapped by, oldest first."""
        return self.session.scalars(select(KeyEpoch).order_by(KeyEpoch.week)).all()

    def wrapped_by(self, epoch_id: UUID, *, limit: int) -> Sequence[RequestSecrets]:
        """Return rows whose data key is wrapped by a week's key, locked until the commit.

        One that somebody else is changing is left out: it is wrapped anew the next time.
        """
        return self.session.scalars(
            select(RequestSecrets)
            .where(RequestSecrets.epoch_id == epoch_id)
            .order_by(RequestSecrets.request_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).all()

    def drop_epoch(self, epoch_id: UUID) -> bool:
        """Delete a week's row if nothing refers to it; that nothing does, the foreign key makes sure of.

        Whoever is just wrapping by it holds the row, and is waited for.
        """
        locked = self.session.scalar(select(KeyEpoch.id).where(KeyEpoch.id == epoch_id).with_for_update())
        if locked is None or self.session.scalar(select(exists().where(RequestSecrets.epoch_id == epoch_id))):
            return False
        self.session.execute(delete(KeyEpoch).where(KeyEpoch.id == epoch_id))
        return True


class Purges:
    """Which requests are to be purged, and what of them is deleted."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def due(self, *, before: datetime, now: datetime, limit: int) -> Sequence[UUID]:
        """Return unpurged requests that ended before, and that nothing keeps."""
        return self.session.scalars(
            select(ErasureRequest.id)
            .where(_ended(before), ~_kept(now))
            .order_by(ErasureRequest.concluded_at)
            .limit(limit)
        ).all()

    def is_due(self, request_id: UUID, *, before: datetime, now: datetime) -> bool:
        """Return whether a request is one of these."""
        found = select(ErasureRequest.id).where(ErasureRequest.id == request_id, _ended(before), ~_kept(now))
        return self.session.scalar(found) is not None

    def purged(self, request_ids: Collection[UUID]) -> frozenset[UUID]:
        """Return which of these requests are purged."""
        found = select(ErasureRequest.id).where(
            ErasureRequest.id.in_(request_ids), ErasureRequest.purged_at.is_not(None)
        )
        return frozenset(self.session.scalars(found))

    def count_due(self, *, before: datetime, now: datetime) -> tuple[int, int]:
        """Return how many are due and kept by nothing, and how many are due at all."""
        row = self.session.execute(
            select(func.count().filter(~_kept(now)), func.count())
            .select_from(ErasureRequest)
            .where(_ended(before))
        ).one()
        return row[0], row[1]

    def forget_links(self, request_id: UUID) -> None:
        """Forget who else's duplicate it is, numbers of callers, codes, and records that nothing needs."""
        self.session.execute(
            update(ErasureRequest)
            .where(ErasureRequest.duplicate_of == request_id)
            .values(duplicate_of=None, version=ErasureRequest.version + 1)
            .execution_options(synchronize_session=False)
        )
        self.session.execute(
            update(Hold)
            .where(Hold.request_id == request_id)
            .values(external_ref=None)
            .execution_options(synchronize_session=False)
        )
        # What is kept of a foreign protocol is the name that its controller asks by.
        self.session.execute(
            update(OpenDsrRequest)
            .where(OpenDsrRequest.request_id == request_id)
            .values(fingerprint=b"", callback_urls=[])
            .execution_options(synchronize_session=False)
        )
        for row in (RequestProposal, RequestSearch, RequestScan, IdentityChallenge):
            self.session.execute(
                delete(row).where(row.request_id == request_id).execution_options(synchronize_session=False)
            )
        self.session.execute(
            delete(RequestRecord)
            .where(
                RequestRecord.request_id == request_id,
                or_(RequestRecord.exempt.is_not(None), ~_anchored(RequestRecord.request_id)),
            )
            .execution_options(synchronize_session=False)
        )

    def unlink(self) -> int:
        """Forget the records of purged requests that no anchor holds any more; return how many links."""
        purged = select(ErasureRequest.id).where(
            ErasureRequest.purged_at.is_not(None), ~_anchored(ErasureRequest.id), ~_audited()
        )
        gone = self.session.execute(
            delete(RequestRecord)
            .where(RequestRecord.request_id.in_(purged))
            .execution_options(synchronize_session=False)
        )
        return cast("CursorResult[Any]", gone).rowcount

    def count_anchored(self) -> int:
        """Return of how many purged requests the list of records is still there."""
        named = exists().where(RequestRecord.request_id == ErasureRequest.id)
        return (
            self.session.scalar(
                select(func.count())
                .select_from(ErasureRequest)
                .where(ErasureRequest.purged_at.is_not(None), named)
            )
            or 0
        )

    def over(self, *, before: datetime, limit: int) -> Sequence[UUID]:
        """Return tombstones that ended before and that no certificate is of."""
        return self.session.scalars(
            select(ErasureRequest.id)
            .where(_over(before))
            .order_by(ErasureRequest.concluded_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()

    def count_over(self, *, before: datetime) -> int:
        """Return how many tombstones are past their years."""
        found = select(func.count()).select_from(ErasureRequest).where(_over(before))
        return self.session.scalar(found) or 0

    def delete(self, request_ids: Collection[UUID]) -> None:
        """Delete tombstones and all that is theirs."""
        if not request_ids:
            return
        for column in (
            OpenDsrCallback.request_id,
            OpenDsrRequest.request_id,
            VerdictRow.request_id,
            JobCover.request_id,
            Hold.request_id,
            ClockPause.request_id,
            Approval.request_id,
            RequestTarget.request_id,
        ):
            self.session.execute(
                delete(column.class_)
                .where(column.in_(request_ids))
                .execution_options(synchronize_session=False)
            )
        self.session.execute(
            delete(ErasureRequest)
            .where(ErasureRequest.id.in_(request_ids))
            .execution_options(synchronize_session=False)
        )


def _ended(before: datetime) -> ColumnElement[bool]:
    return and_(ErasureRequest.concluded_at <= before, ErasureRequest.purged_at.is_(None))


def _kept(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a hold or a deep audit keeps the request as it is."""
    target = (
        exists()
        .where(RequestTarget.request_id == ErasureRequest.id, RequestTarget.model_id == Hold.model_id)
        .correlate(ErasureRequest, Hold)
    )
    named = (
        exists()
        .where(RequestRecord.request_id == ErasureRequest.id, RequestRecord.record_id == Hold.record_id)
        .correlate(ErasureRequest, Hold)
    )
    held = (
        exists()
        .where(
            Hold.ended_at.is_(None),
            Hold.expires_at > now,
            or_(Hold.request_id == ErasureRequest.id, target, named),
        )
        .correlate(ErasureRequest)
    )
    return or_(held, _audited())


def _audited() -> ColumnElement[bool]:
    """Return the condition that a deep audit is still to read the request's records."""
    return (
        exists()
        .where(Audit.state == "due", Audit.causes.has_key(as_type(ErasureRequest.id, Text)))
        .correlate(ErasureRequest)
    )


def _anchored(request_id: Any) -> ColumnElement[bool]:
    """Return the condition that an anchor still holds what the request erased, and can be rid of it."""
    return exists().where(
        RequestTarget.request_id == request_id,
        RequestTarget.outcome.is_not(None),
        RequestTarget.outcome != "exact",
        Model.id == RequestTarget.model_id,
        # Without a recipe no exact engine can ever run, so nobody waits for one.
        Model.recipe.is_not(None),
    )


def _over(before: datetime) -> ColumnElement[bool]:
    return and_(
        ErasureRequest.concluded_at <= before,
        ErasureRequest.purged_at.is_not(None),
        ~exists().where(Certificate.request_id == ErasureRequest.id),
        ~exists().where(RequestRecord.request_id == ErasureRequest.id),
    )
