"""Passes of the text scan: files that are away or come later, workers that die, late news."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from app.auth.service import Caller as Principal
from app.config import Settings
from app.erasure import steps
from app.erasure.forgetting import sealed
from app.erasure.scan import passing
from app.erasure.scan import repository as scan_repository
from app.erasure.scan import service as scan
from app.erasure.scan.repository import Mention
from app.errors import Conflict, Unavailable
from app.records import service as records
from app.storage.database import Transaction, connect, transactions
from app.storage.epochs import EpochKeys
from app.tables import Record, RequestProposal, RequestScan
from tests.app.erasure.asking import act, ask, id_of, kinds, refused, shown
from tests.app.erasure.registering import Register
from tests.app.erasure.scan.scanning import (
    LINES,
    Read,
    both,
    decide,
    index,
    line,
    proposed,
)
from tests.fixtures.api import Caller, StillClock
from tests.fixtures.refusing import refusing
from tests.fixtures.world import ADA, BOB, EVE

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


def test_who_cannot_be_put_off_keeps_nobody_waiting(
    portal: Caller,
    officer: Caller,
    registered: Register,
    read: Read,
    worker: Transaction,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    """The reader of both was killed; that it was a try cannot be written of the first."""
    registered(LINES)
    receipts = [ask(portal), both(portal)]
    with worker() as session:
        assert len(scan.claim(session, now=clock())) == 2
    clock.advance(minutes=10)
    later = ask(portal, EVE)
    counts = f"NEW.request_id = '{id_of(receipts[0])}' AND NEW.tries > OLD.tries"
    with (
        refusing(transaction, f"BEFORE UPDATE ON request_scans FOR EACH ROW WHEN ({counts})"),
        pytest.raises(DBAPIError),
    ):
        read()
    states = [index(officer, each) for each in (*receipts, later)]
    assert states == ["searched", "unavailable", "searched"], "its try is not counted, and all are read for"
    clock.advance(minutes=1)
    assert read() == 1
    assert index(officer, receipts[1]) == "searched"


def _die_late(url: str, epochs: Path, now: datetime) -> None:
    """Conclude the first request, each look at the clock a minute after the one before."""
    os.environ["LETHE_FAILPOINT"] = "scan.concluded"
    keys = EpochKeys(epochs, clock=lambda: now)
    minutes = itertools.count()
    engine = connect(url, statement_seconds=5)
    passing.scan(
        transactions(engine, {sealed.INFO: keys}), clock=lambda: now + timedelta(minutes=next(minutes))
    )


def test_while_requests_are_concluded_the_others_stay_claimed(
    portal: Caller,
    registered: Register,
    settings: Settings,
    clock: StillClock,
    database_url: str,
    transaction: Transaction,
) -> None:
    registered(LINES)
    for _ in range(2):
        ask(portal)
    began = clock()
    child = multiprocessing.get_context("spawn").Process(
        target=_die_late, args=(database_url, settings.epochs, began)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with transaction() as session:
        [until] = session.scalars(select(RequestScan.claimed_until).where(RequestScan.state == "open"))
    claimed = began + timedelta(minutes=1, seconds=scan.CLAIM_SECONDS)
    assert until is not None
    assert until > claimed, "said again before the first was concluded, and not when the pass began alone"


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
