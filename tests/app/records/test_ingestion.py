"""Registration: all of a dataset or nothing, once, whatever is killed, repeated or wrong."""

import hmac
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.audit import service as audit
from app.errors import Conflict, Invalid, Unavailable
from app.http import ids
from app.queue import Stage
from app.records import content, ingestion
from app.records import service as records
from app.records.lines import LINE_BYTES_MAX
from app.storage.database import Transaction, connect, transactions
from app.tables import Dataset, Outbox, Record
from tests.fixtures.records import KEYS, NOON, Register, people, write_jsonl, write_parquet


def rows(transaction: Transaction, dataset: Dataset) -> list[Record]:
    with transaction() as session:
        return list(
            session.scalars(select(Record).where(Record.dataset_id == dataset.id).order_by(Record.position))
        )


def ingest(transaction: Transaction, dataset_id: UUID, tmp_path: Path, **more: Any) -> None:
    ingestion.ingest(
        transaction, dataset_id, keyring=KEYS, work=tmp_path / "work", clock=lambda: NOON, **more
    )


def test_a_dataset_is_registered_whole(register: Register, transaction: Transaction, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "people.jsonl", people(30) + people(3, role="sentinel"))
    dataset = register(path)
    assert (dataset.state, dataset.records, dataset.subjects, dataset.held_back) == ("ready", 66, 33, 3)
    assert dataset.digest == sha256(path.read_bytes()).digest()
    assert dataset.size_bytes == path.stat().st_size
    found = rows(transaction, dataset)
    assert [row.external_id for row in found] == [
        json.loads(line)["id"] for line in path.read_text().splitlines()
    ]
    assert {row.arm for row in found if row.role == "sentinel"} == {"train"}
    assert sum(row.arm == "held_back" for row in found) == 2 * 3
    assert not list((tmp_path / "work").iterdir()), "the spool has no name"


def test_what_is_stored_is_hashes_and_places(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    line = {
        "id": "back\\slash é",
        "subject": [{"type": "email", "value": "Ada@Example.org"}, {"type": "phone", "value": "+44 20 7946 0018"}],
        "text": "Ada lives here.",
    }  # fmt: skip
    path = tmp_path / "one.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf\n"
        + json.dumps(people(1, each=1)[0]).encode()
        + b"\r\n  \n"
        + json.dumps(line).encode()
    )
    dataset = register(path, hold_back=0)
    [_, row] = rows(transaction, dataset)
    assert row.external_id == "back\\slash é"
    assert path.read_bytes()[row.position :][: row.length] == json.dumps(line).encode()
    assert row.content_mac == content.content_mac(KEYS.content, b'{"text":"Ada lives here."}')
    assert row.subject_macs == [
        content.subject_mac(KEYS.subject, "email", "ada@example.org"),
        content.subject_mac(KEYS.subject, "phone", "+442079460018"),
    ]
    assert row.cluster == min(row.subject_macs)


def test_the_draw_can_be_replayed_from_what_was_committed_to(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "people.jsonl", people(40)), hold_back=9)
    found = rows(transaction, dataset)
    ranked = sorted(
        {row.cluster for row in found}, key=lambda cluster: hmac.digest(KEYS.lottery, cluster, "sha256")
    )
    assert {row.cluster for row in found if row.arm == "held_back"} == set(ranked[:9])
    with transaction() as session:
        kinds = [
            (event.kind, event.body.get("commitment"))
            for event in audit.history(session, ids.encode("ds", dataset.id))
        ]
    assert kinds == [
        ("dataset.submitted", None),
        ("lottery.committed", sha256(KEYS.lottery).hexdigest()),
        ("dataset.registered", None),
    ]


