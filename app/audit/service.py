"""What can be done to the audit chain: record an event, read events, verify the whole.

Events are kept until the end of the transaction and written as its last statements: the head row is
locked no longer than that, and a verb that records between two locks cannot deadlock with another.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from uuid import UUID

import rfc8785

from app.audit.events import Event
from app.audit.repository import AuditChain, Link, StatedHeads
from app.http import ids
from app.storage.database import Session, before_commit
from app.tables import AuditCheck, AuditEvent, StatedHead

START = bytes(32)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PAGE_ROWS_MAX = 200
CHECK_EVERY, CHECK_WHOLE_EVERY = timedelta(hours=1), timedelta(days=1)
PREFIXES = {
    "request": "er",
    "model": "mdl",
    "version": "mv",
    "job": "job",
    "dataset": "ds",
    "principal": "pr",
    "key": "key",
    "hold": "hold",
    "endpoint": "whe",
    "audit": "aud",
    "upload": "imp",
    "session": "ses",
    "actor": "pr",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One event as it is shown: its place in the chain and its body."""

    seq: int
    kind: str
    body: dict[str, object]
    hash: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What walking the chain found; `broken_at` is the first sequence number that does not follow.

    Or the first of which a signed statement says otherwise; `stated` are the statements that agree.
    """

    events: int
    head: str
    stated: int
    broken_at: int | None


def record(session: Session, event: Event) -> None:
    """Append one event to the chain, at the end of the caller's transaction."""
    pending = _pending(session)
    if not pending:
        before_commit(session, lambda: settle(session))
    pending.append((event.KIND, about(event), canonical(event)))


def settle(session: Session) -> None:
    """Write what was recorded so far; from here to the commit nobody else can write."""
    pending = _pending(session)
    if not pending:
        return
    session.flush()
    chain = AuditChain(session)
    head = chain.head()
    if (whole := session.info.get("whole")) is not None:
        whole(session)
    seq, last = head.seq, bytes(head.hash)
    rows = []
    for kind, subject_id, body in pending:
        seq, previous = seq + 1, last
        last = link(seq, previous, body)
        rows.append(Link(seq=seq, kind=kind, subject_id=subject_id, body=body, hash=last, prev_hash=previous))
    chain.append(head, rows)
    pending.clear()


def head(session: Session) -> tuple[int, bytes]:
    """Return the last committed sequence number and its hash."""
    return AuditChain(session).committed()


def last_stated(session: Session) -> StatedHead | None:
    """Return the newest signed statement of where the chain was."""
    return StatedHeads(session).newest()


def keep_stated(session: Session, made: StatedHead, *, following: StatedHead | None) -> bool:
    """Keep a signed statement, unless another was made meanwhile; return whether it is kept."""
    stated = StatedHeads(session)
    stated.alone()
    newest = stated.newest()
    if (newest and newest.seq) != (following and following.seq):
        return False
    stated.add(made)
    return True


def stated(session: Session, *, after: int = 0, limit: int = PAGE_ROWS_MAX) -> Sequence[StatedHead]:
    """Return the signed statements of where the chain was, oldest first."""
    return StatedHeads(session).after(after, limit=min(limit, PAGE_ROWS_MAX))


def history(session: Session, subject_id: str, *, after: int = 0, limit: int = PAGE_ROWS_MAX) -> list[Entry]:
    """Return the events about one public id, oldest first."""
    settle(session)
    return _entries(AuditChain(session).about(subject_id, after=after, limit=min(limit, PAGE_ROWS_MAX)))


def listing(session: Session, *, after: int = 0, limit: int = PAGE_ROWS_MAX) -> list[Entry]:
    """Return the events after a sequence number, oldest first."""
    settle(session)
    return _entries(AuditChain(session).since(after, limit=min(limit, PAGE_ROWS_MAX)))


def last(session: Session) -> int:
    """Return the last sequence number that is committed; the sequence has no gaps and is in commit order."""
    return AuditChain(session).last()


def since(session: Session, after: int, *, limit: int = PAGE_ROWS_MAX) -> list[Entry]:
    """Return the committed events after a sequence number, oldest first."""
    return _entries(AuditChain(session).since(after, limit=min(limit, PAGE_ROWS_MAX)))


