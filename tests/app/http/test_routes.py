"""Every route: who may call it, what it answers to those who may not, and that a POST asks for a key."""

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from app.auth.scopes import Scope
from app.http import ids
from app.http.limiting import RateLimiter
from app.http.routing import Route
from app.tables import new_id
from tests.fixtures.api import Caller, Callers

OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}
PUBLIC = ("/.well-known/", "/log/", "/auth/login", "/auth/callback", "/auth/backchannel-logout", "/identity/")
ANYBODY = {"/auth/session", "/auth/logout"}
"""Who needs a key, token or session, and no scope: one's own."""
ASKING = {
    "/v1/suppression/screenings",
    "/v1/erasure-requests/search",
    "/v1/audit/verify",
    "/v1/certificates/verify",
}
PREFIXES = {
    "request_id": "er",
    "key_id": "key",
    "dataset_id": "ds",
    "job_id": "job",
    "version_id": "mv",
    "model_id": "mdl",
    "hold_id": "hold",
    "pause_id": "pause",
    "import_id": "imp",
    "session_id": "ses",
    "principal_id": "pr",
}


def _routes(app: FastAPI) -> Iterator[tuple[str, str, str]]:
    """Yield (method, template, a path that fits it) of every route that needs a scope."""
    for context in iter_route_contexts(app.routes):
        template = context.path or ""
        if template in OPEN or template.startswith(PUBLIC):
            continue
        for method in sorted((context.methods or set()) - {"HEAD"}):
            yield method, template, re.sub(r"\{(\w+)(:\w+)?\}", _fill, template)


def _fill(found: re.Match[str]) -> str:
    prefix = PREFIXES.get(found[1])
    return ids.encode(prefix, new_id()) if prefix else str(new_id())


def _call(client: TestClient, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    answer = client.request(method, path, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json", (method, path, answer.text)
    return answer.status_code, answer.json()["code"]


def test_without_a_key_there_is_nothing_to_see(app: FastAPI, client: TestClient) -> None:
    found = list(_routes(app))
    assert len(found) > 15
    for method, template, path in found:
        assert _call(client, method, path, {}) == (401, "unauthenticated"), (method, template)


def test_no_route_is_without_a_scope(app: FastAPI, client: TestClient, callers: Callers) -> None:
    nobody = callers("nobody", scopes=[])
    for method, template, path in _routes(app):
        if template not in ANYBODY:
            assert _call(client, method, path, nobody.headers) == (403, "scope-missing"), (method, template)


def test_every_post_that_acts_needs_an_idempotency_key(
    app: FastAPI, client: TestClient, callers: Callers
) -> None:
    everybody = callers("everybody", scopes=list(Scope))
    for method, template, path in _routes(app):
        if method == "POST" and template not in ASKING | ANYBODY:
            assert _call(client, method, path, everybody.headers) == (400, "idempotency-key-missing"), (
                template
            )


def test_a_limit_of_one_caller_is_no_limit_of_another(app: FastAPI, callers: Callers) -> None:
    app.state.limiter = RateLimiter(reads=1, writes=1, redis_url=None)
    first, second = callers("first", "viewer"), callers("second", "viewer")
    assert [first.get("/auth/session").status_code for _ in range(2)] == [200, 429]
    assert second.get("/auth/session").status_code == 200


def test_every_route_keeps_receipts(app: FastAPI) -> None:
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and (context.path or "").startswith("/v1"):
            assert isinstance(route, Route), context.path


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer", 401),
        ("Bearer x", 401),
        ("Basic YWRhOnB3", 401),
        ("Bearer lethe_" + "A" * 38, 401),
        ("Bearer lethe_" + "A" * 32 + "é", 401),
    ],
)
def test_what_is_no_key(client: TestClient, authorization: str | None, status: int) -> None:
    headers = [] if authorization is None else [(b"Authorization", authorization.encode())]
    answer = client.get("/v1/erasure-requests", headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (status, "Bearer")


def test_a_refusal_names_the_scope_that_is_missing(portal: Caller) -> None:
    answer = portal.get("/v1/api-keys")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    assert "keys:manage" in answer.json()["detail"]


def test_a_made_up_method_is_neither_counted_nor_shown(officer: Caller) -> None:
    answer = officer.client.request("CANARY", "/v1/erasure-requests", headers=officer.headers)
    assert answer.status_code == httpx.codes.METHOD_NOT_ALLOWED
    assert "CANARY" not in officer.client.get("/metrics").text
