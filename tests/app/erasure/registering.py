"""What a worker does once a dataset was submitted."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from app.records.sketches import service as sketches
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.fixtures.api import StillClock

Register = Callable[..., Path]
"""`registered(lines, name=, suffix=, sketched=)`: the file of a dataset that a model has learned from."""


def sketch(transaction: Transaction, keyring: Keyring, clock: StillClock, dataset_id: UUID) -> None:
    """Sketch a dataset, so that near duplicates are found in it."""
    sketches.sketch(
        transaction, dataset_id, sketch_key=keyring.sketch, content_key=keyring.content, clock=clock
    )
