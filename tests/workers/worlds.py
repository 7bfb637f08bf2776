"""A worker's world on a test's own database, and stages that do what a test wants of them."""

from pathlib import Path
from uuid import UUID

from app.clock import system_clock
from app.config import Settings
from app.queue import Poke, Stage
from app.storage.database import Session, Transaction
from app.storage.keyring import Keyring
from app.storage.objects import ObjectStore
from app.tables import Dataset, Model, ModelVersion, Principal, new_id
from workers.context import Context
from workers.launcher import Launcher


def silent(_stage: Stage, _id: UUID) -> None:
    """Poke nobody."""


def world(settings: Settings, transaction: Transaction, *, poke: Poke = silent) -> Context:
    """Return a context without model servers."""
    return Context(
        settings=settings,
        transaction=transaction,
        poke=poke,
        objects=ObjectStore.open(settings.storage),
        keyring=Keyring.open(settings.keys, create=True),
        launcher=Launcher(settings),
        backends=(),
        clock=system_clock,
        worker="a worker",
    )


def dataset(session: Session, *, uri: str, state: str = "registering") -> UUID:
    """Insert a dataset and whoever made it."""
    principal = Principal(name=f"maker-{new_id()}", kind="person")
    session.add(principal)
    session.flush()
    row = Dataset(
        id=new_id(), name=f"set-{new_id()}", uri=uri, format="jsonl", state=state, created_by=principal.id
    )
    session.add(row)
    session.flush()
    return row.id


def model(session: Session) -> tuple[UUID, UUID]:
    """Insert a line whose first version is still to be prepared; return both ids."""
    dataset_id = dataset(session, uri="/nowhere", state="ready")
    made = session.get_one(Dataset, dataset_id).created_by
    line = Model(
        id=new_id(), name=f"model-{new_id()}"[:60], dataset_id=dataset_id, base_uri="/nowhere", recipe=None,
        references_wanted=0, created_by=made,
    )  # fmt: skip
    session.add(line)
    session.flush()
    version = ModelVersion(id=new_id(), model_id=line.id, state="preparing", engine="train", exact=True)
    session.add(version)
    session.flush()
    return line.id, version.id


def program(folder: Path, script: str) -> tuple[str, ...]:
    """Write a stage's program; it is given STAGE ID --epoch N, as the real one."""
    path = folder / "stage.py"
    path.write_text(script)
    return (str(path),)
