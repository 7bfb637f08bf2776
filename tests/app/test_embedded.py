"""All of the stack or none of it; what dies is started again; who else may not use a home."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from app import processes
from app.config import Settings
from app.embedded import accounts, addresses
from app.embedded.parts import Part
from app.embedded.stack import Stack, StartFailed, pids
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.app.test_processes import gone

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"


class Small(Stack):
    """The supervisor over parts of a test's own choice."""

    chosen: tuple[Part, ...] = ()

    def _start_all(self) -> None:
        for folder in ("logs", "run"):
            (self.home / folder).mkdir(parents=True, exist_ok=True)
        self._await(*[self._begin(part) for part in self.chosen])


def part(name: str, script: str, home: Path) -> Part:
    """Return a part that is ready once it has said something."""
    log = home / "logs" / f"{name}.log"
    return Part(
        name=name, argv=tuple(processes.python("-c", script)), ready=lambda _pid: log.read_bytes() != b""
    )


@contextmanager
def small(settings: Settings, *parts: Part) -> Iterator[Small]:
    stack = Small(settings)
    stack.chosen = parts
    stack.start()
    try:
        yield stack
    finally:
        if stack.failure is None:
            stack.stop()


def until(condition: object, *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return addresses.free_ports(Settings(home=tmp_path))


def test_what_dies_is_started_again_and_nothing_is_left(settings: Settings) -> None:
    home = settings.home
    with small(settings, part("one", SLEEPS, home), part("two", SLEEPS, home)):
        before = pids(home)
        assert before.keys() == {"one", "two"}
        os.kill(before["one"], signal.SIGKILL)
        until(lambda: pids(home)["one"] != before["one"])
        after = pids(home)
        assert after["two"] == before["two"]
    assert pids(home) == {}
    assert all(gone(pid) for pid in after.values())


def test_a_part_that_cannot_start_says_why_and_takes_the_others_down(settings: Settings) -> None:
    home = settings.home
    never = part("broken", "import sys; sys.exit('no such socket')", home)
    broken = replace(never, ready=lambda _pid: False)  # what it says as it dies must not count
    said = r"(?s)broken ended with exit code 1 while starting.*no such socket"
    with pytest.raises(StartFailed, match=said), small(settings, part("well", SLEEPS, home), broken):
        pass
    assert pids(home) == {}


@pytest.mark.slow
def test_a_part_that_keeps_dying_ends_the_stack(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.embedded.stack.RESTART_PAUSE_SECONDS", 0.0)
    dying = part(
        "dying",
        "print('again', flush=True); import time; time.sleep(0.3); raise SystemExit(3)",
        settings.home,
    )
    with small(settings, dying) as stack:
        assert stack.wait(30)
    assert stack.failure is not None
    assert stack.failure.startswith("dying died 6 times in ten minutes")
    with pytest.raises(StartFailed, match="dying died"):
        stack.stop()


def test_a_home_is_used_by_one(settings: Settings) -> None:
    said = pytest.raises(StartFailed, match="another lethe is running on")
    with small(settings, part("one", SLEEPS, settings.home)), said, small(settings):
        pass


def test_production_starts_no_embedded_part(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, profile="production", redis_url="redis://queue")
    with pytest.raises(StartFailed, match="LETHE_DATABASE_URL, LETHE_MODEL_SERVER_URL"):
        Stack(settings)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="bytes shorter"):
        Stack(Settings(home=tmp_path / ("a" * 90)))


def test_a_port_in_use_is_named(settings: Settings) -> None:
    said = pytest.raises(StartFailed, match=f"port {settings.model_port} .*LETHE_MODEL_PORT")
    with socket.create_server(("127.0.0.1", settings.model_port)), said:
        Stack(settings)


def test_children_read_the_same_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = addresses.complete(settings)
    for name, value in addresses.variables(complete).items():
        monkeypatch.setenv(name, value)
    assert complete.database_owner_url is not None
    assert Settings() == complete.model_copy(update={"database_owner_url": None})


def test_addresses_follow_from_ports_unless_they_are_given(tmp_path: Path) -> None:
    found = addresses.complete(Settings(home=tmp_path, port=8123, model_server_url="http://models:8001"))
    assert found.public_url == "http://127.0.0.1:8123"
    assert found.model_server_url == "http://models:8001"
    assert (
        found.database_url
        == f"postgresql://lethe@/lethe?host={str(tmp_path).replace('/', '%2F')}%2Fpostgres".replace(
            "%2F", "/"
        )
    )
    given = addresses.complete(Settings(home=tmp_path, public_url="https://lethe.example"))
    assert given.public_url == "https://lethe.example"


def test_accounts_are_made_once_and_their_file_is_private(
    database_url: str, transaction: Transaction, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, database_url=database_url)
    keyring = Keyring.open(settings.keys, create=True)
    made = accounts.ensure(settings)
    assert made.keys() == accounts.ACCOUNTS.keys()
    file = accounts.credentials_file(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert accounts.ensure(settings) == made == accounts.credentials(tmp_path)["keys"]

    file.unlink()  # whoever lost the file gets new keys for the same people
    again = accounts.ensure(settings)
    assert not set(again.values()) & set(made.values())
    from app.auth import service as auth  # noqa: PLC0415  only here
    from app.clock import system_clock  # noqa: PLC0415  only here

    with transaction() as session:
        callers = {auth.authenticate(session, keyring.api, key, at=system_clock()) for key in again.values()}
    assert len({caller.principal_id for caller in callers}) == len(accounts.ACCOUNTS)
