"""A worker's duties of forgetting, on the API's own database, keys and clock."""

import pytest
from fastapi import FastAPI

from app.erasure.forgetting import sealed
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.app.erasure.forgetting import Keeper
from tests.fixtures.api import StillClock


@pytest.fixture
def keeper(app: FastAPI, keyring: Keyring, clock: StillClock) -> Keeper:
    transaction: Transaction = app.state.transaction
    with transaction() as session:
        keys = sealed.epoch_keys(session)
    return Keeper(transaction, keys, keyring, clock)
