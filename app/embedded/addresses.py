"""Who is where: settings in, settings with the address of every part out, or a clear refusal."""

import socket
from pathlib import Path
from urllib.parse import quote

from app.config import Settings
from app.embedded import servers
from app.embedded.parts import LOOPBACK, StartFailed, reachable
from app.storage.migrations import APP_ROLE

SOCKET_PATH_BYTES_MAX = 100
DATABASE = "lethe"


def free_ports(settings: Settings) -> Settings:
    """Return settings on ports that nobody uses now, for a stack beside another one."""
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for each in (one, two, three):
            each.bind((LOOPBACK, 0))
        names = ("port", "model_port", "model_admin_port")
        found = dict(zip(names, (each.getsockname()[1] for each in (one, two, three)), strict=True))
    return settings.model_copy(update=found)


def check(settings: Settings) -> None:
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


def complete(settings: Settings) -> Settings:
    """Return the settings with the address of every part, embedded ones included."""
    home = settings.home.resolve()
    redis = None if servers.redis_server() is None else f"unix://{home}/run/redis.sock?db=0"
    update: dict[str, object] = {
        "home": home,
        "keyring": settings.keys.resolve(),
        "database_url": settings.database_url or postgres_url(home, APP_ROLE, DATABASE),
        "redis_url": settings.redis_url or redis,
        "model_server_url": settings.model_server_url or f"http://{LOOPBACK}:{settings.model_port}",
        "model_admin_url": settings.model_admin_url or f"http://{LOOPBACK}:{settings.model_admin_port}",
    }
    if "public_url" not in settings.model_fields_set:
        update["public_url"] = f"http://{reachable(settings.host)}:{settings.port}"
    if update["redis_url"] is None:
        update["sweep_seconds"] = min(settings.sweep_seconds, 2.0)
    return settings.model_copy(update=update)


def variables(settings: Settings) -> dict[str, str]:
    """Return the environment that makes a child read the same settings."""
    return {f"LETHE_{name.upper()}": str(value) for name, value in settings if value is not None}


def postgres_url(home: Path, user: str, database: str) -> str:
    """Return where the embedded Postgres is."""
    return f"postgresql://{user}@/{database}?host={quote(str(home / 'postgres'))}"
