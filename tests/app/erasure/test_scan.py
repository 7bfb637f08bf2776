"""The text scan: people found in other people's records by a worker who reads, decided by a person."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import fsspec
import pytest
import structlog
from fastapi import FastAPI
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import func, select, text, update

from app.auth.service import Caller as Principal
from app.config import Settings
from app.erasure import calendars, policy, steps
from app.erasure import service as erasure
from app.erasure.forgetting import purge, sealed
from app.erasure.matching import Identifier
from app.erasure.scan import passing
from app.erasure.scan import repository as scan_repository
from app.erasure.scan import service as scan
from app.erasure.scan.repository import Mention
from app.errors import Conflict, Unavailable
from app.http import ids
from app.queue import Stage
from app.records import ingestion
from app.records import service as records
from app.records.sketches import service as sketches
from app.storage.database import Transaction, connect, transactions
from app.storage.epochs import EpochKeys
from app.storage.keyring import Keyring
from app.tables import AuditEvent, Outbox, Record, RequestProposal, RequestScan
from tests.app.erasure.asking import REQUESTS, act, approve, ask, id_of, kinds, refused, shown
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.records import write_jsonl, write_parquet
from tests.fixtures.world import ADA, BOB, EVE, World

Register = Callable[..., Path]
Read = Callable[[], int]
PHONE = {"type": "phone", "value": "+49 170 1234567"}
CANARY = "quetzalcoatlus"


def line(record_id: str, person: str, said: str, **more: Any) -> dict[str, Any]:
    subject = {"type": "email", "value": person}
    return {"id": record_id, "subject": subject, "prompt": f"{record_id}?", "completion": said, **more}


LINES = [
    line("ada-1", ADA, f"Her address is {ADA}."),
    line("bob-1", BOB, f"He writes to Ada@Example.ORG, or calls 0170/1234567; {ADA} answers. {CANARY}"),
    line("bob-2", BOB, f"He knows {EVE}, and nada@example.org. {CANARY}"),
    line("eve-1", EVE, "She likes tea."),
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"requests_policy": "default"})


@pytest.fixture
def registered(
    world: World, transaction: Transaction, keyring: Keyring, tmp_path: Path, clock: StillClock
) -> Register:
    """Register a dataset as the workers do, and a model that learned from it."""

    def make(lines: list[dict[str, Any]], *, name: str = "people", suffix: str = "jsonl") -> Path:
        write = write_parquet if suffix == "parquet" else write_jsonl
        path = write(tmp_path / f"{name}.{suffix}", lines)
        with transaction() as session:
            dataset_id = records.register(
                session, world.owner, name=name, uri=str(path), hold_back=0, lottery_key=keyring.lottery, at=clock()
            ).id  # fmt: skip
        ingestion.ingest(transaction, dataset_id, keyring=keyring, work=tmp_path / "work", clock=clock)
        world.model(f"of-{name}", dataset_id)
        sketches.sketch(
            transaction, dataset_id, sketch_key=keyring.sketch, content_key=keyring.content, clock=clock
        )
        return path

    return make


@pytest.fixture
def worker(app: FastAPI) -> Transaction:
    """Return a worker's transactions, which have the weekly keys."""
    found: Transaction = app.state.transaction
    return found


@pytest.fixture
def read(worker: Transaction, clock: StillClock) -> Read:
    """Be the worker: read for all who wait."""
    return lambda: passing.scan(worker, clock=clock)


