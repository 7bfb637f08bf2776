"""What is told: kinds by family, ids and codes by name, and nothing of anybody."""

import dataclasses
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.audit import events, service
from app.webhooks import kinds

AT = datetime(2026, 11, 21, 12, 0, 0, 250000, tzinfo=UTC)
ID = UUID(int=1)


def told(event: events.Event) -> dict[str, object]:
    body = json.loads(service.canonical(event))
    said = json.loads(kinds.payload(event.KIND, seq=7, body=body, at=kinds.when(body)))
    assert said.keys() == {"type", "timestamp", "data"}
    data: dict[str, object] = said["data"]
    return data


def test_a_message_is_thin() -> None:
    event = events.RequestMoved(ID, "triage", "awaiting_approval", AT)
    body = json.loads(service.canonical(event))
    assert json.loads(kinds.payload(event.KIND, seq=7, body=body, at=kinds.when(body))) == {
        "type": "request.moved",
        "timestamp": "2026-11-21T12:00:00.250000Z",
        "data": {
            "sequence": 7,
            "request": "er_00000000000000000000000001",
            "origin": "triage",
            "state": "awaiting_approval",
        },
    }


def test_who_did_it_is_nobody_elses_business() -> None:
    assert "principal" not in told(events.RequestWithdrawn(ID, ID, AT))
    assert told(events.RequestWithdrawn(ID, ID, AT)) == {
        "sequence": 7, "request": "er_00000000000000000000000001",
    }  # fmt: skip


def test_a_certificate_is_told_by_its_number() -> None:
    assert told(events.CertificateReleased(ID, AT))["certificate"] == f"urn:uuid:{ID}"


def test_a_code_that_is_no_code_is_left_out() -> None:
    body = {"request": "ada@example.org", "state": "Ada Lovelace", "at": 0, "days": True, "reason": "a-b"}
    said = json.loads(kinds.payload("request.moved", seq=1, body=body, at=AT))
    assert said["data"] == {"sequence": 1, "reason": "a-b"}


@pytest.mark.parametrize("kind", ["key.created", "principal.created", "records.listed", "endpoint.created",
                                  "requests.searched", "lottery.committed"])  # fmt: skip
def test_what_is_never_told(kind: str) -> None:
    assert kind not in kinds.KINDS
    assert not kinds.wants([kind, "*", f"{kind.partition('.')[0]}.*"], kind)
    assert kinds.unknown([kind]) == [0]


def test_families_and_kinds() -> None:
    assert kinds.wants(["request.*"], "request.moved")
    assert kinds.wants(["request.moved"], "request.moved")
    assert not kinds.wants(["request.moved"], "request.received")
    assert kinds.unknown(["request.*", "request.moved", "*", "requests.*"]) == [2, 3]


def test_every_kind_is_smaller_than_what_can_be_signed() -> None:
    """The longest value of every field that can be told, all in one message."""
    body: dict[str, object] = dict.fromkeys(kinds.IDS, f"urn:uuid:{ID}")
    body |= dict.fromkeys(kinds.CODES, "a" * 64)
    longest = max(map(len, kinds.KINDS))
    assert len(kinds.payload("x" * longest, seq=2**62, body=body, at=AT)) < 3000


def test_the_families_have_events() -> None:
    assert {kind.partition(".")[0] for kind in kinds.KINDS} == set(kinds.FAMILIES)
    assert all(
        {field.name for field in dataclasses.fields(event)} & set(kinds.IDS)
        for event in vars(events).values()
        if isinstance(event, type) and issubclass(event, events.Event) and event is not events.Event
        if event.KIND in kinds.KINDS
    )