def verify(session: Session) -> Verification:
    """Walk the chain from the start to the head and recompute every hash; compare what was signed of it."""
    settle(session)
    chain = AuditChain(session)
    head, stated = chain.head(), StatedHeads(session).hashes()
    expected = (head.seq, bytes(head.hash))
    seq, last, broken_at = _walk(chain.links(), stated)
    if broken_at is None and (seq, last) != expected:
        broken_at = min(seq, expected[0]) + 1
    if broken_at is None and stated and max(stated) > seq:
        broken_at = seq + 1  # more was signed than there is
    agree = sum(each <= seq for each in stated)
    return Verification(events=seq, head=last.hex(), stated=agree, broken_at=broken_at)


def check(session: Session, *, at: datetime) -> Verification | None:
    """Recompute what came since the last check, each hour; once a day, and after a break, all of it.

    Nobody who writes waits for it: what is committed up to the head that it finds never changes. Returns
    None if it is not due.
    """
    chain = AuditChain(session)
    known = chain.checked()
    if known is not None and at - known.checked_at < CHECK_EVERY:
        return None
    whole = known is None or known.broken_at is not None or at - known.whole_at >= CHECK_WHOLE_EVERY
    start = (0, START) if whole or known is None else (known.seq, bytes(known.hash))
    head = chain.committed()
    stated = StatedHeads(session).hashes()
    seq, last, broken_at = _walk(chain.links(after=start[0], until=head[0]), stated, *start)
    if broken_at is None and ((seq, last) != head or max(stated, default=0) > seq):
        broken_at = min(seq, head[0]) + 1
    whole_at = at if whole or known is None else known.whole_at
    chain.put_check(
        AuditCheck(id=1, seq=seq, hash=last, broken_at=broken_at, checked_at=at, whole_at=whole_at)
    )
    agree = sum(each <= seq for each in stated)
    return Verification(events=seq, head=last.hex(), stated=agree, broken_at=broken_at)


def link(seq: int, previous: bytes, body: bytes) -> bytes:
    """Return the hash of event `seq`, which binds it to everything before."""
    assert seq > 0
    assert len(previous) == len(START)
    return hashlib.sha256(
        b"lethe/audit/v1\x00" + seq.to_bytes(8, "big") + previous + hashlib.sha256(body).digest()
    ).digest()


def canonical(event: Event) -> bytes:
    """Return the event's body: RFC 8785 bytes, UUIDs as public ids, instants in microseconds."""
    content = {field.name: _plain(field.name, getattr(event, field.name)) for field in fields(event)}
    assert "kind" not in content, "an event's kind is its class"
    return rfc8785.dumps({"kind": event.KIND, **content})


def about(event: Event) -> str | None:
    """Return the public id of what the event is about: its first field."""
    first = fields(event)[0]
    value = _plain(first.name, getattr(event, first.name))
    return value if isinstance(value, str) else None


def _pending(session: Session) -> list[tuple[str, str | None, bytes]]:
    pending: list[tuple[str, str | None, bytes]] = session.info.setdefault("audit", [])
    return pending


def _plain(name: str, value: object) -> str | int | list[str] | None:
    match value:
        case UUID():
            return f"urn:uuid:{value}" if name == "certificate" else ids.encode(PREFIXES[name], value)
        case datetime():
            return _microseconds(value)
        case bytes():
            return value.hex()
        case tuple() | list():
            return [str(item) for item in value]
        case None | str() | int():
            return value
        case _:
            raise TypeError(f"an audit event cannot hold a {type(value).__name__}")


def _microseconds(at: datetime) -> int:
    """Return integer microseconds since 1970: a float would lose some, and Postgres drops nanoseconds."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _walk(
    links: Iterable[tuple[int, bytes, bytes, bytes]],
    stated: Mapping[int, bytes],
    last_seq: int = 0,
    last: bytes = START,
) -> tuple[int, bytes, int | None]:
    """Return the last sequence number and hash that hold, and where the chain breaks."""
    for seq, body, own, previous in links:
        follows = seq == last_seq + 1 and previous == last and own == link(seq, last, body)
        if not follows or stated.get(seq, own) != own:
            return last_seq, last, last_seq + 1
        last_seq, last = seq, own
    return last_seq, last, None


def _entries(rows: Sequence[AuditEvent]) -> list[Entry]:
    return [
        Entry(seq=row.seq, kind=row.kind, body=json.loads(row.body), hash=bytes(row.hash).hex())
        for row in rows
    ]