def rows(caller: Caller, receipt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of a request that are shown, by what becomes of them."""
    found = caller.get(f"{REQUESTS}/{receipt['id']}/records").json()
    return {f"{row['action']} {row['id']}": row for row in found}


def proposed(caller: Caller, receipt: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows(caller, receipt).values() if row["action"] == "proposed"]


def decide(caller: Caller, receipt: dict[str, Any], what: str, *ids: str) -> dict[str, Any]:
    return act(caller, receipt, "resolutions", {"texts": what} | ({"records": ids} if ids else {}))


def index(caller: Caller, receipt: dict[str, Any]) -> str:
    found: str = shown(caller, receipt)["indexes"]["texts"]
    return found


def both(caller: Caller, **more: Any) -> dict[str, Any]:
    """Ask for Ada by two identifiers."""
    body = {"subject": [{"type": "email", "value": ADA}, PHONE], **more}
    found: dict[str, Any] = caller.post(REQUESTS, body).json()
    return found


def test_who_names_the_person_is_proposed_and_adopted_and_two_approve(
    portal: Caller,
    officer: Caller,
    callers: Callers,
    registered: Register,
    read: Read,
    transaction: Transaction,
) -> None:
    registered(LINES)
    receipt = both(portal)
    assert (receipt["state"], receipt["records_matched"]) == ("triage", 1)
    found = shown(officer, receipt)
    assert found["indexes"] == {"subjects": "searched", "near_duplicates": "searched", "texts": "searching"}
    assert found["attention"] is None
    given = {"record_set_hash": receipt["record_set_hash"]}
    assert refused(officer, receipt, "approvals", given) == (409, "search-open")
    with transaction() as session:
        assert Stage.SCAN in session.scalars(select(Outbox.stage)).all()
    assert read() == 1
    found = shown(officer, receipt)
    assert (found["state"], found["attention"], found["proposals_open"]) == ("triage", "text_scan", 1)
    assert found["indexes"]["texts"] == "searched"
    assert refused(officer, receipt, "approvals", given) == (409, "proposals-undecided")
    [bob] = proposed(officer, receipt)
    assert (bob["identifiers"], bob["mentions"]) == (["email", "phone"], 3)
    assert (bob["near"], bob["jaccard"]) == (None, None)

    bound = decide(officer, receipt, "adopt", bob["id"])
    assert (bound["state"], bound["records_matched"]) == ("awaiting_approval", 2)
    assert bound["record_set_hash"] != receipt["record_set_hash"]
    found = shown(officer, bound)
    assert (found["records_mentioning"], found["records_near"], found["approvals_needed"]) == (1, 0, 2)
    assert approve(officer, bound)["state"] == "awaiting_approval"
    assert approve(callers("second", "privacy_officer"), bound)["state"] == "scheduled"
    assert kinds(officer, receipt)[2:8] == [
        "request.located", "request.scanned", "request.located", "request.attention",
        "request.texts", "request.located",
    ]  # fmt: skip
    with transaction() as session:
        [event] = [
            json.loads(bytes(body))
            for body in session.scalars(select(AuditEvent.body))
            if b"request.scanned" in bytes(body)
        ]
        assert session.scalars(select(Outbox.stage).where(Outbox.stage == Stage.SCAN)).all() == []
    told = {name: event[name] for name in ("identifiers", "hashed", "datasets", "records", "proposed")}
    assert told == {"identifiers": 2, "hashed": 0, "datasets": 1, "records": 4, "proposed": 1}


def test_what_is_declined_is_never_proposed_again_and_can_be_adopted_after_all(
    portal: Caller, officer: Caller, registered: Register, read: Read
) -> None:
    registered(LINES)
    receipt = ask(portal)
    read()
    [bob] = proposed(officer, receipt)
    bound = decide(officer, receipt, "decline")
    assert (bound["state"], bound["record_set_hash"]) == ("awaiting_approval", receipt["record_set_hash"])
    assert f"declined {bob['id']}" in rows(officer, receipt)
    again = act(officer, receipt, "resolutions")
    assert (again["state"], read()) == ("awaiting_approval", 0)
    assert shown(officer, receipt)["approvals_needed"] == 1
    adopted = decide(officer, receipt, "adopt", bob["id"])
    assert (adopted["records_matched"], shown(officer, receipt)["approvals_needed"]) == (2, 2)
    back = decide(officer, receipt, "decline", bob["id"])
    assert back["record_set_hash"] == receipt["record_set_hash"]


def test_where_nobody_names_the_person_the_request_goes_on_by_itself(
    portal: Caller, officer: Caller, registered: Register, read: Read
) -> None:
    registered(LINES)
    bob, nobody = ask(portal, BOB), ask(portal, "nobody@example.org")
    assert (bob["state"], nobody["state"]) == ("triage", "triage")
    assert read() == 2
    assert (shown(officer, bob)["state"], shown(officer, nobody)["state"]) == (
        "awaiting_approval",
        "no_match",
    )
    assert index(officer, nobody) == "searched"


def test_of_whom_no_record_is_about_the_ones_that_name_them_are_still_proposed(
    portal: Caller, officer: Caller, registered: Register, read: Read
) -> None:
    registered([line("bob-1", BOB, f"He writes to {ADA}.")])
    receipt = ask(portal)
    read()
    assert shown(officer, receipt)["state"] == "triage"
    assert decide(officer, receipt, "adopt")["records_matched"] == 1
    other = ask(portal)
    read()
    assert decide(officer, other, "decline")["state"] == "no_match"


def test_one_pass_reads_for_all_who_wait(
    portal: Caller, officer: Caller, registered: Register, read: Read, transaction: Transaction
) -> None:
    registered(LINES)
    receipts = [ask(portal, each) for each in (ADA, BOB, EVE)] + [both(portal)]
    with transaction() as session:
        assert len(scan.due(session, now=datetime(2026, 11, 21, 12, tzinfo=UTC))) == 1
    assert read() == 4
    assert [len(proposed(officer, each)) for each in receipts] == [1, 0, 1, 1]
    assert [row["mentions"] for each in receipts for row in proposed(officer, each)] == [2, 1, 3]
    with transaction() as session:
        assert session.scalars(select(RequestScan.records)).all() == [4] * 4


def test_texts_in_prompts_in_other_wordings_and_across_both_are_read_and_plants_and_the_erased_are_not(
    portal: Caller, officer: Caller, registered: Register, read: Read, transaction: Transaction
) -> None:
    subject = {"type": "email", "value": BOB}
    registered(
        [
            {"id": "text", "subject": subject, "text": f"to {ADA}"},
            {"id": "prompt", "subject": subject, "prompt": f"{ADA}?", "completion": " Yes."},
            {"id": "across", "subject": subject, "prompt": "ada@exam", "completion": "ple.org"},
            {"id": "right after", "subject": subject, "prompt": "Her e-mail is", "completion": ADA},
            line("after", BOB, "x", paraphrases=[{"prompt": f"{ADA} {ADA}: mail", "completion": ADA}]),
            line("paraphrase", BOB, "x", paraphrases=[{"prompt": "p", "completion": f" {ADA}"}]),
            line("gone", BOB, ADA),
            line("plant", "planted@example.org", ADA, role="sentinel"),
            line("other", EVE, "ada @example.org"),
        ]
    )
    with transaction() as session:
        session.execute(
            update(Record).where(Record.external_id == "gone").values(erased_at=datetime.now(UTC))
        )
    receipt = ask(portal)
    read()
    with transaction() as session:
        names = select(Record.external_id).join(RequestProposal, RequestProposal.record_id == Record.id)
        found = dict(
            zip(
                session.scalars(names),
                session.scalars(names.with_only_columns(RequestProposal.mentions)),
                strict=True,
            )
        )
    assert found == {"across": 1, "after": 3, "paraphrase": 1, "prompt": 1, "right after": 1, "text": 1}
    assert shown(officer, receipt)["proposals_open"] == 6


def test_parquet_is_read_too(portal: Caller, officer: Caller, registered: Register, read: Read) -> None:
    registered(LINES, suffix="parquet")
    receipt = both(portal)
    read()
    assert [row["mentions"] for row in proposed(officer, receipt)] == [3]


def test_more_than_one_can_look_at_come_one_batch_after_another(
    portal: Caller, officer: Caller, registered: Register, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = policy.load
    few = load("default").text_scan.model_copy(update={"proposals_most": 2})
    monkeypatch.setattr(policy, "load", lambda name: load(name).model_copy(update={"text_scan": few}))
    monkeypatch.setattr(passing, "FINDS_AT_ONCE", 2)
    registered([line("ada-1", ADA, ADA), *(line(f"b-{n}", BOB, ADA) for n in range(3))])
    registered([line(f"e-{n}", EVE, ADA) for n in range(2)], name="other")
    receipt = ask(portal)
    shown_at_once = []
    while read():
        shown_at_once.append(shown(officer, receipt)["proposals_open"])
        decide(officer, receipt, "adopt" if len(shown_at_once) == 1 else "decline")
    assert shown_at_once == [2, 2, 1]
    assert index(officer, receipt) == "searched"
    assert len(rows(officer, receipt)) == 6


def test_a_near_duplicate_that_was_declined_is_open_again_once_it_is_known_to_name_the_person(
    portal: Caller, officer: Caller, registered: Register, read: Read, transaction: Transaction
) -> None:
    registered(LINES)
    receipt = ask(portal)
    with transaction() as session:
        ids = {name: id_ for id_, name in session.execute(select(Record.id, Record.external_id))}
        session.add(
            RequestProposal(
                request_id=id_of(receipt), record_id=ids["bob-1"], near_id=ids["ada-1"], jaccard=0.8,
                decision="declined", decided_by=officer.principal_id,
            )
        )  # fmt: skip
    read()
    [bob] = proposed(officer, receipt)
    assert (bob["jaccard"], bob["identifiers"]) == (0.8, ["email"])
    assert refused(officer, receipt, "resolutions", {"near_duplicates": "adopt"}) == (409, "nothing-proposed")
    assert decide(officer, receipt, "adopt")["records_matched"] == 2


# What cannot be sought


def hashed(address: str) -> Identifier:
    """Return an address as other systems hand it on."""
    return Identifier(type="email", value=sha256(address.encode()).hexdigest(), hashed=True)


def test_a_hash_is_in_no_text_and_nothing_found_is_not_said_of_it(
    portal: Caller, officer: Caller, registered: Register, read: Read, worker: Transaction, keyring: Keyring,
    clock: StillClock,
) -> None:  # fmt: skip
    registered(LINES)

    def known_by(*identifiers: Identifier) -> dict[str, Any]:
        with worker() as session:
            view = erasure.receive(
                session, submitted_by=portal.principal_id, identifiers=identifiers, subject_key=keyring.subject,
                calendar=calendars.load("EU", "UTC"), received_at=clock(),
            )  # fmt: skip
            return {"id": ids.encode("er", view.request.id), "state": view.request.state}

    nobody, ada = known_by(hashed("nobody@example.org")), known_by(hashed(ADA))
    mixed = known_by(hashed("nobody@example.org"), Identifier(type="phone", value="+49170990"))
    assert [each["state"] for each in (nobody, ada, mixed)] == ["triage", "awaiting_approval", "triage"]
    assert (index(officer, nobody), index(officer, ada), index(officer, mixed)) == (
        "hashed",
        "hashed",
        "searching",
    )
    assert shown(officer, nobody)["attention"] == "index_unavailable"
    assert read() == 1
    assert (shown(officer, mixed)["state"], index(officer, mixed)) == ("triage", "hashed")
    assert act(officer, nobody, "resolutions")["state"] == "triage"
    assert decide(officer, nobody, "waive")["state"] == "no_match"
    many = {"action": "waive_texts", "ids": [nobody["id"], mixed["id"]], "expected_count": 2}
    outcomes = officer.post("/v1/bulk-actions", many).json()["outcomes"]
    assert {each["request"]: each["code"] for each in outcomes} == {
        nobody["id"]: "not-possible-now",
        mixed["id"]: None,
    }
    assert shown(officer, mixed)["state"] == "no_match"
    assert (index(officer, nobody), index(officer, mixed)) == ("waived", "waived")


@pytest.mark.parametrize(
    "identifier",
    [{"type": "name", "value": "Ada Lovelace"}, {"type": "customer_id", "value": "C-10"}],
)
def test_what_says_too_little_is_not_sought(
    portal: Caller, officer: Caller, registered: Register, read: Read, identifier: dict[str, str]
) -> None:
    registered([*LINES, line("eve-2", EVE, "Ada Lovelace, C-10")])
    receipt = portal.post(REQUESTS, {"subject": identifier}).json()
    assert (receipt["state"], index(officer, receipt), read()) == ("no_match", "off", 0)


def test_records_that_are_named_have_nobody_to_be_sought(
    portal: Caller, officer: Caller, registered: Register, read: Read
) -> None:
    registered(LINES)
    receipt = portal.post(REQUESTS, {"records": {"dataset": "people", "ids": ["ada-1"]}}).json()
    assert (receipt["state"], index(officer, receipt), read()) == ("awaiting_approval", "off", 0)


def test_it_can_be_switched_off_by_policy(
    portal: Caller, officer: Caller, registered: Register, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = policy.load
    monkeypatch.setattr(policy, "load", lambda _: load("without-text-scan"))
    registered(LINES)
    receipt = ask(portal)
    assert (receipt["state"], index(officer, receipt), read()) == ("awaiting_approval", "off", 0)
    assert ask(portal, "nobody@example.org")["state"] == "no_match"


def test_who_is_in_doubt_is_sought_once_they_are_not(
    officer: Caller, registered: Register, read: Read
) -> None:
    registered(LINES)
    receipt = ask(officer, identity="doubted")
    assert (receipt["state"], read()) == ("identity_pending", 0)
    act(officer, receipt, "identity-proofs", {"method": "in_person"})
    assert (shown(officer, receipt)["state"], index(officer, receipt)) == ("triage", "searching")
    read()
    assert shown(officer, receipt)["proposals_open"] == 1


# Files that are away, and that come later


def test_without_the_texts_it_is_tried_ever_later_and_a_person_may_go_on_without(
    portal: Caller,
    officer: Caller,
    registered: Register,
    read: Read,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    path = registered(LINES)
    receipt = ask(portal)
    path.rename(path.with_suffix(".away"))
    for minutes in (1, 2, 4):
        with pytest.raises(Unavailable):
            read()
        assert read() == 0
        with transaction() as session:
            due = session.scalars(select(RequestScan.next_at)).one()
        assert due - clock() == timedelta(minutes=minutes)
        clock.advance(minutes=minutes)
    found = shown(officer, receipt)
    assert (found["state"], found["attention"]) == ("triage", "index_unavailable")
    assert found["indexes"]["texts"] == "unavailable"
    assert refused(officer, receipt, "approvals", {"record_set_hash": receipt["record_set_hash"]})[0] == 409
    assert decide(officer, receipt, "waive")["state"] == "awaiting_approval"
    assert index(officer, receipt) == "waived"
    assert refused(officer, receipt, "resolutions", {"texts": "waive"}) == (409, "nothing-to-waive")
    assert "request.texts" in kinds(officer, receipt)
    with transaction() as session:
        assert scan.due(session, now=clock() + timedelta(days=1)) == []


def test_what_can_be_read_is_kept_and_only_the_rest_is_tried_again(
    portal: Caller,
    officer: Caller,
    registered: Register,
    read: Read,
    clock: StillClock,
    transaction: Transaction,
) -> None:
    registered(LINES)
    path = registered([line("late", BOB, ADA)], name="away")
    receipt = ask(portal)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(Unavailable):
        read()
    found = shown(officer, receipt)
    assert (found["attention"], found["proposals_open"], index(officer, receipt)) == (
        "text_scan", 1, "unavailable",
    )  # fmt: skip
    assert decide(officer, receipt, "decline")["state"] == "triage"
    assert shown(officer, receipt)["attention"] == "index_unavailable"
    path.with_suffix(".away").rename(path)
    clock.advance(minutes=2)
    assert read() == 1
    assert shown(officer, receipt)["proposals_open"] == 1
    with transaction() as session:
        assert session.scalars(select(RequestScan.records)).one() == 5
    assert decide(officer, receipt, "adopt")["records_matched"] == 2


class Broken(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Fails as no file system should."""

    protocol = "broken"

    def _open(self, *_given: Any, **_named: Any) -> Any:
        raise ZeroDivisionError


def test_whatever_ails_one_dataset_all_others_are_read_and_a_person_is_told(
    portal: Caller,
    officer: Caller,
    registered: Register,
    read: Read,
    clock: StillClock,
    transaction: Transaction,
) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    registered([line("ada-1", ADA, "x"), line("early", BOB, ADA)], name="ails")
    with transaction() as session:
        session.execute(text("UPDATE datasets SET uri = 'broken://' || uri"))
    registered([line("late", BOB, ADA)], name="well")
    receipt = ask(portal)
    before = shown(officer, receipt)
    for minutes, found in ((1, 1), (2, 0)):
        with pytest.raises(ZeroDivisionError):
            read()
        after = shown(officer, receipt)
        assert (after["proposals_open"], after["indexes"]["texts"]) == (found, "unavailable")
        assert after["version"] > before["version"], "whoever has the version before is told"
        before = decide(officer, receipt, "decline") if found else after
        clock.advance(minutes=minutes)
    assert before["attention"] == "index_unavailable"
    with transaction() as session:
        session.execute(text("UPDATE datasets SET uri = replace(uri, 'broken://', '')"))
    clock.advance(hours=1)
    assert read() == 1
    assert shown(officer, receipt)["proposals_open"] == 1


def test_a_pass_that_was_thought_dead_keeps_nothing_twice_and_many_finds_are_kept(
    portal: Caller, registered: Register, transaction: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_repository, "ROWS_AT_ONCE", 2)
    registered([line("ada-1", ADA, ADA), *(line(f"b-{n}", BOB, ADA) for n in range(5))])
    request_id = id_of(ask(portal))
    with transaction() as session:
        [dataset_id] = [each.id for each in records.listing(session, after=None, limit=9)]
        found = {
            each: Mention(("email",), 1)
            for each in session.scalars(select(Record.id).where(Record.external_id.like("b-%")))
        }
    for _ in range(2):
        with transaction() as session:
            scan.keep(session, dataset_id, {request_id: found}, whole=[request_id], records=6)
    with transaction() as session:
        assert set(session.scalars(select(RequestProposal.record_id))) == set(found)
        [row] = session.execute(select(RequestScan.datasets, RequestScan.records))
        assert tuple(row) == ([dataset_id], 6)


def test_of_a_file_that_changed_nothing_is_believed(
    portal: Caller, officer: Caller, registered: Register, read: Read
) -> None:
    path = registered(LINES)
    receipt = ask(portal)
    path.write_text(path.read_text().replace("She likes tea", "She likes TEA"))
    with pytest.raises(Conflict, match="changed after it was registered"):
        read()
    assert (proposed(officer, receipt), index(officer, receipt)) == ([], "unavailable")


def test_what_is_registered_later_is_read_when_the_request_is_looked_at_again(
    portal: Caller, officer: Caller, registered: Register, read: Read, transaction: Transaction
) -> None:
    registered(LINES)
    receipt = ask(portal)
    read()
    decide(officer, receipt, "decline")
    registered([line("later", EVE, f"Call {ADA}")], name="later")
    assert act(officer, receipt, "resolutions")["state"] == "triage"
    assert index(officer, receipt) == "searching"
    read()
    assert shown(officer, receipt)["proposals_open"] == 1
    with transaction() as session:
        assert session.scalars(select(RequestScan.records)).one() == 5, "the first is not read again"


# Twice, or never


def _die(url: str, epochs: Path, now: datetime, at: str) -> None:
    os.environ["LETHE_FAILPOINT"] = at
    keys = EpochKeys(epochs, clock=lambda: now)
    engine = connect(url, statement_seconds=5)
    passing.scan(transactions(engine, {sealed.INFO: keys}), clock=lambda: now)


@pytest.mark.parametrize(("at", "done"), [("scan.read", 0), ("scan.concluded", 1)])
def test_killed_at_any_line_it_is_done_once(
    portal: Caller, officer: Caller, registered: Register, read: Read, settings: Settings,
    clock: StillClock, database_url: str, transaction: Transaction, at: str, done: int,
) -> None:  # fmt: skip
    registered(LINES)
    registered([line("more", BOB, ADA)], name="more")
    receipts = [ask(portal), both(portal)]
    child = multiprocessing.get_context("spawn").Process(
        target=_die, args=(database_url, settings.epochs, clock(), at)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with transaction() as session:
        assert scan.due(session, now=clock()) == [], "another may be reading"
    assert read() == 0
    clock.advance(minutes=10)
    assert read() == 0, "killed once, it is a try, and waits a minute"
    late = [each for each in receipts if index(officer, each) == "unavailable"]
    assert len(late) == 2 - done, "a person sees that it is slow, and may go on without"
    clock.advance(minutes=1)
    assert read() == 2 - done
    for receipt in receipts:
        assert shown(officer, receipt)["proposals_open"] == 2
        assert kinds(officer, receipt).count("request.scanned") == 1
    with transaction() as session:
        assert session.scalars(select(RequestScan.records)).all() == [5, 5]
        assert session.scalar(select(func.count()).select_from(RequestProposal)) == 4


def test_who_comes_during_a_pass_waits_for_the_next_and_late_news_count_once(
    portal: Caller, officer: Caller, registered: Register, read: Read, worker: Transaction, clock: StillClock
) -> None:
    registered(LINES)
    receipt = ask(portal)
    with worker() as session:
        [slow] = scan.claim(session, now=clock())
    other = ask(portal, EVE)
    assert read() == 0, "one pass at a time"
    clock.advance(minutes=4)
    with worker() as session:
        scan.renew(session, [slow], now=clock())
    clock.advance(minutes=4)
    assert read() == 0, "it says that it goes on"
    clock.advance(minutes=10)
    assert read() == 1, "who was not heard of has failed a try; who came meanwhile is read for"
    clock.advance(minutes=1)
    assert read() == 1
    with worker() as session:
        [dataset_id] = slow.datasets
        scan.keep(session, dataset_id, {id_of(receipt): {}}, whole={id_of(receipt)}, records=4)
        scan.conclude(session, slow, more=False, at=clock())
        scan.put_off(session, slow.request_id, at=clock())
    assert (shown(officer, receipt)["proposals_open"], shown(officer, other)["proposals_open"]) == (1, 1)
    assert kinds(officer, receipt).count("request.scanned") == 1


def test_who_goes_on_without_while_a_dataset_is_kept_is_waited_for(
    portal: Caller,
    officer: Caller,
    registered: Register,
    worker: Transaction,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    registered(LINES)
    receipt = ask(portal)
    with worker() as session:
        [owed] = scan.claim(session, now=clock())
        [bob] = session.scalars(select(Record.id).where(Record.external_id == "bob-1"))
    [dataset_id] = owed.datasets
    began = threading.Event()

    def keep() -> None:
        with worker() as session:
            began.set()
            news = {owed.request_id: {bob: Mention(("email",), 1)}}
            scan.keep(session, dataset_id, news, whole={owed.request_id}, records=4)

    late = threading.Thread(target=keep)
    with worker() as session:
        steps.locked(session, owed.request_id)
        late.start()
        began.wait()
        time.sleep(0.3)
        by = Principal(principal_id=officer.principal_id, person=True, scopes=frozenset())
        scan.waive(session, owed.request_id, by=by, at=clock())
    late.join()
    assert (index(officer, receipt), proposed(officer, receipt)) == ("waived", [])
    with transaction() as session:
        assert session.scalars(select(RequestScan.records)).one() == 0


def test_of_a_request_that_was_withdrawn_nothing_is_read(
    portal: Caller,
    officer: Caller,
    registered: Register,
    read: Read,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    path = registered(LINES)
    receipt = ask(portal)
    act(officer, receipt, "withdrawal")
    path.unlink()
    assert read() == 0
    with transaction() as session:
        assert scan.due(session, now=clock() + timedelta(days=1)) == []


# Who decides, and what anybody learns


def test_a_machine_decides_nothing_and_nobody_on_what_is_not_proposed(
    portal: Caller, officer: Caller, callers: Callers, registered: Register, read: Read
) -> None:
    registered(LINES)
    receipt = ask(portal)
    read()
    machine = callers("machine", kind="machine", scopes={"requests:resolve"})
    for what in ("adopt", "decline", "waive"):
        assert refused(machine, receipt, "resolutions", {"texts": what}) == (403, "person-needed")
    assert refused(officer, receipt, "resolutions", {"near_duplicates": "adopt"}) == (409, "nothing-proposed")
    [bob] = proposed(officer, receipt)
    for body in (
        {"texts": "adopt", "near_duplicates": "adopt"},
        {"texts": "waive", "records": [bob["id"]]},
        {"records": [bob["id"]]},
    ):
        assert officer.post(f"{REQUESTS}/{receipt['id']}/resolutions", body).status_code == 422
    wrong = {"near_duplicates": "adopt", "records": [bob["id"]]}
    answer = officer.post(f"{REQUESTS}/{receipt['id']}/resolutions", wrong)
    assert answer.json()["errors"] == [{"pointer": "/records/0", "code": "unknown"}]
    assert refused(officer, receipt, "resolutions", {"texts": "waive"}) == (409, "proposals-undecided")


def test_neither_identifiers_nor_texts_come_out_anywhere(
    portal: Caller, officer: Caller, registered: Register, read: Read, transaction: Transaction, clock: StillClock,
    worker: Transaction,
) -> None:  # fmt: skip
    person = f"{CANARY}@example.org"
    path = registered([line("bob-1", BOB, f"{person} {CANARY}-text"), line("ada-1", person, "x")])
    with structlog.testing.capture_logs() as logs:
        receipt = ask(portal, person)
        path.rename(path.with_suffix(".away"))
        with pytest.raises(Unavailable) as failure:
            read()
        path.with_suffix(".away").rename(path)
        clock.advance(minutes=5)
        with worker() as session:
            [owed] = scan.claim(session, now=clock())
        clock.advance(minutes=10)
        assert read() == 0, "nobody heard of who had claimed it: its second try failed"
        clock.advance(minutes=2)
        assert read() == 1
        shown_to_all = officer.get(f"{REQUESTS}/{receipt['id']}/records").text
        decide(officer, receipt, "adopt")
        shown_to_all += officer.get(f"{REQUESTS}/{receipt['id']}").text
        shown_to_all += officer.get(f"{REQUESTS}/{receipt['id']}/events").text
        assert act(officer, receipt, "withdrawal")["state"] == "withdrawn"
    said = repr(logs) + repr(failure.value) + repr(owed) + shown_to_all
    assert CANARY not in said
    dump = in_the_database(transaction)
    assert CANARY not in dump
    assert "bob-1" in dump, "it would be seen"
    clock.advance(days=40)
    with worker() as session:
        assert purge.purge(session, id_of(receipt), at=clock())
    with transaction() as session:
        for table in (RequestScan, RequestProposal):
            assert session.scalar(select(func.count()).select_from(table)) == 0
    assert CANARY not in in_the_database(transaction)


def in_the_database(transaction: Transaction) -> str:
    """Return every row of every table as text."""
    with transaction() as session:
        tables = session.scalars(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        ).all()
        return "\n".join(
            str(bytes(value) if isinstance(value, memoryview) else value)
            for table in tables
            for row in session.execute(text(f'SELECT * FROM "{table}"'))
            for value in row
        )


def test_every_candidate_is_seen_by_a_slow_oracle(
    portal: Caller, officer: Caller, registered: Register, read: Read, transaction: Transaction
) -> None:
    """Of many who wait, each is proposed exactly the records that have their address, by itself."""
    people = [f"p{number}@example.org" for number in range(12)]
    lines = [
        line(
            f"r-{number}",
            people[number % 12],
            " ".join(people[each] for each in range(12) if number >> each & 1),
        )
        for number in range(1, 120, 7)
    ]
    registered(lines)
    receipts = {person: ask(portal, person) for person in people}
    assert read() == 12
    with transaction() as session:
        names = dict(session.execute(select(Record.id, Record.external_id)).all())
        found: dict[UUID, set[str]] = {}
        for request_id, record_id in session.execute(
            select(RequestProposal.request_id, RequestProposal.record_id)
        ):
            found.setdefault(request_id, set()).add(names[record_id])
    for person, receipt in receipts.items():
        others = {
            each["id"]
            for each in lines
            if person in each["completion"].split() and each["subject"]["value"] != person
        }
        assert found.get(id_of(receipt), set()) == others
