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
from app.jobs.repository import Jobs
from app.jobs.service import FAILED_JOBS_MAX, PREPARE_FAILURES_MAX, WAITING, JobView
from app.queue import Stage
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Job, JobStep, Model, ModelVersion, ReferenceModel, new_id
from tests.app.jobs.batches import LEASE_SECONDS, POLICY, Desk, at_epoch
from tests.fixtures.world import ADA, BOB

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
        [(until, now)] = session.execute(
            select(Model.lease_expires_at, func.clock_timestamp()).where(Model.id == model)
        )
    left = until - now
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
    def fail(desk: Desk, session: Session, view: JobView) -> None:
        ids = {Stage.PLAN: view.model_id, Stage.PREPARE: view.parent_id}
        jobs.record_failure(
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
def test_a_lease_that_nobody_has_taken_since_is_lost_all_the_same(desk: Desk, model: UUID, lost: str) -> None:
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
        _multiply(session, asked[0], LARGEST - 3)
    with desk.transaction() as session:
        assert jobs.open_batch(session, model, epoch=epoch, now=desk.clock()) is None, "one short of a batch"
        _multiply(session, asked[0], 2)
    with desk.transaction() as session:
        view = jobs.open_batch(session, model, epoch=epoch, now=desk.clock())
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
    seeds = []
    for person in (ADA, BOB):
        desk.asked(person)
        views = [desk.opened(line) for line in lines]
        seeds.append({view.seed for view in views})
        for view in views:
            _conclude(desk, view)
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
    view = _planned(desk, model)
    _withdraw(desk, gone)
    claimed = desk.claimed(view)
    assert claimed is not None
    assert claimed.requests == (stays,)
    assert desk.request(gone) == ("withdrawn", None)
    assert desk.target(gone).job_id is None


def test_whose_records_changed_since_the_approval_is_left_out_and_approved_again(
    desk: Desk, model: UUID
) -> None:
    changed, stays = desk.asked(ADA), desk.asked(BOB)
    view = _planned(desk, model)
    desk.world.dataset("more", {ADA: ["more-1"]})
    claimed = desk.claimed(view)
    assert claimed is not None
    assert claimed.requests == (stays,)
    assert desk.request(changed)[0] == "awaiting_approval"


def test_a_batch_that_nobody_is_left_in_is_over_and_nobody_is_blamed(desk: Desk, model: UUID) -> None:
    alone = desk.asked(ADA)
    view = _planned(desk, model)
    _withdraw(desk, alone)
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
    _conclude(desk, desk.opened(model))
    assert desk.model(model).failed_jobs == 0
    desk.asked(BOB)
    for failed in range(1, FAILED_JOBS_MAX + 1):
        assert desk.model(model).breaker == "closed"
        _fail(desk, desk.at(model, JobStage.UNLEARN))
        assert desk.model(model).failed_jobs == failed
    line = desk.model(model)
    assert (line.breaker, line.attention) == ("open", "breaker")
    with desk.transaction() as session:
        assert jobs.due(session, now=desk.clock()) == []
        jobs.release_lease(session, model, epoch=line.lease_epoch)
        assert jobs.take_lease(session, model, owner="one", seconds=60) is None
    with desk.transaction() as session:
        registry.resume(session, "assistant", principal_id=desk.approver, at=desk.clock())
    line = desk.model(model)
    assert (line.breaker, line.attention, line.failed_jobs) == ("closed", None, 0)
    assert desk.opened(model) is not None


# Failures and waits


def _record(desk: Desk, view: JobView, stage: Stage, *, killed: bool = False, most: int = ATTEMPTS) -> None:
    ids = {Stage.PLAN: view.model_id, Stage.PREPARE: view.parent_id}
    with desk.transaction() as session:
        jobs.record_failure(
            session, stage, ids.get(stage, view.id), epoch=view.epoch, code="exit_70", killed=killed,
            attempts_max=most, at=desk.clock(),
        )  # fmt: skip


@pytest.mark.parametrize("killed", [True, False])
def test_a_stage_is_given_up_after_so_many_of_one_kind_and_the_kinds_are_counted_apart(
    desk: Desk, model: UUID, *, killed: bool
) -> None:
    asked = desk.asked(ADA)
    view = desk.at(model, JobStage.VERIFY)
    for _ in range(ATTEMPTS - 1):
        _record(desk, view, Stage.VERIFY, killed=killed)
        _record(desk, view, Stage.VERIFY, killed=not killed)
    job = desk.job(view.id)
    assert (job.state, job.failures, job.kills) == ("running", ATTEMPTS - 1, ATTEMPTS - 1)
    _record(desk, view, Stage.VERIFY, killed=killed)
    job = desk.job(view.id)
    assert (job.state, job.failure) == ("failed", "exit_70")
    assert (job.failures, job.kills)[killed] == ATTEMPTS
    assert desk.request(asked) == ("scheduled", "job_failed")
    assert desk.target(asked).engine_floor == "gradient"
    assert view.candidate_id is not None
    assert desk.version(view.candidate_id).state == "condemned"
    assert desk.events().count("job.stage_failed") == 2 * ATTEMPTS - 1
    with desk.unchanged():
        _record(desk, view, Stage.VERIFY)


def test_a_stage_that_went_well_forgets_the_failures_before_it(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.UNLEARN)
    _record(desk, view, Stage.UNLEARN)
    _record(desk, view, Stage.UNLEARN, killed=True)
    view = desk.onward(view, JobStage.VERIFY)
    job = desk.job(view.id)
    assert (job.failures, job.kills) == (0, 0)


def test_a_plan_that_fails_gives_everything_back_as_it_was(desk: Desk, model: UUID) -> None:
    """What was learned of a request before, the engine that is not worth trying, is not forgotten."""
    asked = desk.asked(ADA)
    view = desk.opened(model)
    with desk.transaction() as session:
        session.execute(text("UPDATE request_targets SET engine_floor = 'retrain'"))
    _record(desk, view, Stage.PLAN, most=1)
    target = desk.target(asked)
    assert desk.job(view.id).state == "failed"
    assert (target.stage, target.job_id, target.engine_floor) == ("scheduled", None, "retrain")
    assert desk.request(asked) == ("scheduled", "job_failed")


def test_a_plan_that_fails_before_there_is_a_job_fails_nothing(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    epoch = desk.lease(model)
    with desk.unchanged(), desk.transaction() as session:
        jobs.record_failure(
            session,
            Stage.PLAN,
            model,
            epoch=epoch,
            code="failed",
            killed=False,
            attempts_max=1,
            at=desk.clock(),
        )


@pytest.mark.parametrize("stage", [JobStage.PUBLISH, JobStage.CONCLUDE])
def test_what_users_may_be_served_already_is_never_failed(desk: Desk, model: UUID, stage: JobStage) -> None:
    asked = desk.asked(ADA)
    view = desk.at(model, stage)
    for _ in range(ATTEMPTS - 1):
        _record(desk, view, Stage(stage))
    assert desk.model(model).attention is None
    for _ in range(2):
        _record(desk, view, Stage(stage))
    job = desk.job(view.id)
    assert (job.state, job.stage, job.failure) == ("running", stage.value, None)
    assert view.candidate_id is not None
    assert desk.version(view.candidate_id).state == "candidate"
    assert desk.request(asked)[0] == "publishing"
    assert desk.model(model).attention == stage.value
    _conclude(desk, view)


def test_a_wait_is_told_costs_nothing_and_is_over_when_the_stage_is(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.PUBLISH)
    with desk.transaction() as session:
        jobs.record_wait(session, model, epoch=view.epoch)
    assert desk.model(model).attention == WAITING
    job = desk.job(view.id)
    assert (job.state, job.failures, job.kills) == ("running", 0, 0)
    desk.onward(view, JobStage.CONCLUDE)
    assert desk.model(model).attention is None


def test_a_wait_hides_nothing_graver(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.UNLEARN)
    with desk.transaction() as session:
        session.execute(update(Model).values(attention="references"))
    with desk.transaction() as session:
        jobs.record_wait(session, model, epoch=view.epoch)
    desk.onward(view, JobStage.VERIFY)
    assert desk.model(model).attention == "references"


def test_progress_is_shown_and_is_gone_with_its_stage(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.UNLEARN)
    with desk.transaction() as session:
        jobs.progress(session, view.id, {"step": 3, "steps": 9})
        jobs.progress(session, new_id(), {"step": 1})
    with desk.transaction() as session:
        assert jobs.read(session, view.id).progress == {"step": 3, "steps": 9}
    desk.onward(view, JobStage.VERIFY)
    assert desk.job(view.id).progress == {}


# Preparing


def test_a_version_that_cannot_be_made_is_given_up_and_its_requests_go_on_without_it(
    desk: Desk, people: UUID
) -> None:
    model = desk.world.model("late", people)
    with desk.transaction() as session:
        version = session.scalars(select(ModelVersion)).one()
        version.state, version.manifest = "preparing", None
        session.get_one(Model, model).live_version_id = None
    asked = desk.asked(ADA)
    epoch = desk.lease(model)
    desk.hush()
    for attempt in range(PREPARE_FAILURES_MAX):
        assert desk.version(version.id).state == "preparing"
        assert desk.request(asked) == ("scheduled", None)
        with desk.transaction() as session:
            jobs.record_failure(
                session, Stage.PREPARE, version.id, epoch=epoch, code="exit_70", killed=False,
                attempts_max=PREPARE_FAILURES_MAX, at=desk.clock(),
            )  # fmt: skip
        assert desk.version(version.id).failures == attempt + 1
    failed = desk.version(version.id)
    assert (failed.state, failed.failure) == ("failed", "exit_70")
    assert desk.request(asked)[0] == "awaiting_approval", "of other models: none, and a person says so"
    with desk.transaction() as session:
        assert erasure.read(session, asked).targets == ()
        assert jobs.due(session, now=desk.clock() + timedelta(days=2)) == []


def test_references_that_cannot_be_made_are_given_up_and_whoever_waits_for_them_is_told(
    desk: Desk, model: UUID
) -> None:
    asked = desk.asked(ADA)
    view = desk.opened(model)
    with desk.transaction() as session:
        jobs.release_lease(session, model, epoch=view.epoch)
        assert (Stage.PREPARE, view.parent_id) in jobs.due(session, now=desk.clock())
    held = at_epoch(view, desk.lease(model))
    _record(desk, held, Stage.PREPARE, killed=True, most=1)
    assert desk.version(view.parent_id).state == "live", "users are served as before"
    assert desk.model(model).attention == "references"
    assert desk.request(asked) == ("scheduled", "references")
    assert desk.job(view.id).state == "running"
    with desk.transaction() as session:
        jobs.release_lease(session, model, epoch=held.epoch)
        assert (Stage.PREPARE, view.parent_id) not in jobs.due(session, now=desk.clock())
        registry.resume(session, "assistant", principal_id=desk.approver, at=desk.clock())
        assert (Stage.PREPARE, view.parent_id) in jobs.due(session, now=desk.clock())


def test_a_trained_version_that_could_not_be_served_is_tried_again_once_resumed(
    desk: Desk, people: UUID
) -> None:
    model = desk.world.model("late", people)
    with desk.transaction() as session:
        version = session.scalars(select(ModelVersion)).one()
        version.state = "candidate"
        session.get_one(Model, model).live_version_id = None
    epoch = desk.lease(model)
    with desk.transaction() as session:
        jobs.record_failure(
            session, Stage.PREPARE, version.id, epoch=epoch, code="exit_70", killed=False, attempts_max=1,
            at=desk.clock(),
        )  # fmt: skip
        jobs.release_lease(session, model, epoch=epoch)
    assert desk.version(version.id).state == "candidate"
    with desk.transaction() as session:
        assert jobs.due(session, now=desk.clock()) == []
        registry.resume(session, "late", principal_id=desk.approver, at=desk.clock())
        assert jobs.due(session, now=desk.clock()) == [(Stage.PREPARE, version.id)]


def test_preparation_that_comes_further_forgets_what_went_wrong_before(desk: Desk, model: UUID) -> None:
    epoch = desk.lease(model)
    with desk.transaction() as session:
        session.execute(update(ModelVersion).values(failures=2, kills=1))
        version_id = session.scalars(select(ModelVersion.id)).one()
        jobs.record_wait(session, model, epoch=epoch)
    with desk.transaction() as session:
        jobs.prepared(session, version_id, epoch=epoch)
    version = desk.version(version_id)
    assert (version.failures, version.kills, desk.model(model).attention) == (0, 0, None)


# What is due


def test_what_is_due_is_what_nobody_is_at(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        session.add_all(
            ReferenceModel(id=new_id(), model_id=model, shard=shard, manifest="aa" * 32, saw="bb" * 32)
            for shard in range(4)
        )

    def due() -> list[tuple[Stage, UUID]]:
        with desk.transaction() as session:
            return jobs.due(session, now=desk.clock())

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
        jobs.release_lease(session, model, epoch=view.epoch)
    assert due() == [(Stage.VERIFY, view.id)]
    with desk.transaction() as session:
        assert jobs.unfinished(session) == (frozenset({view.id}), frozenset())


# Helpers


def _reason(desk: Desk) -> str:
    """Return why the last job was opened, as the audit chain says."""
    with desk.transaction() as session:
        opened = [each for each in audit.listing(session) if each.kind == "job.opened"]
    return str(opened[-1].body["reason"])


def _multiply(session: Session, request_id: UUID, times: int) -> None:
    """Let as many others wait for the same model, as this request does."""
    columns = (
        "version, state, submitted_by, subject_macs, record_set_hash, records_matched, received_at,"
        " received_on, due_on, due_at, calendar"
    )
    session.execute(
        text(
            f"WITH others AS (INSERT INTO erasure_requests (id, {columns})"
            f" SELECT gen_random_uuid(), {columns} FROM erasure_requests, generate_series(1, :times)"
            " WHERE id = :id RETURNING id)"
            " INSERT INTO request_targets (request_id, model_id, stage, looks)"
            " SELECT others.id, model_id, 'scheduled', 0 FROM others, request_targets WHERE request_id = :id"
        ),
        {"id": request_id, "times": times},
    )


def _planned(desk: Desk, model: UUID) -> JobView:
    """Return a job that is planned and has begun nothing."""
    view = desk.opened(model)
    with desk.transaction() as session:
        desk.step(session, view)
    return view


def _withdraw(desk: Desk, request_id: UUID) -> None:
    with desk.transaction() as session:
        erasure.withdraw(session, request_id, principal_id=desk.world.owner, at=desk.clock())


def _fail(desk: Desk, view: JobView) -> None:
    with desk.transaction() as session:
        _failure(Stage.UNLEARN)(desk, session, view)


def _conclude(desk: Desk, view: JobView) -> None:
    """Do all that is left of a job."""
    current = desk.claimed(view)
    assert current is not None
    last = desk.onward(current, JobStage.CONCLUDE)
    with desk.transaction() as session:
        desk.step(session, last)
