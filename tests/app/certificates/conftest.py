"""An issuer with keys, at whose desk a batch was worked on and judged."""

from datetime import timedelta

import pytest
from fastapi import FastAPI

from app.config import Settings
from app.signing import keys
from tests.app.certificates.issuing import Issuer
from tests.app.jobs.batches import Desk
from tests.fixtures.api import StillClock
from tests.fixtures.world import World


@pytest.fixture
def issuer(world: World, app: FastAPI, settings: Settings, clock: StillClock) -> Issuer:
    keys.generate(settings.keys, at=clock() - timedelta(days=1))
    return Issuer(
        desk=Desk.of(world, app.state.calendar, clock), objects=app.state.objects, settings=settings
    )
