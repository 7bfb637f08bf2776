"""Near duplicates: found by sketches, confirmed by a worker who reads, decided by a person; never ignored."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from app.erasure import policy
from app.erasure.near import comparing
from app.erasure.near import service as near
from app.erasure.near.repository import Searches
from app.errors import Unavailable
from app.queue import Stage
from app.records import service as records
from app.storage.database import Transaction, connect, transactions
from app.storage.keyring import Keyring
from app.tables import AuditEvent, Dataset, Outbox, Record, RequestProposal, RequestSearch
from tests.app.erasure.asking import REQUESTS, act, approve, ask, id_of, kinds, refused, shown
from tests.app.erasure.registering import Register, sketch
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA, BOB, EVE

CANARY = "quetzalcoatlus"


def story(seed: int, *, words: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [CANARY, *("".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(words - 1))]


def changed(words: list[str], *places: int) -> list[str]:
    """Return the words with some of them replaced: one in 60 leaves a Jaccard index of 51/61."""
    return [f"other{place}" if place in places else word for place, word in enumerate(words)]


def line(record_id: str, person: str, words: list[str], **more: Any) -> dict[str, Any]:
    subject = {"type": "email", "value": person}
    return {"id": record_id, "subject": subject, "text": " ".join(words), **more}


TWINS = [
    line("ada-1", ADA, story(1)),
    line("twin", BOB, changed(story(1), 30)),
    line("far", BOB, story(2)),
    line("eve-1", EVE, story(3)),
]


@pytest.fixture
def search(transaction: Transaction, keyring: Keyring, clock: StillClock) -> Callable[..., None]:
    """Be the worker: search for what is due, or for one request."""

    def searched(request_id: UUID | None = None) -> None:
        with transaction() as session:
            due = near.due(session, now=clock()) if request_id is None else [request_id]
        for each in due:
            comparing.compare(transaction, each, content_key=keyring.content, clock=clock)

    return searched


def rows(caller: Caller, receipt: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get(f"{REQUESTS}/{receipt['id']}/records").json()
    return found


def decide(caller: Caller, receipt: dict[str, Any], what: str, *ids: str) -> dict[str, Any]:
    return act(caller, receipt, "resolutions", {"near_duplicates": what} | ({"records": ids} if ids else {}))


def test_a_twin_is_proposed_and_adopted_by_a_person_and_two_approve(
    portal: Caller,
    officer: Caller,
    callers: Callers,
    registered: Register,
    search: Callable[..., None],
    transaction: Transaction,
) -> None:
    registered(TWINS)
    receipt = ask(portal)
    assert (receipt["state"], receipt["records_matched"]) == ("triage", 1)
    assert shown(officer, receipt)["indexes"] == {
        "subjects": "searched",
        "near_duplicates": "searching",
        "texts": "off",
    }
    given = {"record_set_hash": receipt["record_set_hash"]}
    assert refused(officer, receipt, "approvals", given) == (409, "search-open")
    with transaction() as session:
        assert Stage.SEARCH in session.scalars(select(Outbox.stage)).all()
    search()
    found = shown(officer, receipt)
    assert (found["state"], found["attention"], found["proposals_open"]) == ("triage", "near_duplicates", 1)
    assert found["indexes"]["near_duplicates"] == "searched"
    assert refused(officer, receipt, "approvals", given) == (409, "proposals-undecided")
    [own, twin] = rows(officer, receipt)
    assert (own["action"], own["near"], own["jaccard"]) == ("erase", None, None)
    assert (twin["action"], twin["near"], twin["jaccard"]) == ("proposed", own["id"], round(51 / 61, 3))
    assert CANARY not in officer.get(f"{REQUESTS}/{receipt['id']}/records").text

    bound = decide(officer, receipt, "adopt", twin["id"])
    assert (bound["state"], bound["records_matched"]) == ("awaiting_approval", 2)
    assert bound["record_set_hash"] != receipt["record_set_hash"]
    found = shown(officer, bound)
    assert (found["records_near"], found["proposals_open"], found["approvals_needed"]) == (1, 0, 2)
    assert [row["action"] for row in rows(officer, bound)] == ["erase", "erase"]
    assert approve(officer, bound)["state"] == "awaiting_approval"
    assert approve(callers("second", "privacy_officer"), bound)["state"] == "scheduled"
    assert kinds(officer, receipt)[2:8] == [
        "request.located", "request.compared", "request.located", "request.attention",
        "request.proposals", "request.located",
    ]  # fmt: skip
    with transaction() as session:
        said = b"".join(bytes(body) for body in session.scalars(select(AuditEvent.body)))
    assert CANARY.encode() not in said


def test_what_is_declined_is_never_proposed_again(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None]
) -> None:
    registered(TWINS)
    receipt = ask(portal)
    search()
    bound = decide(officer, receipt, "decline")
    assert (bound["state"], bound["record_set_hash"]) == ("awaiting_approval", receipt["record_set_hash"])
    assert [row["action"] for row in rows(officer, bound)] == ["erase", "declined"]
    again = act(officer, receipt, "resolutions")
    assert (again["state"], shown(officer, receipt)["proposals_open"]) == ("awaiting_approval", 0)
    assert shown(officer, receipt)["approvals_needed"] == 1
    assert approve(officer, again)["state"] == "scheduled"


def test_an_adopted_one_can_be_declined_again_and_then_is_no_part_of_the_set(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None]
) -> None:
    registered(TWINS)
    receipt = ask(portal)
    search()
    adopted = decide(officer, receipt, "adopt")
    approve(officer, adopted)
    [_, twin] = rows(officer, receipt)
    back = decide(officer, receipt, "decline", twin["id"])
    assert (back["state"], back["record_set_hash"]) == ("awaiting_approval", receipt["record_set_hash"])
    found = shown(officer, receipt)
    assert (found["records_near"], found["approvals"], found["approvals_needed"]) == (0, 0, 1)


@pytest.mark.parametrize("by", ["subject", "records"])
def test_it_does_not_matter_how_the_records_were_named(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None], by: str
) -> None:
    registered(TWINS)
    body = {"subject": {"type": "email", "value": ADA}, "records": {"dataset": "people", "ids": ["ada-1"]}}
    receipt = portal.post(REQUESTS, {by: body[by]}).json()
    search()
    found = shown(officer, receipt)
    assert found["proposals_open"] == 1
    assert found["indexes"] == {
        "subjects" if by == "subject" else "records": "searched",
        "near_duplicates": "searched",
        "texts": "off",
    }


def test_where_nothing_is_near_nobody_waits_for_a_worker(
    portal: Caller, officer: Caller, registered: Register, transaction: Transaction
) -> None:
    registered(TWINS)
    receipt = ask(portal, EVE)
    assert receipt["state"] == "awaiting_approval"
    assert shown(officer, receipt)["indexes"]["near_duplicates"] == "searched"
    with transaction() as session:
        assert session.scalars(select(RequestSearch)).all() == []


def test_those_who_come_at_once_are_asked_about_at_once_and_answered_each(
    registered: Register, transaction: Transaction
) -> None:
    registered([*TWINS, line("old", BOB, changed(story(3), 9)), line("plant", BOB, changed(story(2), 9))])
    with transaction() as session:
        session.execute(update(Record).where(Record.external_id == "old").values(erased_at=func.now()))
        session.execute(update(Record).where(Record.external_id == "plant").values(role="sentinel"))
        found = session.execute(select(Record.external_id, Record.id)).all()
        of = dict(found)
        sets = [
            [of["eve-1"]],
            [],
            [of["ada-1"], of["eve-1"]],
            [of["far"]],
            [of["twin"]],
            [of["ada-1"], of["twin"]],
            [],
        ]
        together = Searches(session).indexes_of_new(sets)
        alone = [Searches(session).indexes(UUID(int=9), each) for each in sets]
        assert [each.candidates for each in together] == [False, False, True, False, True, False, False]
        assert together == alone
        assert Searches(session).indexes_of_new([[]]) == [alone[1]]


def test_a_candidate_that_is_not_near_enough_is_not_shown(
    portal: Caller,
    officer: Caller,
    registered: Register,
    search: Callable[..., None],
    transaction: Transaction,
) -> None:
    registered([line("ada-1", ADA, story(1)), line("half", BOB, [*story(1)[:48], *story(2)[:14]])])
    with transaction() as session:
        # However far apart two texts are, they may share a band.
        session.execute(
            text("UPDATE record_sketches SET bands = (SELECT bands FROM record_sketches LIMIT 1)")
        )
    receipt = ask(portal)
    assert receipt["state"] == "triage"
    search()
    found = shown(officer, receipt)
    assert (found["state"], found["proposals_open"], found["attention"]) == ("awaiting_approval", 0, None)


def test_twins_in_another_dataset_are_found_and_plants_and_the_erased_are_not(
    portal: Caller,
    officer: Caller,
    registered: Register,
    search: Callable[..., None],
    transaction: Transaction,
) -> None:
    registered([line("ada-1", ADA, story(1)), line("gone", BOB, changed(story(1), 9))])
    registered(
        [line("copy", EVE, story(1)), line("plant", BOB, changed(story(1), 20), role="sentinel")],
        name="other",
    )
    with transaction() as session:
        session.execute(
            update(Record).where(Record.external_id == "gone").values(erased_at=datetime.now(UTC))
        )
    receipt = ask(portal)
    search()
    [_, copy] = rows(officer, receipt)
    assert (copy["action"], copy["jaccard"]) == ("proposed", 1.0)


def test_what_is_near_to_an_adopted_one_is_proposed_in_turn(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None]
) -> None:
    registered([
        line("ada-1", ADA, story(1)),
        line("twin", BOB, changed(story(1), 10)),
        line("twin-of-twin", BOB, changed(story(1), 10, 30, 33)),
    ])  # fmt: skip
    receipt = ask(portal)
    search()
    [_, twin] = rows(officer, receipt)
    assert decide(officer, receipt, "adopt", twin["id"])["state"] == "triage"
    search()
    assert [row["action"] for row in rows(officer, receipt)] == ["erase", "erase", "proposed"]
    assert decide(officer, receipt, "adopt")["records_matched"] == 3
    assert shown(officer, receipt)["state"] == "awaiting_approval"


def test_more_than_one_can_look_at_come_one_batch_after_another(
    portal: Caller,
    officer: Caller,
    registered: Register,
    search: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = policy.load
    few = load("default").near_duplicates.model_copy(update={"proposals_most": 2})
    monkeypatch.setattr(policy, "load", lambda name: load(name).model_copy(update={"near_duplicates": few}))
    registered(
        [line("ada-1", ADA, story(1)), *(line(f"t-{n}", BOB, changed(story(1), n + 10)) for n in range(5))]
    )
    receipt = ask(portal)
    shown_at_once = []
    while True:
        search()
        found = shown(officer, receipt)
        if found["state"] != "triage":
            break
        shown_at_once.append(found["proposals_open"])
        decide(officer, receipt, "decline")
    assert shown_at_once == [2, 2, 1]
    assert [row["action"] for row in rows(officer, receipt)] == ["erase", *["declined"] * 5]


# Indexes that are not there


def test_nothing_is_not_said_before_the_index_is_there_and_is_said_without_being_asked_again(
    portal: Caller,
    officer: Caller,
    registered: Register,
    transaction: Transaction,
    keyring: Keyring,
    clock: StillClock,
) -> None:
    registered(TWINS, sketched=False)
    nobody, ada = ask(portal, "nobody@example.org"), ask(portal)
    found = shown(officer, nobody)
    assert (found["state"], found["attention"]) == ("triage", "index_unavailable")
    assert found["indexes"] == {"subjects": "searched", "near_duplicates": "unavailable", "texts": "off"}
    assert shown(officer, ada)["indexes"]["near_duplicates"] == "unavailable", "listed, whoever approves"
    with transaction() as session:
        assert near.to_look_at_again(session) == []
        [dataset_id] = [each.id for each in records.listing(session, after=None, limit=9)]
    sketch(transaction, keyring, clock, dataset_id)
    with transaction() as session:
        waiting = near.to_look_at_again(session)
        assert set(waiting) == {id_of(nobody), id_of(ada)}
        for each in waiting:
            near.look_again(session, each, at=clock())
    assert shown(officer, nobody)["state"] == "no_match"
    assert (shown(officer, ada)["state"], shown(officer, ada)["indexes"]["near_duplicates"]) == (
        "triage",
        "searching",
    )


def test_who_was_sought_by_contents_while_a_dataset_was_read_is_looked_for_again(
    portal: Caller, officer: Caller, registered: Register, transaction: Transaction
) -> None:
    registered(TWINS)
    with transaction() as session:
        session.execute(update(Dataset).values(state="registering"))
    receipt = portal.post(REQUESTS, {"content": {"sha256": ["0" * 64]}}).json()
    assert shown(officer, receipt)["indexes"]["contents"] == "unavailable"
    with transaction() as session:
        session.execute(update(Dataset).values(state="ready"))
        assert near.to_look_at_again(session) == [id_of(receipt)]


def test_without_the_texts_it_is_tried_ever_later_and_a_person_may_go_on_without(
    portal: Caller,
    officer: Caller,
    registered: Register,
    search: Callable[..., None],
    transaction: Transaction,
    clock: StillClock,
) -> None:
    path = registered(TWINS)
    receipt = ask(portal)
    path.rename(path.with_suffix(".away"))
    for minutes in (1, 2, 4):
        with pytest.raises(Unavailable):
            search()
        with transaction() as session:
            due = session.scalars(select(RequestSearch.next_at)).one()
        assert due - clock() == timedelta(minutes=minutes)
        clock.advance(minutes=minutes)
    found = shown(officer, receipt)
    assert (found["state"], found["attention"]) == ("triage", "index_unavailable")
    assert found["indexes"]["near_duplicates"] == "unavailable"
    assert refused(officer, receipt, "approvals", {"record_set_hash": receipt["record_set_hash"]})[0] == 409
    bound = decide(officer, receipt, "waive")
    assert bound["state"] == "awaiting_approval"
    assert shown(officer, receipt)["indexes"]["near_duplicates"] == "waived"
    assert "request.proposals" in kinds(officer, receipt)
    assert refused(officer, receipt, "resolutions", {"near_duplicates": "waive"}) == (409, "nothing-to-waive")
    with transaction() as session:
        assert near.due(session, now=clock() + timedelta(days=1)) == []


def test_a_search_goes_on_once_the_texts_are_back(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None], clock: StillClock
) -> None:
    path = registered(TWINS)
    receipt = ask(portal)
    path.rename(path.with_suffix(".away"))
    with pytest.raises(Unavailable):
        search()
    path.with_suffix(".away").rename(path)
    clock.advance(minutes=2)
    search()
    found = shown(officer, receipt)
    assert (found["attention"], found["proposals_open"]) == ("near_duplicates", 1)


# Twice, or never


def _die(url: str, request_id: UUID, key: bytes, now: datetime) -> None:
    os.environ["LETHE_FAILPOINT"] = "search.compared"
    comparing.compare(
        transactions(connect(url, statement_seconds=5)), request_id, content_key=key, clock=lambda: now
    )


def test_killed_before_it_concludes_it_is_found_again(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None],
    keyring: Keyring, clock: StillClock, database_url: str, transaction: Transaction,
) -> None:  # fmt: skip
    registered(TWINS)
    receipt = ask(portal)
    arguments = (database_url, id_of(receipt), keyring.content, clock())
    child = multiprocessing.get_context("spawn").Process(target=_die, args=arguments)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with transaction() as session:
        assert near.due(session, now=clock()) == []
    clock.advance(minutes=10)
    search()
    assert shown(officer, receipt)["proposals_open"] == 1


def test_heard_twice_it_is_concluded_once(
    portal: Caller,
    officer: Caller,
    registered: Register,
    search: Callable[..., None],
    transaction: Transaction,
    clock: StillClock,
) -> None:
    registered(TWINS)
    receipt = ask(portal)
    with transaction() as session:
        slow = near.claim(session, id_of(receipt), now=clock())
    assert slow is not None
    search(id_of(receipt))
    assert shown(officer, receipt)["proposals_open"] == 0, "it is the other one's for now"
    clock.advance(minutes=10)
    search()
    search(id_of(receipt))
    with transaction() as session:
        near.conclude(session, slow, [], more=False, at=clock())
    assert kinds(officer, receipt).count("request.compared") == 1
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(RequestProposal)) == 1


def test_a_search_for_a_set_that_is_no_more_concludes_nothing(
    portal: Caller,
    officer: Caller,
    registered: Register,
    transaction: Transaction,
    clock: StillClock,
    search: Callable[..., None],
) -> None:
    registered(TWINS)
    receipt = ask(portal)
    with transaction() as session:
        late = near.claim(session, id_of(receipt), now=clock())
    assert late is not None
    registered([line("ada-9", ADA, story(9)), line("twin-9", BOB, changed(story(9), 3))], name="later")
    act(officer, receipt, "resolutions")
    with transaction() as session:
        near.conclude(session, late, [], more=False, at=clock())
    assert shown(officer, receipt)["indexes"]["near_duplicates"] == "searching"
    search()
    assert shown(officer, receipt)["proposals_open"] == 2


def test_of_a_request_that_was_withdrawn_nothing_is_read(
    portal: Caller,
    officer: Caller,
    registered: Register,
    search: Callable[..., None],
    transaction: Transaction,
    clock: StillClock,
) -> None:
    path = registered(TWINS)
    receipt = ask(portal)
    act(officer, receipt, "withdrawal")
    path.unlink()
    search()
    with transaction() as session:
        assert near.due(session, now=clock() + timedelta(days=1)) == []


# Who decides, and on what


def test_a_machine_decides_nothing(
    portal: Caller, callers: Callers, registered: Register, search: Callable[..., None]
) -> None:
    registered(TWINS)
    receipt = ask(portal)
    search()
    machine = callers("machine", kind="machine", scopes={"requests:resolve"})
    for what in ("adopt", "decline", "waive"):
        assert refused(machine, receipt, "resolutions", {"near_duplicates": what}) == (403, "person-needed")


def test_only_what_is_proposed_can_be_decided_on(
    portal: Caller, officer: Caller, registered: Register, search: Callable[..., None]
) -> None:
    registered(TWINS)
    receipt = ask(portal, EVE)
    adopt = {"near_duplicates": "adopt"}
    assert refused(officer, receipt, "resolutions", adopt) == (409, "nothing-proposed")
    [own] = rows(officer, receipt)
    answer = officer.post(f"{REQUESTS}/{receipt['id']}/resolutions", adopt | {"records": [own["id"]]})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/records/0", "code": "unknown"}]
    wrong = {"near_duplicates": "waive", "records": [own["id"]]}
    answer = officer.post(f"{REQUESTS}/{receipt['id']}/resolutions", wrong)
    assert answer.json()["errors"] == [{"pointer": "", "code": "waive_takes_no_records"}]


def test_it_can_be_switched_off_by_policy(
    portal: Caller, officer: Caller, registered: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = policy.load
    off = load("default").near_duplicates.model_copy(update={"search": False})
    monkeypatch.setattr(policy, "load", lambda name: load(name).model_copy(update={"near_duplicates": off}))
    registered(TWINS, sketched=False)
    receipt = ask(portal)
    assert receipt["state"] == "awaiting_approval"
    assert shown(officer, receipt)["indexes"]["near_duplicates"] == "off"
    assert ask(portal, "nobody@example.org")["state"] == "no_match"
