"""A worker's duties, on the API's own database, keys and clock: registering, sketching, forgetting."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.erasure.forgetting import sealed
from app.records import ingestion
from app.records import service as records
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.app.erasure.forgetting import Keeper
from tests.app.erasure.registering import Register, sketch
from tests.fixtures.api import StillClock
from tests.fixtures.records import write_jsonl, write_parquet
from tests.fixtures.world import World


@pytest.fixture
def keeper(app: FastAPI, keyring: Keyring, clock: StillClock) -> Keeper:
    transaction: Transaction = app.state.transaction
    with transaction() as session:
        keys = sealed.epoch_keys(session)
    return Keeper(transaction, keys, keyring, clock)


@pytest.fixture
def registered(
    world: World, transaction: Transaction, keyring: Keyring, tmp_path: Path, clock: StillClock
) -> Register:
    """Register a dataset as the workers do, and a model that learned from it."""

    def make(
        lines: list[dict[str, Any]], *, name: str = "people", suffix: str = "jsonl", sketched: bool = True
    ) -> Path:
        write = write_parquet if suffix == "parquet" else write_jsonl
        path = write(tmp_path / f"{name}.{suffix}", lines)
        with transaction() as session:
            dataset_id = records.register(
                session, world.owner, name=name, uri=str(path), hold_back=0, lottery_key=keyring.lottery, at=clock()
            ).id  # fmt: skip
        ingestion.ingest(transaction, dataset_id, keyring=keyring, work=tmp_path / "work", clock=clock)
        world.model(f"of-{name}", dataset_id)
        if sketched:
            sketch(transaction, keyring, clock, dataset_id)
        return path

    return make
