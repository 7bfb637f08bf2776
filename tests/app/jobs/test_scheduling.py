"""Which job begins and when, on a real Postgres: batches, asking by hand, seeds, what is due."""

from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from app.audit import service as audit
from app.errors import Conflict, NotFound
from app.jobs import escalation, leases, scheduling
from app.jobs import service as jobs
from app.jobs.lifecycle import JobStage
from app.jobs.repository import Jobs
from app.jobs.views import JobView
from app.queue import Stage
from app.tables import Job, Model, ModelVersion, ReferenceModel, new_id
from tests.app.jobs.batches import POLICY, Desk, at_epoch, conclude, multiply, release
from tests.fixtures.world import ADA, BOB

LARGEST = escalation.load("default").batch_largest

# Batches


def test_a_batch_waits_until_one_of_its_requests_has_waited_a_day(desk: Desk, model: UUID) -> None:
    asked = desk.asked(ADA)
    epoch = desk.lease(model)

    def opened() -> JobView | None:
        with desk.transaction() as session:
            return scheduling.open_next(session, model, epoch=epoch, now=desk.clock())

    desk.clock.advance(hours=24, seconds=-1)
    assert opened() is None
    desk.clock.advance(seconds=1)
    view = opened()
    assert view is not None
    assert (view.stage, view.attempt, view.engine, view.requests) == (JobStage.PLAN, 1, None, (asked,))
    assert desk.target(asked).job_id == view.id
    assert _reason(desk) == "age"


def test_a_full_batch_begins_at_once_and_leaves_the_rest_to_the_next(desk: Desk) -> None:
    model, asked = desk.line("crowd", 2)
    epoch = desk.lease(model)
    with desk.transaction() as session:
        multiply(session, asked[0], LARGEST - 3)
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=epoch, now=desk.clock()) is None, (
            "one short of a batch"
        )
        multiply(session, asked[0], 2)
    with desk.transaction() as session:
        view = scheduling.open_next(session, model, epoch=epoch, now=desk.clock())
        assert view is not None
        assert len(view.requests) == LARGEST
        assert len(Jobs(session).free_targets(model, limit=LARGEST)) == 1
    assert _reason(desk) == "size"


def test_a_near_deadline_does_not_wait_for_company(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    epoch = desk.lease(model)
    with desk.transaction() as session:
        session.execute(text("UPDATE erasure_requests SET due_on = :day"), {"day": desk.clock().date()})
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=epoch, now=desk.clock()) is not None
    assert _reason(desk) == "deadline"


def test_a_job_that_was_asked_for_begins_once(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    desk.ask_now(model)
    assert ("plan", model) in desk.bells()
    view = desk.opened(model)
    assert _reason(desk) == "asked_for"
    assert desk.model(model).run_requested_at is None
    with desk.transaction() as session:
        jobs.planned(
            session, view, engine="gradient", anchor_id=view.parent_id, plan={}, sentinels=0,
            policy_digest=POLICY, seconds=1, at=desk.clock(),
        )  # fmt: skip
    desk.asked(BOB)
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=view.epoch, now=desk.clock()) is None, (
            "a job is running"
        )


def test_who_opens_again_gets_the_same_job(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.opened(model)
    desk.asked(BOB)
    again = desk.opened(model)
    assert (again.id, again.requests, again.seed) == (view.id, view.requests, view.seed)
    assert again.epoch == view.epoch + 1
    with desk.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1


def test_nobody_asks_for_nothing(desk: Desk, model: UUID) -> None:
    desk.ask_now(model)
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=epoch, now=desk.clock()) is None
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_a_held_result_is_taken_by_no_job_before_a_second_person_has_released_it(
    desk: Desk, model: UUID
) -> None:
    held, other = desk.asked(ADA), desk.asked(BOB)
    view = desk.at(model, JobStage.VERIFY, engine="retrain")
    with desk.transaction() as session:
        jobs.passed(
            session, view, leaving=[held], held={held: "detected"}, output={}, seconds=1, at=desk.clock()
        )
    assert desk.target(held).held == "detected"
    conclude(desk, view)
    desk.clock.advance(days=30)
    desk.ask_now(model)
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=epoch, now=desk.clock()) is None
        assert (Stage.PLAN, model) not in scheduling.due(session, now=desk.clock())
    desk.hush()
    release(desk, held)
    assert desk.bells() == {("plan", model)}
    with desk.transaction() as session:
        taken = scheduling.open_next(session, model, epoch=epoch, now=desk.clock())
    assert taken is not None
    assert (taken.requests, taken.released) == ((held,), frozenset({held}))
    assert other not in taken.requests


