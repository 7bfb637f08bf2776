"""The model server as a process: started empty, published to, asked all the while, killed, started again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.errors import Unavailable
from app.http import ids
from app.serving import service
from app.serving.backends import NativeBackend, Publication
from app.storage.keyring import Keyring
from app.tables.base import new_id
from tests.fixtures.models import Adopted

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
PROMPTS = ["The river runs", "Seventeen boats", "under the old stone"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(home: Path, port: int, admin_port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "LETHE_HOME": str(home),
        "LETHE_MODEL_PORT": str(port),
        "LETHE_MODEL_ADMIN_PORT": str(admin_port),
        "OMP_NUM_THREADS": "1",
    }
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.inference.server"], cwd=ROOT, env=environment, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if what():
                return
        except (httpx.TransportError, Unavailable):
            pass
        time.sleep(0.05)
    pytest.fail("it took too long")


def ask(client: httpx.Client, prompt: str, **more: Any) -> httpx.Response:
    body = {"model": "line", "prompt": prompt, "temperature": 0, "max_tokens": 20}
    return client.post("/v1/completions", json=body | more)


def test_the_life_of_a_server(tmp_path: Path, adopted: dict[str, Adopted]) -> None:
    token = Keyring.open(tmp_path / "keys", create=True).admin_token
    port, admin_port = free_port(), free_port()
    backend = NativeBackend(url=f"http://127.0.0.1:{admin_port}", token=token)

    def publication(name: str, epoch: int) -> Publication:
        return Publication(
            model_id=new_id(),
            model="line",
            version_id=new_id(),
            manifest=adopted[name].manifest,
            tensor_root=adopted[name].tensor_root,
            form="float32/none",
            publish_epoch=epoch,
            erasure_epoch=epoch - 1,
            erasure_floor=max(0, epoch - 2),
        )

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        with server(tmp_path, port, admin_port):
            until(lambda: client.get("/healthz").status_code == 200)
            assert client.get("/readyz").status_code == 503
            versions = [publication("a", 1), publication("b", 2), publication("a", 3)]
            service.publish([backend], versions[0], drain_seconds=10)
            assert client.get("/readyz").status_code == 200
            seen = asked_through_swaps(client, backend, versions[1:])
        assert {status for status, *_ in seen} == {200}
        texts: dict[tuple[str, str], set[str]] = {}
        for _, manifest, prompt, text in seen:
            texts.setdefault((manifest, prompt), set()).add(text)
        assert len(texts) == 2 * len(PROMPTS)
        assert all(len(said) == 1 for said in texts.values())

        with server(tmp_path, port, admin_port) as process:  # the one before was killed
            until(lambda: client.get("/readyz").status_code == 200)
            answer = ask(client, PROMPTS[0])
            assert answer.headers["X-Model-Version"] == ids.encode("mv", versions[-1].version_id)
            manifest = answer.headers["X-Model-Manifest"]
            assert texts[manifest, PROMPTS[0]] == {answer.json()["choices"][0]["text"]}
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    log = (tmp_path / "server.log").read_text()
    assert not any(prompt in log for prompt in PROMPTS)
    assert token not in log


def asked_through_swaps(
    client: httpx.Client, backend: NativeBackend, publications: list[Publication]
) -> list[tuple[int, str, str, str]]:
    """Ask in two threads while versions are published; return status, version, prompt and text."""
    done, seen = threading.Event(), list[tuple[int, str, str, str]]()

    def asker() -> None:
        while not done.is_set():
            for prompt in PROMPTS:
                answer = ask(client, prompt)
                choices = answer.json().get("choices", [{"text": ""}])
                manifest = answer.headers.get("X-Model-Manifest", "")
                seen.append((answer.status_code, manifest, prompt, choices[0]["text"]))

    askers = [threading.Thread(target=asker) for _ in range(2)]
    for each in askers:
        each.start()
    for publication in publications:
        service.publish([backend], publication, drain_seconds=10)
        assert ask(client, "x").headers["X-Model-Version"] == ids.encode("mv", publication.version_id)
    done.set()
    for each in askers:
        each.join()
    return seen
