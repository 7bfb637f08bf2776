"""What befell the chain itself, of app.audit."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from app.audit.events.base import Event


@dataclass(frozen=True)
class DatabaseRestored(Event):
    """A backup was restored: its chain ended at `seq` with the hash `backup`, its copy had it to `copied`.

    `requests_lost` came in since, and nothing but their ids and dates is known of them.
    """

    KIND: ClassVar[str] = "database.restored"

    backup: str
    seq: int
    copied: int
    requests_lost: int
    at: datetime
