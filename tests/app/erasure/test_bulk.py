"""Many requests at once: as many as were expected or none, and all of them to take along."""

import csv
import io
import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from app.audit import service as audit
from app.erasure.endpoints import exports
from app.http.cells import FORMULA
from app.storage.database import Transaction
from app.tables import ErasureRequest, Outbox
from tests.app.erasure.asking import ask, kinds, shown
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA, BOB

BULK, EXPORTS = "/v1/bulk-actions", "/v1/exports"


def codes(answer: Any) -> list[str | None]:
    assert answer.status_code == 200, answer.text
    return [each["code"] for each in answer.json()["outcomes"]]


def test_each_request_has_its_own_outcome(
    portal: Caller, officer: Caller, transaction: Transaction, model: UUID
) -> None:
    ada, bob = ask(portal, ADA), ask(portal, BOB)
    mine = ask(officer, ADA)
    body = {
        "action": "approve",
        "approvals": [
            {"request": ada["id"], "record_set_hash": ada["record_set_hash"]},
            {"request": bob["id"], "record_set_hash": ada["record_set_hash"]},
            {"request": mine["id"], "record_set_hash": mine["record_set_hash"]},
        ],
        "expected_count": 3,
    }
    assert codes(officer.post(BULK, body | {"dry_run": True})) == [None, "record-set-stale", "four-eyes"]
    assert [shown(officer, each)["state"] for each in (ada, bob, mine)] == ["awaiting_approval"] * 3
    with transaction() as session:
        assert session.query(Outbox).count() == 0, "a trial rings for nobody"
    answer = officer.post(BULK, body)
    assert codes(answer) == [None, "record-set-stale", "four-eyes"]
    assert (answer.json()["matched"], answer.json()["done"], answer.json()["refused"]) == (3, 1, 2)
    assert shown(officer, ada)["state"] == "scheduled"
    assert shown(officer, ada)["version"] == answer.json()["outcomes"][0]["version"]
    assert kinds(officer, ada).count("request.approved") == 1
    with transaction() as session:
        [told] = [each.body for each in audit.since(session, 0) if each.kind == "requests.bulk_action"]
        assert (told["action"], told["matched"], told["done"], told["refused"]) == ("approve", 3, 1, 2)
        assert audit.verify(session).broken_at is None


def test_another_number_than_expected_does_nothing(portal: Caller, officer: Caller, model: UUID) -> None:
    first, second = ask(portal, ADA), ask(portal, BOB)
    body = {"action": "withdraw", "filter": {"state": ["awaiting_approval"]}, "expected_count": 1}
    refused = officer.post(BULK, body)
    assert (refused.status_code, refused.json()["code"]) == (409, "count-mismatch")
    assert refused.headers["content-type"] == "application/problem+json"
    assert shown(officer, first)["state"] == "awaiting_approval"
    assert codes(officer.post(BULK, body | {"exclude_ids": [second["id"]]})) == [None]
    assert [shown(officer, each)["state"] for each in (first, second)] == ["withdrawn", "awaiting_approval"]
    assert codes(officer.post(BULK, {"action": "resolve", "ids": [first["id"], second["id"]],
                                     "expected_count": 2})) == ["not-possible-now", None]  # fmt: skip


def test_who_may_and_what_is_no_choice(
    portal: Caller, officer: Caller, callers: Callers, model: UUID
) -> None:
    ada = ask(portal, ADA)
    viewer = callers("viewer", "viewer")
    body = {"action": "withdraw", "ids": [ada["id"]], "expected_count": 1}
    assert viewer.post(BULK, body).status_code == 403
    approval = [{"request": ada["id"], "record_set_hash": ada["record_set_hash"]}]
    approving = {"action": "approve", "approvals": approval, "expected_count": 1}
    assert portal.post(BULK, approving).status_code == 403
    for wrong in (
        {"action": "approve", "ids": [ada["id"]], "expected_count": 1},
        {"action": "approve", "filter": {}, "expected_count": 1},
        {"action": "withdraw", "approvals": approval, "expected_count": 1},
        {"action": "withdraw", "ids": [ada["id"]], "filter": {}, "expected_count": 1},
        {"action": "withdraw", "expected_count": 1},
        {"action": "erase", "ids": [ada["id"]], "expected_count": 1},
        {"action": "withdraw", "ids": [ada["id"]]},
    ):
        assert officer.post(BULK, wrong).status_code == 422, wrong
    first = officer.post(BULK, body, key="once")
    again = officer.post(BULK, body, key="once")
    assert (first.json(), again.headers["idempotency-replayed"]) == (again.json(), "true")


def test_everything_is_taken_along_page_by_page(
    portal: Caller, officer: Caller, monkeypatch: pytest.MonkeyPatch, transaction: Transaction
) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 2)
    sent = [ask(portal, f"p{number}@example.org", external_ref=f"T-{number}")["id"] for number in range(5)]
    for sort in ("-created_at", "due_at"):
        answer = officer.get(EXPORTS, sort=sort)
        assert answer.headers["content-type"] == "application/x-ndjson"
        rows = [json.loads(line) for line in answer.text.splitlines()]
        assert sorted(row["id"] for row in rows) == sorted(sent)
    assert rows[0] == shown(officer, rows[0])
    table = list(csv.DictReader(io.StringIO(officer.get(EXPORTS, format="csv", state="no_match").text)))
    assert sorted(row["external_ref"] for row in table) == [f"T-{number}" for number in range(5)]
    assert officer.get(EXPORTS, format="csv", overdue=True).text.count("\r\n") == 1
    with transaction() as session:
        forms = [each.body["form"] for each in audit.since(session, 0) if each.kind == "requests.exported"]
    assert forms == ["ndjson", "ndjson", "csv", "csv"]


def test_a_reference_is_no_formula(portal: Caller, officer: Caller) -> None:
    reference = "-1-cmd"
    ask(portal, ADA, external_ref=reference)
    text = officer.get(EXPORTS, format="csv").text
    [row] = csv.DictReader(io.StringIO(text))
    assert row["external_ref"] == f"'{reference}"
    assert not any(str(cell).startswith(FORMULA) for cell in row.values())
    assert all(cell.startswith('"') and cell.endswith('"') for cell in text.splitlines()[1].split(","))


def test_the_due_day_is_the_stored_one_also_on_the_day_itself(
    portal: Caller, officer: Caller, clock: StillClock, model: UUID, transaction: Transaction
) -> None:
    due = ask(portal, ADA)["due_on"]
    clock.advance(days=30)
    for days in range(3):
        [row] = csv.DictReader(io.StringIO(officer.get(EXPORTS, format="csv").text))
        assert row["due_on"] == due
        assert row["overdue"] == ("true" if days > 0 else "false")
        clock.advance(days=1)
    with transaction() as session:
        session.execute(update(ErasureRequest).values(due_on="2027-01-01"))
    [row] = csv.DictReader(io.StringIO(officer.get(EXPORTS, format="csv").text))
    assert row["due_on"] == "2027-01-01"
