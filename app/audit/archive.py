"""The copy of the chain outside the database, by which a restored database is known.

    audit/000000000001.jsonl, 000000001001.jsonl ...      a thousand events each, a line per event
    audit/head                                            {"hash", "seq"}: up to here it is all there

    a line = JCS {"body": the event's RFC 8785 text, "hash": hex64, "seq": n, "subject": id | null}

Why so: a database that is restored from a backup has forgotten what was promised since, and nothing in
it says so. The copy lies in the object store, which no database restore touches, and says it: the
chain that was copied is no prefix of the chain that is there. Then nothing is to be written or signed
before somebody has looked (`lethe restore-check`). It holds ids, codes and counts, as the chain does,
so it needs no purging; an object store that locks objects makes it a witness. Whoever writes to the
chain asks the `Gate` in the same transaction, so a restored database takes no write by any door.

    ship        each sweep: append what was committed since; a torn line of a killed worker is cut off
    standing    at start, and before shipping: is the copy a prefix of the chain?
    restore     put the events that a restored database lacks back in their places, byte for byte

Restoring the object store to the same moment defeats it; the public log and its witnesses know better.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.audit.repository import AuditChain, Link
from app.audit.service import START, link
from app.errors import Conflict, Unavailable
from app.failpoints import reach
from app.signing import canonical
from app.storage import files
from app.storage.database import Engine, Session, Transaction, on_connect, transactions
from app.storage.locations import local_path

SEGMENT_EVENTS = 1_000
BATCH_EVENTS = 1_000


class Restored(Unavailable):
    """The database was restored from a backup: nothing is written before somebody has looked."""

    code = "database-restored"


class ArchiveBroken(Conflict):
    """The copy of the chain does not hold what it says it holds."""

    code = "audit-archive-broken"


class Standing(StrEnum):
    """How the chain stands to its copy."""

    WHOLE = "whole"
    """The copy is a prefix of the chain, or nothing was copied yet."""
    BEHIND = "behind"
    """The chain is a prefix of the copy: the database was restored from a backup."""
    FORKED = "forked"
    """The database was restored, and something was written to it before anybody looked."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a chain."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One event as it was copied."""

    seq: int
    subject: str | None
    body: bytes
    hash: bytes

    @property
    def said(self) -> dict[str, Any]:
        """The body, read."""
        read: dict[str, Any] = json.loads(self.body)
        return read

    def line(self) -> bytes:
        """Return the event as a line of the copy."""
        said = {"body": self.body.decode(), "hash": self.hash.hex(), "seq": self.seq, "subject": self.subject}
        return canonical.encode(said) + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "Copied":
        """Read what `line` wrote."""
        said = json.loads(line)
        return cls(
            seq=said["seq"],
            subject=said["subject"],
            body=said["body"].encode(),
            hash=bytes.fromhex(said["hash"]),
        )


class Archive:
    """The copy in one folder."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`; it is made by the first event."""
        self.directory = directory

    @classmethod
    def of(cls, storage: str) -> "Archive":
        """Return the copy of an installation: it lies in the object store."""
        path = local_path(storage)
        assert path is not None, "the object store is a directory"
        return cls(path / "audit")

    def head(self) -> Head:
        """Return up to where the copy is whole."""
        try:
            said = json.loads(self._head.read_bytes())
        except FileNotFoundError:
            return Head(0, START)
        return Head(int(said["seq"]), bytes.fromhex(said["hash"]))

    def after(self, seq: int) -> Iterator[Copied]:
        """Yield the copied events after a sequence number, each compared with the hash of the one before.

        Raises:
            ArchiveBroken: a line is missing, out of its place or was changed.
        """
        head, last = self.head(), self.hash_of(seq)
        for first in range(_first(seq + 1), head.seq + 1, SEGMENT_EVENTS):
            for line in self._lines(first):
                if seq == head.seq:
                    break  # what follows was written by somebody who was killed
                event = _parsed(line)
                if event.seq <= seq:
                    continue
                if event.seq != seq + 1 or event.hash != link(event.seq, last, event.body):
                    raise ArchiveBroken(f"the copy of the chain does not hold at {seq + 1}")
                seq, last = event.seq, event.hash
                yield event
        if (seq, last) != (head.seq, head.hash):
            raise ArchiveBroken(f"the copy of the chain ends at {seq} and says {head.seq}")

    def append(self, old: Head, events: list[Copied]) -> None:
        """Write events after the head, which nobody else has moved since it was read as `old`."""
        with files.locked(self._head):
            if self.head() != old:
                return
            for event in events:
                assert event.seq == old.seq + 1, "the sequence has no gaps"
                old = Head(event.seq, event.hash)
            for first in dict.fromkeys(_first(each.seq) for each in events):
                due = [each for each in events if _first(each.seq) == first]
                kept = [line for line in self._lines(first) if _seq_of(line) < due[0].seq]
                files.replace(self._segment(first), b"".join(kept) + b"".join(each.line() for each in due))
                reach("archive.written")
            files.replace(self._head, canonical.encode({"hash": old.hash.hex(), "seq": old.seq}))

    @property
    def _head(self) -> Path:
        return self.directory / "head"

    def _segment(self, first: int) -> Path:
        return self.directory / f"{first:012d}.jsonl"

    def _lines(self, first: int) -> Iterator[bytes]:
        path = self._segment(first)
        if path.exists():
            with path.open("rb") as file:
                yield from file

    def hash_of(self, seq: int) -> bytes:
        """Return the hash that was copied of one event."""
        if seq == 0:
            return START
        for line in self._lines(_first(seq)):
            event = _parsed(line)
            if event.seq == seq:
                return event.hash
        raise ArchiveBroken(f"the copy of the chain has no event {seq}")


