"""Jobs that have begun, on a real Postgres: the fence, stages that are done once, the ladder."""

from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.audit import service as audit
from app.errors import LeaseLost
from app.jobs import failures, leases, scheduling
from app.jobs import service as jobs
from app.jobs.failures import FAILED_JOBS_MAX
from app.jobs.lifecycle import JobStage
from app.jobs.views import JobView
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Job, JobStep, ModelVersion, new_id
from tests.app.jobs.batches import POLICY, Desk, conclude, planned, withdraw
from tests.fixtures.world import ADA, BOB

# The fence: every verb that records


def _failure(stage: Stage) -> Callable[[Desk, Session, JobView], object]:
    def fail(desk: Desk, session: Session, view: JobView) -> None:
        ids = {Stage.PLAN: view.model_id, Stage.PREPARE: view.parent_id}
        failures.record(
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
    return scheduling.open_next(session, view.model_id, epoch=view.epoch, now=desk.clock())


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
    "open_next": (JobStage.PLAN, _opened),
    "claim": (JobStage.UNLEARN, _claimed),
    "claim_later": (JobStage.PUBLISH, _claimed),
    "failure_of_plan": (JobStage.PLAN, _failure(Stage.PLAN)),
    "failure_of_unlearn": (JobStage.UNLEARN, _failure(Stage.UNLEARN)),
    "failure_of_publish": (JobStage.PUBLISH, _failure(Stage.PUBLISH)),
    "failure_of_prepare": (JobStage.PLAN, _failure(Stage.PREPARE)),
    "wait": (
        JobStage.PLAN,
        lambda _desk, session, view: failures.wait(session, view.model_id, epoch=view.epoch),
    ),
    "prepared": (
        JobStage.PLAN,
        lambda _desk, session, view: failures.prepared(session, view.parent_id, epoch=view.epoch),
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
def test_a_lease_that_nobody_has_taken_since_is_lost_all_the_same(desk: Desk, model: UUID, lost: str) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.PUBLISH)
    if lost == "over":
        desk.end_lease(model)
    else:
        with desk.transaction() as session:
            leases.release(session, model, epoch=view.epoch)
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


# Claiming


def test_claiming_begins_the_work_on_every_request(desk: Desk, model: UUID) -> None:
    asked = {desk.asked(ADA), desk.asked(BOB)}
    view = desk.at(model, JobStage.UNLEARN)
    assert set(view.requests) == asked
    assert (view.stage, view.engine, view.anchor_id) == (JobStage.UNLEARN, "gradient", view.parent_id)
    assert (view.plan, view.policy_digest) == ({"sentinels": [1], "controls": [2]}, POLICY)
    assert {desk.request(each)[0] for each in asked} == {"unlearning"}
    again = desk.claimed(view)
    assert again == view, "killed in the middle, it is claimed once more"


def test_a_stage_that_is_not_due_is_not_claimed(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.opened(model)
    with desk.unchanged(), desk.transaction() as session:
        for stage in (JobStage.UNLEARN, JobStage.VERIFY, JobStage.DONE):
            assert jobs.claim(session, view.id, stage, epoch=view.epoch, now=desk.clock()) is None
        assert jobs.claim(session, new_id(), JobStage.PLAN, epoch=view.epoch, now=desk.clock()) is None


def test_who_withdrew_since_the_batch_was_made_is_left_out(desk: Desk, model: UUID) -> None:
    gone, stays = desk.asked(ADA), desk.asked(BOB)
    view = planned(desk, model)
    withdraw(desk, gone)
    claimed = desk.claimed(view)
    assert claimed is not None
    assert claimed.requests == (stays,)
    assert desk.request(gone) == ("withdrawn", None)
    assert desk.target(gone).job_id is None


def test_whose_records_changed_since_the_approval_is_left_out_and_approved_again(
    desk: Desk, model: UUID
) -> None:
    changed, stays = desk.asked(ADA), desk.asked(BOB)
    view = planned(desk, model)
    desk.world.dataset("more", {ADA: ["more-1"]})
    claimed = desk.claimed(view)
    assert claimed is not None
    assert claimed.requests == (stays,)
    assert desk.request(changed)[0] == "awaiting_approval"


def test_a_batch_that_nobody_is_left_in_is_over_and_nobody_is_blamed(desk: Desk, model: UUID) -> None:
    alone = desk.asked(ADA)
    view = planned(desk, model)
    withdraw(desk, alone)
    desk.hush()
    assert desk.claimed(view) is None
    job = desk.job(view.id)
    assert (job.state, job.stage, job.concluded_at, job.failure) == ("concluded", "done", desk.clock(), None)
    assert desk.bells() == {("plan", model)}, "whoever came meanwhile is looked at next"
    desk.asked(BOB)
    assert desk.opened(model).id != view.id


# Stages


def test_the_straight_line_of_a_job(desk: Desk, model: UUID) -> None:
    asked = desk.asked(ADA)
    opened = desk.opened(model)
    states, rung = {}, []
    for stage in list(JobStage)[:-1]:
        view = desk.claimed(opened)
        assert view is not None
        assert view.stage is stage
        states[stage.value] = desk.request(asked)[0]
        desk.hush()
        with desk.transaction() as session:
            desk.step(session, view)
        rung.append(desk.bells())
    assert rung[:-1] == [{(each.value, opened.id)} for each in list(JobStage)[1:-1]]
    assert rung[-1] == {("plan", model)}
    view = opened
    assert states == {
        "plan": "scheduled", "unlearn": "unlearning", "verify": "verifying", "certify": "verifying",
        "publish": "publishing", "conclude": "publishing",
    }  # fmt: skip
    job = desk.job(view.id)
    assert (job.state, job.stage, job.attempt, job.concluded_at) == ("concluded", "done", 1, desk.clock())
    assert job.candidate_id is not None
    with desk.transaction() as session:
        steps = jobs.steps(session, view.id)
        shown = jobs.read(session, view.id)
    assert [step["stage"] for step in steps] == [each.value for each in list(JobStage)[:-1]]
    assert [step["seconds"] for step in steps] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert {step["attempt"] for step in steps} == {1}
    assert shown.history == [
        {"attempt": 1, "engine": "gradient", "outcome": "passed", "reasons": [], "seconds": 3.0}
    ]
    assert [kind for kind in desk.events() if kind.startswith("job.")] == [
        "job.opened", "job.planned", "job.concluded",
    ]  # fmt: skip


def test_who_leaves_a_passed_batch_waits_for_the_next_engine_and_the_others_go_on(
    desk: Desk, model: UUID
) -> None:
    leaving, stays = desk.asked(ADA), desk.asked(BOB)
    view = desk.at(model, JobStage.VERIFY)
    with desk.transaction() as session:
        jobs.passed(session, view, leaving=[leaving], held={}, output={}, seconds=1, at=desk.clock())
    left, stayed = desk.target(leaving), desk.target(stays)
    assert (left.stage, left.job_id, left.engine_floor, left.held) == ("scheduled", None, "retrain", None)
    assert (left.looks, stayed.looks) == (1, 1), "the audit material of both was used"
    assert desk.request(leaving) == ("scheduled", "verification")
    assert desk.request(stays) == ("verifying", None)
    onward = desk.claimed(view)
    assert onward is not None
    assert (onward.stage, onward.requests, onward.looks) == (JobStage.CERTIFY, (stays,), {stays: 1})


def test_after_the_last_engine_the_floor_stays_the_last(desk: Desk, model: UUID) -> None:
    leaving, held = desk.asked(ADA), desk.asked(BOB)
    view = desk.at(model, JobStage.VERIFY, engine="retrain")
    with desk.transaction() as session:
        jobs.passed(
            session, view, leaving=[leaving, held], held={held: "detected"}, output={}, seconds=1,
            at=desk.clock(),
        )  # fmt: skip
    assert [desk.target(each).engine_floor for each in (leaving, held)] == ["retrain", "retrain"]
    assert [desk.target(each).held for each in (leaving, held)] == [None, "detected"]
    assert desk.request(held) == ("scheduled", "detected")
    assert desk.job(view.id).history[0]["reasons"] == ["detected"]


def test_an_exact_result_detected_for_all_is_set_aside_and_is_nobodys_failure(
    desk: Desk, model: UUID
) -> None:
    asked = [desk.asked(ADA), desk.asked(BOB)]
    view = desk.at(model, JobStage.VERIFY, engine="retrain")
    desk.hush()
    with desk.transaction() as session:
        _set_aside(desk, session, view)
    job, line = desk.job(view.id), desk.model(model)
    assert (job.state, job.stage, job.failure) == ("concluded", "done", None)
    assert (line.failed_jobs, line.breaker, line.attention) == (0, "closed", None)
    assert desk.bells() == {("plan", model)}
    for request_id in asked:
        target = desk.target(request_id)
        assert (target.stage, target.job_id, target.held, target.looks) == ("scheduled", None, "detected", 1)
        assert desk.request(request_id) == ("scheduled", "detected")
    assert job.history[0]["outcome"] == "held"
    assert "job.set_aside" in desk.events()


# The ladder


@pytest.mark.parametrize("stage", [JobStage.UNLEARN, JobStage.VERIFY])
def test_the_next_rung_is_tried_on_the_whole_batch(desk: Desk, model: UUID, stage: JobStage) -> None:
    asked = [desk.asked(ADA), desk.asked(BOB)]
    view = desk.at(model, stage)
    first = desk.job(view.id).candidate_id
    with desk.transaction() as session:
        session.execute(update(Job).values(failures=2, kills=1))
    desk.hush()
    with desk.transaction() as session:
        assert _escalated(stage)(desk, session, view) == "retrain"
    job = desk.job(view.id)
    assert (job.state, job.stage, job.attempt, job.engine) == ("running", "unlearn", 2, "retrain")
    assert (job.candidate_id, job.failures, job.kills) == (None, 0, 0)
    assert desk.bells() == {("unlearn", view.id)}
    assert [desk.request(each)[0] for each in asked] == ["unlearning", "unlearning"]
    assert [desk.target(each).looks for each in asked] == [int(stage is JobStage.VERIFY)] * 2
    again = desk.claimed(view)
    assert again is not None
    assert (again.attempt, again.engine, again.seed) == (2, "retrain", view.seed)
    done = desk.onward(again, JobStage.CERTIFY)
    assert done.candidate_id not in {None, first}
    with desk.transaction() as session:
        steps = [(step["attempt"], step["stage"]) for step in jobs.steps(session, view.id)]
    assert steps[-3:] == [(1, stage.value), (2, "unlearn"), (2, "verify")]
    assert [each["outcome"] for each in desk.job(view.id).history] == [
        "refused" if stage is JobStage.UNLEARN else "insufficient",
        "passed",
    ]


def test_above_the_last_rung_the_job_has_failed_and_what_it_made_is_destroyed(
    desk: Desk, model: UUID
) -> None:
    asked = desk.asked(ADA)
    view = desk.at(model, JobStage.VERIFY, engine="retrain")
    assert view.candidate_id is not None
    desk.hush()
    with desk.transaction() as session:
        assert _escalated(JobStage.VERIFY)(desk, session, view) is None
    job, target = desk.job(view.id), desk.target(asked)
    assert (job.state, job.failure, job.concluded_at) == ("failed", "insufficient", desk.clock())
    assert desk.version(view.candidate_id).state == "condemned"
    assert (target.stage, target.job_id, target.engine_floor) == ("scheduled", None, "retrain")
    assert (target.held, target.looks) == (None, 1)
    assert desk.request(asked) == ("scheduled", "verification")
    assert desk.model(model).failed_jobs == 1
    assert {"job.escalated", "job.failed"} <= set(desk.events())
    assert desk.bells() == set(), "the planner takes it up by its batch policy"


def test_a_refusal_of_the_last_engine_leaves_no_candidate_to_condemn(desk: Desk, model: UUID) -> None:
    asked = desk.asked(ADA)
    view = desk.at(model, JobStage.UNLEARN, engine="retrain")
    with desk.transaction() as session:
        assert _escalated(JobStage.UNLEARN)(desk, session, view) is None
    assert desk.job(view.id).state == "failed"
    assert desk.request(asked) == ("scheduled", "verification")
    assert desk.target(asked).looks == 0, "nothing was measured"


def test_two_failed_jobs_in_a_row_open_the_breaker_and_one_that_concludes_closes_the_count(
    desk: Desk, model: UUID
) -> None:
    desk.asked(ADA)
    _fail(desk, desk.at(model, JobStage.UNLEARN))
    conclude(desk, desk.opened(model))
    assert desk.model(model).failed_jobs == 0
    desk.asked(BOB)
    for failed in range(1, FAILED_JOBS_MAX + 1):
        assert desk.model(model).breaker == "closed"
        _fail(desk, desk.at(model, JobStage.UNLEARN))
        assert desk.model(model).failed_jobs == failed
    line = desk.model(model)
    assert (line.breaker, line.attention) == ("open", "breaker")
    with desk.transaction() as session:
        assert scheduling.due(session, now=desk.clock()) == []
        leases.release(session, model, epoch=line.lease_epoch)
        assert leases.take(session, model, owner="one", seconds=60) is None
    with desk.transaction() as session:
        registry.resume(session, "assistant", principal_id=desk.approver, at=desk.clock())
    line = desk.model(model)
    assert (line.breaker, line.attention, line.failed_jobs) == ("closed", None, 0)
    assert desk.opened(model) is not None


# Helpers


def _fail(desk: Desk, view: JobView) -> None:
    with desk.transaction() as session:
        _failure(Stage.UNLEARN)(desk, session, view)
