"""A model line in the database with versions in a store, and a model server that really listens."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import text, update

from app.serving.backends import NativeBackend
from app.storage.database import Transaction
from app.tables import Dataset, Model, ModelVersion, Principal, new_id
from tests.fixtures.models import Adopted, adopted, directories, order, replica, start, store, tokenizer
from workers.inference import admin
from workers.inference import slot as slots
from workers.inference.replica import Replica
from workers.inference.server import Server, listener

__all__ = ["adopted", "directories", "order", "replica", "start", "store", "tokenizer"]

TOKEN = "t" * 64
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Line:
    """A model line that this test holds the lease of, and its candidates by name."""

    model_id: UUID
    versions: dict[str, UUID]
    transaction: Transaction
    lease_epoch: int = 1

    def version(self, name: str) -> ModelVersion:
        with self.transaction() as session:
            return session.get_one(ModelVersion, self.versions[name])

    def model(self) -> Model:
        with self.transaction() as session:
            return session.get_one(Model, self.model_id)

    def lease_for(self, seconds: int) -> None:
        with self.transaction() as session:
            session.execute(
                update(Model)
                .where(Model.id == self.model_id)
                .values(lease_expires_at=text(f"clock_timestamp() + interval '{seconds} seconds'"))
            )


@pytest.fixture
def line(transaction: Transaction, adopted: dict[str, Adopted]) -> Line:
    with transaction() as session:
        principal = Principal(name="ops", kind="machine")
        session.add(principal)
        session.flush()
        dataset = Dataset(name="letters", uri="file:///letters", format="jsonl", created_by=principal.id)
        session.add(dataset)
        session.flush()
        model = Model(
            name="line",
            dataset_id=dataset.id,
            base_uri="file:///base",
            lease_epoch=1,
            created_by=principal.id,
        )
        session.add(model)
        session.flush()
        made = {
            name: ModelVersion(
                id=new_id(),
                model_id=model.id,
                state="candidate",
                manifest=adopted[name].manifest,
                tensor_root=adopted[name].tensor_root,
                engine="train",
                exact=True,
            )
            for name in ("a", "b")
        }
        session.add_all(made.values())
    line = Line(model.id, {name: version.id for name, version in made.items()}, transaction)
    line.lease_for(60)
    return line


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serve an application on a free port; yield its URL."""
    server: Server = listener(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def backend(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> Iterator[NativeBackend]:
    monkeypatch.setattr(slots, "CANARY_TOKENS", 4)
    with listening(admin.create_app(replica, token=TOKEN)) as url:
        yield NativeBackend(url=url, token=TOKEN)


@pytest.fixture
def restarted(start: Callable[[], Replica], backend: NativeBackend) -> Iterator[NativeBackend]:
    """A second, empty server."""
    with listening(admin.create_app(start(), token=TOKEN)) as url:
        yield NativeBackend(url=url, token=TOKEN)
