"""All SQL about what is sealed, the weekly keys, and what is purged."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from app.storage.database import Session
from app.tables import KeyEpoch, RequestSecrets


class Secrets:
    """Sealed fields and their keys, in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def add(self, row: RequestSecrets) -> None:
        """Insert what is sealed of a request."""
        self.session.add(row)
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
