"""The text scan: people found in other people's records by a worker who reads, decided by a person."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
import structlog
from sqlalchemy import func, select, text, update

from app.erasure import calendars, policy
from app.erasure import service as erasure
from app.erasure.forgetting import purge
from app.erasure.matching import Identifier
from app.erasure.scan import passing
from app.erasure.scan import service as scan
from app.errors import Unavailable
from app.http import ids
from app.queue import Stage
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from app.tables import AuditEvent, Outbox, Record, RequestProposal, RequestScan
from tests.app.erasure.asking import REQUESTS, act, approve, ask, id_of, kinds, refused, shown
from tests.app.erasure.registering import Register
from tests.app.erasure.scan.scanning import (
    CANARY,
    LINES,
    Read,
    both,
    decide,
    index,
    line,
    proposed,
    rows,
)
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA, BOB, EVE


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
