"""Judging as a job does: stored bytes in, rows and a judgement out; what the second opinion and a test change."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.http import ids
from app.jobs import service as jobs
from app.jobs.escalation import Guarantee
from app.tables import Job, new_id
from app.verification import service
from app.verification.verdict import DOUBTED
from tests.app.verification import files
from tests.app.verification.benches import COHORT, FORM, POLICY, SENTINELS, Bench, measured_bench
from tests.fixtures.api import Caller, StillClock
from tests.fixtures.world import World


@pytest.fixture
def bench(world: World, app: FastAPI, clock: StillClock) -> Bench:
    return measured_bench(world, app, clock)


def test_a_configuration_that_nobody_tested_certifies_nothing(bench: Bench) -> None:
    judgement = bench.judge()
    found = bench.decision()
    assert (found["verdict"], found["level"]) == ("V", "inconclusive")
    assert found["reasons"] == ["not_qualified", "sentinels_missing"]
    assert found["admission"] is None
    # one row of the person's, 15 sentinels of one and 5 of four
    assert {name: judgement.output[name] for name in ("rows", "repeated", "sentinels", "gate_failed")} == {
        "rows": 36, "repeated": 5, "sentinels": 20, "gate_failed": False,
    }  # fmt: skip


@pytest.fixture
def digest(bench: Bench) -> str:
    """Return the configuration's digest without leaving a judgement behind."""
    with bench.desk.transaction() as session:
        return service.configuration_of(session, bench.view).digest


def test_ten_clean_runs_qualify_it_and_the_bound_is_in_the_evidence(bench: Bench, digest: str) -> None:
    used = bench.earlier(digest, *[0] * 10, rows=34)
    judgement = bench.judge()
    found = bench.decision()
    assert (found["verdict"], found["level"], found["reasons"]) == ("V", "verified", [])
    [row] = bench.tests()
    assert (row.state, row.sentinels, row.losses, row.tests) == ("admitted", 200, 0, 1)
    assert row.jobs == [str(job) for job in used]
    assert found["admission"] == {
        "id": str(row.id), "configuration": digest, "sentinels": 200, "losses": 0, "tests": 1,
        "risk_upper": "0.014868", "rows_min": 34, "rows_max": 38,
    }  # fmt: skip
    assert judgement.publish
    assert "configuration.tested" in bench.desk.events()


def test_how_a_test_ended_is_told_with_its_bound(
    bench: Bench, digest: str, client: TestClient, officer: Caller
) -> None:
    assert client.get("/v1/verification/fleet", headers=officer.headers).json()["qualifications"] == []
    bench.earlier(digest, *[0] * 10, rows=34)
    bench.judge()
    [told] = client.get("/v1/verification/fleet", headers=officer.headers).json()["qualifications"]
    assert told["decided_at"]
    assert {name: value for name, value in told.items() if name != "decided_at"} == {
        "model": "line", "engine": "gradient", "configuration": digest, "state": "admitted", "sentinels": 200,
        "losses": 0, "tests": 1, "risk_upper": "0.014868",
    }  # fmt: skip


def test_it_is_tested_once_and_holds_for_the_next_job(bench: Bench, digest: str) -> None:
    bench.earlier(digest, *[0] * 10, rows=34)
    with bench.desk.transaction() as session:
        for _ in range(2):
            admitted = service.qualify(
                session, bench.view, service.configuration_of(session, bench.view), rows=36, policy=POLICY,
                at=bench.desk.clock(),
            )  # fmt: skip
            assert admitted is not None
    assert len(bench.tests()) == 1


def test_a_batch_of_another_size_than_was_tried_is_not_covered(bench: Bench, digest: str) -> None:
    bench.earlier(digest, *[0] * 10, rows=37)
    bench.judge()
    assert bench.decision()["reasons"] == ["not_qualified"]


def test_sentinels_of_another_configuration_count_for_nothing(bench: Bench, digest: str) -> None:
    bench.earlier("bb" * 32, *[0] * 10, rows=34)
    bench.judge()
    assert bench.decision()["reasons"] == ["not_qualified", "sentinels_missing"]


