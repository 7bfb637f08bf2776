"""API keys over HTTP: shown once, never more than their creator may, ended at once."""

from uuid import UUID

import pytest
from sqlalchemy import select, text

from app.auth.scopes import Scope
from app.http import ids
from app.storage.database import Transaction
from app.tables import ApiKey
from tests.fixtures.api import Caller, Callers, StillClock

KEYS = "/v1/api-keys"


@pytest.fixture
def admin(callers: Callers) -> Caller:
    return callers("admin", "admin")


def test_a_key_for_a_new_machine_works_and_is_shown_once(admin: Caller, transaction: Transaction) -> None:
    answer = admin.post(KEYS, {"name": "portal", "scopes": ["requests:create", "requests:read"]})
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    made = answer.json()
    portal = Caller(admin.client, ids.decode("pr", made["principal"]), made["key"])
    assert portal.get("/v1/erasure-requests").status_code == 200
    assert made["key"] not in admin.get(KEYS).text
    with transaction() as session:
        stored = session.scalars(text("SELECT api_keys::text FROM api_keys")).all()
        assert not any(made["key"] in row or made["key"][6:].encode().hex() in row for row in stored)


def test_a_second_key_for_the_same_principal(admin: Caller, portal: Caller) -> None:
    wish = {"principal": ids.encode("pr", portal.principal_id), "scopes": ["requests:read"], "days": 30}
    made = admin.post(KEYS, wish).json()
    assert (made["name"], made["kind"]) == ("portal", "machine")
    assert made["expires_at"].startswith("2026-12-21")


def test_no_key_may_more_than_its_creator(callers: Callers, transaction: Transaction) -> None:
    """PYSEC-2026-1343: who could make keys made one with scopes that they did not have."""
    creator = callers("creator", scopes=[Scope.KEYS_MANAGE, Scope.REQUESTS_READ])
    answer = creator.post(KEYS, {"name": "x", "scopes": ["requests:read", "models:promote", "jobs:run"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    assert "jobs:run, models:promote" in answer.json()["detail"]
    with transaction() as session:
        assert len(session.scalars(select(ApiKey)).all()) == 1


@pytest.mark.parametrize(
    ("wish", "pointer"),
    [
        ({"name": "x", "scopes": []}, "/scopes"),
        ({"name": "x", "scopes": ["everything"]}, "/scopes/0"),
        ({"scopes": ["jobs:read"]}, ""),
        ({"name": "x", "principal": ids.encode("pr", UUID(int=0)), "scopes": ["jobs:read"]}, ""),
        ({"principal": ids.encode("pr", UUID(int=0)), "scopes": ["jobs:read"]}, "/principal"),
        ({"name": "Ada Example", "scopes": ["jobs:read"]}, "/name"),
        ({"name": "x", "scopes": ["jobs:read"], "days": 366}, "/days"),
        ({"name": "x", "scopes": ["jobs:read"], "kind": "angel"}, "/kind"),
    ],
)
def test_what_is_no_wish_for_a_key(admin: Caller, wish: dict[str, object], pointer: str) -> None:
    answer = admin.post(KEYS, wish)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_name_is_taken_once(admin: Caller) -> None:
    wish = {"name": "portal", "scopes": ["jobs:read"]}
    assert admin.post(KEYS, wish).status_code == 201
    assert (admin.post(KEYS, wish).status_code, admin.post(KEYS, wish).json()["code"]) == (409, "name-taken")


def test_a_revoked_key_opens_nothing(admin: Caller, portal: Caller) -> None:
    listed = admin.get(KEYS).json()["items"]
    key_id = next(key["id"] for key in listed if key["name"] == "portal")
    assert portal.get("/v1/erasure-requests").status_code == 200
    for _ in range(2):
        assert admin.delete(f"{KEYS}/{key_id}").status_code == 204
    assert portal.get("/v1/erasure-requests").status_code == 401
    assert admin.delete(f"{KEYS}/{ids.encode('key', UUID(int=0))}").status_code == 404


def test_a_key_ends_by_itself_after_a_year(portal: Caller, clock: StillClock) -> None:
    clock.advance(days=364)
    assert portal.get("/v1/erasure-requests").status_code == 200
    clock.advance(days=1)
    assert portal.get("/v1/erasure-requests").status_code == 401


def test_keys_are_listed_by_pages(admin: Caller, portal: Caller, officer: Caller) -> None:
    names, cursor = [], None
    while True:
        page = admin.get(KEYS, limit=1, **({"cursor": cursor} if cursor else {})).json()
        names += [key["name"] for key in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert names == ["officer", "portal", "admin"]


def test_what_was_done_with_keys_is_in_the_audit_chain(callers: Callers, portal: Caller) -> None:
    auditor = callers("auditor", "auditor")
    events = auditor.get("/v1/audit-events").json()
    assert [event["kind"] for event in events] == ["principal.created", "key.created"] * 2
    verified = auditor.post("/v1/audit/verify").json()
    assert (verified["valid"], verified["events"]) == (True, 4)
