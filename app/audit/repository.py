"""SQL of the audit chain: the head row, appended rows, and reading them in order."""

from collections.abc import Iterator, Sequence

from sqlalchemy import select

from app.storage.database import Session
from app.tables import AuditEvent, AuditHead

BATCH_ROWS = 1_000


class AuditChain:
    """The chain in one transaction."""

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def head(self) -> AuditHead:
        """Return the head, locked until the commit, as it is now and not as this session saw it."""
        return self.session.scalars(
            select(AuditHead)
            .where(AuditHead.id == 1)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def append(self, row: AuditEvent) -> None:
        """Insert the row and let the head follow it."""
        head = self.session.get_one(AuditHead, 1)
        head.seq, head.hash = row.seq, row.hash
        self.session.add(row)
        self.session.flush()

    def about(self, subject_id: str, *, after: int, limit: int) -> Sequence[AuditEvent]:
        """Return the events about one thing, oldest first."""
        return self.session.scalars(
            select(AuditEvent)
            .where(AuditEvent.subject_id == subject_id, AuditEvent.seq > after)
            .order_by(AuditEvent.seq)
            .limit(limit)
        ).all()

    def since(self, after: int, *, limit: int) -> Sequence[AuditEvent]:
        """Return the events after a sequence number, oldest first."""
        return self.session.scalars(
            select(AuditEvent).where(AuditEvent.seq > after).order_by(AuditEvent.seq).limit(limit)
        ).all()

    def all(self) -> Iterator[AuditEvent]:
        """Yield the whole chain in order, a batch at a time."""
        after = 0
        while batch := self.since(after, limit=BATCH_ROWS):
            yield from batch
            after = batch[-1].seq
            self.session.expunge_all()
