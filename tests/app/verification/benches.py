"""A job whose candidate has been measured, ready to be judged: a person, sentinels gone, controls kept."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import select

from app.jobs import service as jobs
from app.jobs.escalation import Guarantee
from app.jobs.lifecycle import JobStage
from app.jobs.views import JobView
from app.tables import Job, JobStep, Qualification, new_id
from app.verification import policy as policies
from app.verification import service
from app.verification.service import Judgement
from tests.app.jobs.batches import Desk
from tests.app.verification import files
from tests.fixtures.api import StillClock
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


def measured_bench(world: World, app: FastAPI, clock: StillClock) -> Bench:
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
