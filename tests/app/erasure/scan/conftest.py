"""A worker who reads."""

import pytest
from fastapi import FastAPI

from app.config import Settings
from app.erasure.scan import passing
from app.storage.database import Transaction
from tests.app.erasure.scan.scanning import Read
from tests.fixtures.api import StillClock


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"requests_policy": "default"})


@pytest.fixture
def worker(app: FastAPI) -> Transaction:
    """Return a worker's transactions, which have the weekly keys."""
    found: Transaction = app.state.transaction
    return found


@pytest.fixture
def read(worker: Transaction, clock: StillClock) -> Read:
    """Be the worker: read for all who wait."""
    return lambda: passing.scan(worker, clock=clock)
