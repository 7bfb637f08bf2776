"""The API is as it describes itself: thousands of made-up calls, right and wrong ones, by schemathesis.

Every answer is one that the description names, in the form that it gives; none is an accident of ours;
what the description forbids is refused; and without a key nothing is answered. What is right in form
may be refused all the same by what only the database knows, so that is no failure here.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, openapi
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.auth import service as auth
from app.auth.scopes import Scope
from app.config import Settings
from app.signing import keys
from app.storage.database import Transaction
from app.storage.keyring import Keyring
from tests.fixtures.api import StillClock

Operation = APIOperation[Any, Any, Any, Any]
EXAMPLES = int(os.environ.get("LETHE_SCHEMA_EXAMPLES", "25"))
"""Calls per operation and kind."""
PUBLIC = (
    "/auth/login",
    "/identity/",
    "/log/",
    "/.well-known/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/certificates/verify",
)
WAITS = ("/v1/events/stream",)
"""Answers that do not end by themselves."""


@pytest.fixture
def key(
    client: TestClient, settings: Settings, transaction: Transaction, keyring: Keyring, clock: StillClock
) -> str:
    """Return a key that opens every door, which no person may have."""
    keys.generate(settings.keys, at=clock())
    with transaction() as session:
        principal = auth.create_principal(session, name="everything", kind="person", at=clock())
        scopes = frozenset(Scope)
        return auth.create_key(session, keyring.api, principal_id=principal.id, scopes=scopes, at=clock())[1]


def operations(app: FastAPI) -> Iterator[Operation]:
    """Yield what the description names."""
    for found in openapi.from_asgi("/openapi.json", app).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path not in WAITS:
            yield operation


def call(operation: Operation, mode: GenerationMode, headers: dict[str, str]) -> int:
    """Make calls and hold each answer against the description; return how many."""
    count = 0

    @seed(20261121)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def make(case: Case[Any]) -> None:
        nonlocal count
        count += 1
        # A wait is as long as it says: these are told not to.
        case.headers.pop("Prefer", None)
        case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

    try:
        make()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "there is no wrong call of what takes nothing"
    return count


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_as_described(app: FastAPI, key: str, mode: GenerationMode) -> None:
    calls, broken = 0, []
    for operation in operations(app):
        try:
            calls += call(operation, mode, {"Authorization": f"Bearer {key}"})
        except BaseExceptionGroup as found:
            broken.append(f"{operation.label}: {found}")
    assert not broken, "\n\n".join(broken)
    assert calls > 10 * EXAMPLES


def test_nothing_is_answered_without_a_key(app: FastAPI, client: TestClient) -> None:
    open_to_all = {each.path for each in operations(app) if not each.definition.raw.get("security")}
    assert open_to_all
    assert {path for path in open_to_all if not path.startswith(PUBLIC)} == set()
    for operation in operations(app):
        if operation.path not in open_to_all:
            answer = client.request(operation.method, operation.path)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), operation.label
