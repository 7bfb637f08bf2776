"""All SQL about what no training may bring back."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Row, cast, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.records.repository import among
from app.storage.database import Session
from app.tables import ErasureRequest, Record, RecordExclusion, RequestRecord, Suppression


class Suppressions:
    """What no training may bring back."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def unbarred(self, states: Collection[str], *, limit: int) -> Sequence[Row[int, UUID]]:
        """Return (record, dataset) of what requests in these states erase and nothing bars yet."""
        return self.session.execute(
            select(Record.id, Record.dataset_id)
            .where(_asked_for(states), ~exists().where(Suppression.record_id == Record.id))
            .order_by(Record.dataset_id, Record.position)
            .limit(limit)
        ).all()

    def add(self, entries: Mapping[int, bytes | None]) -> int:
        """Bar records by the keyed hashes of what they say; return how many were not barred before.

        One writer at a time, so that numbers are given in the order of commits.
        """
        lock = func.hashtextextended("lethe/suppressions", 0)
        self.session.execute(select(func.pg_advisory_xact_lock(lock)))
        rows = [{"record_id": record_id, "mac": mac} for record_id, mac in entries.items()]
        made = self.session.scalars(
            insert(Suppression)
            .values(rows)
            .on_conflict_do_nothing(index_elements=["record_id"])
            .returning(Suppression.number)
        )
        return len(made.all())

    def lift(self, states: Collection[str]) -> Sequence[Row[UUID, int]]:
        """Take away the bars of what no request in these states erases any more, unless it is erased.

        Returns (dataset, how many) of those that were lifted.
        """
        no_longer = (
            select(Record.id)
            .join(Suppression, Suppression.record_id == Record.id)
            .where(
                Record.erased_at.is_(None),
                ~exists().where(RecordExclusion.record_id == Record.id, RecordExclusion.reason == "erased"),
                ~_asked_for(states),
            )
        )
        lifted = self.session.execute(
            delete(Suppression)
            .where(Suppression.record_id.in_(no_longer.scalar_subquery()))
            .returning(Suppression.record_id)
            .execution_options(synchronize_session=False)
        ).scalars()
        return self.session.execute(
            select(Record.dataset_id, func.count())
            .where(among([id_ for id_ in lifted if id_ is not None]))
            .group_by(Record.dataset_id)
        ).all()

    def complete(self, record_ids: Collection[int]) -> int:
        """Bar these by what their rows know, where nothing does so yet; return how many that were."""
        lock = func.hashtextextended("lethe/suppressions", 0)
        self.session.execute(select(func.pg_advisory_xact_lock(lock)))
        self.session.execute(
            update(Suppression)
            .where(
                Suppression.record_id == Record.id,
                among(record_ids),
                Suppression.mac.is_(None),
                Record.suppression_mac.is_not(None),
            )
            .values(mac=Record.suppression_mac)
            .execution_options(synchronize_session=False)
        )
        rows = select(Record.suppression_mac, Record.id).where(
            among(record_ids),
            Record.suppression_mac.is_not(None),
            ~exists().where(Suppression.mac == Record.suppression_mac),
        )
        made = self.session.scalars(
            insert(Suppression)
            .from_select(["mac", "record_id"], rows)
            .on_conflict_do_nothing(index_elements=["record_id"])
            .returning(Suppression.number)
        )
        return len(made.all())

    def page(self, *, after: int, limit: int) -> Sequence[Row[int, bytes | None]]:
        """Return (number, keyed hash) from after a number on."""
        return self.session.execute(
            select(Suppression.number, Suppression.mac)
            .where(Suppression.number > after, Suppression.mac.is_not(None))
            .order_by(Suppression.number)
            .limit(limit)
        ).all()

    def version(self) -> int:
        """Return the highest number given so far; 0 while nothing is barred."""
        return self.session.scalar(select(func.max(Suppression.number))) or 0

    def among(self, macs: Collection[bytes]) -> frozenset[bytes]:
        """Return which of these are barred."""
        found = self.session.scalars(
            select(Suppression.mac).where(Suppression.mac == func.any(cast(list(macs), ARRAY(LargeBinary))))
        )
        return frozenset(bytes(mac) for mac in found if mac is not None)


def _asked_for(states: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that a request in one of these states erases the record."""
    return exists(
        select(RequestRecord.request_id)
        .join(ErasureRequest, ErasureRequest.id == RequestRecord.request_id)
        .where(
            RequestRecord.record_id == Record.id,
            RequestRecord.exempt.is_(None),
            ErasureRequest.state.in_(states),
        )
    )
