"""The suppression list: made while records can be read, told to pipelines by position, of nobody."""

import hashlib
import json
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from app.audit import service as audit
from app.erasure.lifecycle import STAGES
from app.records import content, screening
from app.records.content import canonical
from app.records.screening import NotScreened, Screen
from app.records.suppression import service as suppression
from app.records.suppression.repository import Suppressions
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from app.tables import ErasureRequest, Record, RequestRecord, Suppression
from tests.fixtures.api import Caller, Callers
from tests.fixtures.records import KEYS, NOON, Register, people, write_jsonl

LIST = "/v1/suppression"
ASK = f"{LIST}/screenings"


@dataclass(frozen=True)
class Erased:
    """A registered file, and a request that was approved to erase some of it."""

    path: Path
    lines: list[dict[str, Any]]
    dataset: UUID
    request: UUID
    ids: list[int]


Bar = Callable[[], int]


@pytest.fixture
def bar(transaction: Transaction) -> Bar:
    """Return what the worker does."""
    return lambda: suppression.bar(
        transaction,
        states=STAGES,
        content_key=KEYS.content,
        key=KEYS.suppression,
        clock=lambda: NOON,
    )


@pytest.fixture
def erased(register: Register, transaction: Transaction, owner: UUID, tmp_path: Path) -> Erased:
    lines = people(8, each=3)
    path = write_jsonl(tmp_path / "people.jsonl", lines)
    dataset = register(path, hold_back=0)
    with transaction() as session:
        ids = list(session.scalars(select(Record.id).order_by(Record.position).limit(4)))
        request = ErasureRequest(
            state="scheduled",
            submitted_by=owner,
            received_at=NOON,
            received_on=NOON.date(),
            due_on=NOON.date(),
            due_at=NOON + timedelta(days=30),
            due_without_pause=NOON.date(),
            internal_target=NOON.date(),
            calendar="test",
        )
        session.add(request)
        session.flush()
        for record_id in ids:
            session.add(RequestRecord(request_id=request.id, record_id=record_id))
    return Erased(path, lines, dataset.id, request.id, ids)


@pytest.fixture
def pipeline(callers: Callers) -> Caller:
    return callers("pipeline", "ml_engineer", kind="machine")


@pytest.fixture
def same_keys(app: Any, keyring: Keyring) -> None:
    """Let the API have the keys that the test's datasets were registered with."""
    app.state.keyring = replace(keyring, suppression=KEYS.suppression)


def digests(lines: list[dict[str, Any]]) -> list[str]:
    return [screening.digest_of(line).hex() for line in lines]


def listed(caller: Caller, **params: Any) -> list[dict[str, Any]]:
    answer = caller.get(LIST, **params)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_what_is_being_erased_is_barred_once_and_told_by_position(
    erased: Erased, bar: Bar, same_keys: None, pipeline: Caller, transaction: Transaction
) -> None:
    assert bar() == 4
    assert bar() == 0
    manifest = "ab" * 32
    answer = pipeline.post(ASK, {"digests": digests(erased.lines), "manifest_digest": manifest})
    assert answer.status_code == 200
    assert answer.json() == {
        "manifest_digest": manifest,
        "list_version": answer.json()["list_version"],
        "screened": 24,
        "hits": [0, 1, 2, 3],
    }
    with transaction() as session:
        told = {each.kind: each.body for each in audit.since(session, 0)}
    assert (told["suppression.extended"]["records"], told["suppression.extended"]["unreadable"]) == (4, 0)
    screened = told["suppression.screened"]
    assert (screened["manifest"], screened["digests"], screened["hits"]) == (manifest, 24, 4)


def test_the_list_is_keyed_hashes_and_says_that_it_is_whole(
    erased: Erased, bar: Bar, same_keys: None, pipeline: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppression, "PAGE_ROWS", 3)
    bar()
    *entries, end = listed(pipeline)
    expected = {content.suppression_mac(KEYS.suppression, bytes.fromhex(each)).hex()
                for each in digests(erased.lines[:4])}  # fmt: skip
    assert {entry["digest"] for entry in entries} == expected
    assert end == {"end": True, "list_version": entries[-1]["number"], "entries": 4}
    assert [set(entry) for entry in entries] == [{"number", "digest"}] * 4
    rest = listed(pipeline, after=entries[1]["number"])
    assert [each.get("digest") for each in rest] == [entries[2]["digest"], entries[3]["digest"], None]
    assert listed(pipeline, after=2**53 - 1)[0]["entries"] == 0
    text = pipeline.get(LIST).text
    assert not any(each in text for each in digests(erased.lines)), "the inner digests are not shown"
    assert "person-0" not in text


def test_a_list_of_nothing_is_whole_too(pipeline: Caller) -> None:
    assert listed(pipeline) == [{"end": True, "list_version": 0, "entries": 0}]


def test_a_request_taken_back_is_barred_no_longer_and_an_erased_record_for_ever(
    erased: Erased, bar: Bar, transaction: Transaction
) -> None:
    bar()
    with transaction() as session:
        session.execute(update(Record).where(Record.id == erased.ids[0]).values(erased_at=NOON))
        session.execute(update(ErasureRequest).values(state="withdrawn"))
    assert bar() == 0
    with transaction() as session:
        left = list(session.scalars(select(Suppression.record_id)))
        kinds = [each.kind for each in audit.since(session, 0)]
    assert left == [erased.ids[0]]
    assert kinds[-1] == "suppression.lifted"


