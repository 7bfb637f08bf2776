"""Who asks is shown to whom may see it, and that they looked is kept; nobody else is shown anything of it."""

import json
from uuid import UUID

import pytest

from app.storage.database import Session
from app.tables import AuditEvent
from tests.app.erasure.asking import NOTICE, REQUESTS, act, ask, kinds
from tests.fixtures.api import Caller, Callers
from tests.fixtures.world import ADA

NOTE = "asked by letter, her address is 12 St James's Square"


@pytest.fixture(autouse=True)
def _world(people: UUID, model: UUID) -> None:
    """Have people and a model that learned from them."""


def test_it_is_shown_as_it_was_given(portal: Caller, officer: Caller) -> None:
    sent = portal.post(
        REQUESTS,
        {
            "subject": [
                {"type": "email", "value": " Ada@Example.ORG"},
                {"type": "customer_id", "value": "7"},
            ],
            "note": NOTE,
            "identity": "doubted",
        },
    ).json()
    act(officer, sent, "identity-proofs", {"method": "callback", "evidence": "called back"})
    act(officer, sent, "rejection", {"ground": "12.5", "notice": NOTICE, "reason": "the fifth this week"})
    found = officer.get(f"{REQUESTS}/{sent['id']}/identity")
    assert found.headers["cache-control"] == "no-store"
    assert found.json() == {
        "identifiers": [
            {"type": "email", "value": " Ada@Example.ORG", "sha256": None},
            {"type": "customer_id", "value": "7", "sha256": None},
        ],
        "note": NOTE,
        "evidence": "called back",
        "refusal": "the fifth this week",
    }


def test_that_somebody_looked_is_kept_and_not_at_what(
    portal: Caller, officer: Caller, session: Session
) -> None:
    sent = ask(portal, note=NOTE)
    officer.get(f"{REQUESTS}/{sent['id']}/identity")
    assert kinds(officer, sent)[-1] == "identity.read"
    bodies = [bytes(row.body) for row in session.query(AuditEvent).order_by(AuditEvent.seq)]
    looked = json.loads(bodies[-1])
    assert looked["what"] == ["identifiers", "note"]
    assert not [body for body in bodies if ADA.encode() in body or b"James" in body]


def test_nothing_is_known_of_whom_nothing_was_given(portal: Caller, officer: Caller) -> None:
    sent = portal.post(REQUESTS, {"records": {"dataset": "people", "ids": ["ada-1"]}}).json()
    found = officer.get(f"{REQUESTS}/{sent['id']}/identity").json()
    assert found == {"identifiers": [], "note": None, "evidence": None, "refusal": None}


@pytest.mark.parametrize("role", ["intake", "viewer", "auditor", "ml_engineer", "admin"])
def test_only_a_privacy_officer_may_look(portal: Caller, callers: Callers, role: str) -> None:
    sent = ask(portal)
    found = callers(role, role).get(f"{REQUESTS}/{sent['id']}/identity")
    assert (found.status_code, found.json()["code"]) == (403, "scope-missing")


def test_no_other_answer_has_any_of_it(portal: Caller, officer: Caller) -> None:
    sent = ask(portal, note=NOTE)
    for path in ("", "/events", "/records", "/targets", "/certificates"):
        answer = officer.get(f"{REQUESTS}/{sent['id']}{path}")
        assert ADA not in answer.text
        assert "James" not in answer.text


@pytest.mark.parametrize("note", ["", "x" * 4001, 7, "\ud800"])
def test_what_is_no_note_is_refused_without_being_repeated(portal: Caller, note: object) -> None:
    found = portal.client.post(
        REQUESTS,
        content=json.dumps({"subject": {"type": "email", "value": ADA}, "note": note}),
        headers={**portal.headers, "Idempotency-Key": "a-note", "Content-Type": "application/json"},
    )
    assert found.status_code in {400, 422}
    assert "xxx" not in found.text
