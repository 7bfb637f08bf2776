"""What goes wrong, on a real Postgres: stages that fail, waits, preparations that are given up."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from app.erasure import service as erasure
from app.jobs import failures, leases, scheduling
from app.jobs import service as jobs
from app.jobs.failures import WAITING
from app.jobs.lifecycle import JobStage
from app.jobs.scheduling import PREPARE_FAILURES_MAX
from app.jobs.views import JobView
from app.queue import Stage
from app.registry import service as registry
from app.tables import Model, ModelVersion, new_id
from tests.app.jobs.batches import Desk, at_epoch, conclude
from tests.fixtures.world import ADA

ATTEMPTS = 3

# Failures and waits


def _record(desk: Desk, view: JobView, stage: Stage, *, killed: bool = False, most: int = ATTEMPTS) -> None:
    ids = {Stage.PLAN: view.model_id, Stage.PREPARE: view.parent_id}
    with desk.transaction() as session:
        failures.record(
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
        failures.record(
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
    conclude(desk, view)


def test_a_wait_is_told_costs_nothing_and_is_over_when_the_stage_is(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    view = desk.at(model, JobStage.PUBLISH)
    with desk.transaction() as session:
        failures.wait(session, model, epoch=view.epoch)
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
        failures.wait(session, model, epoch=view.epoch)
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
            failures.record(
                session, Stage.PREPARE, version.id, epoch=epoch, code="exit_70", killed=False,
                attempts_max=PREPARE_FAILURES_MAX, at=desk.clock(),
            )  # fmt: skip
        assert desk.version(version.id).failures == attempt + 1
    failed = desk.version(version.id)
    assert (failed.state, failed.failure) == ("failed", "exit_70")
    assert desk.request(asked)[0] == "awaiting_approval", "of other models: none, and a person says so"
    with desk.transaction() as session:
        assert erasure.read(session, asked).targets == ()
        assert scheduling.due(session, now=desk.clock() + timedelta(days=2)) == []


def test_references_that_cannot_be_made_are_given_up_and_whoever_waits_for_them_is_told(
    desk: Desk, model: UUID
) -> None:
    asked = desk.asked(ADA)
    view = desk.opened(model)
    with desk.transaction() as session:
        leases.release(session, model, epoch=view.epoch)
        assert (Stage.PREPARE, view.parent_id) in scheduling.due(session, now=desk.clock())
    held = at_epoch(view, desk.lease(model))
    _record(desk, held, Stage.PREPARE, killed=True, most=1)
    assert desk.version(view.parent_id).state == "live", "users are served as before"
    assert desk.model(model).attention == "references"
    assert desk.request(asked) == ("scheduled", "references")
    assert desk.job(view.id).state == "running"
    with desk.transaction() as session:
        leases.release(session, model, epoch=held.epoch)
        assert (Stage.PREPARE, view.parent_id) not in scheduling.due(session, now=desk.clock())
        registry.resume(session, "assistant", principal_id=desk.approver, at=desk.clock())
        assert (Stage.PREPARE, view.parent_id) in scheduling.due(session, now=desk.clock())


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
        failures.record(
            session, Stage.PREPARE, version.id, epoch=epoch, code="exit_70", killed=False, attempts_max=1,
            at=desk.clock(),
        )  # fmt: skip
        leases.release(session, model, epoch=epoch)
    assert desk.version(version.id).state == "candidate"
    with desk.transaction() as session:
        assert scheduling.due(session, now=desk.clock()) == []
        registry.resume(session, "late", principal_id=desk.approver, at=desk.clock())
        assert scheduling.due(session, now=desk.clock()) == [(Stage.PREPARE, version.id)]


def test_preparation_that_comes_further_forgets_what_went_wrong_before(desk: Desk, model: UUID) -> None:
    epoch = desk.lease(model)
    with desk.transaction() as session:
        session.execute(update(ModelVersion).values(failures=2, kills=1))
        version_id = session.scalars(select(ModelVersion.id)).one()
        failures.wait(session, model, epoch=epoch)
    with desk.transaction() as session:
        failures.prepared(session, version_id, epoch=epoch)
    version = desk.version(version_id)
    assert (version.failures, version.kills, desk.model(model).attention) == (0, 0, None)