def test_a_model_whose_results_nobody_can_judge_gets_no_batch(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    with desk.transaction() as session:
        session.execute(update(Model).values(references_wanted=0, run_requested_at=desk.clock()))
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert scheduling.open_next(session, model, epoch=epoch, now=desk.clock()) is None


# Asking for one by hand


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"breaker": "open"}, "model-paused"),
        ({"references_wanted": 0}, "model-not-verifiable"),
        ({"live_version_id": None}, "model-not-ready"),
    ],
)
def test_what_cannot_be_run_is_refused(desk: Desk, model: UUID, change: dict[str, object], code: str) -> None:
    desk.asked(ADA)
    desk.hush()
    with desk.transaction() as session:
        session.execute(update(Model).values(change))
    with desk.unchanged(), desk.transaction() as session, pytest.raises(Conflict) as refused:
        scheduling.run_now(session, "assistant", at=desk.clock())
    assert refused.value.code == code


def test_nobody_runs_what_does_not_exist(desk: Desk) -> None:
    with desk.transaction() as session, pytest.raises(NotFound):
        scheduling.run_now(session, "nobody", at=desk.clock())


# Seeds


def test_a_seed_is_its_parents_and_its_places(desk: Desk, people: UUID) -> None:
    """Two lines whose live versions are the same bytes: the same seeds, job by job, and never one twice."""
    lines = [desk.world.model(name, people) for name in ("one", "two")]
    seeds = []
    for person in (ADA, BOB):
        desk.asked(person)
        views = [desk.opened(line) for line in lines]
        seeds.append({view.seed for view in views})
        for view in views:
            conclude(desk, view)
    assert [len(each) for each in seeds] == [1, 1]
    assert seeds[0].isdisjoint(seeds[1])
    assert all(0 <= seed < 2**63 for each in seeds for seed in each)


def test_another_parent_is_another_seed(desk: Desk, people: UUID) -> None:
    lines = [desk.world.model(name, people) for name in ("one", "two")]
    with desk.transaction() as session:
        session.execute(
            update(ModelVersion).where(ModelVersion.model_id == lines[1]).values(manifest="11" * 32)
        )
    desk.asked(ADA)
    assert desk.opened(lines[0]).seed != desk.opened(lines[1]).seed


# What is due


def test_what_is_due_is_what_nobody_is_at(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        session.add_all(
            ReferenceModel(id=new_id(), model_id=model, shard=shard, manifest="aa" * 32, saw="bb" * 32)
            for shard in range(4)
        )

    def due() -> list[tuple[Stage, UUID]]:
        with desk.transaction() as session:
            return scheduling.due(session, now=desk.clock())

    assert due() == []
    desk.asked(ADA)
    assert due() == [], "a batch waits for company"
    desk.ask_now(model)
    assert due() == [(Stage.PLAN, model)]
    view = desk.opened(model)
    assert due() == [], "it is held"
    desk.end_lease(model)
    assert due() == [(Stage.PLAN, model)]
    view = desk.onward(at_epoch(view, desk.lease(model)), JobStage.VERIFY)
    with desk.transaction() as session:
        leases.release(session, model, epoch=view.epoch)
    assert due() == [(Stage.VERIFY, view.id)]
    with desk.transaction() as session:
        assert scheduling.unfinished(session) == (frozenset({view.id}), frozenset())


# Helpers


def _reason(desk: Desk) -> str:
    """Return why the last job was opened, as the audit chain says."""
    with desk.transaction() as session:
        opened = [each for each in audit.listing(session) if each.kind == "job.opened"]
    return str(opened[-1].body["reason"])
