"""`lethe up` as a person uses it: up in seconds, one Ctrl-C, nothing left; killed, and up again with the same data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app import processes
from app.config import Settings
from app.embedded import addresses
from app.embedded.stack import pids

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

START_SECONDS_MAX = 20.0
"""On a computer with nothing else to do; others get as much more as they are busier (R80)."""
PARTS = {"postgres", "redis", "model-server", "api", "worker-gpu", "worker-io", "beat"}


@pytest.fixture
def settings() -> Iterator[Settings]:
    # Short: a socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="lethe-up-") as home:
        yield addresses.free_ports(Settings(home=Path(home)))


@contextmanager
def up(settings: Settings, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Run `lethe up` in a session of its own and wait until it says how to stop it."""
    ports = {
        f"LETHE_{name.upper()}": str(getattr(settings, name))
        for name in ("port", "model_port", "model_admin_port")
    }
    env = processes.environment(LETHE_HOME=str(settings.home), **ports, **more)
    supervisor = subprocess.Popen(
        processes.python("-m", "app.cli.main", "up"),
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield supervisor
    finally:
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGINT)
            try:
                supervisor.wait(60)
            except subprocess.TimeoutExpired:
                supervisor.kill()
        supervisor.wait()
        assert supervisor.stdout is not None
        supervisor.stdout.close()


def said(supervisor: subprocess.Popen[str], word: str) -> str:
    """Return what it printed up to the line with that word."""
    assert supervisor.stdout is not None
    lines = []
    for line in supervisor.stdout:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError(f"it ended without a word of {word!r}:\n{''.join(lines)}")


