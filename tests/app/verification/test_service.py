"""Judging as a job does: stored bytes in, rows and a judgement out; what the second opinion and a test change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.http import ids
from app.jobs import service as jobs
from app.jobs.escalation import Guarantee
from app.jobs.lifecycle import JobStage
from app.jobs.service import JobView
from app.tables import Job, JobStep, Qualification, new_id
from app.verification import policy as policies
from app.verification import service
from app.verification.service import Judgement
from app.verification.verdict import DOUBTED
from tests.app.jobs.batches import Desk
from tests.app.verification import files
from tests.fixtures.api import Caller, StillClock
from tests.fixtures.world import World

FORM = "float32/none"
COHORT = [files.six(i / 1000) for i in range(-112, 113)]
POLICY = policies.load("default")
STATEMENT = {"engine": "gradient", "version": "2", "code": "c0" * 32, "config": {"beta": "0.1"}}
CLEAN = {
    "fields": 1, "reported": 0, "hits": 0, "reported_hits": 0, "prompts": 8, "samples": 300, "upper": "0.009937",
}  # fmt: skip
SENTINELS = 20


@dataclass
class Bench:
    """A job whose candidate has been measured, ready to be judged."""

    desk: Desk
    view: JobView

    def judge(self, *, guarantee: Guarantee = "approximate") -> Judgement:
        with self.desk.transaction() as session:
            return service.judge(session, self.view, guarantee=guarantee, at=self.desk.clock())

    def decision(self) -> dict[str, Any]:
        [request] = self.view.requests
        with self.desk.transaction() as session:
            return dict(service.of_attempt(session, self.view.id, self.view.attempt)[request].decision)

    def tests(self) -> list[Qualification]:
        with self.desk.transaction() as session:
            return list(session.scalars(select(Qualification).order_by(Qualification.created_at)))

    def earlier(self, configuration: str, *failures: int, rows: int = 21, days: int = 30) -> list[UUID]:
        """Leave verified jobs of a configuration, one an hour, the first so many days ago."""
        made = []
        with self.desk.transaction() as session:
            for number, failed in enumerate(failures):
                job = Job(
                    id=new_id(), model_id=self.view.model_id, state="concluded", stage="done", seed=number
                )
                session.add(job)
                session.flush()
                session.add(
                    JobStep(
                        job_id=job.id,
                        attempt=1,
                        stage="verify",
                        lease_epoch=1,
                        seconds=1.0,
                        created_at=self.desk.clock() - timedelta(days=days, hours=-number),
                        output={
                            "engine": "gradient", "configuration": configuration, "rows": rows + number % 5,
                            "sentinels": SENTINELS, "sentinel_failures": failed, "repeated": 5,
                            "gate_failed": False,
                        },
                    )
                )  # fmt: skip
                made.append(job.id)
        return made


def measured(view: JobView, *, after: str = "0.000500") -> tuple[bytes, bytes]:
    """Return the files of a person learned at 2 and now at `after`, sentinels gone, controls kept."""
    [request] = view.requests
    who = f"{request}/0"
    blind = {"score": "0.000000", "cohort": COHORT}
    old = [files.examinee(who, "request", **files.reading("2.000000", COHORT))]
    new = [files.examinee(who, "request", **files.reading(after, COHORT), blind=blind, extraction=CLEAN)]
    for kind, kept in (("sentinel", "0.000000"), ("control", "2.000000")):
        for number in range(SENTINELS):
            rows = 4 if number % 4 == 0 and kind == "sentinel" else 1
            name = f"{kind}/{number}"
            old.append(files.examinee(name, kind, rows, **files.reading("2.000000", COHORT)))
            new.append(files.examinee(name, kind, rows, **files.reading(kept, COHORT)))
    return files.file(FORM, old), files.file(FORM, new)


@pytest.fixture
def bench(world: World, app: FastAPI, clock: StillClock) -> Bench:
    desk = Desk.of(world, app.state.calendar, clock)
    model_id, _ = desk.line("line", 1)
    view = desk.opened(model_id)
    with desk.transaction() as session:
        jobs.planned(
            session, view, engine="gradient", anchor_id=view.parent_id, plan={}, sentinels=SENTINELS,
            policy_digest=POLICY.digest, seconds=1.0, at=clock(),
        )  # fmt: skip
    view = _claimed(desk, view)
    with desk.transaction() as session:
        statement = {"statement": STATEMENT, "given": {"recipe": {"seed": 1, "rate": 0.001}}}
        made = desk.candidate(session, view, statement=statement)
        jobs.made_candidate(session, view, made.id, output={}, seconds=1.0, at=clock())
    view = _claimed(desk, view)
    assert view.stage is JobStage.VERIFY
    before, after = measured(view)
    with desk.transaction() as session:
        service.put(session, view.id, attempt=0, moment="before", form=FORM, body=before)
        service.put(session, view.id, attempt=view.attempt, moment="after", form=FORM, body=after)
    return Bench(desk, view)


def _claimed(desk: Desk, view: JobView) -> JobView:
    claimed = desk.claimed(view)
    assert claimed is not None
    return claimed


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
        return service._configuration(session, bench.view).digest


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


def test_it_is_tested_once_and_holds_for_the_next_job(bench: Bench, digest: str) -> None:
    bench.earlier(digest, *[0] * 10, rows=34)
    with bench.desk.transaction() as session:
        for _ in range(2):
            admitted = service.qualify(
                session, bench.view, service._configuration(session, bench.view), rows=36, policy=POLICY,
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
            session, bench.view, service._configuration(session, bench.view), rows=36, policy=POLICY,
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
                session, bench.view, service._configuration(session, bench.view), rows=36, policy=POLICY,
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
