"""Deep audits as work: opened by rule and lot, held once, decided on stored bytes, and acted upon."""

import hmac
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from app.http import ids
from app.tables import Audit, Job, Model, ModelVersion, VerdictRow, new_id
from app.verification import audits
from app.verification.audits import Concluded
from tests.app.verification import files, test_audit
from tests.app.verification.benches import COHORT, FORM, Bench, measured_bench
from tests.fixtures.api import Caller, Callers, StillClock
from tests.fixtures.world import World

KEY = b"k" * 32
NEVER = UUID("00000000-0000-4000-8000-000000000001")


@pytest.fixture
def bench(world: World, app: FastAPI, clock: StillClock) -> Bench:
    """Return a job that was judged `executed` by hand, and is at its end."""
    made = measured_bench(world, app, clock)
    made.judge()
    with made.desk.transaction() as session:
        session.execute(update(VerdictRow).values(level="verified"))
        session.execute(update(Job).where(Job.id == made.view.id).values(stage="done", state="concluded"))
        session.execute(
            update(ModelVersion).where(ModelVersion.id == made.view.candidate_id).values(state="live")
        )
    return made


def certificate(*, drawn: bool) -> UUID:
    """Return the id of a certificate on which the lot falls, or does not."""
    while True:
        found = uuid4()
        drawn_ = hmac.digest(KEY, b"lethe/audit/v1\0" + found.bytes, "sha256")[:8]
        if (int.from_bytes(drawn_, "big") * 5 < 1 << 64) is drawn:
            return found


def opened(bench: Bench, *, drawn: bool = False) -> UUID | None:
    [request] = bench.view.requests
    with bench.desk.transaction() as session:
        return audits.open_after(
            session, bench.view, {request: certificate(drawn=drawn)}, key=KEY, at=bench.desk.clock()
        )


def audited(bench: Bench) -> UUID:
    found = opened(bench)
    assert found is not None
    return found


def body(bench: Bench, **more: Any) -> bytes:
    """Return what an audit of the one person measured: by default nothing, and read as it was judged."""
    [request] = bench.view.requests
    # The blind scores are the cohort's own here: the judges' loss is -c, the model's -c - c.
    losses = [files.six(-2 * float(each)) for each in COHORT]
    again = {"score": "-0.000500", "cohort": losses, "difference": "0.000000"}
    person = test_audit.person(f"{request}/0", **{"reading_again": again} | more)
    return json.dumps(test_audit.measured(person)).encode()


def concluded(bench: Bench, audit_id: UUID, content: bytes) -> Concluded | None:
    with bench.desk.transaction() as session:
        return audits.conclude(session, audit_id, content, at=bench.desk.clock())


def shown(bench: Bench, audit_id: UUID) -> audits.AuditShown:
    with bench.desk.transaction() as session:
        return audits.read(session, audit_id)


def test_a_configuration_that_nobody_audited_is_audited_once(bench: Bench) -> None:
    first = audited(bench)
    assert shown(bench, first).causes == ("new_configuration",)
    assert "audit.opened" in bench.desk.events()
    with bench.desk.transaction() as session:
        assert audits.due(session) == [first]
        assert audits.unfinished(session) == {first}


def test_of_a_known_configuration_only_whom_the_lot_falls_on(bench: Bench) -> None:
    audited(bench)
    with bench.desk.transaction() as session:
        again = Job(
            id=new_id(), model_id=bench.view.model_id, state="concluded", stage="done", seed=1,
            parent_id=bench.view.parent_id, candidate_id=bench.view.candidate_id,
        )  # fmt: skip
        session.add(again)
        session.flush()
        # The first audit is another job's now: what is asked is whether its configuration is known.
        session.execute(update(Audit).values(job_id=again.id))
    assert opened(bench, drawn=False) is None
    found = opened(bench, drawn=True)
    assert found is not None
    assert shown(bench, found).causes == ("drawn",)


def test_it_waits_until_the_model_has_no_job(bench: Bench) -> None:
    audited(bench)
    with bench.desk.transaction() as session:
        busy = Job(id=new_id(), model_id=bench.view.model_id, seed=2)
        session.add(busy)
        session.flush()
        assert audits.due(session) == []


def test_it_waits_while_the_model_is_frozen(bench: Bench) -> None:
    first = audited(bench)
    with bench.desk.transaction() as session:
        session.execute(update(Model).values(breaker="frozen"))
        assert audits.due(session) == []
        session.execute(update(Model).values(breaker="closed"))
        assert audits.due(session) == [first]


