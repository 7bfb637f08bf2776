"""All SQL about files of requests and their rows."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, func, or_, select, text, tuple_, update

from app.storage.database import Session
from app.tables import ErasureRequest, Import, ImportRow

STAGE_SECONDS_MAX = 60
"""How long the one COPY of a file may take."""
COLUMNS = (
    "import_id",
    "number",
    "line",
    "outcome",
    "errors",
    "subject_macs",
    "dataset",
    "record_ids",
    "external_ref",
    "vouched",
    "submitted_at",
)


class Imports:
    """Files of requests, in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def alone(self, principal_id: UUID, fingerprint: bytes) -> None:
        """Wait until nobody else takes in the same file of the same caller; held until the commit."""
        name = f"import|{principal_id}|{fingerprint.hex()}"
        self.session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def known(self, principal_id: UUID, fingerprint: bytes) -> Import | None:
        """Return the newest import of the same file by the same caller."""
        return self.session.scalars(
            select(Import)
            .where(Import.submitted_by == principal_id, Import.fingerprint == fingerprint)
            .order_by(Import.created_at.desc())
            .limit(1)
        ).one_or_none()

    def add(self, row: Import) -> None:
        """Insert an import."""
        self.session.add(row)
        self.session.flush()

    def get(self, import_id: UUID) -> Import | None:
        """Return an import as it is."""
        return self.session.get(Import, import_id)

    def page(self, *, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Import]:
        """Return imports, newest first, from after a place on."""
        query = select(Import).order_by(Import.created_at.desc(), Import.id.desc()).limit(limit)
        if after is not None:
            query = query.where(tuple_(Import.created_at, Import.id) < after)
        return self.session.scalars(query).all()

    def claim(self, import_id: UUID) -> Import | None:
        """Return an import to work on, locked until the commit; None if it is done, or another's just now."""
        return self.session.scalars(
            select(Import)
            .where(Import.id == import_id, Import.state == "working")
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        ).one_or_none()

    def unattended(self, *, before: datetime) -> Sequence[UUID]:
        """Return the imports that no worker has gone on with since."""
        return self.session.scalars(
            select(Import.id)
            .where(Import.state == "working", or_(Import.touched_at.is_(None), Import.touched_at < before))
            .order_by(Import.created_at)
        ).all()

    def forget(self, *, before: datetime) -> int:
        """Delete imports that ended before, with their rows; return how many."""
        found = self.session.execute(delete(Import).where(Import.ended_at < before))
        return cast("CursorResult[Any]", found).rowcount

    # Rows

    def stage(self, rows: Iterable[Sequence[object]]) -> None:
        """Insert rows (`COLUMNS`) as they are read."""
        self.session.execute(text(f"SET LOCAL statement_timeout = '{STAGE_SECONDS_MAX}s'"))
        connection = self.session.connection().connection.driver_connection
        assert connection is not None
        into = f"COPY import_rows ({', '.join(COLUMNS)}) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(into) as copy:
            for row in rows:
                copy.write_row(row)

    def pending(self, import_id: UUID, *, limit: int) -> Sequence[ImportRow]:
        """Return the next rows without an outcome."""
        return self.session.scalars(
            select(ImportRow)
            .where(ImportRow.import_id == import_id, ImportRow.outcome == "pending")
            .order_by(ImportRow.number)
            .limit(limit)
        ).all()

    def settle(self, outcomes: Sequence[Mapping[str, object]]) -> None:
        """Write what became of rows; whom or what they name goes with it."""
        gone = {"subject_macs": None, "dataset": None, "record_ids": None}
        self.session.execute(update(ImportRow), [{**each, **gone} for each in outcomes])

    def rows(
        self, import_id: UUID, *, outcomes: Collection[str], after: int, limit: int
    ) -> Sequence[ImportRow]:
        """Return rows by number, from after one on."""
        query = select(ImportRow).where(ImportRow.import_id == import_id, ImportRow.number > after)
        if outcomes:
            query = query.where(ImportRow.outcome.in_(outcomes))
        return self.session.scalars(query.order_by(ImportRow.number).limit(limit)).all()

    def by_reference(self, principal_id: UUID, references: Collection[str]) -> dict[str, ErasureRequest]:
        """Return a caller's requests by its own numbers for them."""
        found = self.session.scalars(
            select(ErasureRequest).where(
                ErasureRequest.submitted_by == principal_id, ErasureRequest.external_ref.in_(references)
            )
        )
        return {str(each.external_ref): each for each in found}
