"""Weekly keys: what is in use opens, in whatever order and wherever it is killed; what is purged never does."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import delete, select

from app.audit import service as audit
from app.config import Settings
from app.erasure.forgetting import epochs, sealed
from app.erasure.forgetting.sealed import Field
from app.errors import Gone
from app.storage import sealing
from app.storage.database import Session
from app.storage.epochs import Epoch, EpochDestroyed
from app.tables import ErasureRequest, KeyEpoch, RequestSecrets
from tests.app.erasure.asking import act, ask, id_of
from tests.app.erasure.forgetting import Keeper
from tests.fixtures.api import Caller, StillClock
from tests.fixtures.world import ADA, BOB

pytestmark = pytest.mark.usefixtures("model")


def reads(keeper: Keeper, request_id: UUID) -> bytes:
    with keeper.transaction() as session:
        return sealed.unseal(session, request_id, Field.IDENTIFIERS)


def test_after_five_weeks_what_is_in_use_is_wrapped_anew_and_the_old_key_is_destroyed(
    portal: Caller, keeper: Keeper, clock: StillClock
) -> None:
    request = id_of(ask(portal))
    [first] = keeper.keys.held()
    clock.advance(weeks=5)
    assert keeper.renew() == 0
    assert keeper.keys.held() == [first]
    clock.advance(weeks=1)
    assert keeper.renew() == 1
    [second] = keeper.keys.held()
    assert second.week - first.week == timedelta(weeks=6)
    assert ADA.encode() in reads(keeper, request)
    with pytest.raises(EpochDestroyed):
        keeper.keys.read(first)
    assert keeper.renew() == 0


def test_a_purged_key_opens_from_no_backup_once_its_week_is_over(
    portal: Caller, keeper: Keeper, clock: StillClock
) -> None:
    """A backup has the row as it was; the key of its week it never had, and nobody has it any more."""
    receipt = act(portal, ask(portal), "withdrawal")
    with keeper.transaction() as session:
        row = session.get_one(RequestSecrets, id_of(receipt))
        backup = (Epoch(keeper.keys.week(), UUID(str(row.epoch_id))), bytes(row.data_key or b""))
    key = sealed.unwrapped(keeper.keys.read(backup[0]), id_of(receipt), backup[1])
    assert len(key) == 32
    clock.advance(days=30)
    keeper.sweep()
    keeper.keys.read(backup[0])  # purged, and for some days a backup would open
    clock.advance(days=12)  # 42 after the request ended, fewer after its purge than six weeks
    keeper.sweep()
    with pytest.raises(EpochDestroyed):
        keeper.keys.read(backup[0])


def test_what_cannot_be_unwrapped_keeps_its_row_and_the_others_go_on(
    portal: Caller, keeper: Keeper, clock: StillClock
) -> None:
    request = id_of(ask(portal))
    [epoch] = keeper.keys.held()
    kept = (keeper.keys.directory / epoch.file).read_bytes()
    (keeper.keys.directory / epoch.file).unlink()
    clock.advance(weeks=7)
    assert keeper.renew() == 0
    (keeper.keys.directory / epoch.file).write_bytes(kept)  # it lay elsewhere
    assert keeper.renew() == 1
    assert ADA.encode() in reads(keeper, request)


def test_a_file_without_a_row_is_left_alone_while_its_week_is_young(
    keeper: Keeper, clock: StillClock
) -> None:
    """Whoever is just sealing has made the file, and has not committed the row."""
    keeper.keys.make(Epoch(keeper.keys.week(), UUID(int=7)))
    clock.advance(weeks=5)
    assert keeper.renew() == 0
    clock.advance(weeks=1)
    assert keeper.renew() == 1
    assert keeper.keys.held() == []


def test_nothing_is_sealed_by_a_key_that_is_just_going(
    portal: Caller, keeper: Keeper, clock: StillClock
) -> None:
    """A process whose clock is months behind finds no row to refer to; nothing is lost, it fails."""
    ask(portal)
    stale = keeper.keys.current
    assert stale is not None
    clock.advance(weeks=6)
    with keeper.transaction() as session:
        while epochs.rewrap(session, stale[0]):
            pass
    with keeper.transaction() as session:
        assert epochs.retire(session, stale[0])
        assert not epochs.retire(session, stale[0])
    clock.advance(weeks=-6)
    keeper.keys.current = stale
    answer = portal.post("/v1/erasure-requests", {"subject": {"type": "email", "value": BOB}})
    assert answer.status_code >= 400
    with keeper.transaction() as session:
        assert len(session.scalars(select(ErasureRequest)).all()) == 1


STEPS = st.lists(
    st.one_of(
        st.just(("ask", 0)),
        st.tuples(st.just("wait"), st.integers(1, 3)),
        st.tuples(st.just("rewrap"), st.integers(0, 9)),
        st.tuples(st.just("retire"), st.integers(0, 9)),
        st.just(("destroy", 0)),
        st.tuples(st.just("purge"), st.integers(0, 9)),
        st.just(("renew", 0)),
    ),
    min_size=4,
    max_size=16,
)


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_in_whatever_order_it_is_done(
    steps: list[tuple[str, int]], portal: Caller, keeper: Keeper, clock: StillClock
) -> None:
    """Whatever is done to weeks and requests, and whenever: what is not purged opens, what is purged does
    not, and no data key that is purged is left under a key that is past its time once it was all done.
    """
    clock.instant = StillClock().instant
    _emptied(keeper)
    story = Story(keeper, portal, clock)
    for what, n in [*steps, ("renew", 0)]:
        getattr(story, what)(n)
        story.check()
    horizon = epochs.oldest(clock().date())
    assert all(epoch.week >= horizon for epoch in keeper.keys.held())
    for epoch in story.backups:
        if epoch.week < horizon:
            with pytest.raises(EpochDestroyed):
                keeper.keys.read(epoch)


@dataclass
class Story:
    """What can happen, in any order; and what must hold after each of it."""

    keeper: Keeper
    portal: Caller
    clock: StillClock
    living: dict[UUID, bytes] = field(default_factory=dict)
    dead: list[UUID] = field(default_factory=list)
    backups: list[Epoch] = field(default_factory=list)
    """Under which key the data keys lay that were purged."""

    def ask(self, _n: int) -> None:
        request_id, secret = _sealed(self.keeper, self.portal, len(self.living) + len(self.dead))
        self.living[request_id] = secret

    def wait(self, n: int) -> None:
        self.clock.advance(weeks=n)

    def rewrap(self, n: int) -> None:
        with self.keeper.transaction() as session:
            for epoch in self._week(session, n):
                epochs.rewrap(session, epoch, limit=1 + n % 2)

    def retire(self, n: int) -> None:
        with self.keeper.transaction() as session:
            for epoch in self._week(session, n):
                epochs.retire(session, epoch)
        self.keeper.keys.current = None

    def destroy(self, _n: int) -> None:
        horizon = epochs.oldest(self.clock().date())
        epochs.destroy(self.keeper.transaction, self.keeper.keys, horizon)

    def purge(self, n: int) -> None:
        if self.living:
            request_id = sorted(self.living)[n % len(self.living)]
            self.backups.append(_destroyed(self.keeper, request_id))
            del self.living[request_id]
            self.dead.append(request_id)

    def renew(self, _n: int) -> None:
        self.keeper.renew()

    def check(self) -> None:
        for request_id, secret in self.living.items():
            assert reads(self.keeper, request_id) == secret
        for request_id in self.dead:
            with pytest.raises(Gone):
                reads(self.keeper, request_id)

    def _week(self, session: Session, n: int) -> list[Epoch]:
        weeks = [Epoch(row.week, row.id) for row in session.scalars(select(KeyEpoch).order_by(KeyEpoch.week))]
        return [weeks[n % len(weeks)]] if weeks else []


def _emptied(keeper: Keeper) -> None:
    with keeper.transaction() as session:
        for table in (RequestSecrets, KeyEpoch):
            session.execute(delete(table))
    keeper.keys.current = None
    for epoch in keeper.keys.held():
        keeper.keys.destroy(epoch)


def _sealed(keeper: Keeper, portal: Caller, number: int) -> tuple[UUID, bytes]:
    receipt = portal.post(
        "/v1/erasure-requests", {"subject": {"type": "customer_id", "value": f"c{number}"}}
    ).json()
    return id_of(receipt), reads(keeper, id_of(receipt))


def _destroyed(keeper: Keeper, request_id: UUID) -> Epoch:
    """Destroy a request's data key as a purge does; return under which key a backup has it."""
    with keeper.transaction() as session:
        row = session.get_one(RequestSecrets, request_id)
        week = session.get_one(KeyEpoch, row.epoch_id).week
        epoch = Epoch(week, UUID(str(row.epoch_id)))
        sealed.destroy(session, request_id, at=keeper.clock())
    return epoch


