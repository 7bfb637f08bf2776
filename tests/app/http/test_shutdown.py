"""A process that is told to end does not wait for those who only listen (Kludex/uvicorn#451)."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from app.config import Settings
from tests.fixtures.api import Caller

UP_SECONDS, DOWN_SECONDS = 60.0, 20.0


@pytest.mark.slow
def test_an_idle_stream_does_not_keep_the_process(officer: Caller, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "LETHE_DATABASE_URL": str(settings.database_url),
        "LETHE_HOME": str(settings.home),
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:from_environment", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        _until_alive(url)
        with httpx.stream("GET", f"{url}/v1/events/stream", headers=officer.headers, timeout=60) as stream:
            assert stream.status_code == httpx.codes.OK
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert list(stream.iter_lines()) == []
            process.wait(DOWN_SECONDS)
            assert time.monotonic() - started < DOWN_SECONDS


def _until_alive(url: str) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/healthz", timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("the API did not start")