def test_losses_refuse_and_the_refusal_is_kept(bench: Bench, digest: str) -> None:
    bench.earlier(digest, 5, *[0] * 9, rows=34)
    bench.judge()
    assert bench.decision()["level"] == "inconclusive"
    assert [row.state for row in bench.tests()] == ["refused"]
    bench.earlier(digest, *[0] * 9, rows=34, days=20)
    with bench.desk.transaction() as session:
        waiting = service.qualify(
            session, bench.view, service.configuration_of(session, bench.view), rows=36, policy=POLICY,
            at=bench.desk.clock(),
        )  # fmt: skip
    assert waiting is None
    assert len(bench.tests()) == 1, "nine runs since are not ten"


@pytest.mark.parametrize(
    ("days", "failures", "reason"), [(90, 0, "expired"), (1, 30, "sentinels"), (89, 0, None)]
)
def test_it_lapses(bench: Bench, digest: str, days: int, failures: int, reason: str | None) -> None:
    bench.earlier(digest, *[0] * 10, rows=34)

    def asked(at_day: int) -> object:
        with bench.desk.transaction() as session:
            return service.qualify(
                session, bench.view, service.configuration_of(session, bench.view), rows=36, policy=POLICY,
                at=bench.desk.clock() + timedelta(days=at_day),
            )  # fmt: skip

    assert asked(0) is not None
    bench.earlier(digest, failures, rows=34, days=0)
    assert (asked(days) is None) is (reason is not None)
    [row] = bench.tests()
    assert (row.state, row.lapse) == (("lapsed", reason) if reason else ("admitted", None))


def _slip(_score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    return Fraction(len(cohort), len(cohort) + 1)


@pytest.mark.parametrize("guarantee", ["approximate", "exact"])
def test_a_judge_that_contradicts_itself_publishes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, guarantee: Guarantee
) -> None:
    monkeypatch.setattr("app.verification.forms.p_low", _slip)
    judgement = bench.judge(guarantee=guarantee)
    assert not judgement.publish
    assert not judgement.held
    assert DOUBTED in judgement.reasons
    assert judgement.outcome.startswith("block")
    assert bench.decision()["bounds"] == []


def test_without_a_slip_nothing_is_doubted(bench: Bench) -> None:
    assert DOUBTED not in bench.judge().reasons


def _never(*_: object, **__: object) -> None:
    raise AssertionError("it was asked for a qualification")


def test_an_exact_engine_needs_no_qualification(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "qualify", _never)
    bench.judge(guarantee="exact")
    assert bench.decision()["level"] == "exact"


def test_the_health_of_the_fleet_is_taken_over_first_looks(
    bench: Bench, client: TestClient, officer: Caller
) -> None:
    bench.judge()
    answer = client.get("/v1/verification/fleet", headers=officer.headers)
    assert answer.status_code == 200
    [group] = answer.json()["groups"]
    # .0005 is 113th of 226 from above: k(.05) = 11, so it is not low
    assert (group["model"], group["engine"], group["m"], group["requests"]) == ("line", "gradient", 225, 1)
    assert (group["rank"], group["low"], group["bins"][4]) == (11, 0, 1)
    # 1 / (2 sqrt(113 / 226)) = .7071068
    assert answer.json()["evidence"][0]["e_value"] == "0.707107"
    assert answer.json()["alarms"] == []


def test_sentinels_that_are_back_are_an_alarm(bench: Bench, client: TestClient, officer: Caller) -> None:
    view = bench.view
    judgement = bench.judge()
    with bench.desk.transaction() as session:
        jobs.passed(
            session, view, leaving=(), held={}, output=judgement.output, seconds=1.0, at=bench.desk.clock()
        )
        later = Job(id=new_id(), model_id=view.model_id, state="concluded", stage="done", seed=1)
        session.add(later)
        session.flush()
        names = [f"earlier/{view.id}/{number}" for number in range(SENTINELS)]
        scored = [
            files.examinee(name, "earlier", **files.reading("2.000000" if n < 3 else "0.000000", COHORT))
            for n, name in enumerate(names)
        ]
        service.put(session, later.id, attempt=1, moment="after", form=FORM, body=files.file(FORM, scored))
    [found] = client.get("/v1/verification/fleet", headers=officer.headers).json()["survival"]
    assert (found["sentinels"], found["back"], found["alarm"]) == (20, 3, True)
    assert found["job"] == ids.encode("job", view.id)
