"""The API as an OpenDSR processor on loopback, and an emulated controller that speaks to it over HTTP."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from cryptography import x509
from fastapi import FastAPI
from structlog.testing import capture_logs

from app.config import Settings
from app.http.outbound import Reach
from app.intake import callbacks, processor, signing
from app.storage.database import Transaction
from tests.app.intake.authority import Authority, key_pem, pem, rsa_key
from tests.app.webhooks.receivers import Receiver, receiver
from tests.fixtures.api import Caller, Callers, StillClock

DOMAIN = "localhost"
PREFIX = "/opendsr/v2"


class Quiet(uvicorn.Server):
    """A server in a thread of the test's: signals are not its business."""

    def install_signal_handlers(self) -> None:
        """Leave the signals alone."""


@dataclass
class Controller:
    """Who asks us to erase: knows our address, an authority, and what the specification says."""

    base: str
    token: str = field(repr=False)
    root: x509.Certificate
    clock: StillClock
    hook: Receiver
    chain: list[x509.Certificate] = field(default_factory=list)

    def call(
        self, method: str, path: str, *, content: bytes | None = None, anonymous: bool = False
    ) -> httpx.Response:
        """Call, and check the signature of whatever is answered, before anything of it is read."""
        headers = {} if anonymous else {"Authorization": f"Bearer {self.token}"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        answer = httpx.request(
            method,
            f"{self.base}{PREFIX}{path}",
            content=content,
            headers=headers,
            trust_env=False,
            timeout=30,
        )
        self.check(answer.headers, answer.content)
        return answer

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check a signature as 8.8 has it: by the certificate that discovery names."""
        signing.check(
            headers, body, chain=self._certificates(), roots=[self.root], domain=DOMAIN, at=self.clock()
        )

    def submit(self, **changes: Any) -> httpx.Response:
        """Send a request; `None` leaves a member out."""
        return self.call("POST", "/requests", content=json.dumps(self.body(**changes)).encode())

    def body(self, **changes: Any) -> dict[str, Any]:
        """Return a request as the specification's example has it."""
        said = {
            "regulation": "gdpr",
            "subject_request_id": str(uuid4()),
            "subject_request_type": "erasure",
            "submitted_time": "2026-11-20T15:00:00Z",
            "subject_identities": [
                {"identity_type": "email", "identity_value": "ada@example.org", "identity_format": "raw"}
            ],
            "api_version": "2.0",
            "status_callback_urls": [f"{self.hook.url}/opendsr_callbacks"],
            "extensions": {"other.example": {"custom": 1}},
        }
        return {name: value for name, value in (said | changes).items() if value is not None}

    def status(self, subject_request_id: str) -> dict[str, Any]:
        """Ask where a request stands."""
        answer = self.call("GET", f"/requests/{subject_request_id}")
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def called_back(self) -> list[dict[str, Any]]:
        """Return what was called back, each checked: the signature first, then that the URL is ours."""
        found = []
        for call in self.hook.calls:
            self.check(call.headers, call.body)
            body = json.loads(call.body)
            assert body["status_callback_url"] == f"{self.hook.url}{call.path}"
            found.append(body)
        return found

    def _certificates(self) -> list[x509.Certificate]:
        if not self.chain:
            found = httpx.get(f"{self.base}{PREFIX}/discovery", trust_env=False, timeout=30)
            where = found.json()["processor_certificate"]
            assert httpx.URL(where).host == DOMAIN
            self.chain = x509.load_pem_x509_certificates(
                httpx.get(where, trust_env=False, timeout=30).content
            )
        return self.chain


@dataclass(frozen=True)
class Processing:
    """Our side: a worker that calls back when a test says so."""

    sender: callbacks.Sender
    clock: StillClock

    def work(self) -> int:
        """Do what a worker does, until nothing is left for now."""
        done = 0
        with capture_logs():
            while made := callbacks.run(self.sender):
                done += made
        return done


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.new()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture
def settings(settings: Settings, authority: Authority, listener: socket.socket, tmp_path: Path) -> Settings:
    below = authority.intermediate()
    (tmp_path / "opendsr.key").write_bytes(key_pem(rsa_key()))
    (tmp_path / "opendsr.pem").write_bytes(pem(authority.leaf(DOMAIN, rsa_key(), by=below), below[0]))
    return settings.model_copy(
        update={
            "public_url": f"http://{DOMAIN}:{listener.getsockname()[1]}",
            "outbound_hosts": "127.0.0.1",
            "opendsr_domain": DOMAIN,
            "opendsr_key": tmp_path / "opendsr.key",
            "opendsr_chain": tmp_path / "opendsr.pem",
        }
    )


@pytest.fixture
def served(app: FastAPI, settings: Settings, listener: socket.socket) -> Iterator[str]:
    """Serve the API on loopback; return its URL."""
    server = Quiet(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    with capture_logs():  # the API is in this process, and its log is not what is tested
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield settings.public_url
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def machine(callers: Callers) -> Caller:
    return callers("controller", "intake", kind="machine")


@pytest.fixture
def controller(served: str, machine: Caller, authority: Authority, clock: StillClock) -> Iterator[Controller]:
    with receiver() as hook:
        yield Controller(served, machine.token, authority.root, clock, hook)


@pytest.fixture
def processing(transaction: Transaction, settings: Settings, clock: StillClock) -> Processing:
    identity = processor.of(settings, clock=clock)
    assert identity is not None
    sender = callbacks.Sender(
        transaction=transaction, processor=identity, reach=Reach.of(settings), clock=clock
    )
    return Processing(sender, clock)
