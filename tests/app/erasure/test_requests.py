"""Requests over HTTP, on a real Postgres: from the first call to the last transition that a job makes."""

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text, update

from app.audit import service as audit
from app.erasure import service
from app.erasure.lifecycle import NotPossible, State
from app.erasure.repository import ErasureRequests
from app.errors import Conflict
from app.http import ids
from app.jobs.repository import Jobs
from app.records import service as records
from app.registry import service as registry
from app.storage.database import DatabaseError, Transaction
from app.tables import (
    Approval,
    ErasureRequest,
    ModelVersion,
    Outbox,
    Record,
    RequestRecord,
    RequestTarget,
)
from tests.app.erasure.asking import NOTICE, REQUESTS, approve, ask, id_of
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import ADA, BOB, EVE, World


@pytest.fixture
def scheduled(portal: Caller, officer: Caller, model: UUID) -> UUID:
    """Return a request for Ada that waits for a job."""
    return id_of(approve(officer, ask(portal)))


# Intake


def test_a_request_by_subject_finds_every_record_and_tells_nothing_of_the_person(
    portal: Caller, model: UUID
) -> None:
    answer = portal.post(REQUESTS, {"subject": {"type": "email", "value": " Ada@Example.ORG "}})
    receipt = answer.json()
    assert receipt["state"] == "awaiting_approval"
    assert receipt["records_matched"] == 2
    assert receipt["due_on"] == "2026-12-21"
    assert answer.headers["location"] == receipt["links"]["self"] == f"{REQUESTS}/{receipt['id']}"
    assert "ada@" not in answer.text.lower()


def test_several_identifiers_are_one_person(portal: Caller, model: UUID) -> None:
    answer = portal.post(
        REQUESTS, {"subject": [{"type": "email", "value": ADA}, {"type": "email", "value": BOB}]}
    )
    assert answer.json()["records_matched"] == 3


@pytest.mark.parametrize("by_id", [False, True])
def test_a_request_by_record_ids(portal: Caller, people: UUID, model: UUID, *, by_id: bool) -> None:
    dataset = ids.encode("ds", people) if by_id else "people"
    answer = portal.post(REQUESTS, {"records": {"dataset": dataset, "ids": ["ada-2", "bob-1"]}})
    assert (answer.status_code, answer.json()["records_matched"]) == (201, 2)


def test_a_request_by_what_records_say(
    portal: Caller, officer: Caller, world: World, people: UUID, model: UUID
) -> None:
    """Whoever they are said to be about: the copy in another dataset is the same content."""
    world.dataset("copies", {"somebody@example.org": ["ada-2", "elsewhere"]})
    digests = [hashlib.sha256(each).hexdigest() for each in (b"ada-2", b"bob-1", b"nobody said this")]
    answer = portal.post(REQUESTS, {"content": {"sha256": [*digests, digests[0]]}})
    assert (answer.status_code, answer.json()["records_matched"]) == (201, 3)
    found = officer.get(f"{REQUESTS}/{answer.json()['id']}/records").json()
    assert len({each["dataset"] for each in found}) == 2
    assert all(digest not in answer.text for digest in digests)
    world.dataset("later", {"else@example.org": ["bob-1"]})
    again = officer.post(f"{REQUESTS}/{answer.json()['id']}/resolutions")
    assert again.json()["records_matched"] == 4
    nothing = portal.post(REQUESTS, {"content": {"sha256": [digests[2]]}})
    assert nothing.json()["state"] == "no_match"


def test_a_person_of_whom_we_have_nothing(portal: Caller, model: UUID) -> None:
    assert ask(portal, "nobody@example.org")["state"] == "no_match"


def test_nothing_is_never_said_about_a_place_where_we_could_not_look(
    portal: Caller, officer: Caller, world: World, transaction: Transaction
) -> None:
    late = world.dataset("late", {}, state="registering")
    receipt = ask(portal)
    assert receipt["state"] == "triage"
    assert officer.get(f"{REQUESTS}/{receipt['id']}").json()["attention"] == "index_unavailable"
    with transaction() as session:
        session.execute(
            text("UPDATE datasets SET state = 'ready', sketch = 'made' WHERE id = :id"), {"id": late}
        )
    resolved = officer.post(f"{REQUESTS}/{receipt['id']}/resolutions")
    assert resolved.json()["state"] == "no_match"