def standing(session: Session, archive: Archive) -> Standing:
    """Return how the chain in the database stands to its copy."""
    chain, copied = AuditChain(session), archive.head()
    if copied.seq == 0 or chain.hash_of(copied.seq) == copied.hash:
        return Standing.WHOLE
    last = chain.last()
    if last < copied.seq and (last == 0 or chain.hash_of(last) == archive.hash_of(last)):
        return Standing.BEHIND
    return Standing.FORKED


def refuse_restored(session: Session, archive: Archive) -> None:
    """Raise `Restored` unless the copy is a prefix of the chain."""
    if standing(session, archive) is not Standing.WHOLE:
        raise Restored(
            "the database was restored from a backup and lacks what was done since;"
            " `lethe restore-check` says what, and ends this"
        )


class Gate:
    """What a process asks before its first write over each new connection: is the database the one it was?"""

    def __init__(self, archive: Archive) -> None:
        """Know nothing yet."""
        self.archive = archive
        self._passed = False

    def __call__(self, session: Session) -> None:
        """Raise `Restored` unless the database is whole, or was found whole since it was connected to."""
        if not self._passed:
            refuse_restored(session, self.archive)
            self._passed = True

    def forget(self) -> None:
        """Ask again: another database may answer now."""
        self._passed = False


def guarded(engine: Engine, storage: str, info: Mapping[str, object] | None = None) -> Transaction:
    """Return the way to open transactions in which nothing enters the chain of a restored database."""
    gate = Gate(Archive.of(storage))
    on_connect(engine, gate.forget)
    return transactions(engine, dict(info or {}) | {"whole": gate})


def ship(transaction: Transaction, archive: Archive) -> int:
    """Copy what was committed since the last time; return how many events.

    Raises:
        Restored: the database does not have what was copied before.
    """
    shipped = 0
    while True:
        head = archive.head()
        with transaction() as session:
            refuse_restored(session, archive)
            rows = AuditChain(session).since(head.seq, limit=BATCH_EVENTS)
            events = [
                Copied(seq=row.seq, subject=row.subject_id, body=bytes(row.body), hash=bytes(row.hash))
                for row in rows
            ]
        if not events:
            return shipped
        archive.append(head, events)
        shipped += len(events)


def restore(session: Session, archive: Archive) -> list[Copied]:
    """Put the events that the database lacks back in their places; return them.

    Raises:
        Conflict: the database was written to since it was restored; then it must be restored anew.
        ArchiveBroken: the copy does not hold what it says.
    """
    chain = AuditChain(session)
    head = chain.head()
    found = standing(session, archive)
    if found is Standing.FORKED:
        raise Conflict(
            f"the database went its own way after event {common(session, archive)}: restore it anew, and"
            " keep everything stopped until `lethe restore-check --apply` has run",
            code="audit-forked",
        )
    if found is Standing.WHOLE:
        return []
    lost = list(archive.after(head.seq))
    last, rows = bytes(head.hash), []
    for event in lost:
        rows.append(
            Link(
                seq=event.seq,
                kind=str(event.said["kind"]),
                subject_id=event.subject,
                body=event.body,
                hash=event.hash,
                prev_hash=last,
            )
        )
        last = event.hash
    chain.append(head, rows)
    return lost


def common(session: Session, archive: Archive) -> int:
    """Return the last event that the chain and its copy share."""
    chain = AuditChain(session)
    low, high = 0, min(chain.last(), archive.head().seq)
    while low < high:
        middle = (low + high + 1) // 2
        same = chain.hash_of(middle) == archive.hash_of(middle)
        low, high = (middle, high) if same else (low, middle - 1)
    return low


def _first(seq: int) -> int:
    return (seq - 1) // SEGMENT_EVENTS * SEGMENT_EVENTS + 1


def _parsed(line: bytes) -> Copied:
    try:
        return Copied.parse(line)
    except (ValueError, KeyError, TypeError):
        raise ArchiveBroken("a line of the copy of the chain cannot be read") from None


def _seq_of(line: bytes) -> int:
    """Return which event a line holds; a torn one stands after all others."""
    try:
        return Copied.parse(line).seq
    except (ValueError, KeyError, TypeError):
        return 2**63
