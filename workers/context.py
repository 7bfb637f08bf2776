"""The composition root of every worker process: what a stage may reach for, built once.

Never loads torch: whatever holds weights is a process of its own.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from app.clock import Clock, system_clock
from app.config import Settings
from app.erasure.forgetting import sealed
from app.queue import Poke, celery_poke
from app.serving.backends import ServingBackend, backends
from app.storage.database import Transaction, connect, transactions
from app.storage.epochs import EpochKeys
from app.storage.keyring import Keyring
from app.storage.objects import ObjectStore
from workers.launcher import Launcher

STATEMENT_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class Context:
    """One worker's world: database, store, keys, the launcher of runs, the model servers, the time."""

    settings: Settings
    transaction: Transaction
    poke: Poke
    objects: ObjectStore
    keyring: Keyring
    launcher: Launcher
    backends: tuple[ServingBackend, ...]
    clock: Clock
    worker: str

    def workdir(self, *parts: str) -> Path:
        """Return a private directory for the files of one stage, made if need be."""
        path = self.settings.work.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path


def build(settings: Settings, *, clock: Clock = system_clock) -> Context:
    """Connect nothing yet; make what connects."""
    assert settings.database_url is not None, "LETHE_DATABASE_URL is not set"
    keyring = Keyring.open(settings.keys)
    poke = celery_poke(settings.redis_url)
    engine = connect(settings.database_url, statement_seconds=STATEMENT_SECONDS)
    return Context(
        settings=settings,
        transaction=transactions(
            engine, {"poke": poke, sealed.INFO: EpochKeys(settings.epochs, clock=clock)}
        ),
        poke=poke,
        objects=ObjectStore.open(settings.storage),
        keyring=keyring,
        launcher=Launcher(settings),
        backends=backends(settings, keyring),
        clock=clock,
        worker=f"{socket.gethostname()}:{os.getpid()}",
    )