def test_unknown_records_are_told_by_their_place(portal: Caller, model: UUID) -> None:
    answer = portal.post(
        REQUESTS, {"records": {"dataset": "people", "ids": ["ada-1", "carol@example.org", "bob-1"]}}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/records/ids/1", "code": "unknown"}]
    assert "carol" not in answer.text


def test_an_unknown_dataset(portal: Caller) -> None:
    answer = portal.post(REQUESTS, {"records": {"dataset": "nowhere", "ids": ["1"]}})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/records/dataset", "code": "unknown"}]


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, [("", "subject_or_records")]),
        (
            {"subject": {"type": "email", "value": "x"}, "records": {"dataset": "d", "ids": ["1"]}},
            [("", "subject_or_records")],
        ),
        (
            {"subject": {"type": "email", "value": "x"}, "content": {"sha256": ["ab" * 32]}},
            [("", "subject_or_records")],
        ),
        ({"content": {"sha256": []}}, [("/content/sha256", "too_short")]),
        ({"content": {"sha256": ["AB" * 32]}}, [("/content/sha256/0", "string_pattern_mismatch")]),
        ({"subject": {"type": "email"}}, [("/subject/0/value", "missing")]),
        ({"subject": {"type": "email", "value": "no address"}}, [("/subject/0/value", "email-form")]),
        ({"subject": {"type": "E Mail", "value": "x"}}, [("/subject/0/type", "string_pattern_mismatch")]),
        ({"subject": []}, [("/subject", "too_short")]),
        ({"records": {"dataset": "people", "ids": []}}, [("/records/ids", "too_short")]),
        (
            {"records": {"dataset": "people", "ids": ["a\x00b"]}},
            [("/records/ids/0", "string_pattern_mismatch")],
        ),
        ({"subject": {"type": "email", "value": "a@b.c"}, "ada@example.org": 1}, [("/*", "extra_forbidden")]),
        (
            {"subject": {"type": "email", "value": "a@b.c"}, "external_ref": "ada@example.org"},
            [("/external_ref", "string_pattern_mismatch")],
        ),
    ],
)
def test_what_cannot_be_accepted_is_pointed_at(
    portal: Caller, body: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    answer = portal.post(REQUESTS, body)
    assert answer.status_code == 422
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == errors
    assert "ada@" not in answer.text


def test_a_reference_of_the_callers_own_is_used_once(portal: Caller, officer: Caller, model: UUID) -> None:
    ask(portal, external_ref="T-1")
    again = portal.post(REQUESTS, {"subject": {"type": "email", "value": BOB}, "external_ref": "T-1"})
    assert (again.status_code, again.json()["code"]) == (409, "external-ref-used")
    ask(officer, external_ref="T-1")


def test_what_is_stored_of_a_person_is_a_keyed_hash(
    portal: Caller, transaction: Transaction, world: World, model: UUID
) -> None:
    ask(portal)
    with transaction() as session:
        row = session.execute(text("SELECT erasure_requests::text FROM erasure_requests")).scalar_one()
        events = [bytes(body) for body in session.scalars(text("SELECT body FROM audit_events"))]
    assert "example" not in row
    assert not any(b"example" in body for body in events)


# Reading


def test_a_request_is_read_and_its_events_are_in_order(portal: Caller, model: UUID) -> None:
    receipt = ask(portal, external_ref="T-9")
    found = portal.get(f"{REQUESTS}/{receipt['id']}").json()
    assert found["external_ref"] == "T-9"
    assert found["calendar"].startswith("eu-1182-71/1 target/holidays-")
    events = portal.get(f"{REQUESTS}/{receipt['id']}/events").json()
    assert [event["kind"] for event in events] == [
        "request.received",
        "request.moved",
        "request.located",
        "request.moved",
    ]
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert portal.get(f"{REQUESTS}/{receipt['id']}/events", after=events[1]["seq"]).json() == events[2:]


def test_a_list_is_walked_by_cursor_and_filtered(portal: Caller, model: UUID) -> None:
    made = [ask(portal, email)["id"] for email in (ADA, BOB, "nobody@example.org", ADA, BOB)]
    seen, cursor = [], None
    while True:
        page = portal.get(REQUESTS, limit=2, **({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == made[::-1]
    assert [item["id"] for item in portal.get(REQUESTS, state="no_match").json()["items"]] == [made[2]]
    assert portal.get(REQUESTS, attention=True).json()["items"] == []


def test_a_cursor_belongs_to_its_list(portal: Caller, model: UUID) -> None:
    for _ in range(2):
        ask(portal)
    cursor = portal.get(REQUESTS, limit=1).json()["next"]
    for params in ({"state": "no_match", "cursor": cursor}, {"cursor": cursor[:-1] + "!"}, {"cursor": "x"}):
        answer = portal.get(REQUESTS, **params)
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"pointer": "query:cursor", "code": "cursor-invalid"}]


@pytest.mark.parametrize("path", ["", "/events"])
@pytest.mark.parametrize("id_", ["er_00000000000000000000000000", "ada@example.org", "er_x"])
def test_an_unknown_request(officer: Caller, path: str, id_: str) -> None:
    answer = officer.get(f"{REQUESTS}/{id_}{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert "ada@" not in answer.text


# Approval


def test_an_approval_makes_a_target_per_model_and_rings_for_each(
    portal: Caller, officer: Caller, world: World, people: UUID, model: UUID, transaction: Transaction
) -> None:
    other = world.model("second", people)
    world.model("unrelated", world.dataset("else", {BOB: ["x"]}))
    receipt = approve(officer, ask(portal))
    assert receipt["state"] == "scheduled"
    shown = officer.get(f"{REQUESTS}/{receipt['id']}").json()
    assert {target["model"] for target in shown["targets"]} == {ids.encode("mdl", m) for m in (model, other)}
    assert {target["stage"] for target in shown["targets"]} == {"scheduled"}
    assert shown["approvals"] == 1
    with transaction() as session:
        assert set(session.execute(select(Outbox.stage, Outbox.target_id))) == {
            ("plan", model),
            ("plan", other),
        }


def test_nobody_approves_their_own_request(officer: Caller, model: UUID) -> None:
    receipt = ask(officer)
    answer = officer.post(
        f"{REQUESTS}/{receipt['id']}/approvals", {"record_set_hash": receipt["record_set_hash"]}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "four-eyes")


def test_a_machine_does_not_approve(portal: Caller, callers: Callers, model: UUID) -> None:
    robot = callers("robot", "privacy_officer", kind="machine")
    receipt = ask(portal)
    for path, body in (
        ("approvals", {"record_set_hash": receipt["record_set_hash"]}),
        ("rejection", {"ground": "12.5", "notice": NOTICE}),
    ):
        answer = robot.post(f"{REQUESTS}/{receipt['id']}/{path}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "person-needed")


def test_a_stale_hash_is_refused(portal: Caller, officer: Caller, model: UUID) -> None:
    receipt = ask(portal)
    answer = officer.post(f"{REQUESTS}/{receipt['id']}/approvals", {"record_set_hash": "00" * 32})
    assert (answer.status_code, answer.json()["code"]) == (409, "record-set-stale")


def test_a_set_that_grew_must_be_resolved_before_it_is_approved(
    portal: Caller, officer: Caller, world: World, model: UUID
) -> None:
    receipt = ask(portal)
    world.dataset("more", {ADA: ["more-1"]})
    path = f"{REQUESTS}/{receipt['id']}"
    refused = officer.post(f"{path}/approvals", {"record_set_hash": receipt["record_set_hash"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "record-set-changed")
    resolved = officer.post(f"{path}/resolutions").json()
    assert resolved["records_matched"] == 3
    assert resolved["record_set_hash"] != receipt["record_set_hash"]
    assert approve(officer, resolved)["state"] == "scheduled"


def test_a_large_set_waits_for_a_second_approval(
    portal: Caller, officer: Caller, callers: Callers, transaction: Transaction, model: UUID
) -> None:
    receipt = ask(portal)
    with transaction() as session:
        session.execute(text("UPDATE erasure_requests SET records_matched = 1001"))
    assert approve(officer, receipt)["state"] == "awaiting_approval"
    again = officer.post(
        f"{REQUESTS}/{receipt['id']}/approvals", {"record_set_hash": receipt["record_set_hash"]}
    )
    assert (again.status_code, again.json()["code"]) == (409, "approved-already")
    assert approve(callers("colleague", "privacy_officer"), receipt)["state"] == "scheduled"


@pytest.mark.parametrize("email", [ADA, EVE])
def test_what_no_model_learned_is_completed_at_once(
    portal: Caller, officer: Caller, world: World, people: UUID, transaction: Transaction, email: str
) -> None:
    if email == EVE:
        world.model("assistant", people)
    receipt = approve(officer, ask(portal, email))
    assert receipt["state"] == "completed"
    shown = officer.get(f"{REQUESTS}/{receipt['id']}").json()
    assert (shown["outcome"], shown["targets"]) == ("not_trained", [])
    with transaction() as session:
        erased = session.scalars(select(Record.external_id).where(Record.erased_at.is_not(None))).all()
    assert sorted(erased) == (["ada-1", "ada-2"] if email == ADA else ["eve-1"])


# Withdrawal and rejection


@pytest.mark.parametrize("approved", [False, True])
def test_a_request_is_withdrawn(portal: Caller, officer: Caller, model: UUID, *, approved: bool) -> None:
    receipt = ask(portal)
    if approved:
        approve(officer, receipt)
    answer = portal.post(f"{REQUESTS}/{receipt['id']}/withdrawal")
    assert (answer.status_code, answer.json()["state"]) == (200, "withdrawn")
    assert officer.get(f"{REQUESTS}/{receipt['id']}").json()["targets"] == []
    again = portal.post(f"{REQUESTS}/{receipt['id']}/withdrawal")
    assert (again.status_code, again.json()["code"]) == (409, "not-possible-now")


def test_a_request_that_has_begun_cannot_be_withdrawn(
    portal: Caller, scheduled: UUID, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    with transaction() as session:
        assert service.start(session, scheduled, model, at=clock())
    answer = portal.post(f"{REQUESTS}/{ids.encode('er', scheduled)}/withdrawal")
    assert (answer.status_code, answer.json()["code"]) == (409, "already-executing")


def test_withdrawal_and_start_never_both_happen(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    for _ in range(5):
        request_id = id_of(approve(officer, ask(portal)))
        path = f"{REQUESTS}/{ids.encode('er', request_id)}/withdrawal"

        def start(request_id: UUID = request_id) -> bool:
            with transaction() as session:
                return service.start(session, request_id, model, at=clock())

        def withdraw(path: str = path) -> int:
            return portal.post(path).status_code

        assert _together(start, withdraw) in ([True, 409], [False, 200])


def test_a_request_is_rejected_by_a_second_person_on_a_ground(
    portal: Caller, officer: Caller, model: UUID
) -> None:
    receipt = ask(portal)
    answer = officer.post(f"{REQUESTS}/{receipt['id']}/rejection", {"ground": "17.3.b", "notice": NOTICE})
    assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
    shown = officer.get(f"{REQUESTS}/{receipt['id']}").json()
    assert shown["ground"] == "17.3.b"
    assert shown["concluded_at"] is not None
    own = ask(officer)
    refused = officer.post(f"{REQUESTS}/{own['id']}/rejection", {"ground": "12.5", "notice": NOTICE})
    assert (refused.status_code, refused.json()["code"]) == (403, "four-eyes")


@pytest.mark.parametrize("ground", ["12.4", "", "because of ada@example.org"])
def test_a_ground_is_one_of_the_regulations(
    portal: Caller, officer: Caller, model: UUID, ground: str
) -> None:
    answer = officer.post(f"{REQUESTS}/{ask(portal)['id']}/rejection", {"ground": ground, "notice": NOTICE})
    assert answer.status_code == 422
    assert "ada@" not in answer.text


# What jobs do


def test_the_walk_of_a_request_through_two_models(
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
    request_id = id_of(receipt)

    def state() -> str:
        return str(officer.get(f"{REQUESTS}/{receipt['id']}").json()["state"])

    def step(model_id: UUID, to: str) -> None:
        with transaction() as session:
            service.advance_target(session, request_id, model_id, to, at=clock())

    for model_id in (model, other):
        with transaction() as session:
            assert service.start(session, request_id, model_id, at=clock())
            assert not service.start(session, request_id, model_id, at=clock())
    assert state() == "unlearning"
    step(model, "verifying")
    assert state() == "unlearning"
    step(other, "verifying")
    assert state() == "verifying"
    step(other, "unlearning")
    assert state() == "unlearning"
    step(other, "verifying")
    step(other, "publishing")
    step(model, "publishing")
    assert state() == "publishing"
    _conclude(transaction, request_id, model, clock)
    assert state() == "publishing"
    _conclude(transaction, request_id, other, clock)
    _conclude(transaction, request_id, other, clock)
    shown = officer.get(f"{REQUESTS}/{receipt['id']}").json()
    assert (shown["state"], shown["outcome"], shown["attention"]) == ("completed", "exact", None)
    assert [target["outcome"] for target in shown["targets"]] == ["exact", "exact"]
    with transaction() as session:
        assert session.scalar(select(func.count()).where(Record.erased_at.is_not(None))) == 2
        assert audit.verify(session).broken_at is None
    again = ask(portal)
    assert again["state"] == "no_match"


def test_a_request_that_was_erased_by_another_one_still_starts(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    first, second = (id_of(approve(officer, ask(portal))) for _ in range(2))
    _through(transaction, first, model, clock)
    with transaction() as session:
        assert service.start(session, second, model, at=clock())


def test_a_request_whose_records_were_erased_before_its_approval_has_no_match(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    first, second = ask(portal), ask(portal)
    _through(transaction, id_of(approve(officer, first)), model, clock)
    refused = officer.post(
        f"{REQUESTS}/{second['id']}/approvals", {"record_set_hash": second["record_set_hash"]}
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "record-set-changed")
    assert officer.post(f"{REQUESTS}/{second['id']}/resolutions").json()["state"] == "no_match"


def test_a_model_that_learned_meanwhile_is_not_passed_over_in_silence(
    portal: Caller,
    officer: Caller,
    world: World,
    people: UUID,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    receipt = approve(officer, ask(portal))
    request_id = id_of(receipt)
    with transaction() as session:
        assert service.start(session, request_id, model, at=clock())
        for to in ("verifying", "publishing"):
            service.advance_target(session, request_id, model, to, at=clock())
    other = world.model("late", people)
    _conclude(transaction, request_id, model, clock)
    shown = officer.get(f"{REQUESTS}/{receipt['id']}").json()
    assert (shown["state"], shown["attention"]) == ("completed", "known_to_another_model")
    again = approve(officer, ask(portal))
    with transaction() as session:
        targets = session.scalars(
            select(RequestTarget.model_id).where(RequestTarget.request_id == id_of(again))
        ).all()
    assert targets == [other]


def test_a_new_model_is_kept_from_learning_what_is_being_erased(
    scheduled: UUID, world: World, people: UUID, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    with transaction() as session:
        line, _ = registry.create_model(
            session,
            world.owner,
            name="late",
            dataset="people",
            base="/models/base",
            recipe={"seed": 1},
            references=4,
            verification_policy="default",
            jobs_policy="default",
            assurance_min="executed",
            at=clock(),
        )
        known = {row.external_id for row in records.training_records(session, people, line.id)}
        assert known == {"bob-1"}
    with transaction() as session:
        assert service.start(session, scheduled, model, at=clock())
        shown = service.read(session, scheduled)
        assert [target.model_id for target in shown.targets] == [model]
        assert shown.request.attention is None


def test_a_held_result_waits_for_a_second_person(
    portal: Caller, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    receipt = approve(officer, ask(portal))
    request_id, there = id_of(receipt), f"{REQUESTS}/{receipt['id']}"
    assert officer.post(f"{there}/release").json()["code"] == "nothing-held"
    with transaction() as session:
        assert service.start(session, request_id, model, at=clock())
        service.advance_target(session, request_id, model, "verifying", at=clock())
        service.return_to_schedule(
            session, request_id, model, attention="exact_but_detected", engine_floor="retrain", held=True,
            at=clock(),
        )  # fmt: skip
    shown = officer.get(there).json()
    assert (shown["state"], shown["attention"]) == ("scheduled", "exact_but_detected")
    assert [target["held"] for target in shown["targets"]] == ["exact_but_detected"]
    with transaction() as session:
        assert Jobs(session).free_targets(model, limit=9) == []
        assert list(Jobs(session).idle_models_with_work()) == []
    assert portal.post(f"{there}/release").status_code == 403
    assert officer.post(f"{there}/release").status_code == 200
    shown = officer.get(there).json()
    assert (shown["attention"], [target["held"] for target in shown["targets"]]) == (None, [None])
    with transaction() as session:
        [(target, _)] = Jobs(session).free_targets(model, limit=9)
        assert target.released_at == clock()
        assert "result.released" in [each.kind for each in audit.history(session, receipt["id"])]


def test_a_model_that_could_not_be_made_is_taken_out_and_the_rest_approved_again(
    scheduled: UUID, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    with transaction() as session:
        session.execute(update(ModelVersion).where(ModelVersion.model_id == model).values(state="failed"))
        service.forsake(session, model, at=clock())
    shown = officer.get(f"{REQUESTS}/{ids.encode('er', scheduled)}").json()
    assert (shown["state"], shown["targets"], shown["approvals"]) == ("awaiting_approval", [], 0)


@pytest.mark.parametrize("wrong", ["approver", "hash"])
def test_the_database_itself_refuses_an_approval_that_is_not_a_second_persons(
    portal: Caller, world: World, model: UUID, transaction: Transaction, wrong: str
) -> None:
    request_id = id_of(ask(portal))
    with transaction() as session:
        request = session.get_one(ErasureRequest, request_id)
        submitter, right = request.submitted_by, request.record_set_hash
    approval = Approval(
        request_id=request_id,
        approver_id=submitter if wrong == "approver" else world.owner,
        record_set_hash=bytes(32) if wrong == "hash" else right,
    )
    with pytest.raises(DatabaseError, match="second person"), transaction() as session:
        session.add(approval)


def test_a_set_that_changed_after_the_approval_goes_back_and_needs_a_new_one(
    scheduled: UUID, officer: Caller, world: World, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    world.dataset("more", {ADA: ["more-1"]})
    with transaction() as session:
        assert not service.start(session, scheduled, model, at=clock())
    shown = officer.get(f"{REQUESTS}/{ids.encode('er', scheduled)}").json()
    assert (shown["state"], shown["records_matched"], shown["approvals"]) == ("awaiting_approval", 3, 0)
    assert shown["targets"] == []
    with transaction() as session:
        assert session.scalars(select(Approval)).all() == []
        assert session.scalar(select(func.count()).select_from(RequestRecord)) == 3
    assert approve(officer, shown)["state"] == "scheduled"


def test_once_one_model_has_begun_a_changed_set_only_raises_attention(
    portal: Caller,
    officer: Caller,
    world: World,
    people: UUID,
    model: UUID,
    transaction: Transaction,
    clock: StillClock,
) -> None:
    other = world.model("second", people)
    request_id = id_of(approve(officer, ask(portal)))
    with transaction() as session:
        assert service.start(session, request_id, model, at=clock())
    world.dataset("more", {ADA: ["more-1"]})
    with transaction() as session:
        assert service.start(session, request_id, other, at=clock())
    shown = officer.get(f"{REQUESTS}/{ids.encode('er', request_id)}").json()
    assert (shown["state"], shown["attention"]) == ("unlearning", "record_set_changed")


@pytest.mark.parametrize("stage", ["scheduled", "unlearning", "verifying", "publishing"])
def test_a_target_returns_to_the_planner_from_any_stage(
    scheduled: UUID, officer: Caller, model: UUID, transaction: Transaction, clock: StillClock, stage: str
) -> None:
    with transaction() as session:
        if stage != "scheduled":
            service.start(session, scheduled, model, at=clock())
        for to in ("verifying", "publishing")[
            : ("unlearning", "verifying", "publishing").index(stage) if stage != "scheduled" else 0
        ]:
            service.advance_target(session, scheduled, model, to, at=clock())
        service.return_to_schedule(
            session, scheduled, model, attention="verification", engine_floor="retrain", at=clock()
        )
    shown = officer.get(f"{REQUESTS}/{ids.encode('er', scheduled)}").json()
    assert (shown["state"], shown["attention"]) == ("scheduled", "verification")
    with transaction() as session:
        target = session.scalars(select(RequestTarget)).one()
        assert (target.stage, target.job_id, target.engine_floor) == ("scheduled", None, "retrain")
        ladder = ("gradient", "retrain")
        assert service.engine_floor(session, [scheduled], model, ladder=ladder) == "retrain"
        assert service.engine_floor(session, [uuid4()], model, ladder=ladder) is None


def test_a_target_cannot_skip_a_stage(
    scheduled: UUID, model: UUID, transaction: Transaction, clock: StillClock
) -> None:
    with pytest.raises(NotPossible), transaction() as session:
        service.advance_target(session, scheduled, model, "publishing", at=clock())
    with transaction() as session:
        assert session.get_one(ErasureRequest, scheduled).state == State.SCHEDULED


def test_a_state_is_changed_only_from_what_was_seen(scheduled: UUID, transaction: Transaction) -> None:
    with transaction() as session:
        request = session.get_one(ErasureRequest, scheduled)
        session.execute(text("UPDATE erasure_requests SET version = version + 1"))
        with pytest.raises(Conflict, match="changed by another"):
            ErasureRequests(session).move(request, to="unlearning")
        with pytest.raises(Conflict, match="changed by another"):
            ErasureRequests(session).touch(request)


def test_attention_stays_until_somebody_acts_and_the_clock_runs_on(
    scheduled: UUID, officer: Caller, transaction: Transaction, clock: StillClock
) -> None:
    for _ in range(2):
        with transaction() as session:
            service.raise_attention(session, scheduled, "serving", at=clock())
    shown = officer.get(f"{REQUESTS}/{ids.encode('er', scheduled)}").json()
    assert (shown["attention"], shown["due_on"]) == ("serving", date(2026, 12, 21).isoformat())
    events = officer.get(f"{REQUESTS}/{ids.encode('er', scheduled)}/events").json()
    assert [event["kind"] for event in events].count("request.attention") == 1


def _conclude(transaction: Transaction, request_id: UUID, model_id: UUID, clock: StillClock) -> None:
    with transaction() as session:
        version = session.scalars(select(ModelVersion.id).where(ModelVersion.model_id == model_id)).one()
        named = session.scalars(
            select(RequestRecord.record_id).where(RequestRecord.request_id == request_id)
        ).all()
        records.mark_erased(session, named, model_id=model_id, at=clock())
        service.conclude(
            session,
            request_id,
            model_id,
            outcome="exact",
            certificate_id=uuid4(),
            version_id=version,
            at=clock(),
        )


def _through(transaction: Transaction, request_id: UUID, model_id: UUID, clock: StillClock) -> None:
    with transaction() as session:
        assert service.start(session, request_id, model_id, at=clock())
        for to in ("verifying", "publishing"):
            service.advance_target(session, request_id, model_id, to, at=clock())
    _conclude(transaction, request_id, model_id, clock)


def _together(*calls: Callable[[], object]) -> list[object]:
    """Make the calls at the same time; return what each returned."""
    barrier = threading.Barrier(len(calls))

    def call(each: Callable[[], object]) -> object:
        barrier.wait()
        return each()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))
