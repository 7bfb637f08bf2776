"""A stage under a lease: one at a time, fenced when the lease is lost, given back at the end."""

import threading
import time
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from app import processes, queue
from app.config import Settings
from app.queue import Stage
from app.storage.database import Transaction
from app.tables import Model, ModelVersion, Outbox
from tests.workers.worlds import dataset, model, program, world
from workers import supervision
from workers.supervision import Ended, Supervisor

NOTE = """
import sys, time, signal, os
from pathlib import Path
here = Path(sys.argv[0]).parent
with (here / "ran").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, database_url=database_url, lease_seconds=1.5, lease_renew_seconds=0.3, drain_seconds=5
    )


def supervisor(settings: Settings, transaction: Transaction, script: str) -> Supervisor:
    return Supervisor(world(settings, transaction), program=program(settings.home, NOTE + script))


def ran(settings: Settings) -> list[str]:
    path = settings.home / "ran"
    return path.read_text().splitlines() if path.exists() else []


def lease(transaction: Transaction, model_id: UUID) -> tuple[int, str | None, bool]:
    """Return (epoch, owner, whether it is held now)."""
    with transaction() as session:
        row = session.execute(
            select(
                Model.lease_epoch,
                Model.lease_owner,
                func.coalesce(Model.lease_expires_at > func.clock_timestamp(), False),
            ).where(Model.id == model_id)
        ).one()
        return row[0], row[1], row[2]


def bells(transaction: Transaction) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(Outbox)) or 0


def test_a_bell_is_answered_under_a_lease_that_is_given_back(
    settings: Settings, transaction: Transaction
) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
        queue.ring(session, Stage.PREPARE, version_id)
    ours = supervisor(settings, transaction, "")
    assert ours.answer(Stage.PREPARE, version_id, bell=True) is Ended.DONE
    assert ran(settings) == [f"prepare {version_id} --epoch 1"]
    assert lease(transaction, model_id) == (1, "a worker", False)
    assert bells(transaction) == 0


def test_a_second_message_for_the_same_bell_starts_nothing(
    settings: Settings, transaction: Transaction
) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
        queue.ring(session, Stage.PREPARE, version_id)
        queue.ring(session, Stage.PREPARE, version_id)
    ours = supervisor(settings, transaction, "")
    assert ours.answer(Stage.PREPARE, version_id, bell=True) is Ended.DONE
    assert ours.answer(Stage.PREPARE, version_id, bell=True) is Ended.ANSWERED
    assert len(ran(settings)) == 1
    assert not lease(transaction, model_id)[2]


def test_the_sweeper_needs_no_bell(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        _, version_id = model(session)
    assert supervisor(settings, transaction, "").answer(Stage.PREPARE, version_id, bell=False) is Ended.DONE


def test_while_another_holds_the_model_nothing_starts(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
        session.execute(
            update(Model)
            .where(Model.id == model_id)
            .values(
                lease_epoch=7,
                lease_owner="rival",
                lease_expires_at=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 1),
            )
        )
        queue.ring(session, Stage.PREPARE, version_id)
    ours = supervisor(settings, transaction, "")
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.BUSY
    assert (ran(settings), bells(transaction)) == ([], 1)


@pytest.mark.slow
def test_a_bell_waits_a_moment_for_the_stage_before_to_leave(
    settings: Settings, transaction: Transaction
) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
        soon = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, 1)
        session.execute(update(Model).where(Model.id == model_id).values(lease_expires_at=soon))
        queue.ring(session, Stage.PREPARE, version_id)
    assert supervisor(settings, transaction, "").answer(Stage.PREPARE, version_id, bell=True) is Ended.DONE


@pytest.mark.slow
def test_a_lease_is_renewed_for_as_long_as_the_stage_takes(
    settings: Settings, transaction: Transaction
) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
    ours = supervisor(settings, transaction, "time.sleep(3)")
    done: list[Ended] = []
    thread = threading.Thread(target=lambda: done.append(ours.answer(Stage.PREPARE, version_id, bell=False)))
    thread.start()
    time.sleep(2.2)
    assert lease(transaction, model_id)[2]
    thread.join(10)
    assert done == [Ended.DONE]


@pytest.mark.slow
def test_a_fenced_stage_is_killed_with_all_it_started(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
    script = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(here / "pid").write_text(str(child.pid))
time.sleep(60)
"""
    ours = supervisor(settings, transaction, script)
    done: list[Ended] = []
    thread = threading.Thread(target=lambda: done.append(ours.answer(Stage.PREPARE, version_id, bell=False)))
    thread.start()
    while not (settings.home / "pid").exists():
        time.sleep(0.05)
    with transaction() as session:
        session.execute(
            update(Model)
            .where(Model.id == model_id)
            .values(lease_epoch=Model.lease_epoch + 1, lease_owner="rival")
        )
    thread.join(10)
    assert done == [Ended.FENCED]
    from tests.app.test_processes import gone  # noqa: PLC0415  only here

    assert gone(int((settings.home / "pid").read_text()))
    assert lease(transaction, model_id)[1] == "rival"