def test_the_hash_outlives_the_record(
    erased: Erased, bar: Bar, same_keys: None, pipeline: Caller, transaction: Transaction
) -> None:
    bar()
    with transaction() as session:
        session.execute(delete(RequestRecord))
        session.execute(delete(Record).where(Record.id.in_(erased.ids)))
    assert bar() == 0
    assert pipeline.post(ASK, {"digests": digests(erased.lines)}).json()["hits"] == [0, 1, 2, 3]


def test_what_is_exempt_is_kept_and_so_is_not_barred(
    erased: Erased, bar: Bar, owner: UUID, transaction: Transaction
) -> None:
    with transaction() as session:
        session.execute(
            update(RequestRecord)
            .where(RequestRecord.record_id == erased.ids[0])
            .values(exempt="17.3.b", exempted_by=owner)
        )
    assert bar() == 3


def test_a_changed_file_bars_what_is_still_there_and_notes_what_is_not(
    erased: Erased, bar: Bar, transaction: Transaction
) -> None:
    lines = erased.path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"fact", b"tale")
    erased.path.write_bytes(b"\n".join(lines) + b"\n")
    assert bar() == 4
    with transaction() as session:
        macs = {row[0]: row[1] for row in session.execute(select(Suppression.record_id, Suppression.mac))}
        [told] = [each.body for each in audit.since(session, 0) if each.kind == "suppression.extended"]
    assert [macs[each] is None for each in erased.ids] == [False, True, False, False]
    assert told["unreadable"] == 1


def test_a_file_that_is_away_is_tried_again(erased: Erased, bar: Bar) -> None:
    aside = erased.path.rename(erased.path.with_suffix(".away"))
    assert bar() == 0
    aside.rename(erased.path)
    assert bar() == 4


def test_numbers_are_in_the_order_of_commits(erased: Erased, transaction: Transaction) -> None:
    """A second writer waits, so no reader can have passed a number that is still to come."""
    done = threading.Event()

    def second() -> None:
        with transaction() as session:
            Suppressions(session).add({erased.ids[1]: b"b"})
        done.set()

    with transaction() as session:
        Suppressions(session).add({erased.ids[0]: b"a"})
        other = threading.Thread(target=second)
        other.start()
        assert not done.wait(0.3)
    other.join(5)
    with transaction() as session:
        rows = session.execute(select(Suppression.record_id).order_by(Suppression.number))
        assert list(rows.scalars()) == erased.ids[:2]


def test_who_may_ask_and_what_is_no_digest(pipeline: Caller, officer: Caller) -> None:
    assert officer.get(LIST).status_code == 403
    assert officer.post(ASK, {"digests": ["ab" * 32]}).status_code == 403
    for bad in ([], ["x"], ["AB" * 32], ["ab" * 32] * 10_001):
        assert pipeline.post(ASK, {"digests": bad}).status_code == 422
    assert pipeline.post(ASK, {"digests": ["ab" * 32] * 10_000}).status_code == 200


# The library ---------------------------------------------------------------------------------------


@given(st.text(), st.text(min_size=1))
def test_the_library_has_the_canonical_bytes_of_the_service(prompt: str, completion: str) -> None:
    assert unicodedata.unidata_version
    for record in ({"text": completion}, {"prompt": prompt, "completion": completion}):
        assert screening.digest_of(record) == hashlib.sha256(canonical(record)).digest()
    assert screening.digest_of(completion) == screening.digest_of(
        {"text": completion, "id": "x", "prompt": None}
    )


@pytest.mark.parametrize("record", [{}, {"id": "x"}, {"text": 7}, {"text": "\ud800"}])
def test_a_record_that_cannot_be_read_is_not_let_through(record: dict[str, Any]) -> None:
    with pytest.raises(NotScreened):
        screening.digest_of(record)


def test_a_downloaded_list_filters_like_the_service(
    erased: Erased, bar: Bar, same_keys: None, pipeline: Caller, tmp_path: Path
) -> None:
    bar()
    (tmp_path / "list").write_text(pipeline.get(LIST).text)
    (tmp_path / "key").write_text(KEYS.suppression.hex() + "\n")
    screen = Screen.from_list(tmp_path / "list", tmp_path / "key")
    kept = list(screen.keep(erased.lines))
    assert kept == erased.lines[4:]
    assert (screen.screened, screen.barred) == (24, 4)
    assert screen.list_version > 0
    text = (tmp_path / "list").read_text()
    for broken in (text.rpartition('{"end"')[0], text + text):
        (tmp_path / "list").write_text(broken)
        with pytest.raises(NotScreened):
            Screen.from_list(tmp_path / "list", tmp_path / "key")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "file:///etc/passwd", "ftp://127.0.0.1:9/"])
def test_an_unreachable_service_lets_nothing_through(url: str) -> None:
    with pytest.raises(NotScreened):
        list(Screen(url, "lethe_x").keep(["a text"]))


def test_the_library_needs_the_standard_library_alone(tmp_path: Path) -> None:
    alone = tmp_path / "screening.py"
    alone.write_bytes(Path(screening.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(alone), str(tmp_path / "none"), "--out", str(tmp_path / "out")],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"not screened: ")


def test_memory_holds_one_batch(erased: Erased) -> None:
    asked: list[int] = []

    def barred(digests: Any) -> set[int]:
        asked.append(len(digests))
        return {0}

    screen = Screen("", "")
    screen._barred = barred

    def endless() -> Iterator[str]:
        for number in range(25_000):
            assert number - screen.screened <= screening.BATCH
            yield f"text {number}"

    assert sum(1 for _ in screen.keep(endless())) == 24_997
    assert asked == [10_000, 10_000, 5_000]
