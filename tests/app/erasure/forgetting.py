"""What stories about forgetting begin with: the world's requests, a clock, and the duties of a worker."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from app import retention
from app.erasure.forgetting import epochs, purge
from app.records import forgetting as records
from app.storage.database import Transaction
from app.storage.epochs import EpochKeys
from app.storage.keyring import Keyring
from tests.fixtures.api import StillClock

GRACE = retention.POLICY.person
WEEK = timedelta(weeks=1)


@dataclass
class Keeper:
    """The duties of a worker that concern forgetting, on the test's database."""

    transaction: Transaction
    keys: EpochKeys
    keyring: Keyring
    clock: StillClock

    def sweep(self) -> None:
        """Do them all once, as housekeeping does."""
        with self.transaction() as session:
            due = purge.due(session, now=self.clock())
        for request_id in due:
            with self.transaction() as session:
                purge.purge(session, request_id, at=self.clock())
        with self.transaction() as session:
            purge.unlink(session)
            records.forget(session, lottery_key=self.keyring.lottery, now=self.clock())
        with self.transaction() as session:
            purge.delete(session, now=self.clock())
        self.renew()

    def renew(self) -> int:
        """Renew the weekly keys."""
        return epochs.renew(self.transaction, self.keys, clock=self.clock)

    def backlog(self) -> purge.Backlog:
        """Return what is past its date and still there."""
        with self.transaction() as session:
            return purge.backlog(session, self.clock())

    def purge(self, request_id: UUID) -> bool:
        """Purge one request, if it is its time."""
        with self.transaction() as session:
            return purge.purge(session, request_id, at=self.clock())
