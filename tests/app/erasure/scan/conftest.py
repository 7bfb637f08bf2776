"""Datasets as the workers register them, and a worker who reads."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.config import Settings
from app.erasure.scan import passing
from app.records import ingestion
from app.records import service as records
from app.records.sketches import service as sketches
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.app.erasure.scan.scanning import Read, Register
from tests.fixtures.api import StillClock
from tests.fixtures.records import write_jsonl, write_parquet
from tests.fixtures.world import World


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"requests_policy": "default"})


@pytest.fixture
def registered(
    world: World, transaction: Transaction, keyring: Keyring, tmp_path: Path, clock: StillClock
) -> Register:
    """Register a dataset as the workers do, and a model that learned from it."""

    def make(lines: list[dict[str, Any]], *, name: str = "people", suffix: str = "jsonl") -> Path:
        write = write_parquet if suffix == "parquet" else write_jsonl
        path = write(tmp_path / f"{name}.{suffix}", lines)
        with transaction() as session:
            dataset_id = records.register(
                session, world.owner, name=name, uri=str(path), hold_back=0, lottery_key=keyring.lottery, at=clock()
            ).id  # fmt: skip
        ingestion.ingest(transaction, dataset_id, keyring=keyring, work=tmp_path / "work", clock=clock)
        world.model(f"of-{name}", dataset_id)
        sketches.sketch(
            transaction, dataset_id, sketch_key=keyring.sketch, content_key=keyring.content, clock=clock
        )
        return path

    return make


@pytest.fixture
def worker(app: FastAPI) -> Transaction:
    """Return a worker's transactions, which have the weekly keys."""
    found: Transaction = app.state.transaction
    return found


@pytest.fixture
def read(worker: Transaction, clock: StillClock) -> Read:
    """Be the worker: read for all who wait."""
    return lambda: passing.scan(worker, clock=clock)
