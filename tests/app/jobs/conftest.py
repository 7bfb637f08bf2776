"""A desk at which requests are made and jobs are worked on, by the service's own verbs."""

import pytest
from fastapi import FastAPI

from tests.app.jobs.batches import Desk
from tests.fixtures.api import StillClock
from tests.fixtures.world import World


@pytest.fixture
def desk(world: World, app: FastAPI, clock: StillClock) -> Desk:
    return Desk.of(world, app.state.calendar, clock)
