"""Records that are kept on a ground: proposed by one, approved by others, told to the person."""

from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import select

from app.erasure import service
from app.http import ids
from app.records import content
from app.storage.database import Transaction
from app.tables import Record
from tests.app.erasure.asking import NOTICE, REQUESTS, act, approve, ask, id_of, kinds, refused, shown
from tests.app.erasure.test_requests import _through
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA

HELD = {"ground": "17.3.b"}


@pytest.fixture
def colleague(callers: Callers) -> Caller:
    return callers("colleague", "privacy_officer")


@pytest.fixture
def third(callers: Callers) -> Caller:
    return callers("third", "privacy_officer")


def records(caller: Caller, receipt: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get(f"{REQUESTS}/{receipt['id']}/records").json()
    return found


def test_one_record_is_kept_and_the_others_are_erased(
    portal: Caller,
    officer: Caller,
    colleague: Caller,
    people: UUID,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    receipt = ask(portal)
    kept, gone = (each["id"] for each in records(officer, receipt))
    proposed = act(officer, receipt, "exemptions", HELD | {"records": [kept]})
    assert proposed["state"] == "awaiting_approval"
    assert proposed["record_set_hash"] != receipt["record_set_hash"]
    dataset = ids.encode("ds", people)
    expected = content.record_set_hash(
        [ids.encode("mdl", model)], [(dataset, kept, "exempt:17.3.b"), (dataset, gone, "erase")]
    )
    assert proposed["record_set_hash"] == expected.hex(), "what is kept is part of what is approved"
    body = {"record_set_hash": proposed["record_set_hash"]}
    assert refused(officer, proposed, "approvals", body) == (403, "four-eyes")
    assert refused(colleague, proposed, "approvals", body) == (409, "notice-missing")
    assert approve(colleague, proposed, notice=NOTICE)["state"] == "scheduled"
    with transaction() as session:
        assert service.record_ids(session, id_of(receipt), people) == [int(gone.removeprefix("rec_"))]
    _through(transaction, id_of(receipt), model, clock)
    found = shown(officer, receipt)
    assert (found["state"], found["outcome"], found["records_exempt"]) == ("completed", "partial", 1)
    assert found["notified_on"] == NOTICE["sent_on"]
    told = {each["id"]: (each["action"], each["erased_at"] is None) for each in records(officer, receipt)}
    assert told == {kept: ("exempt", True), gone: ("erase", False)}
    assert "request.refusal_notified" in kinds(officer, receipt)


def test_all_of_them_kept_is_a_refusal(
    portal: Caller, officer: Caller, colleague: Caller, model: UUID, transaction: Transaction
) -> None:
    receipt = act(officer, ask(portal), "exemptions", HELD)
    assert approve(colleague, receipt, notice=NOTICE)["state"] == "rejected"
    found = shown(officer, receipt)
    assert (found["ground"], found["targets"], found["outcome"]) == ("17.3.b", [], None)
    with transaction() as session:
        assert session.scalars(select(Record).where(Record.erased_at.is_not(None))).all() == []


def test_a_contested_ground_needs_two_people_of_whom_one_is_a_privacy_officer(
    portal: Caller, officer: Caller, callers: Callers, colleague: Caller, model: UUID
) -> None:
    receipt = act(officer, ask(portal), "exemptions", {"ground": "17.3.e"})
    assert shown(officer, receipt)["approvals_needed"] == 2
    scopes = ["requests:read", "requests:review"]
    for name in ("first-reviewer", "second-reviewer"):
        assert approve(callers(name, scopes=scopes), receipt)["state"] == "awaiting_approval"
    assert shown(officer, receipt)["approvals"] == 2
    assert approve(colleague, receipt, notice=NOTICE)["state"] == "rejected"
    levels = [
        each["body"]["level"]
        for each in officer.get(f"{REQUESTS}/{receipt['id']}/events").json()
        if each["kind"] == "request.approved"
    ]
    assert levels == ["reviewer", "reviewer", "privacy_officer"]


def test_an_exemption_is_taken_back(portal: Caller, officer: Caller, colleague: Caller, model: UUID) -> None:
    receipt = ask(portal)
    act(officer, receipt, "exemptions", HELD)
    back = act(officer, receipt, "exemptions", {"ground": None})
    assert back["record_set_hash"] == receipt["record_set_hash"]
    assert shown(officer, receipt)["records_exempt"] == 0
    assert approve(colleague, back)["state"] == "scheduled"


def test_a_change_of_what_is_kept_voids_what_was_approved(
    portal: Caller, officer: Caller, colleague: Caller, third: Caller, model: UUID
) -> None:
    receipt = act(officer, ask(portal), "exemptions", {"ground": "17.3.e"})
    approve(colleague, receipt)
    again = act(third, receipt, "exemptions", HELD)
    assert shown(officer, again)["approvals"] == 0
    body = {"record_set_hash": receipt["record_set_hash"], "notice": NOTICE}
    assert refused(colleague, receipt, "approvals", body) == (409, "record-set-stale")


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"ground": "12.5"}, "/ground", "enum"),
        ({"records": ["rec_1"]}, "/ground", "missing"),
        (HELD | {"records": []}, "/records", "too_short"),
        (HELD | {"records": ["ada@example.org"]}, "/records/0", "string_pattern_mismatch"),
        (HELD | {"records": ["rec_999999"]}, "/records/0", "unknown"),
    ],
)
def test_what_is_no_exemption(
    portal: Caller, officer: Caller, model: UUID, body: dict[str, Any], pointer: str, code: str
) -> None:
    answer = officer.post(f"{REQUESTS}/{ask(portal)['id']}/exemptions", body)
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"pointer": pointer, "code": code}])
    assert "ada@" not in answer.text