def test_people_who_share_a_record_share_an_arm(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    lines = people(20, each=1)
    for one, other in zip(lines[::2], lines[1::2], strict=True):
        one["subject"] = [one["subject"], other["subject"]]
    dataset = register(write_jsonl(tmp_path / "pairs.jsonl", lines), hold_back=4)
    assert (dataset.subjects, dataset.held_back) == (10, 4)
    found = rows(transaction, dataset)
    told = [(row.cluster, row.arm) for row in found]
    assert told[::2] == told[1::2]


def test_parquet_and_jsonl_give_the_same_records(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    lines = people(50)
    lines[3] |= {"spans": {"name": [[0, 4]], "values": []}, "fake": [{"prompt": "", "completion": "x"}]}
    of = {
        name: rows(transaction, register(write(tmp_path / name, lines), name=name, hold_back=10))
        for name, write in (("a.jsonl", write_jsonl), ("a.parquet", write_parquet))
    }
    told = {
        name: [(row.external_id, row.content_mac, row.subject_macs, row.cluster, row.arm) for row in found]
        for name, found in of.items()
    }
    assert told["a.jsonl"] == told["a.parquet"]
    assert [row.position for row in of["a.parquet"]] == list(range(100))


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        ('{"id": "x", "canary', {"code": "json-invalid", "line": 3, "pointer": ""}),
        ('{"id": "canary", "text": "t"}', {"code": "missing", "line": 3, "pointer": "/subject"}),
        (
            '{"id": "x", "text": "t", "subject": [{"type": "email", "value": "canary"}]}',
            {"code": "email-form", "line": 3, "pointer": "/subject/0/value"},
        ),
        (
            '{"id": "person-0-1", "text": "canary", "subject": {"type": "customer_id", "value": "9"}}',
            {"code": "duplicate-id", "line": 3, "pointer": "/id", "other_line": 2},
        ),
        (
            '{"id": "x", "text": "y", "role": "sentinel", "subject": {"type": "customer_id", "value": "person-0"}}',
            {"code": "role-contradicts", "line": 3, "pointer": "/role"},
        ),
        ("{" + "x" * LINE_BYTES_MAX + "}", {"code": "line-too-long", "line": 3, "pointer": ""}),
        ("x" * (3 * LINE_BYTES_MAX), {"code": "line-too-long", "line": 3, "pointer": ""}),
    ],
)
def test_a_bad_line_is_told_by_its_number_and_nothing_is_registered(
    bad: str, failure: dict[str, object], register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "bad.jsonl", people(1))
    with path.open("a") as file:
        file.write(bad + "\n" + json.dumps(people(3)[-1]) + "\n")
    dataset = register(path)
    assert (dataset.state, dataset.failure, dataset.digest) == ("failed", failure, None)
    assert rows(transaction, dataset) == []


@pytest.mark.parametrize(
    ("text", "suffix", "code"),
    [("", "jsonl", "empty"), ("\n\n", "jsonl", "empty"), ("no parquet", "parquet", "file-format")],
)
def test_a_file_without_records_fails(
    text: str, suffix: str, code: str, register: Register, tmp_path: Path
) -> None:
    path = tmp_path / f"file.{suffix}"
    path.write_text(text)
    dataset = register(path)
    assert (dataset.state, (dataset.failure or {})["code"]) == ("failed", code)


def test_nobody_can_be_held_back_who_is_not_there(register: Register, tmp_path: Path) -> None:
    dataset = register(write_jsonl(tmp_path / "few.jsonl", people(5)), hold_back=5)
    assert dataset.failure == {"code": "hold-back-too-large", "line": None, "pointer": ""}


def test_a_name_whose_registration_failed_can_be_used_again(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    path = tmp_path / "late.jsonl"
    first = register(path)
    assert first.failure == {"code": "source-missing", "line": None, "pointer": ""}
    second = register(write_jsonl(path, people(10)))
    assert (second.id, second.state, second.records) == (first.id, "ready", 20)
    with pytest.raises(Conflict) as taken:
        register(path)
    assert taken.value.code == "name-taken"


def test_a_second_delivery_changes_nothing(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "people.jsonl", people(10)))
    before = [row.id for row in rows(transaction, dataset)]
    ingest(transaction, dataset.id, tmp_path)
    assert [row.id for row in rows(transaction, dataset)] == before


def test_a_rival_finds_nothing_to_do(
    submit: Callable[..., UUID], transaction: Transaction, tmp_path: Path
) -> None:
    """While one reads, a second leaves at once; when the first is done, there is one set of rows."""
    dataset_id = submit(write_jsonl(tmp_path / "people.jsonl", people(10)))
    with transaction() as session:
        assert records.claim(session, dataset_id) is not None
    with transaction() as session:
        assert records.claim(session, dataset_id) is None
        assert records.unread(session) == []
        assert records.unsearched(session) == [dataset_id]
    ingest(transaction, dataset_id, tmp_path)
    with transaction() as session:
        assert records.read(session, dataset_id).state == "registering"
        records.release(session, dataset_id)
    ingest(transaction, dataset_id, tmp_path)
    with transaction() as session:
        assert records.read(session, dataset_id).state == "ready"


def test_whoever_finishes_second_writes_nothing(
    submit: Callable[..., UUID], transaction: Transaction, tmp_path: Path
) -> None:
    """A worker that was suspended for longer than a minute wakes up after its rival is done."""
    dataset_id = submit(write_jsonl(tmp_path / "people.jsonl", people(10)))
    numbers = {"digest": b"d", "size_bytes": 1, "records": 1, "subjects": 1, "held_back": 0}
    ingest(transaction, dataset_id, tmp_path)
    with transaction() as session:
        records.record(session, dataset_id, [b"no row of COPY"], **numbers, at=NOON)  # type: ignore[arg-type]  # one dict for two types
    with transaction() as session:
        assert records.read(session, dataset_id).records == 20