KILLED = """
from datetime import datetime
import sys
from app.config import Settings
from app.erasure.forgetting import epochs, sealed
from app.storage.database import connect, transactions
from app.storage.epochs import EpochKeys
clock = lambda: datetime.fromisoformat(sys.argv[1])
keys = EpochKeys(Settings().epochs, clock=clock)
transaction = transactions(connect(Settings().database_url, statement_seconds=5), {sealed.INFO: keys})
epochs.renew(transaction, keys, clock=clock)
"""


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["epochs.rewrapped", "epochs.retired", "epochs.destroyed"])
def test_killed_between_any_two_steps_it_is_finished_by_the_next(
    failpoint: str, settings: Settings, portal: Caller, keeper: Keeper, clock: StillClock
) -> None:
    requests = {id_of(ask(portal, email)): email for email in (ADA, BOB)}
    [old] = keeper.keys.held()
    clock.advance(weeks=6)
    environment = os.environ | {
        "LETHE_FAILPOINT": failpoint,
        "LETHE_HOME": str(settings.home),
        "LETHE_DATABASE_URL": str(settings.database_url),
    }
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, clock().isoformat()],
        env=environment,
        cwd=Path(__file__).parents[3],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    for request_id, email in requests.items():
        assert email.encode() in reads(keeper, request_id)
    keeper.keys.current = None
    keeper.renew()
    assert old not in keeper.keys.held()
    for request_id, email in requests.items():
        assert email.encode() in reads(keeper, request_id)
    with keeper.transaction() as session:
        assert audit.verify(session).broken_at is None


def test_a_data_key_is_of_one_request(portal: Caller, keeper: Keeper) -> None:
    one, two = (id_of(ask(portal, email)) for email in (ADA, BOB))
    with keeper.transaction() as session:
        row = session.get_one(RequestSecrets, one)
        kek = keeper.keys.read(Epoch(keeper.keys.week(), UUID(str(row.epoch_id))))
        with pytest.raises(sealing.SealBroken):
            sealed.unwrapped(kek, two, bytes(row.data_key or b""))
