"""The copy of the chain: whole after any kill, and a restored database is known by it."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from app.audit import archive, events, service
from app.audit.archive import Archive, ArchiveBroken, Restored, Standing, guarded, ship, standing
from app.errors import Conflict
from app.storage.database import Transaction

AT = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def copy(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "store" / "audit")


def happen(transaction: Transaction, *numbers: int) -> None:
    """Let one event a number be committed."""
    for number in numbers:
        with transaction() as session:
            service.record(session, events.KeyRevoked(key=UUID(int=number), at=AT))


def cut(transaction: Transaction, seq: int) -> None:
    """Be a database of the time when `seq` was the last event: what a restore makes of it."""
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("DELETE FROM audit_events WHERE seq > :seq"), {"seq": seq})
        session.execute(
            text(
                "UPDATE audit_head SET seq = :seq, hash = coalesce((SELECT hash FROM audit_events"
                " WHERE seq = :seq), decode(repeat('00', 32), 'hex'))"
            ),
            {"seq": seq},
        )


def stands(transaction: Transaction, copy: Archive) -> Standing:
    with transaction() as session:
        return standing(session, copy)


def test_the_copy_is_the_chain_for_whoever_has_only_the_file(transaction: Transaction, copy: Archive) -> None:
    happen(transaction, 1, 2, 3)
    assert ship(transaction, copy) == 3
    assert ship(transaction, copy) == 0
    lines = (copy.directory / "000000000001.jsonl").read_text().splitlines()
    last = bytes(32)
    for seq, line in enumerate(lines, 1):
        said = json.loads(line)
        body = hashlib.sha256(said["body"].encode()).digest()
        last = hashlib.sha256(b"lethe/audit/v1\0" + seq.to_bytes(8, "big") + last + body).digest()
        assert (said["seq"], said["hash"]) == (seq, last.hex())
        assert json.loads(said["body"])["key"] == said["subject"]
    assert json.loads((copy.directory / "head").read_bytes()) == {"hash": last.hex(), "seq": 3}


def test_events_go_to_files_of_a_thousand(
    transaction: Transaction, copy: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SEGMENT_EVENTS", 4)
    monkeypatch.setattr(archive, "BATCH_EVENTS", 3)
    for upto in range(1, 11):
        happen(transaction, upto)
        if upto not in {2, 3, 7}:
            ship(transaction, copy)
    assert [each.name for each in sorted(copy.directory.glob("*.jsonl"))] == [
        "000000000001.jsonl",
        "000000000005.jsonl",
        "000000000009.jsonl",
    ]
    for since in range(11):
        assert [each.seq for each in copy.after(since)] == list(range(since + 1, 11))


@pytest.mark.parametrize("left", ["torn line", "whole line", "nothing"])
def test_a_killed_copier_leaves_nothing_wrong(transaction: Transaction, copy: Archive, left: str) -> None:
    """Killed after the events and before the head, or in the middle of a line on a careless file system."""
    happen(transaction, 1, 2)
    ship(transaction, copy)
    head = (copy.directory / "head").read_bytes()
    happen(transaction, 3)
    ship(transaction, copy)
    segment = copy.directory / "000000000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    last = {"torn line": lines[2][:40], "whole line": lines[2], "nothing": b""}[left]
    segment.write_bytes(b"".join(lines[:2]) + last)
    (copy.directory / "head").write_bytes(head)
    assert [each.seq for each in copy.after(0)] == [1, 2]
    assert ship(transaction, copy) == 1
    assert segment.read_bytes() == b"".join(lines)


def test_a_restored_database_is_behind_and_then_forked(transaction: Transaction, copy: Archive) -> None:
    assert stands(transaction, copy) is Standing.WHOLE
    happen(transaction, 1, 2, 3)
    ship(transaction, copy)
    happen(transaction, 4)
    assert stands(transaction, copy) is Standing.WHOLE
    for seq in (2, 0):
        cut(transaction, seq)
        assert stands(transaction, copy) is Standing.BEHIND
    happen(transaction, 9)
    assert stands(transaction, copy) is Standing.FORKED
    happen(transaction, 8, 7, 6)  # longer than the copy by now, and another one
    assert stands(transaction, copy) is Standing.FORKED
    with transaction() as session:
        assert archive.common(session, copy) == 0
        with pytest.raises(Conflict) as refused:
            archive.restore(session, copy)
    assert refused.value.code == "audit-forked"
    with pytest.raises(Restored):
        ship(transaction, copy)


def test_what_is_put_back_is_the_chain_byte_for_byte(transaction: Transaction, copy: Archive) -> None:
    happen(transaction, 1, 2, 3, 4)
    ship(transaction, copy)
    with transaction() as session:
        before = service.listing(session)
    cut(transaction, 1)
    with transaction() as session:
        assert [each.seq for each in archive.restore(session, copy)] == [2, 3, 4]
        assert archive.restore(session, copy) == []
    with transaction() as session:
        assert service.listing(session) == before
        assert service.verify(session).broken_at is None
    happen(transaction, 5)
    assert ship(transaction, copy) == 1


@pytest.mark.parametrize("what", ["body", "order", "missing", "unreadable", "head"])
def test_a_copy_that_was_edited_puts_nothing_back(transaction: Transaction, copy: Archive, what: str) -> None:
    happen(transaction, 1, 2, 3)
    ship(transaction, copy)
    segment = copy.directory / "000000000001.jsonl"
    one, two, three = segment.read_bytes().splitlines(keepends=True)
    edited = {
        "body": [one, two.replace(b"key.revoked", b"key.created"), three],
        "order": [one, three, two],
        "missing": [one, two],
        "unreadable": [one, b"{}\n", three],
        "head": [one, two, three],
    }[what]
    segment.write_bytes(b"".join(edited))
    if what == "head":
        (copy.directory / "head").write_text(json.dumps({"hash": "00" * 32, "seq": 3}))
    cut(transaction, 1)
    with transaction() as session:
        with pytest.raises((ArchiveBroken, Conflict)):
            archive.restore(session, copy)
        assert service.last(session) == 1


def test_a_restored_database_takes_no_write_by_any_door(
    engine: Engine, transaction: Transaction, copy: Archive, tmp_path: Path
) -> None:
    happen(transaction, 1, 2)
    ship(transaction, copy)
    behind = guarded(engine, (tmp_path / "store").as_uri())
    happen(behind, 3)
    cut(transaction, 1)
    happen(behind, 4)  # it was asked on this connection; whoever restores a database ends its connections
    cut(transaction, 1)
    engine.dispose()
    with pytest.raises(Restored):
        happen(behind, 5)
    with transaction() as session:
        assert service.last(session) == 1
        archive.restore(session, copy)
    happen(behind, 6)
    with transaction() as session:
        assert service.verify(session).events == 3
