"""Legal holds: what they keep, what they come too late for, who lifts them."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from app.erasure import service
from app.erasure.holds import service as holds
from app.http import ids
from app.jobs.repository import Jobs
from app.storage.database import Transaction
from tests.app.erasure.asking import act, approve, ask, id_of, kinds, refused, shown
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA, BOB, World

HOLDS = "/v1/holds"


@pytest.fixture
def colleague(callers: Callers) -> Caller:
    return callers("colleague", "privacy_officer")


def place(caller: Caller, **on: Any) -> dict[str, Any]:
    answer = caller.post(HOLDS, {"reason": "litigation", **on})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def lift(caller: Caller, hold: dict[str, Any]) -> dict[str, Any]:
    answer = caller.delete(f"{HOLDS}/{hold['id']}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def subject(kind: str, receipt: dict[str, Any], model: UUID) -> dict[str, Any]:
    return {
        "request": {"request": receipt["id"]},
        "record": {"record": {"dataset": "people", "id": "ada-2"}},
        "model": {"model": ids.encode("mdl", model)},
    }[kind]


@pytest.mark.parametrize("approved", [False, True])
@pytest.mark.parametrize("kind", ["request", "record", "model"])
def test_a_hold_sends_back_what_nothing_has_begun_for_and_the_clock_runs(
    portal: Caller,
    officer: Caller,
    colleague: Caller,
    model: UUID,
    transaction: Transaction,
    kind: str,
    *,
    approved: bool,
) -> None:
    receipt = ask(portal)
    if approved:
        approve(officer, receipt)
    hold = place(officer, **subject(kind, receipt, model))
    found = shown(officer, receipt)
    assert (found["state"], found["legal_hold"], found["approvals"]) == ("triage", True, 0)
    assert (found["due_on"], found["targets"]) == ("2026-12-21", [])
    with transaction() as session:
        assert Jobs(session).free_targets(model, limit=9) == []
    body = {"record_set_hash": receipt["record_set_hash"]}
    assert refused(officer, receipt, "approvals", body) == (409, "on-hold")
    assert act(officer, receipt, "resolutions")["state"] == "triage"
    ended = lift(colleague, hold)
    assert (ended["lifted_by"], ended["ended_at"] is None) == (_principal(colleague), False)
    found = shown(officer, receipt)
    assert (found["state"], found["legal_hold"]) == ("awaiting_approval", False)
    assert approve(officer, found)["state"] == "scheduled"
    assert {"request.held", "request.freed"} <= set(kinds(officer, receipt))


def test_what_comes_in_under_a_hold_waits_in_triage(
    portal: Caller, officer: Caller, colleague: Caller, model: UUID
) -> None:
    hold = place(officer, record={"dataset": "people", "id": "ada-1"})
    held, free = ask(portal, ADA), ask(portal, BOB)
    assert (held["state"], free["state"]) == ("triage", "awaiting_approval")
    assert [each["id"] for each in _listed(officer, on_hold=True)] == [held["id"]]
    lift(colleague, hold)
    assert shown(officer, held)["state"] == "awaiting_approval"


def test_what_concerns_another_model_goes_on(
    portal: Caller, officer: Caller, world: World, people: UUID, model: UUID
) -> None:
    world.model("other", world.dataset("else", {BOB: ["x"]}))
    receipt = ask(portal, ADA)
    place(officer, model=ids.encode("mdl", world.model("third", world.dataset("more", {BOB: ["y"]}))))
    assert shown(officer, receipt)["state"] == "awaiting_approval"


def test_two_holds_are_lifted_one_by_one(
    portal: Caller, officer: Caller, colleague: Caller, model: UUID
) -> None:
    receipt = ask(portal)
    first, second = (place(officer, request=receipt["id"]) for _ in range(2))
    lift(colleague, first)
    assert (shown(officer, receipt)["state"], shown(officer, receipt)["legal_hold"]) == ("triage", True)
    lift(colleague, second)
    assert shown(officer, receipt)["state"] == "awaiting_approval"


def test_a_job_that_has_begun_is_not_stopped_and_what_comes_back_stays_out(
    portal: Caller,
    officer: Caller,
    colleague: Caller,
    world: World,
    people: UUID,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    waiting = world.model("second", people)
    receipt = approve(officer, ask(portal))
    with transaction() as session:
        assert service.start(session, id_of(receipt), model, at=clock())
    hold = place(officer, request=receipt["id"])
    found = shown(officer, receipt)
    assert (found["state"], found["attention"], found["legal_hold"]) == (
        "scheduled",
        "hold_while_executing",
        True,
    )
    kept = {each["model"]: each["on_hold"] for each in found["targets"]}
    assert kept == {ids.encode("mdl", model): False, ids.encode("mdl", waiting): True}
    with transaction() as session:
        assert Jobs(session).free_targets(waiting, limit=9) == []
        assert not service.start(session, id_of(receipt), waiting, at=clock())
        service.return_to_schedule(
            session, id_of(receipt), model, attention="job_failed", engine_floor=None, at=clock()
        )
        assert Jobs(session).free_targets(model, limit=9) == []
        assert list(Jobs(session).idle_models_with_work()) == []
    lift(colleague, hold)
    with transaction() as session:
        assert len(Jobs(session).free_targets(model, limit=9)) == 1
        assert service.start(session, id_of(receipt), waiting, at=clock())


def test_a_hold_on_one_model_keeps_that_models_part_alone(
    portal: Caller,
    officer: Caller,
    world: World,
    people: UUID,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    other = world.model("second", people)
    receipt = approve(officer, ask(portal))
    with transaction() as session:
        assert service.start(session, id_of(receipt), model, at=clock())
    place(officer, model=ids.encode("mdl", other))
    found = shown(officer, receipt)
    assert (found["attention"], [each["on_hold"] for each in found["targets"]].count(True)) == (None, 1)


def test_a_hold_is_lifted_by_another_person_than_who_placed_it(
    portal: Caller, officer: Caller, colleague: Caller, callers: Callers, model: UUID
) -> None:
    receipt = ask(portal)
    hold = place(officer, request=receipt["id"])
    robot = callers("robot", "privacy_officer", kind="machine")
    for caller, code in ((officer, "four-eyes"), (robot, "person-needed"), (portal, "scope-missing")):
        answer = caller.delete(f"{HOLDS}/{hold['id']}")
        assert (answer.status_code, answer.json()["code"]) == (403, code)
    lift(colleague, hold)
    again = colleague.delete(f"{HOLDS}/{hold['id']}")
    assert (again.status_code, again.json()["code"]) == (409, "hold-ended")


def test_the_database_itself_refuses_who_lifts_their_own(
    officer: Caller, model: UUID, migrated_database: psycopg.Connection
) -> None:
    place(officer, model=ids.encode("mdl", model))
    with pytest.raises(psycopg.errors.CheckViolation, match="second_person"):
        migrated_database.execute("UPDATE holds SET lifted_by = placed_by, ended_at = now()")


def test_a_hold_ends_by_itself(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = ask(portal)
    hold = place(officer, request=receipt["id"], days=30)
    assert [each["id"] for each in officer.get(HOLDS, active=True).json()["items"]] == [hold["id"]]
    clock.advance(days=29)
    with transaction() as session:
        assert holds.expired(session, now=clock()) == []
    clock.advance(days=1)
    with transaction() as session:
        [over] = holds.expired(session, now=clock())
        assert holds.expire(session, over, now=clock())
        assert not holds.expire(session, over, now=clock())
    assert shown(officer, receipt)["state"] == "awaiting_approval"
    [ended] = officer.get(HOLDS, active=False).json()["items"]
    assert (ended["lifted_by"], ended["id"]) == (None, hold["id"])
    events = officer.get("/v1/audit-events", limit=200).json()
    [how] = [each["body"]["how"] for each in events if each["kind"] == "hold.ended"]
    assert how == "expired"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "", "one_subject"),
        ({"days": 181}, "/days", "less_than_equal"),
        ({"reason": "because"}, "/reason", "enum"),
        ({"record": {"dataset": "people", "id": "carol"}}, "/record/id", "unknown"),
        ({"record": {"dataset": "nowhere", "id": "x"}}, "/record/dataset", "unknown"),
    ],
)
def test_what_is_no_hold(officer: Caller, model: UUID, body: dict[str, Any], pointer: str, code: str) -> None:
    answer = officer.post(HOLDS, {"reason": "litigation"} | body)
    assert answer.status_code == 422
    assert {"pointer": pointer, "code": code} in answer.json()["errors"]


def test_holds_are_walked_by_cursor(portal: Caller, officer: Caller, model: UUID) -> None:
    receipt = ask(portal)
    made = [place(officer, request=receipt["id"])["id"] for _ in range(3)]
    page = officer.get(HOLDS, limit=2).json()
    rest = officer.get(HOLDS, limit=2, cursor=page["next"]).json()
    assert [each["id"] for each in page["items"] + rest["items"]] == made[::-1]
    assert rest["next"] is None


def _listed(caller: Caller, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = caller.get("/v1/erasure-requests", **params).json()["items"]
    return found


def _principal(caller: Caller) -> str:
    return ids.encode("pr", caller.principal_id)
