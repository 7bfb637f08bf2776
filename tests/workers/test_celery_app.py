"""The worker's settings; and a real worker on a real Redis, then without one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from app import processes, queue
from app.config import Settings
from app.embedded import servers
from app.queue import Stage, celery_poke
from app.storage.database import Transaction, close, connect, transactions
from app.storage.keyring import Keyring
from app.tables import Dataset
from tests.workers.worlds import dataset
from workers import celery_app

LINE = {"id": "r1", "subject": {"type": "email", "value": "ada@example.org"}, "text": "Ada lives here."}


def test_messages_are_bells_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """R52: acknowledged early, none fetched ahead, no results, JSON alone."""
    monkeypatch.setenv("LETHE_REDIS_URL", "unix:///run/redis.sock?db=0")
    found = celery_app.configuration()
    assert found["broker_url"] == "redis+socket:///run/redis.sock?virtual_host=0"
    assert found["task_acks_late"] is False
    assert found["worker_prefetch_multiplier"] == 1
    assert found["worker_disable_prefetch"] is True
    assert found["task_ignore_result"] is True
    assert found["accept_content"] == ["json"]
    assert found["visibility_timeout"] == found["broker_transport_options"]["visibility_timeout"] == 3600
    assert found["broker_connection_retry_on_startup"] is True


def test_without_redis_the_worker_listens_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LETHE_REDIS_URL", raising=False)
    assert celery_app.configuration()["broker_url"] == "memory://"


@pytest.mark.slow
def test_importing_reads_no_settings_and_no_torch() -> None:
    script = (
        "import sys, workers.celery_app; print('torch' in sys.modules, workers.celery_app.app.configured)"
    )
    env = processes.environment(LETHE_PORT="not a number")
    done = subprocess.run(processes.python("-c", script), env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_one_task_carries_stage_and_id() -> None:
    assert celery_app.run.name == queue.TASK
    assert {name for name in celery_app.app.tasks if name.startswith("lethe.")} == {
        queue.TASK,
        celery_app.SWEEP,
    }


@contextmanager
def running(argv: list[str], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        child = processes.start(argv, env=processes.environment(**env), output=output)
    try:
        yield child
    finally:
        processes.stop(child, grace_seconds=20)


@contextmanager
def redis(home: Path) -> Iterator[str]:
    part = servers.redis(home)
    with running(list(part.argv), home / "redis.log") as server:
        until(lambda: part.ready(server.pid))
        yield f"unix://{home}/run/redis.sock?db=0"


@contextmanager
def worker(home: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    alive = home / "run" / "io.alive"
    arguments = ["-m", "celery", "-A", "workers.celery_app", "worker", "-Q", "io,signing", "-n", "io@%h"]
    options = ["--pool=threads", "--concurrency=2", "--without-gossip", "--without-mingle"]
    with running(
        processes.python(*arguments, *options), home / "worker.log", LETHE_WORKER="io", **env
    ) as child:
        until(alive.exists)
        yield child


def until(condition: object, *, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    Keyring.open(Settings(home=tmp_path).keys, create=True)
    (tmp_path / "set.jsonl").write_text(json.dumps(LINE) + "\n")
    return tmp_path


def state(transaction: Transaction, dataset_id: UUID) -> str:
    with transaction() as session:
        return session.get_one(Dataset, dataset_id).state


@pytest.mark.slow
def test_a_bell_is_heard_and_the_stage_is_run(home: Path, database_url: str) -> None:
    """The sweeper sleeps for an hour here: only the bell can have told."""
    with redis(home) as url:
        engine = connect(database_url, statement_seconds=5)
        transaction = transactions(engine, {"poke": celery_poke(url)})
        env = {"LETHE_HOME": str(home), "LETHE_DATABASE_URL": database_url, "LETHE_REDIS_URL": url}
        with worker(home, LETHE_SWEEP_SECONDS="3600", **env) as child:
            until(lambda: b"ready." in (home / "worker.log").read_bytes())
            with transaction() as session:
                dataset_id = dataset(session, uri=str(home / "set.jsonl"))
                queue.ring(session, Stage.REGISTER, dataset_id)
            until(lambda: state(transaction, dataset_id) != "registering")
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 0
        log = (home / "worker.log").read_text()
        assert "ada@example.org" not in log
        close(engine)


@pytest.mark.slow
def test_with_redis_gone_the_sweeper_does_the_work(
    home: Path, database_url: str, transaction: Transaction
) -> None:
    nowhere = f"unix://{home}/run/none.sock?db=0"
    env = {"LETHE_HOME": str(home), "LETHE_DATABASE_URL": database_url, "LETHE_REDIS_URL": nowhere}
    with worker(home, LETHE_SWEEP_SECONDS="0.5", **env):
        with transaction() as session:
            dataset_id = dataset(session, uri=str(home / "set.jsonl"))
        until(lambda: state(transaction, dataset_id) != "registering")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_worker_leaves_no_stage_behind(
    home: Path, database_url: str, transaction: Transaction
) -> None:
    fifo = home / "pipe.jsonl"
    os.mkfifo(fifo)  # a source that never answers
    env = {"LETHE_HOME": str(home), "LETHE_DATABASE_URL": database_url}
    with worker(home, LETHE_SWEEP_SECONDS="0.5", **env) as child:
        with transaction() as session:
            dataset_id = dataset(session, uri=str(fifo))
        until(lambda: stages(dataset_id))
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not stages(dataset_id))


def stages(dataset_id: UUID) -> list[str]:
    """Return the processes that work on a dataset."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"workers.pipeline" in command and str(dataset_id).encode() in command:
            found.append(path.parent.name)
    return found
