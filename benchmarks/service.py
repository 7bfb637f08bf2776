"""The whole service, started by command line as anybody would, for benchmarks that measure from outside.

`LETHE_DATABASE_URL` and `LETHE_REDIS_URL`, where set, replace its embedded parts.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS_MAX = 120
STOP_SECONDS_MAX = 60
POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where the service answers, and the accounts it was started with."""

    url: str
    keys: Mapping[str, str]

    def client(self, account: str) -> httpx.Client:
        """Return a client that calls as one of the accounts."""
        headers = {"Authorization": f"Bearer {self.keys[account]}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


def process_of(home: Path, part: str) -> int:
    """Return the process of one part of the service that runs on `home`."""
    found: int = json.loads((home / "run" / "pids.json").read_text())[part]
    return found


@contextmanager
def service(home: Path, **variables: str) -> Iterator[Running]:
    """Run `lethe up` on `home` while in the block."""
    port = _free_port()
    command = [sys.executable, "-m", "app.cli.main", "up", "--home", str(home), "--port", str(port)]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | _ports() | variables)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, home / "up.log")
        yield Running(url=url, keys=json.loads((home / "credentials.json").read_text())["keys"])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS_MAX)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the service did not start:\n{log.read_text()}")
        try:
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the service is not ready after {START_SECONDS_MAX} s:\n{log.read_text()}")


def _ports() -> dict[str, str]:
    """Return the ports of the model server, so that a stack that runs already is left alone."""
    return {"LETHE_MODEL_PORT": str(_free_port()), "LETHE_MODEL_ADMIN_PORT": str(_free_port())}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
