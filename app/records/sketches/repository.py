"""All SQL about what records are like."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import delete, func, select

from app.records.repository import among
from app.storage.database import Session
from app.tables import Record, RecordSketch


class Sketches:
    """What records are like."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def add(self, found: Mapping[int, Sequence[int]]) -> None:
        """Keep the sketches of records that are still there, which stay until the commit."""
        there = self.session.scalars(select(Record.id).where(among(found)).with_for_update(key_share=True))
        kept = sorted(there.all())
        connection = self.session.connection().connection.driver_connection
        assert connection is not None
        with (
            connection.cursor() as cursor,
            cursor.copy("COPY record_sketches (record_id, bands) FROM STDIN") as copy,
        ):
            for record_id in kept:
                copy.write_row((record_id, list(found[record_id])))

    def count(self, dataset_id: UUID) -> int:
        """Return how many records of a dataset are sketched."""
        return self.session.scalars(
            select(func.count())
            .select_from(RecordSketch)
            .join(Record, Record.id == RecordSketch.record_id)
            .where(Record.dataset_id == dataset_id)
        ).one()

    def drop(self, dataset_id: UUID) -> None:
        """Delete the sketches of a dataset."""
        its = select(Record.id).where(Record.dataset_id == dataset_id).scalar_subquery()
        self.session.execute(
            delete(RecordSketch)
            .where(RecordSketch.record_id.in_(its))
            .execution_options(synchronize_session=False)
        )
