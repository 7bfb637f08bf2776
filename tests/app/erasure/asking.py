"""What most stories about requests begin with."""

from typing import Any
from uuid import UUID

from app.http import ids
from tests.fixtures.api import Caller
from tests.fixtures.world import ADA

REQUESTS = "/v1/erasure-requests"
NOTICE = {"sent_on": "2026-11-21", "complaint": True, "court": True}


def ask(caller: Caller, email: str = ADA, **more: Any) -> dict[str, Any]:
    """Send a request for one person and return the receipt."""
    answer = caller.post(REQUESTS, {"subject": {"type": "email", "value": email}, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def approve(caller: Caller, receipt: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Approve what the receipt says was found."""
    body = {"record_set_hash": receipt["record_set_hash"], **more}
    return act(caller, receipt, "approvals", body)


def act(caller: Caller, receipt: dict[str, Any], what: str, body: object = None) -> dict[str, Any]:
    """Act on a request and return the receipt."""
    answer = caller.post(f"{REQUESTS}/{receipt['id']}/{what}", body)
    assert answer.status_code in {200, 201}, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(caller: Caller, receipt: dict[str, Any], what: str, body: object = None) -> tuple[int, str]:
    """Try to act on a request; return status and code of the refusal."""
    answer = caller.post(f"{REQUESTS}/{receipt['id']}/{what}", body)
    assert answer.status_code >= 400, answer.text
    return answer.status_code, answer.json()["code"]


def shown(caller: Caller, receipt: dict[str, Any]) -> dict[str, Any]:
    """Read a request in full."""
    found: dict[str, Any] = caller.get(f"{REQUESTS}/{receipt['id']}").json()
    return found


def kinds(caller: Caller, receipt: dict[str, Any]) -> list[str]:
    """Return what happened to a request, in order."""
    events = caller.get(f"{REQUESTS}/{receipt['id']}/events").json()
    return [event["kind"] for event in events]


def id_of(receipt: dict[str, Any]) -> UUID:
    return ids.decode("er", receipt["id"])
