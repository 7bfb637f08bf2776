"""Start all of the stack or none of it; watch it; stop it.

Why one thread starts and watches every part: the kernel ends a child when the thread that started it
ends, so nothing is left behind however this process dies (`app.processes`). A part that cannot start
takes the others down with it and says why; a part that dies later is started again, five times in
ten minutes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app import processes
from app.clock import system_clock
from app.config import Settings
from app.embedded import accounts, addresses, parts, servers
from app.embedded.parts import Part, StartFailed
from app.signing import keys as signing
from app.storage import migrations
from app.storage.keyring import Keyring
from app.transparency import keys as log_keys

__all__ = ["Stack", "StartFailed", "pids", "stack"]

START_SECONDS_MAX = 60.0
STOP_SECONDS = 30.0
RESTARTS_MAX = 5
RESTARTS_WINDOW_SECONDS = 600.0
RESTART_PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.05

Say = Callable[[str], None]


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS_MAX))


class Stack:
    """Every part that the settings do not give the address of; started and watched by one thread."""

    def __init__(self, settings: Settings, *, say: Say = lambda _line: None) -> None:
        """Plan the stack; nothing is started yet."""
        addresses.check(settings)
        self.settings = addresses.complete(settings)
        self.home = settings.home.resolve()
        self.failure: str | None = None
        self.keys: Mapping[str, str] = {}
        """The API key of each account, by its name; complete once started."""
        self._say = say
        self._external = settings
        self._running: list[_Running] = []
        self._ready, self._stop, self._over = threading.Event(), threading.Event(), threading.Event()

    # What the caller's thread does -------------------------------------------------------------

    def start(self, told: threading.Event | None = None) -> None:
        """Start everything and wait until it answers; raise `StartFailed` if some part does not.

        Once `told` is set, what was started is stopped again.
        """
        keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        keeper.start()
        while not self._ready.wait(_POLL_SECONDS) and not self._over.is_set():
            if told is not None and told.is_set():
                self._stop.set()
        if self.failure is not None:
            self._over.wait()
            raise StartFailed(self.failure)

    def wait(self, seconds: float) -> bool:
        """Return whether the stack has ended by itself within so many seconds."""
        return self._over.wait(seconds)

    def needs_model(self) -> bool:
        """Return whether the API still waits for a first model."""
        api = f"http://{parts.reachable(self.settings.host)}:{self.settings.port}"
        body = httpx.get(f"{api}/readyz", timeout=5.0, trust_env=False).json()
        return body.get("next") is not None

    def stop(self) -> None:
        """Stop every part, in the reverse order of their start; raise if the stack had failed."""
        self._stop.set()
        self._over.wait()
        if self.failure is not None:
            raise StartFailed(self.failure)

    # What the keeper's thread does ---------------------------------------------------------------

    def _keep(self) -> None:
        try:
            with processes.exclusive(self.home / "lock") as alone:
                if not alone:
                    raise StartFailed(f"another lethe is running on {self.home}")  # noqa: TRY301  one way out
                try:
                    self._start_all()
                    self._ready.set()
                    while not self._stop.wait(0.2):
                        self._restart_the_dead()
                finally:
                    self._stop_all()
        except StartFailed as failure:
            self.failure = str(failure)
        except Exception as error:  # noqa: BLE001  the waiting thread must hear of it, whatever it is
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._over.set()

    def _start_all(self) -> None:
        _end_leftovers(self.home)
        for folder in ("logs", "run", "work", "locks", "store"):
            (self.home / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        Keyring.open(self.settings.keys, create=True)
        signing.generate(self.settings.keys)
        log_keys.generate(self.settings.keys, issuer=self.settings.issuer, at=system_clock())
        log_keys.introduce(self.settings.keys, issuer=self.settings.issuer, at=system_clock())
        waiting = []
        if self._external.model_server_url is None:
            # It needs no database, and takes longest to load.
            waiting.append(self._begin(parts.model_server(self.settings)))
        if self._external.database_url is None:
            self._say("Postgres")
            self._await(self._begin(servers.postgres(self.home)))
            migrations.ensure_database(
                addresses.postgres_url(self.home, "postgres", "postgres"), addresses.DATABASE
            )
        if self._external.redis_url is None and self.settings.redis_url is not None:
            self._say("Redis")
            self._await(self._begin(servers.redis(self.home)))
        self._say("migrations")
        assert self.settings.database_url is not None, "the addresses are complete"
        if self._external.database_url is None:
            # Who owns the tables does not work with them; elsewhere `lethe migrate` sees to that.
            owner = addresses.postgres_url(self.home, addresses.DATABASE, addresses.DATABASE)
            migrations.migrate(owner, app_role=migrations.APP_ROLE)
        else:
            migrations.migrate(self.settings.database_url)
        self.keys = accounts.ensure(self.settings)
        self._say("API, workers, beat, model server")
        waiting += [self._begin(part) for part in parts.ours(self.settings)]
        self._await(*waiting)

    def _begin(self, part: Part) -> _Running:
        running = _Running(part, self._launch(part))
        self._running.append(running)
        self._write_pids()
        return running

    def _launch(self, part: Part) -> subprocess.Popen[bytes]:
        env = processes.environment(LETHE_WORKER=part.name, **addresses.variables(self.settings))
        with (self.home / "logs" / f"{part.name}.log").open("ab") as log:
            return processes.start(
                part.argv,
                env=env,
                output=log,
                user=part.user,
                folder=self.home,
                at_our_death=part.at_our_death,
            )

    def _await(self, *waiting: _Running) -> None:
        """Wait until these answer; whatever has been started and ends instead is the failure."""
        deadline = time.monotonic() + START_SECONDS_MAX
        left = list(waiting)
        while left:
            for each in self._running:
                code = each.process.poll()
                if code is not None:
                    raise StartFailed(self._why(each, f"ended with exit code {code} while starting"))
            left = [each for each in left if not each.part.ready(each.process.pid)]
            if left and time.monotonic() > deadline:
                raise StartFailed(self._why(left[0], f"did not answer within {START_SECONDS_MAX:.0f} s"))
            if self._stop.wait(_POLL_SECONDS):
                raise StartFailed("stopped while starting")

    def _why(self, each: _Running, fact: str) -> str:
        log = self.home / "logs" / f"{each.part.name}.log"
        return f"{each.part.name} {fact}; its log {log} ends with:\n{processes.tail(log)}"

    def _restart_the_dead(self) -> None:
        for each in self._running:
            code = each.process.poll()
            if code is None:
                continue
            processes.kill_group(each.process)
            now = time.monotonic()
            if len(each.restarts) == RESTARTS_MAX and now - each.restarts[0] < RESTARTS_WINDOW_SECONDS:
                raise StartFailed(self._why(each, f"died {RESTARTS_MAX + 1} times in ten minutes"))
            if each.restarts and now - each.restarts[-1] < RESTART_PAUSE_SECONDS:
                continue  # it dies at once: give what it needs a second
            each.restarts.append(now)
            self._say(f"{each.part.name} ended with exit code {code}; starting it again")
            each.process = self._launch(each.part)
            self._write_pids()

    def _stop_all(self) -> None:
        """Ask our own parts to end, last started first, while their servers are still there; then those."""
        servers = [each for each in self._running if each.part.name in {"postgres", "redis"}]
        ours = [each for each in reversed(self._running) if each not in servers]
        for each in ours:
            if each.process.poll() is None:
                each.process.send_signal(each.part.stop_by)
        deadline = time.monotonic() + self.settings.drain_seconds + STOP_SECONDS
        for each in ours:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(max(0.0, deadline - time.monotonic()))
            processes.kill_group(each.process)
        for each in reversed(servers):
            processes.stop(each.process, grace_seconds=STOP_SECONDS, by=each.part.stop_by)
        self._running.clear()
        self._write_pids()

    def _write_pids(self) -> None:
        _pid_file(self.home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = _pid_file(self.home).with_suffix(".part")
        temporary.write_text(json.dumps({each.part.name: each.process.pid for each in self._running}))
        temporary.replace(_pid_file(self.home))


@contextmanager
def stack(settings: Settings, *, say: Say = lambda _line: None) -> Iterator[Stack]:
    """Run the stack while in the block: `settings` has the address of every part, `keys` the accounts."""
    running = Stack(settings, say=say)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def pids(home: Path) -> dict[str, int]:
    """Return the pid of each part by its name, as the supervisor on `home` last wrote them."""
    try:
        return dict(json.loads(_pid_file(home.resolve()).read_text()))
    except FileNotFoundError:
        return {}


def _pid_file(home: Path) -> Path:
    return home / "run" / "pids.json"


# What an earlier start left ---------------------------------------------------------------------------


def _end_leftovers(home: Path) -> None:
    """End what a killed supervisor left behind; on Linux there is nothing but a Postgres on its way out."""
    left = {name: pid for name, pid in pids(home).items() if _is_ours(name, pid)}
    master = servers.postmaster(home / "postgres")
    if master is not None and _is_ours("postgres", master[0]):
        left["postgres"] = master[0]
    for name, pid in left.items():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT if name == "postgres" else signal.SIGKILL)
    deadline = time.monotonic() + STOP_SECONDS
    while any(_is_ours(name, pid) for name, pid in left.items()):
        if time.monotonic() > deadline:
            raise StartFailed(f"processes of an earlier start do not end: {sorted(left.values())}")
        time.sleep(_POLL_SECONDS)


_MARKS = {
    "postgres": "postgres",
    "redis": "redis-server",
    "api": "uvicorn",
    "model-server": "workers.inference",
}


def _is_ours(name: str, pid: int) -> bool:
    """Return whether that pid is still such a part; pids are given out again."""
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return False
    else:
        command = subprocess.run(
            ["/bin/ps", "-p", str(pid), "-o", "command="], check=False, capture_output=True, text=True
        ).stdout
    return _MARKS.get(name, "workers.celery_app") in command