@pytest.mark.slow
def test_without_a_database_the_clock_fences(
    settings: Settings, transaction: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No renewal arrives: the child is ended after two thirds of the lease, before a rival can begin."""
    with transaction() as session:
        _, version_id = model(session)
    ours = supervisor(settings, transaction, "time.sleep(60)")

    def unreachable(*_: object, **__: object) -> bool:
        raise ConnectionError

    monkeypatch.setattr("app.jobs.leases.renew", unreachable)
    began = time.monotonic()
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.FENCED
    assert time.monotonic() - began < settings.lease_seconds


@pytest.mark.slow
def test_draining_asks_for_a_checkpoint_and_begins_nothing_more(
    settings: Settings, transaction: Transaction
) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
    script = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(here / "ready").touch()
time.sleep(60)
"""
    ours = supervisor(settings, transaction, script)
    done: list[Ended] = []
    thread = threading.Thread(target=lambda: done.append(ours.answer(Stage.PREPARE, version_id, bell=False)))
    thread.start()
    while not (settings.home / "ready").exists():
        time.sleep(0.05)
    ours.draining.set()
    thread.join(10)
    assert done == [Ended.RESUMABLE]
    assert not lease(transaction, model_id)[2]
    assert ours.answer(Stage.PREPARE, version_id, bell=True) is Ended.BUSY
    assert len(ran(settings)) == 1


@pytest.mark.parametrize(("code", "ended"), [(75, Ended.RESUMABLE), (77, Ended.FENCED), (70, Ended.FAILED)])
def test_what_an_exit_code_means(
    settings: Settings, transaction: Transaction, code: int, ended: Ended
) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
    ours = supervisor(settings, transaction, f"sys.exit({code})")
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is ended
    assert not lease(transaction, model_id)[2]


@pytest.mark.parametrize(
    ("script", "state", "failures", "kills"),
    [
        ("sys.exit(70)", "failed", 3, 2),
        ("os.kill(os.getpid(), signal.SIGKILL)", "preparing", 2, 3),
    ],
)
def test_who_is_killed_has_not_failed(
    settings: Settings, transaction: Transaction, script: str, state: str, failures: int, kills: int
) -> None:
    """A third failure is one too many; a third kill is the fate of machines that are switched off."""
    with transaction() as session:
        _, version_id = model(session)
        session.execute(update(ModelVersion).values(failures=2, kills=2))
    ours = supervisor(settings, transaction, script)
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.FAILED
    with transaction() as session:
        version = session.get_one(ModelVersion, version_id)
        assert (version.state, version.failures, version.kills) == (state, failures, kills)


def test_being_killed_for_ever_is_a_failure_too(settings: Settings, transaction: Transaction) -> None:
    """It may be memory that the stage lacks, and always will."""
    with transaction() as session:
        _, version_id = model(session)
        session.execute(update(ModelVersion).values(kills=settings.stage_kills_max - 1))
    ours = supervisor(settings, transaction, "os.kill(os.getpid(), signal.SIGKILL)")
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.FAILED
    with transaction() as session:
        version = session.get_one(ModelVersion, version_id)
        assert (version.state, version.failure) == ("failed", "killed")


def test_a_file_that_was_changed_is_not_read_again(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        _, version_id = model(session)
    ours = supervisor(settings, transaction, "sys.exit(66)")
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.FAILED
    with transaction() as session:
        version = session.get_one(ModelVersion, version_id)
        assert (version.state, version.failure, version.failures) == ("failed", "dataset-changed", 1)


def test_what_is_away_is_told_and_costs_nothing(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        model_id, version_id = model(session)
    ours = supervisor(settings, transaction, "sys.exit(75)")
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.RESUMABLE
    with transaction() as session:
        version = session.get_one(ModelVersion, version_id)
        assert (version.state, version.failures, version.kills) == ("preparing", 0, 0)
        assert session.get_one(Model, model_id).attention == "waiting"


def test_a_bell_of_a_paused_model_is_silenced_at_once(settings: Settings, transaction: Transaction) -> None:
    """It waits for nothing, so the device is free for others; whoever resumes the model rings again."""
    with transaction() as session:
        model_id, version_id = model(session)
        session.execute(update(Model).where(Model.id == model_id).values(breaker="open"))
        queue.ring(session, Stage.PREPARE, version_id)
    ours = supervisor(settings, transaction, "")
    began = time.monotonic()
    assert ours.answer(Stage.PREPARE, version_id, bell=True) is Ended.ANSWERED
    assert time.monotonic() - began < supervision.PATIENCE_SECONDS
    assert (ran(settings), bells(transaction)) == ([], 0)
    assert lease(transaction, model_id) == (0, None, False)
    with processes.exclusive(settings.home / "locks" / "device-0") as free:
        assert free


def test_a_bell_that_waits_for_a_lease_keeps_nobody_from_the_device(
    settings: Settings, transaction: Transaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "PATIENCE_SECONDS", 60.0)
    with transaction() as session:
        busy, waiting = model(session)
        _, other = model(session)
        long = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 1)
        session.execute(update(Model).where(Model.id == busy).values(lease_expires_at=long))
        queue.ring(session, Stage.PREPARE, waiting)
        queue.ring(session, Stage.PREPARE, other)
    ours = supervisor(settings, transaction, "")
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(ours.answer(Stage.PREPARE, waiting, bell=True)))
    thread.start()
    while not (settings.home / "locks" / "device-0").exists():
        time.sleep(0.01)
    assert ours.answer(Stage.PREPARE, other, bell=True) is Ended.DONE
    assert ended == [], "the first waits still"
    ours.draining.set()
    thread.join(10)
    assert ended == [Ended.BUSY]
    assert ran(settings) == [f"prepare {other} --epoch 1"]
    assert bells(transaction) == 1, "and nobody has answered it"


def test_one_gpu_stage_at_a_time_on_a_device(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        _, version_id = model(session)
    ours = supervisor(settings, transaction, "")
    with processes.exclusive(settings.home / "locks" / "device-0") as held:
        assert held
        assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.BUSY
    assert ours.answer(Stage.PREPARE, version_id, bell=False) is Ended.DONE


def test_a_dataset_is_read_by_one_and_needs_no_lease(settings: Settings, transaction: Transaction) -> None:
    with transaction() as session:
        dataset_id = dataset(session, uri="/nowhere")
    ours = supervisor(settings, transaction, "")
    with processes.exclusive(settings.home / "locks" / f"dataset-{dataset_id}"):
        assert ours.answer(Stage.REGISTER, dataset_id, bell=False) is Ended.BUSY
    assert ours.answer(Stage.REGISTER, dataset_id, bell=False) is Ended.DONE
    assert ran(settings) == [f"register {dataset_id} --epoch 0"]
