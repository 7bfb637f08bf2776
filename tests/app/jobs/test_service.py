"""Jobs on a real Postgres: leases that fence, batches, stages that are done once, ladders, failures."""

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from app.audit import service as audit
from app.erasure import service as erasure
from app.errors import Conflict, LeaseLost, NotFound
from app.jobs import escalation
from app.jobs import service as jobs
from app.jobs.lifecycle import JobStage
from app.jobs.service import FAILED_JOBS_MAX, PREPARE_FAILURES_MAX, WAITING, JobView
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Job, JobStep, Model, ModelVersion, ReferenceModel, new_id
from tests.app.jobs.batches import LEASE_SECONDS, POLICY, Desk, at_epoch
from tests.fixtures.world import ADA, BOB, EVE

LARGEST = escalation.load("default").batch_largest
ATTEMPTS = 3

# Leases


def test_a_lease_is_one_workers_at_a_time_and_every_one_has_its_own_number(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        first = jobs.take_lease(session, model, owner="one", seconds=60)
        assert first == 1
        assert jobs.take_lease(session, model, owner="two", seconds=60) is None
        assert session.get_one(Model, model, populate_existing=True).lease_owner == "one"
        jobs.release_lease(session, model, epoch=first)
        assert jobs.take_lease(session, model, owner="two", seconds=60) == 2
        jobs.release_lease(session, model, epoch=first)
        assert jobs.take_lease(session, model, owner="one", seconds=60) is None, "the second's is not ours"


def test_a_lease_that_ran_out_can_be_taken_and_not_renewed(desk: Desk, model: UUID) -> None:
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert jobs.renew_lease(session, model, epoch=epoch, seconds=60)
    desk.end_lease(model)
    with desk.transaction() as session:
        assert not jobs.renew_lease(session, model, epoch=epoch, seconds=60)
        with pytest.raises(LeaseLost):
            jobs.hold(session, model, epoch=epoch)
        assert jobs.take_lease(session, model, owner="rival", seconds=60) == epoch + 1
        assert not jobs.renew_lease(session, model, epoch=epoch, seconds=60)


def test_a_renewal_counts_from_now_by_the_databases_clock(desk: Desk, model: UUID) -> None:
    epoch = desk.lease(model, seconds=1)
    with desk.transaction() as session:
        assert jobs.renew_lease(session, model, epoch=epoch, seconds=LEASE_SECONDS)
        left = session.scalar(
            select(Model.lease_expires_at - func.clock_timestamp()).where(Model.id == model)
        )
    assert left is not None
    assert timedelta(seconds=LEASE_SECONDS - 5) < left <= timedelta(seconds=LEASE_SECONDS)


def test_nobody_gets_the_lease_of_a_paused_model(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        assert not jobs.paused(session, model)
        session.execute(update(Model).values(breaker="open"))
    with desk.transaction() as session:
        assert jobs.paused(session, model)
        assert jobs.take_lease(session, model, owner="one", seconds=60) is None


def test_every_stage_knows_whose_lease_it_needs(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    job = desk.opened(model)
    with desk.transaction() as session:
        found = {
            (Stage.REGISTER, None): jobs.model_of(session, Stage.REGISTER, job.dataset_id),
            (Stage.PLAN, model): jobs.model_of(session, Stage.PLAN, model),
            (Stage.PREPARE, model): jobs.model_of(session, Stage.PREPARE, job.parent_id),
            (Stage.UNLEARN, model): jobs.model_of(session, Stage.UNLEARN, job.id),
            (Stage.CONCLUDE, None): jobs.model_of(session, Stage.CONCLUDE, new_id()),
        }
    assert all(wanted == got for (_, wanted), got in found.items()), found


# The fence: every verb that records


def _failure(stage: Stage) -> Callable[[Desk, Session, JobView], object]:
    def fail(desk: Desk, session: Session, view: JobView) -> object:
        ids = {Stage.PLAN: view.model_id, Stage.PREPARE: view.parent_id}
        return jobs.record_failure(
            session,
            stage,
            ids.get(stage, view.id),
            epoch=view.epoch,
            code="failed",
            killed=False,
            attempts_max=1,
            at=desk.clock(),
        )

    return fail


def _escalated(stage: JobStage) -> Callable[[Desk, Session, JobView], object]:
    def escalate(desk: Desk, session: Session, view: JobView) -> object:
        return jobs.escalate(
            session,
            view,
            stage=stage,
            outcome="refused" if stage is JobStage.UNLEARN else "insufficient",
            reasons=("a-reason",),
            output={"engine": view.engine},
            seconds=1.0,
            at=desk.clock(),
        )

    return escalate


def _set_aside(desk: Desk, session: Session, view: JobView) -> None:
    held = dict.fromkeys(view.requests, "detected")
    jobs.set_aside(session, view, held=held, output={}, seconds=1.0, at=desk.clock())


def _passed_without(desk: Desk, session: Session, view: JobView) -> None:
    jobs.passed(session, view, leaving=view.requests, held={}, output={}, seconds=1.0, at=desk.clock())


def _step(desk: Desk, session: Session, view: JobView) -> None:
    desk.step(session, view)


def _made(desk: Desk, session: Session, view: JobView) -> None:
    """Hand over a version that is there already: registering one is another module's."""
    jobs.made_candidate(session, view, view.parent_id, output={}, seconds=1.0, at=desk.clock())


def _opened(desk: Desk, session: Session, view: JobView) -> object:
    return jobs.open_batch(session, view.model_id, epoch=view.epoch, now=desk.clock())


def _claimed(desk: Desk, session: Session, view: JobView) -> object:
    return jobs.claim(session, view.id, view.stage, epoch=view.epoch, now=desk.clock())


ONCE = {
    "planned": (JobStage.PLAN, _step),
    "made_candidate": (JobStage.UNLEARN, _made),
    "refused": (JobStage.UNLEARN, _escalated(JobStage.UNLEARN)),
    "passed": (JobStage.VERIFY, _step),
    "passed_without": (JobStage.VERIFY, _passed_without),
    "set_aside": (JobStage.VERIFY, _set_aside),
    "insufficient": (JobStage.VERIFY, _escalated(JobStage.VERIFY)),
    "certified": (JobStage.CERTIFY, _step),
    "published": (JobStage.PUBLISH, _step),
    "concluded": (JobStage.CONCLUDE, _step),
}
"""What ends a stage: by name, the stage and the verb."""

FENCED = ONCE | {
    "open_batch": (JobStage.PLAN, _opened),
    "claim": (JobStage.UNLEARN, _claimed),
    "claim_later": (JobStage.PUBLISH, _claimed),
    "failure_of_plan": (JobStage.PLAN, _failure(Stage.PLAN)),
    "failure_of_unlearn": (JobStage.UNLEARN, _failure(Stage.UNLEARN)),
    "failure_of_publish": (JobStage.PUBLISH, _failure(Stage.PUBLISH)),
    "failure_of_prepare": (JobStage.PLAN, _failure(Stage.PREPARE)),
    "wait": (
        JobStage.PLAN,
        lambda _desk, session, view: jobs.record_wait(session, view.model_id, epoch=view.epoch),
    ),
    "prepared": (
        JobStage.PLAN,
        lambda _desk, session, view: jobs.prepared(session, view.parent_id, epoch=view.epoch),
    ),
}


@pytest.mark.parametrize("name", FENCED)
def test_under_a_lease_that_another_has_taken_no_verb_writes_anything(
    desk: Desk, model: UUID, name: str
) -> None:
    """The transaction is committed all the same: not a rollback, the verb keeps it from happening."""
    stage, verb = FENCED[name]
    desk.asked(ADA)
    view = desk.at(model, stage)
    with desk.transaction() as session:
        session.execute(update(ModelVersion).values(failures=1, kills=1))
    desk.lease(model)
    with desk.unchanged(), desk.transaction() as session, pytest.raises(LeaseLost):
        verb(desk, session, view)


@pytest.mark.parametrize("lost", ["over", "returned"])
def test_a_lease_that_nobody_has_taken_since_is_lost_all_the_same(
    desk: Desk, model: UUID, lost: str
) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.PUBLISH)
    if lost == "over":
        desk.end_lease(model)
    else:
        with desk.transaction() as session:
            jobs.release_lease(session, model, epoch=view.epoch)
    with desk.unchanged(), desk.transaction() as session, pytest.raises(LeaseLost):
        jobs.published(session, view, output={}, seconds=1.0)


@pytest.mark.parametrize("name", ONCE)
def test_a_stage_that_was_done_is_not_done_twice(desk: Desk, model: UUID, name: str) -> None:
    """A second delivery finds another stage, or another attempt: no second step, no second event."""
    stage, verb = ONCE[name]
    desk.asked(ADA)
    view = desk.at(model, stage)
    with desk.transaction() as session:
        verb(desk, session, view)
    with desk.unchanged(), desk.transaction() as session, pytest.raises(LeaseLost, match="done by another"):
        verb(desk, session, view)
    if stage is not JobStage.UNLEARN or name == "made_candidate":
        with desk.unchanged(), desk.transaction() as session:
            assert jobs.claim(session, view.id, stage, epoch=view.epoch, now=desk.clock()) is None
    with desk.transaction() as session:
        done = session.execute(select(JobStep.stage).where(JobStep.stage == stage.value)).all()
        assert len(done) == 1
        assert audit.verify(session).broken_at is None


# Batches


def test_a_batch_waits_until_one_of_its_requests_has_waited_a_day(desk: Desk, model: UUID) -> None:
    asked = desk.asked(ADA)
    epoch = desk.lease(model)

    def opened() -> JobView | None:
        with desk.transaction() as session:
            return jobs.open_batch(session, model, epoch=epoch, now=desk.clock())

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
        _multiply(session, asked[0], LARGEST - 2)
    with desk.transaction() as session:
        assert jobs.open_batch(session, model, epoch=epoch, now=desk.clock()) is None, "one short of a batch"
        _multiply(session, asked[0], 2)
    with desk.transaction() as session:
        view = jobs.open_batch(session, model, epoch=epoch, now=desk.clock())
        assert view is not None
        assert len(view.requests) == LARGEST
        assert len(jobs.Jobs(session).free_targets(model, limit=LARGEST)) == 1
    assert _reason(desk) == "size"


def test_a_near_deadline_does_not_wait_for_company(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    epoch = desk.lease(model)
    with desk.transaction() as session:
        session.execute(text("UPDATE erasure_requests SET due_on = :day"), {"day": desk.clock().date()})
    with desk.transaction() as session:
        assert jobs.open_batch(session, model, epoch=epoch, now=desk.clock()) is not None
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
        assert jobs.open_batch(session, model, epoch=view.epoch, now=desk.clock()) is None, "a job is running"


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
        assert jobs.open_batch(session, model, epoch=epoch, now=desk.clock()) is None
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
    _conclude(desk, view)
    desk.clock.advance(days=30)
    desk.ask_now(model)
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert jobs.open_batch(session, model, epoch=epoch, now=desk.clock()) is None
        assert (Stage.PLAN, model) not in jobs.due(session, now=desk.clock())
    desk.hush()
    with desk.transaction() as session:
        erasure.release(session, held, principal_id=desk.approver, person=True, at=desk.clock())
    assert desk.bells() == {("plan", model)}
    with desk.transaction() as session:
        taken = jobs.open_batch(session, model, epoch=epoch, now=desk.clock())
    assert taken is not None
    assert (taken.requests, taken.released) == ((held,), frozenset({held}))
    assert other not in taken.requests


def test_a_model_whose_results_nobody_can_judge_gets_no_batch(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    with desk.transaction() as session:
        session.execute(update(Model).values(references_wanted=0, run_requested_at=desk.clock()))
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert jobs.open_batch(session, model, epoch=epoch, now=desk.clock()) is None


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
        jobs.run_now(session, "assistant", at=desk.clock())
    assert refused.value.code == code


def test_nobody_runs_what_does_not_exist(desk: Desk) -> None:
    with desk.transaction() as session, pytest.raises(NotFound):
        jobs.run_now(session, "nobody", at=desk.clock())


# Seeds


def test_a_seed_is_its_parents_and_its_places(desk: Desk, people: UUID) -> None:
    """Two lines whose live versions are the same bytes: the same seeds, job by job, and never one twice."""
    lines = [desk.world.model(name, people) for name in ("one", "two")]
    desk.asked(ADA)
    first = [desk.opened(line) for line in lines]
    assert first[0].seed == first[1].seed
    for view in first:
        _conclude(desk, desk.onward(view, JobStage.UNLEARN))
    desk.asked(BOB)
    second = [desk.opened(line) for line in lines]
    assert second[0].seed == second[1].seed != first[0].seed
    with desk.transaction() as session:
        session.execute(update(ModelVersion).values(manifest="11" * 32))
        session.execute(text("DELETE FROM job_steps"))
        session.execute(update(Model).values(live_version_id=Model.live_version_id))
    other = desk.world.model("three", people)
    desk.asked(EVE, BOB)
    assert desk.opened(other).seed == first[0].seed, "the place in its own line, not in the world"
    assert 0 <= first[0].seed < 2**63


def test_another_parent_is_another_seed(desk: Desk, people: UUID) -> None:
    lines = [desk.world.model(name, people) for name in ("one", "two")]
    with desk.transaction() as session:
        session.execute(
            update(ModelVersion).where(ModelVersion.model_id == lines[1]).values(manifest="11" * 32)
        )
    desk.asked(ADA)
    assert desk.opened(lines[0]).seed != desk.opened(lines[1]).seed