@pytest.mark.parametrize(
    ("notice", "code"),
    [
        ({"sent_on": "2026-11-20", "complaint": True, "court": True}, "date-out-of-range"),
        ({"sent_on": "2026-11-22", "complaint": True, "court": True}, "date-out-of-range"),
        ({"sent_on": "2026-11-21", "complaint": False, "court": True}, "literal_error"),
        ({"sent_on": "2026-11-21", "complaint": True}, "missing"),
    ],
)
def test_a_refusal_is_told_with_where_to_complain_and_to_sue(
    portal: Caller, officer: Caller, model: UUID, notice: dict[str, Any], code: str
) -> None:
    body = {"ground": "12.5", "notice": notice}
    answer = officer.post(f"{REQUESTS}/{ask(portal)['id']}/rejection", body)
    assert (answer.status_code, [each["code"] for each in answer.json()["errors"]]) == (422, [code])


def test_the_database_itself_refuses_a_rejection_by_who_submitted(
    portal: Caller, officer: Caller, model: UUID, migrated_database: psycopg.Connection
) -> None:
    act(officer, ask(portal), "rejection", {"ground": "12.5", "notice": NOTICE})
    with pytest.raises(psycopg.errors.CheckViolation, match="second_person"):
        migrated_database.execute("UPDATE erasure_requests SET decided_by = submitted_by")


def test_a_new_model_may_learn_what_is_kept(
    portal: Caller, officer: Caller, colleague: Caller, people: UUID, model: UUID, transaction: Transaction
) -> None:
    receipt = ask(portal, ADA)
    kept = records(officer, receipt)[0]["id"]
    approve(colleague, act(officer, receipt, "exemptions", HELD | {"records": [kept]}), notice=NOTICE)
    with transaction() as session:
        from app.registry.repository import Models  # noqa: PLC0415  only here
        from app.tables import Model, RecordExclusion  # noqa: PLC0415  only here

        Models(session).withhold(session.get_one(Model, model))
        withheld = set(session.scalars(select(RecordExclusion.record_id)))
    assert int(kept.removeprefix("rec_")) not in withheld
    assert len(withheld) == 1