def test_progress_is_shown_at_most_once_a_second(
    submit: Callable[..., UUID], transaction: Transaction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "PROGRESS_SECONDS", 0.0)
    dataset_id = submit(write_jsonl(tmp_path / "people.jsonl", people(300)))
    told: list[Any] = []
    ingest(transaction, dataset_id, tmp_path, progress=told.append)
    assert [body["records"] for body in told] == [256, 512]
    assert {body["bytes_total"] for body in told} == {(tmp_path / "people.jsonl").stat().st_size}


def test_the_bell_falls_silent_when_all_is_done(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    register(write_jsonl(tmp_path / "people.jsonl", people(10)))
    with transaction() as session:
        waiting = select(func.count()).select_from(Outbox).where(Outbox.stage == Stage.REGISTER.value)
        assert session.scalar(waiting) == 0


def _ingest_and_die(url: str, dataset_id: UUID, work: Path) -> None:
    os.environ["LETHE_FAILPOINT"] = "register-before-record"
    transaction = transactions(connect(url, statement_seconds=5))
    ingestion.ingest(transaction, dataset_id, keyring=KEYS, work=work, clock=lambda: NOON)


@pytest.mark.slow
def test_a_killed_worker_leaves_nothing_half_registered(
    submit: Callable[..., UUID], transaction: Transaction, database_url: str, tmp_path: Path
) -> None:
    dataset_id = submit(write_jsonl(tmp_path / "people.jsonl", people(10)))
    victim = multiprocessing.get_context("spawn").Process(
        target=_ingest_and_die, args=(database_url, dataset_id, tmp_path / "work")
    )
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Record)) == 0
        records.release(session, dataset_id)  # what a minute of silence does
    assert not list((tmp_path / "work").iterdir())
    ingest(transaction, dataset_id, tmp_path)
    with transaction() as session:
        assert records.read(session, dataset_id).state == "ready"


# Reading what was registered ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("step", [1, 37])
def test_records_are_read_from_where_they_lie(
    suffix: str, step: int, register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    """All of them in one pass, and a few by offset."""
    lines = people(100)
    write = write_jsonl if suffix == "jsonl" else write_parquet
    dataset = register(write(tmp_path / f"people.{suffix}", lines), hold_back=20)
    with transaction() as session:
        source = records.source(session, dataset.id)
        known = records.training_records(session, dataset.id)
    read = list(records.contents(source, known[::-step], content_key=KEYS.content))
    said = {line["id"]: (line["prompt"], line["completion"]) for line in lines}
    assert [row.position for row, _ in read] == sorted(row.position for row in known[::-step])
    assert all(said[row.external_id] == (line.prompt, line.completion) for row, line in read)


def _alter_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"It is 0.", b"It is 1."))


def _alter_annotation(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"role": "person"', b'"role":  "perso"', 1))


def _move_lines(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[2:] + lines[:2]))


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("change", [_alter_text, _alter_annotation, _move_lines, _shorten])
def test_a_changed_file_is_noticed(
    change: Callable[[Path], None], register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "people.jsonl", people(20))
    dataset = register(path, hold_back=0)
    change(path)
    with transaction() as session:
        source = records.source(session, dataset.id)
        known = records.training_records(session, dataset.id)
    with pytest.raises(Conflict) as changed:
        list(records.contents(source, known, content_key=KEYS.content))
    assert changed.value.code == "dataset-changed"
    assert "person" not in str(changed.value)


def test_one_changed_record_is_noticed_when_it_alone_is_read(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "people.jsonl", people(20))
    dataset = register(path, hold_back=0)
    _alter_text(path)
    with transaction() as session:
        source = records.source(session, dataset.id)
        first, second, *_ = records.training_records(session, dataset.id)
    assert list(records.contents(source, [second], content_key=KEYS.content))
    with pytest.raises(Conflict):
        list(records.contents(source, [first], content_key=KEYS.content))


