"""SQL of the audit chain: the head row, appended rows, and reading them in order."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sqlalchemy import func, literal, select, text, true

from app.storage.database import Session
from app.tables import AuditCheck, AuditEvent, AuditHead, StatedHead

BATCH_ROWS = 1_000
_APPEND: Final = text(
    "INSERT INTO audit_events (seq, kind, subject_id, body, hash, prev_hash)"
    " SELECT * FROM unnest(CAST(:seq AS bigint[]), CAST(:kind AS text[]), CAST(:subject_id AS text[]),"
    " CAST(:body AS bytea[]), CAST(:hash AS bytea[]), CAST(:prev_hash AS bytea[]))"
)
_FOLLOW: Final = text("UPDATE audit_head SET seq = :seq, hash = :hash WHERE id = 1")


class Link(NamedTuple):
    """One event as it is appended."""

    seq: int
    kind: str
    subject_id: str | None
    body: bytes
    hash: bytes
    prev_hash: bytes


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

    def last(self) -> int:
        """Return the last sequence number that is committed, without waiting for who writes."""
        return self.session.scalars(select(AuditHead.seq).where(AuditHead.id == 1)).one()

    def hash_of(self, seq: int) -> bytes | None:
        """Return the hash of one event, None if there is none."""
        return self.session.scalars(select(AuditEvent.hash).where(AuditEvent.seq == seq)).one_or_none()

    def committed(self) -> tuple[int, bytes]:
        """Return the last sequence number that is committed and its hash, without waiting for who writes."""
        row = self.session.execute(select(AuditHead.seq, AuditHead.hash).where(AuditHead.id == 1)).one()
        return row[0], bytes(row[1])

    def checked(self) -> AuditCheck | None:
        """Return how far the chain was recomputed, locked until the commit; None if it never was."""
        return self.session.scalars(
            select(AuditCheck).where(AuditCheck.id == 1).with_for_update()
        ).one_or_none()

    def put_check(self, check: AuditCheck) -> None:
        """Keep how far the chain was recomputed, and whether it held."""
        self.session.merge(check)
        self.session.flush()

    def append(self, head: AuditHead, rows: Sequence[Link]) -> None:
        """Insert the rows, in order, and let the locked head follow the last; one statement for each."""
        last = rows[-1]
        columns = {name: [getattr(row, name) for row in rows] for name in Link._fields}
        self.session.execute(_APPEND, columns)
        self.session.execute(_FOLLOW, {"seq": last.seq, "hash": last.hash})
        self.session.expire(head)

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

    def links(self, *, after: int = 0, until: int | None = None) -> Iterator[tuple[int, bytes, bytes, bytes]]:
        """Yield sequence number, body, hash and previous hash of the chain, in constant memory."""
        with self.session.execute(
            select(AuditEvent.seq, AuditEvent.body, AuditEvent.hash, AuditEvent.prev_hash)
            .where(AuditEvent.seq > after, true() if until is None else AuditEvent.seq <= until)
            .order_by(AuditEvent.seq)
            .execution_options(yield_per=BATCH_ROWS)
        ) as found:
            yield from found


class StatedHeads:
    """Signed statements of where the chain was, in one transaction."""

    LOCK = 0x686561  # "hea"

    def __init__(self, session: Session) -> None:
        """Read and write in the caller's transaction."""
        self.session = session

    def alone(self) -> None:
        """Wait until nobody else states one; held until the commit."""
        self.session.execute(select(func.pg_advisory_xact_lock(literal(self.LOCK))))

    def newest(self) -> StatedHead | None:
        """Return the last one."""
        return self.session.scalars(select(StatedHead).order_by(StatedHead.seq.desc()).limit(1)).first()

    def after(self, seq: int, *, limit: int) -> Sequence[StatedHead]:
        """Return those after a sequence number, oldest first."""
        return self.session.scalars(
            select(StatedHead).where(StatedHead.seq > seq).order_by(StatedHead.seq).limit(limit)
        ).all()

    def hashes(self) -> dict[int, bytes]:
        """Return what was stated of which event."""
        return {
            row.seq: bytes(row.hash) for row in self.session.execute(select(StatedHead.seq, StatedHead.hash))
        }

    def add(self, head: StatedHead) -> None:
        """Insert one."""
        self.session.add(head)
        self.session.flush()
