"""The right to work on a model, on a real Postgres: one at a time, numbered, and timed by the database."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from app.errors import LeaseLost
from app.jobs import leases, scheduling
from app.queue import Stage
from app.tables import Model, new_id
from tests.app.jobs.batches import LEASE_SECONDS, Desk
from tests.fixtures.world import ADA


def test_a_lease_is_one_workers_at_a_time_and_every_one_has_its_own_number(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        first = leases.take(session, model, owner="one", seconds=60)
        assert first == 1
        assert leases.take(session, model, owner="two", seconds=60) is None
        assert session.get_one(Model, model, populate_existing=True).lease_owner == "one"
        leases.release(session, model, epoch=first)
        assert leases.take(session, model, owner="two", seconds=60) == 2
        leases.release(session, model, epoch=first)
        assert leases.take(session, model, owner="one", seconds=60) is None, "the second's is not ours"


def test_a_lease_that_ran_out_can_be_taken_and_not_renewed(desk: Desk, model: UUID) -> None:
    epoch = desk.lease(model)
    with desk.transaction() as session:
        assert leases.renew(session, model, epoch=epoch, seconds=60)
    desk.end_lease(model)
    with desk.transaction() as session:
        assert not leases.renew(session, model, epoch=epoch, seconds=60)
        with pytest.raises(LeaseLost):
            leases.hold(session, model, epoch=epoch)
        assert leases.take(session, model, owner="rival", seconds=60) == epoch + 1
        assert not leases.renew(session, model, epoch=epoch, seconds=60)


def test_a_renewal_counts_from_now_by_the_databases_clock(desk: Desk, model: UUID) -> None:
    epoch = desk.lease(model, seconds=1)
    with desk.transaction() as session:
        assert leases.renew(session, model, epoch=epoch, seconds=LEASE_SECONDS)
        [(until, now)] = session.execute(
            select(Model.lease_expires_at, func.clock_timestamp()).where(Model.id == model)
        )
    left = until - now
    assert timedelta(seconds=LEASE_SECONDS - 5) < left <= timedelta(seconds=LEASE_SECONDS)


def test_nobody_gets_the_lease_of_a_paused_model(desk: Desk, model: UUID) -> None:
    with desk.transaction() as session:
        assert not leases.paused(session, model)
        session.execute(update(Model).values(breaker="open"))
    with desk.transaction() as session:
        assert leases.paused(session, model)
        assert leases.take(session, model, owner="one", seconds=60) is None


def test_every_stage_knows_whose_lease_it_needs(desk: Desk, model: UUID) -> None:
    desk.asked(ADA)
    job = desk.opened(model)
    with desk.transaction() as session:
        found = {
            (Stage.REGISTER, None): scheduling.model_of(session, Stage.REGISTER, job.dataset_id),
            (Stage.PLAN, model): scheduling.model_of(session, Stage.PLAN, model),
            (Stage.PREPARE, model): scheduling.model_of(session, Stage.PREPARE, job.parent_id),
            (Stage.UNLEARN, model): scheduling.model_of(session, Stage.UNLEARN, job.id),
            (Stage.CONCLUDE, None): scheduling.model_of(session, Stage.CONCLUDE, new_id()),
        }
    assert all(wanted == got for (_, wanted), got in found.items()), found