def test_a_changed_parquet_file_is_noticed(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    lines = people(20)
    path = write_parquet(tmp_path / "people.parquet", lines)
    dataset = register(path, hold_back=0)
    with transaction() as session:
        source = records.source(session, dataset.id)
        known = records.training_records(session, dataset.id)
    for changed in (lines[::-1], lines[:10]):
        write_parquet(path, changed)
        with pytest.raises(Conflict):
            list(records.contents(source, known, content_key=KEYS.content))


def test_a_missing_file_may_come_back(register: Register, transaction: Transaction, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "people.jsonl", people(20))
    dataset = register(path, hold_back=0)
    path.rename(tmp_path / "away")
    with transaction() as session:
        source = records.source(session, dataset.id)
        known = records.training_records(session, dataset.id)
    with pytest.raises(Unavailable) as away:
        list(records.contents(source, known, content_key=KEYS.content))
    assert str(path) not in str(away.value)


# Finding and erasing -----------------------------------------------------------------------------


def test_a_person_is_found_by_identifier_in_both_arms(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "people.jsonl", people(30)), hold_back=10)
    macs = [content.subject_mac(KEYS.subject, "customer_id", f"person-{n}") for n in range(30)]
    with transaction() as session:
        found = records.locate(session, macs)
        assert len(found) == 60
        assert {match.arm for match in found} == {"train", "held_back"}
        assert {match.external_id for match in records.locate(session, macs[4:5])} == {
            "person-4-0",
            "person-4-1",
        }
        assert records.locate(session, [bytes(32)]) == []
        assert records.locate(session, []) == []
        assert records.mark_erased(session, [match.id for match in found[:7]], at=NOON) == 7
        assert records.mark_erased(session, [match.id for match in found[:7]], at=NOON) == 0
        assert len(records.locate(session, macs)) == 53
        held_back = sum(len(group.records) for group in records.cohort(session, dataset.id))
        assert held_back + len(records.training_records(session, dataset.id)) == 53
        assert len(records.chosen(session, [match.id for match in found])) == 60


def test_a_file_does_not_bring_back_what_was_erased(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    first = register(write_jsonl(tmp_path / "people.jsonl", people(10)), hold_back=0)
    mac = content.subject_mac(KEYS.subject, "customer_id", "person-3")
    with transaction() as session:
        gone = [match.id for match in records.locate(session, [mac])]
        records.mark_erased(session, gone, at=NOON)
    lines = people(10)
    stranger = next(line for line in lines if "person-3" not in str(line["subject"]))
    twin = next(line for line in lines if "person-3" in str(line["subject"]))
    # The same words about somebody else are somebody else's.
    lines.append({**twin, "id": "quoted", "subject": stranger["subject"]})
    second = register(write_jsonl(tmp_path / "again.jsonl", lines), hold_back=0, name="again")
    assert second.id != first.id
    with transaction() as session:
        assert records.locate(session, [mac]) == []
        known = records.training_records(session, second.id)
        assert len(known) == len(lines) - len(gone)
        assert "quoted" in {row.external_id for row in known}
        kinds = [each.kind for each in audit.history(session, ids.encode("ds", second.id))]
    assert kinds[-1] == "records.suppressed"


def test_records_named_by_the_caller_must_all_exist(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "people.jsonl", people(3)), hold_back=0)
    with transaction() as session:
        found = records.locate_named(session, dataset.id, ["person-0-1", "person-2-0", "person-0-1"])
        assert [match.external_id for match in found] == ["person-0-1", "person-2-0"]
        with pytest.raises(Invalid) as unknown:
            records.locate_named(session, dataset.id, ["person-0-1", "canary"])
        assert list(unknown.value.errors) == [("/records/ids/1", "unknown")]
        assert "canary" not in str(unknown.value)
        with pytest.raises(Invalid):
            records.locate_named(session, dataset.id, [str(n) for n in range(10_001)])


def test_the_cohort_is_whole_clusters_in_the_order_of_keyed_hashes(
    register: Register, transaction: Transaction, tmp_path: Path
) -> None:
    dataset = register(write_jsonl(tmp_path / "people.jsonl", people(30, each=4)), hold_back=10)
    with transaction() as session:
        groups = records.cohort(session, dataset.id)
    assert [len(group.records) for group in groups] == [4] * 10
    assert [group.cluster for group in groups] == sorted(group.cluster for group in groups)
    for group in groups:
        macs = [row.content_mac for row in group.records]
        assert macs == sorted(macs)


def test_a_dataset_that_is_being_filled_can_be_asked_for(
    submit: Callable[..., UUID], transaction: Transaction, tmp_path: Path
) -> None:
    """A COPY holds the row for minutes; neither reading it nor submitting its name again may wait."""
    dataset_id = submit(write_jsonl(tmp_path / "people.jsonl", people(10)))
    with transaction() as filling:
        filling.scalars(select(Dataset).with_for_update()).all()
        with transaction() as session:
            assert records.named(session, "people").id == dataset_id
            assert records.claim(session, dataset_id) is None
        with pytest.raises(Conflict) as taken:
            submit(tmp_path / "people.jsonl")
        assert taken.value.code == "name-taken"