def test_it_is_tried_three_times_and_then_given_up(bench: Bench) -> None:
    found = audited(bench)
    for _ in range(3):
        with bench.desk.transaction() as session:
            view = audits.begin(session, found, at=bench.desk.clock())
            assert view is not None
            assert (view.form, view.requests) == (FORM, bench.view.requests)
            assert view.job.attempt == bench.view.attempt
    with bench.desk.transaction() as session:
        assert audits.begin(session, found, at=bench.desk.clock()) is None
    assert (shown(bench, found).state, shown(bench, found).failure) == ("void", "failed")


def test_a_version_that_is_gone_cannot_be_audited(bench: Bench) -> None:
    found = audited(bench)
    with bench.desk.transaction() as session:
        session.execute(
            update(ModelVersion).where(ModelVersion.id == bench.view.candidate_id).values(state="destroyed")
        )
        assert audits.begin(session, found, at=bench.desk.clock()) is None
    assert shown(bench, found).failure == "version-gone"


def test_what_it_finds_is_kept_byte_for_byte_with_what_it_could_see(bench: Bench) -> None:
    found = audited(bench)
    content = body(bench)
    done = concluded(bench, found, content)
    assert done is not None
    assert (done.withdrawn, done.suspected) == ({}, ())
    seen = shown(bench, found)
    assert (seen.state, seen.outcome, seen.shadows) == ("done", "clean", 2)
    assert seen.seen["combined"] == (10, 10)
    with bench.desk.transaction() as session:
        assert session.get_one(Audit, found).body == content
        [request] = bench.view.requests
        named = audits.of_certificate(session, bench.view.id, bench.view.attempt, request)
    assert named == "clean"
    assert concluded(bench, found, content) is None, "it is concluded once"


def test_whoever_is_found_loses_the_certificate(bench: Bench) -> None:
    found = audited(bench)
    done = concluded(bench, found, body(bench, readings=test_audit.readings("2")))
    [request] = bench.view.requests
    assert done is not None
    assert done.withdrawn == {request: "detected_probe"}
    assert (done.job_id, done.attempt, done.model_id) == (
        bench.view.id, bench.view.attempt, bench.view.model_id,
    )  # fmt: skip
    assert shown(bench, found).withdrawn == 1


def test_numbers_that_were_swapped_after_they_were_measured_are_found_out(bench: Bench) -> None:
    """The verdict itself agrees with the numbers that lie there: only the model does not."""
    found = audited(bench)
    other = {"score": "2.000000", "cohort": ["0.000000"] * 225, "difference": "0.000000"}
    done = concluded(bench, found, body(bench, reading_again=other))
    assert done is not None
    assert list(done.withdrawn.values()) == ["second_reading_disagrees"]


@pytest.mark.parametrize("letter", ["F", "I"])
def test_a_verdict_that_was_changed_after_it_was_reached_is_found_out(bench: Bench, letter: str) -> None:
    found = audited(bench)
    with bench.desk.transaction() as session:
        [row] = session.scalars(select(VerdictRow)).all()
        row.decision = {**row.decision, "verdict": letter}
    done = concluded(bench, found, body(bench))
    assert done is not None
    assert list(done.withdrawn.values()) == ["second_opinion_disagrees"]


def test_an_auditor_sees_them_and_an_engineer_asks_for_one(
    bench: Bench, callers: Callers, officer: Caller
) -> None:
    job = ids.encode("job", bench.view.id)
    engineer = callers("engineer", "ml_engineer")
    asked = engineer.post("/v1/audits", {"job": job})
    assert asked.status_code == 202
    found = asked.json()
    assert (found["job"], found["state"], found["causes"], found["subjects"]) == (
        job,
        "due",
        ["asked_for"],
        1,
    )
    again = engineer.post("/v1/audits", {"job": job})
    assert (again.status_code, again.json()["code"]) == (409, "audited-already")
    assert engineer.get("/v1/audits").status_code == 403
    [listed] = officer.get("/v1/audits").json()["items"]
    assert listed == officer.get(f"/v1/audits/{found['id']}").json()
    assert officer.get(f"/v1/audits/{ids.encode('aud', NEVER)}").status_code == 404
    assert str(bench.view.requests[0]) not in json.dumps(listed)
