"""Sketching a dataset: every record once, whatever is killed, repeated or wrong; and only under one key."""

import multiprocessing
import os
import signal
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.errors import Unavailable
from app.queue import Stage
from app.records import service as records
from app.records.reading import DatasetChanged
from app.records.sketches import service as sketches
from app.records.sketching import Sketcher, shingles
from app.storage.database import Transaction, connect, transactions
from app.tables import AuditEvent, Dataset, Outbox, Record, RecordSketch
from tests.fixtures.records import KEYS, NOON, Register, people, write_jsonl, write_parquet

NAME = Sketcher(KEYS.sketch).name


def sketch(transaction: Transaction, dataset_id: UUID, *, key: bytes = KEYS.sketch, hours: int = 0) -> int:
    return sketches.sketch(
        transaction,
        dataset_id,
        sketch_key=key,
        content_key=KEYS.content,
        clock=lambda: NOON + timedelta(hours=hours),
    )


def stored(transaction: Transaction) -> dict[str, list[int]]:
    with transaction() as session:
        rows = session.execute(
            select(Record.external_id, RecordSketch.bands).join(
                RecordSketch, RecordSketch.record_id == Record.id
            )
        )
        return {external_id: list(bands) for external_id, bands in rows}


@pytest.mark.parametrize("write", [write_jsonl, write_parquet], ids=["jsonl", "parquet"])
def test_every_record_is_sketched_and_the_index_is_there_only_then(
    register: Register,
    transaction: Transaction,
    tmp_path: Path,
    write: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketches, "BATCH_RECORDS", 7)
    suffix = "jsonl" if write is write_jsonl else "parquet"
    lines = people(15)
    dataset = register((write_jsonl if suffix == "jsonl" else write_parquet)(tmp_path / f"p.{suffix}", lines))
    with transaction() as session:
        assert not records.sketched(session)
        assert list(session.scalars(select(Outbox.stage))) == [Stage.SKETCH]
        assert records.to_sketch(session, name=NAME, now=NOON) == [dataset.id]
    assert sketch(transaction, dataset.id) == 30
    sketcher = Sketcher(KEYS.sketch)
    assert stored(transaction) == {
        line["id"]: sketcher.bands(shingles(f"{line['prompt']}\n{line['completion']}")) for line in lines
    }
    with transaction() as session:
        assert records.sketched(session)
        assert records.to_sketch(session, name=NAME, now=NOON) == []
        assert session.scalars(select(Outbox.stage)).all() == []
        event = session.scalars(select(AuditEvent).order_by(AuditEvent.seq.desc()).limit(1)).one()
    assert event.kind == "dataset.sketched"
    assert sketch(transaction, dataset.id) == 0, "a second bell finds nothing to do"


def test_another_key_makes_all_of_them_anew(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "p.jsonl", people(5)))
    sketch(transaction, dataset.id)
    before = stored(transaction)
    assert sketch(transaction, dataset.id, key=bytes(range(9, 41))) == 10
    after = stored(transaction)
    assert after.keys() == before.keys()
    assert all(set(after[each]).isdisjoint(before[each]) for each in after)


def _die(url: str, dataset_id: UUID) -> None:
    os.environ["LETHE_FAILPOINT"] = "sketch.recorded"
    sketches.BATCH_RECORDS = 4
    sketch(transactions(connect(url, statement_seconds=5)), dataset_id)


def test_killed_behind_a_batch_the_next_one_goes_on_there(
    register: Register, transaction: Transaction, tmp_path: Path, database_url: str
) -> None:
    dataset = register(write_jsonl(tmp_path / "p.jsonl", people(5)))
    child = multiprocessing.get_context("spawn").Process(target=_die, args=(database_url, dataset.id))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert len(stored(transaction)) == 4
    with transaction() as session:
        assert not records.sketched(session)
    assert sketch(transaction, dataset.id) == 0, "for a minute it is the other one's"
    assert sketch(transaction, dataset.id, hours=1) == 6
    assert len(stored(transaction)) == 10


def test_a_rival_who_was_slower_leaves(register: Register, transaction: Transaction, tmp_path: Path) -> None:
    dataset = register(write_jsonl(tmp_path / "p.jsonl", people(2)))
    with transaction() as session:
        claimed = records.claim_sketching(session, dataset.id, name=NAME, now=NOON)
    assert claimed is not None
    assert sketch(transaction, dataset.id, hours=1) == 4
    with transaction() as session:
        assert not records.put_sketches(
            session, dataset.id, {}, name=NAME, after=claimed[1], last=99, at=NOON
        )
    assert len(stored(transaction)) == 4


@pytest.mark.parametrize("changed", [True, False], ids=["changed", "gone"])
def test_a_file_that_cannot_be_read_is_tried_again_later_and_the_index_stays_away(
    register: Register, transaction: Transaction, tmp_path: Path, *, changed: bool
) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", people(2))
    dataset, kept = register(path), path.read_bytes()
    path.write_bytes(kept.replace(b"7919", b"7918")) if changed else path.unlink()
    with pytest.raises(DatasetChanged if changed else Unavailable):
        sketch(transaction, dataset.id)
    with transaction() as session:
        assert not records.sketched(session)
        assert records.to_sketch(session, name=NAME, now=NOON + timedelta(seconds=90)) == []
        assert records.to_sketch(session, name=NAME, now=NOON + timedelta(seconds=121)) == [dataset.id]
    path.write_bytes(kept)
    assert sketch(transaction, dataset.id, hours=1) == 4


def test_a_record_that_is_deleted_takes_its_sketch_along(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "p.jsonl", people(1)))
    sketch(transaction, dataset.id)
    with transaction() as session:
        session.delete(session.scalars(select(Record)).first())
        session.flush()
        assert session.scalar(select(func.count()).select_from(RecordSketch)) == 1
        assert session.get_one(Dataset, dataset.id).sketch == NAME
