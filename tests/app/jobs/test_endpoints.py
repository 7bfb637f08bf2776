"""Jobs over HTTP: ask for one, walk the list, watch one climb the ladder."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from app.http import ids
from app.jobs import scheduling
from app.jobs import service as jobs
from app.jobs.lifecycle import JobStage
from app.tables import Model, new_id
from tests.app.jobs.batches import Desk
from tests.fixtures.api import Caller, Callers, Response
from tests.fixtures.world import ADA, BOB

JOBS = "/v1/jobs"
PROBLEM = "application/problem+json"


@pytest.fixture
def engineer(callers: Callers) -> Caller:
    return callers("engineer", "ml_engineer")


def refused(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == PROBLEM, answer.text
    return answer.status_code, answer.json()["code"]


def walked(caller: Caller, **params: Any) -> list[list[str]]:
    """Return the ids on each page of a list."""
    pages, cursor = [], None
    while True:
        page = caller.get(JOBS, **params, **({"cursor": cursor} if cursor else {})).json()
        pages.append([item["id"] for item in page["items"]])
        cursor = page["next"]
        if cursor is None:
            return pages


def ended(desk: Desk, model_id: UUID) -> str:
    """Return the public id of one more job of a model, which has failed."""
    view = desk.at(model_id, JobStage.UNLEARN, engine="retrain")
    with desk.transaction() as session:
        jobs.escalate(
            session, view, stage=JobStage.UNLEARN, outcome="refused", reasons=["too-large"],
            output={"refusal": {"reason": "too-large"}}, seconds=1.234, at=desk.clock(),
        )  # fmt: skip
        session.execute(update(Model).values(breaker="closed", failed_jobs=0))
    return ids.encode("job", view.id)


def test_a_job_is_asked_for_by_the_models_name(engineer: Caller, desk: Desk, model: UUID) -> None:
    answer = engineer.post(JOBS, {"model": "assistant"})
    assert answer.status_code == 202
    assert answer.json() == {"model": ids.encode("mdl", model), "asked_at": "2026-11-21T12:00:00Z"}
    assert desk.model(model).run_requested_at == desk.clock()
    assert desk.bells() == {("plan", model)}
    assert engineer.get(JOBS).json() == {"items": [], "next": None}, "until a worker has opened it"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"breaker": "open"}, "model-paused"),
        ({"references_wanted": 0}, "model-not-verifiable"),
        ({"live_version_id": None}, "model-not-ready"),
    ],
)
def test_what_cannot_be_run_is_a_conflict(
    engineer: Caller, desk: Desk, model: UUID, change: dict[str, object], code: str
) -> None:
    with desk.transaction() as session:
        session.execute(update(Model).values(change))
    assert refused(engineer.post(JOBS, {"model": "assistant"})) == (409, code)
    assert desk.bells() == set()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody"}, 404, "not-found"),
        ({"model": ""}, 422, "invalid"),
        ({"model": "x" * 64}, 422, "invalid"),
        ({"model": "assistant", "engine": "canary"}, 422, "invalid"),
        ({}, 422, "invalid"),
    ],
)
def test_what_cannot_be_meant_is_told_and_not_repeated(
    engineer: Caller, model: UUID, body: dict[str, str], status: int, code: str
) -> None:
    answer = engineer.post(JOBS, body)
    assert refused(answer) == (status, code)
    assert "canary" not in answer.text


def test_a_list_is_walked_by_cursor_newest_first_and_one_model_at_a_time(
    engineer: Caller, desk: Desk, people: UUID
) -> None:
    lines = [desk.world.model(name, people) for name in ("one", "two")]
    desk.asked(ADA)
    made = [ended(desk, line) for line in (*lines, *lines, lines[0])]
    assert walked(engineer, limit=2) == [made[:2:-1], made[2:0:-1], made[:1]]
    of_one = ids.encode("mdl", lines[0])
    assert walked(engineer, limit=2, model=of_one) == [[made[4], made[2]], [made[0]]]
    cursor = engineer.get(JOBS, limit=2).json()["next"]
    answer = engineer.get(JOBS, limit=2, cursor=cursor, model=of_one)
    assert refused(answer) == (422, "invalid"), "a cursor belongs to its list"
    assert answer.json()["errors"] == [{"pointer": "query:cursor", "code": "cursor-invalid"}]
    assert refused(engineer.get(JOBS, limit=0)) == (422, "invalid")


def test_a_running_job_is_shown_with_its_requests_and_how_far_it_is(
    engineer: Caller, desk: Desk, model: UUID
) -> None:
    asked = {ids.encode("er", desk.asked(email)) for email in (ADA, BOB)}
    view = desk.at(model, JobStage.UNLEARN)
    with desk.transaction() as session:
        jobs.progress(session, view.id, {"runs": [{"step": 3}]})
    [shown] = engineer.get(JOBS).json()["items"]
    assert (shown["id"], shown["model"]) == (ids.encode("job", view.id), ids.encode("mdl", model))
    assert (shown["state"], shown["stage"], shown["attempt"]) == ("running", "unlearn", 1)
    assert set(shown["requests"]) == asked
    assert (shown["engine"], shown["progress"]) == ("gradient", {"runs": [{"step": 3}]})
    assert (shown["failure"], shown["concluded_at"]) == (None, None)


def test_a_ladder_is_climbed_in_the_open(engineer: Caller, desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.VERIFY)
    with desk.transaction() as session:
        engine = jobs.escalate(
            session, view, stage=JobStage.VERIFY, outcome="retry: inconclusive", reasons=["residue"],
            output={"engine": "gradient"}, seconds=2.345, at=desk.clock(),
        )  # fmt: skip
    assert engine == "retrain"
    shown = engineer.get(f"{JOBS}/{ids.encode('job', view.id)}").json()
    assert (shown["stage"], shown["attempt"], shown["engine"]) == ("unlearn", 2, "retrain")
    assert shown["history"] == [
        {
            "attempt": 1,
            "engine": "gradient",
            "outcome": "retry: inconclusive",
            "reasons": ["residue"],
            "seconds": 2.3,
        }
    ]
    assert [(each["attempt"], each["stage"]) for each in shown["steps"]] == [
        (1, "plan"), (1, "unlearn"), (1, "verify"),
    ]  # fmt: skip
    assert shown["steps"][-1]["output"] == {"engine": "gradient"}
    assert {name: shown[name] for name in shown if name != "steps"} == engineer.get(JOBS).json()["items"][0]


def test_a_job_that_failed_says_why(engineer: Caller, desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    shown = engineer.get(f"{JOBS}/{ended(desk, model)}").json()
    assert (shown["state"], shown["failure"], shown["requests"]) == ("failed", "refused", [])
    assert shown["concluded_at"] == "2026-11-21T12:00:00Z"


@pytest.mark.parametrize("id_", ["job_00000000000000000000000000", "job_x", "ada@example.org", "er"])
def test_an_unknown_job(engineer: Caller, id_: str) -> None:
    known_elsewhere = ids.encode("er", new_id()) if id_ == "er" else id_
    answer = engineer.get(f"{JOBS}/{known_elsewhere}")
    assert refused(answer) == (404, "not-found")
    assert "ada@" not in answer.text


def test_running_and_reading_are_two_scopes(callers: Callers, desk: Desk, model: UUID) -> None:
    may_run, may_read = callers("runner", scopes=["jobs:run"]), callers("reader", scopes=["jobs:read"])
    desk.asked(ADA)
    job = ids.encode("job", desk.opened(model).id)
    desk.hush()
    for path in (JOBS, f"{JOBS}/{job}"):
        assert may_read.get(path).status_code == 200
        assert refused(may_run.get(path)) == (403, "scope-missing")
    assert refused(may_read.post(JOBS, {"model": "assistant"})) == (403, "scope-missing")
    assert desk.bells() == set()
    assert may_run.post(JOBS, {"model": "assistant"}).status_code == 202


# Compaction


def approximate(desk: Desk, model: UUID) -> str:
    """Return the public id of a request that was erased approximately."""
    request = desk.asked(ADA)
    desk.finished(desk.opened(model), rise="0.012000")
    return ids.encode("er", request)


def test_how_far_a_model_is_from_its_anchor_is_shown(callers: Callers, desk: Desk, model: UUID) -> None:
    viewer = callers("viewer", "viewer")
    anchor = desk.model(model).live_version_id
    assert anchor is not None
    approximate(desk, model)
    assert viewer.get("/v1/models/assistant/compaction").json() == {
        "model": ids.encode("mdl", model), "anchor": ids.encode("mv", anchor), "anchor_live_at": None, "deltas": 1,
        "outstanding": {
            "requests": 1, "since": "2026-11-21T12:00:00Z", "records": 2, "share": None, "retain_rise": "0.012000",
        },
        "reason": None, "due_by": "2027-02-19T12:00:00Z", "not_before": None, "asked_at": None,
    }  # fmt: skip


def test_a_compaction_is_asked_for_by_whoever_may_resume(
    engineer: Caller, callers: Callers, desk: Desk, model: UUID
) -> None:
    request = approximate(desk, model)
    desk.hush()
    path = "/v1/models/assistant/compaction"
    assert refused(callers("viewer", "viewer").post(path)) == (403, "scope-missing")
    assert desk.bells() == set()
    answer = engineer.post(path)
    assert answer.status_code == 202
    assert (answer.json()["reason"], answer.json()["asked_at"]) == ("asked_for", "2026-11-21T12:00:00Z")
    assert desk.bells() == {("plan", model)}
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=epoch, now=desk.clock()) is not None
    [running, before] = engineer.get(JOBS).json()["items"]
    assert (running["kind"], running["state"], running["requests"]) == ("compaction", "running", [request])
    assert (before["kind"], before["requests"]) == ("erasure", [request])


def test_with_nothing_outstanding_there_is_nothing_to_compact(engineer: Caller, model: UUID) -> None:
    path = "/v1/models/assistant/compaction"
    assert refused(engineer.post(path)) == (409, "nothing-outstanding")
    assert refused(engineer.post("/v1/models/nobody/compaction")) == (404, "not-found")
    assert refused(engineer.get("/v1/models/nobody/compaction")) == (404, "not-found")


def test_a_model_that_serves_nothing_stands_nowhere(engineer: Caller, desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        session.execute(update(Model).values(live_version_id=None))
    assert refused(engineer.get("/v1/models/assistant/compaction")) == (409, "model-not-ready")