def theirs(home: Path) -> dict[int, str]:
    """Return every process whose command line or environment names the home."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if int(folder.name) != os.getpid() and os.fsencode(home) in command + environment:
            found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def none_left(home: Path, *, within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while left := theirs(home):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


def test_up_ready_used_and_stopped(settings: Settings) -> None:
    started = time.monotonic()
    with up(settings) as supervisor:
        welcome = said(supervisor, "Ctrl-C")
        took = time.monotonic() - started
        assert "No model is registered yet" in welcome
        assert f"http://127.0.0.1:{settings.port}" in welcome
        assert pids(settings.home).keys() == PARTS
        ready = httpx.get(f"http://127.0.0.1:{settings.port}/readyz").json()
        assert (ready["status"], ready["parts"]) == ("ready", {"postgres": "ok", "redis": "ok"})
        assert httpx.get(f"http://127.0.0.1:{settings.model_port}/healthz").is_success

        left = json.loads((settings.home / "credentials.json").read_text())
        assert (settings.home / "credentials.json").stat().st_mode & 0o777 == 0o600
        for secret in left["keys"].values():
            assert secret not in welcome
        headers = {"Authorization": f"Bearer {left['keys']['officer']}"}
        assert httpx.get(f"{left['url']}/v1/erasure-requests", headers=headers).is_success

        supervisor.send_signal(signal.SIGINT)
        assert supervisor.wait(60) == 0
    none_left(settings.home, within_seconds=0.1)
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert took < START_SECONDS_MAX * max(1.0, busy)


def test_killed_and_up_again_with_the_same_data(settings: Settings) -> None:
    with up(settings) as supervisor:
        said(supervisor, "Ctrl-C")
        left = json.loads((settings.home / "credentials.json").read_text())
        headers = {"Authorization": f"Bearer {left['keys']['officer']}", "Idempotency-Key": "1"}
        body = {"subject": {"type": "email", "value": "ada@example.org"}}
        made = httpx.post(f"{left['url']}/v1/erasure-requests", headers=headers, json=body).json()
        os.kill(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
    none_left(settings.home, within_seconds=20)

    with up(settings) as supervisor:
        said(supervisor, "Ctrl-C")
        again = json.loads((settings.home / "credentials.json").read_text())
        assert again == left
        kept = httpx.get(f"{left['url']}/v1/erasure-requests/{made['id']}", headers=headers).json()
        assert kept["id"] == made["id"]
    none_left(settings.home, within_seconds=0.1)


def test_a_database_put_back_from_a_backup_is_read_only_until_it_was_looked_at(settings: Settings) -> None:
    body = {"subject": {"type": "email", "value": "ada@example.org"}}
    url, often = f"http://127.0.0.1:{settings.port}/v1/erasure-requests", {"LETHE_SWEEP_SECONDS": "0.5"}

    def ask(key: str) -> httpx.Response:
        return httpx.post(url, headers=headers | {"Idempotency-Key": key}, json=body)

    def check(*words: str) -> tuple[int, str]:
        ran = subprocess.run(
            processes.python("-m", "app.cli.main", "restore-check", *words),
            env=processes.environment(LETHE_HOME=str(settings.home)), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return ran.returncode, ran.stdout + ran.stderr

    with up(settings, **often) as supervisor:
        said(supervisor, "Ctrl-C")
        left = json.loads((settings.home / "credentials.json").read_text())
        headers = {"Authorization": f"Bearer {left['keys']['officer']}"}
        kept = ask("1").json()["id"]
    # With owners and modes: as root, Postgres runs as somebody else.
    subprocess.run(["cp", "-a", settings.home / "postgres", settings.home / "backup"], check=True)
    with up(settings, **often) as supervisor:
        said(supervisor, "Ctrl-C")
        lost = ask("2").json()["id"]
        copied = settings.home / "store" / "audit" / "000000000001.jsonl"
        deadline = time.monotonic() + 60
        while lost not in copied.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert check()[0] == 0
    shutil.rmtree(settings.home / "postgres")
    (settings.home / "backup").rename(settings.home / "postgres")

    with up(settings, **often) as supervisor:
        said(supervisor, "Ctrl-C")
        ready = httpx.get(f"http://127.0.0.1:{settings.port}/readyz").json()
        assert (ready["status"], ready["parts"]["postgres"]) == ("degraded", "restored")
        assert httpx.get(f"{url}/{kept}", headers=headers).status_code == 200
        assert httpx.get(f"{url}/{lost}", headers=headers).status_code == 404
        assert (ask("3").status_code, ask("3").json()["code"]) == (503, "database-restored")
        code, told = check()
        assert (code, lost in told) == (1, True)
        assert check("--apply")[0] == 0
        assert ask("3").status_code == 201
        ready = httpx.get(f"http://127.0.0.1:{settings.port}/readyz").json()
        assert (ready["status"], ready["parts"]["postgres"]) == ("ready", "ok")
    none_left(settings.home, within_seconds=0.1)


def test_killed_while_starting_and_up_again(settings: Settings) -> None:
    with up(settings) as supervisor:
        said(supervisor, "migrations")
        os.kill(supervisor.pid, signal.SIGKILL)
        supervisor.wait()
    with up(settings) as supervisor:
        said(supervisor, "Ctrl-C")


def test_a_part_that_cannot_start_is_named_and_nothing_is_left(settings: Settings) -> None:
    nowhere = f"postgresql://nobody@/nothing?host={settings.home}"
    with up(settings, LETHE_DATABASE_URL=nowhere) as supervisor:
        assert supervisor.wait(60) == 1
        assert supervisor.stdout is not None
        assert "lethe: " in supervisor.stdout.read()
    none_left(settings.home, within_seconds=0.1)


def test_a_placeholder_for_a_key_is_refused(settings: Settings) -> None:
    (settings.home / "keys").mkdir(mode=0o700)
    (settings.home / "keys" / "subject.key").write_text("00" * 32)
    with up(settings) as supervisor:
        assert supervisor.wait(60) == 1
        assert supervisor.stdout is not None
        assert "subject.key is not a key of 32 random bytes" in supervisor.stdout.read()
    none_left(settings.home, within_seconds=0.1)


def test_each_part_may_be_killed_and_comes_back(settings: Settings) -> None:
    with up(settings) as supervisor:
        said(supervisor, "Ctrl-C")
        before = pids(settings.home)
        for name in PARTS:
            os.kill(before[name], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while True:
            try:
                ready = httpx.get(f"http://127.0.0.1:{settings.port}/readyz", timeout=5)
                back = pids(settings.home)
                if ready.json().get("status") == "ready" and not set(back.values()) & set(before.values()):
                    break
            except (httpx.HTTPError, ValueError):
                pass
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert supervisor.poll() is None
    none_left(settings.home, within_seconds=0.1)
