"""What a part of the stack is, and those that are our own Python."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from app import processes
from app.config import Settings

LOOPBACK = "127.0.0.1"


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


def model_server(settings: Settings) -> Part:
    """Return the model server; it answers before it serves a model."""
    url = f"{settings.model_server_url}/healthz"
    return _python("model-server", ["-m", "workers.inference.server"], lambda _pid: _answers(url))


def ours(settings: Settings) -> list[Part]:
    """Return two workers, beat and the API."""
    api = [
        *("-m", "uvicorn", "--factory", "app.main:from_environment", "--host", settings.host),
        *("--port", str(settings.port), "--no-access-log", "--timeout-graceful-shutdown", "10"),
    ]
    beat = ["beat", "--schedule", str(settings.home / "run" / "beat"), "--pidfile", "", "--loglevel=WARNING"]
    return [
        _python(
            "api", api, lambda _pid: _answers(f"http://{reachable(settings.host)}:{settings.port}/readyz")
        ),
        _worker(settings, "worker-gpu", queues="gpu", threads=1),
        _worker(settings, "worker-io", queues="io,signing,webhooks", threads=2),
        _python("beat", [*_celery(), *beat], lambda _pid: True),
    ]


def reachable(host: str) -> str:
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
