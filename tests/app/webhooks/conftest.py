"""A desk for webhooks: endpoints made over the API, and a worker that delivers when a test says so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from app.config import Settings
from app.http.outbound import Reach
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from app.webhooks import delivery
from app.webhooks.delivery import Sender
from tests.app.webhooks.receivers import Receiver, receiver
from tests.fixtures.api import Caller, Callers, StillClock

ENDPOINTS = "/v1/webhook-endpoints"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"outbound_hosts": "127.0.0.1"})


@pytest.fixture
def admin(callers: Callers) -> Caller:
    return callers("admin", "admin")


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@dataclass(frozen=True)
class Desk:
    """What a test of webhooks reaches for."""

    admin: Caller
    officer: Caller
    sender: Sender
    clock: StillClock
    transaction: Transaction

    def endpoint(self, url: str, *events: str) -> dict[str, Any]:
        """Create an endpoint; its answer with the secret."""
        answer = self.admin.post(ENDPOINTS, {"url": url, "events": list(events) or ["request.*"]})
        assert answer.status_code == 201, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def request(self, reference: str) -> str:
        """Have a request received, of a person nobody knows."""
        answer = self.officer.post(
            "/v1/erasure-requests",
            {"subject": {"type": "email", "value": f"{reference}@example.org"}, "external_ref": reference},
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def work(self) -> int:
        """Do what a worker does once."""
        with capture_logs():
            return delivery.run(self.sender)

    def deliveries(self, endpoint: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
        """Return what an endpoint was told, newest first."""
        answer = self.admin.get(f"{ENDPOINTS}/{endpoint['id']}/deliveries", **params)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    def read(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        """Return an endpoint as it is now."""
        body: dict[str, Any] = self.admin.get(f"{ENDPOINTS}/{endpoint['id']}").json()
        return body


@pytest.fixture
def desk(
    admin: Caller,
    officer: Caller,
    app: FastAPI,
    transaction: Transaction,
    keyring: Keyring,
    clock: StillClock,
    settings: Settings,
) -> Desk:
    sender = Sender(transaction=transaction, seal=keyring.webhooks, reach=Reach.of(settings), clock=clock)
    return Desk(admin, officer, sender, clock, transaction)
