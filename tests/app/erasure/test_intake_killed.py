"""A process that is killed in the middle of intake leaves a whole request or none, and the retry makes it one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.audit import service as audit
from app.config import Settings
from app.storage.database import Transaction
from app.tables import ErasureRequest, IdempotencyKey, RequestRecord
from tests.fixtures.api import Caller
from tests.fixtures.world import ADA

REQUESTS = "/v1/erasure-requests"
BODY = {"subject": {"type": "email", "value": ADA}}
CALL = f"""
import sys
from fastapi.testclient import TestClient
from app.config import Settings
from app.main import create_app
with TestClient(create_app(Settings())) as client:
    headers = {{"Authorization": "Bearer " + sys.stdin.read(), "Idempotency-Key": "k1"}}
    client.post("{REQUESTS}", json={BODY!r}, headers=headers)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failpoint", "there"),
    [
        ("intake.claimed", 0),
        ("intake.received", 0),
        ("intake.located", 0),
        ("intake.kept", 0),
        ("intake.audited", 0),
        ("intake.committed", 1),
    ],
)
def test_killed_between_the_statements_of_intake(
    failpoint: str, there: int, settings: Settings, portal: Caller, transaction: Transaction, model: UUID
) -> None:
    environment = os.environ | {
        "LETHE_FAILPOINT": failpoint,
        "LETHE_HOME": str(settings.home),
        "LETHE_DATABASE_URL": str(settings.database_url),
    }
    killed = subprocess.run(
        [sys.executable, "-c", CALL],
        input=portal.token.encode(),
        env=environment,
        cwd=Path(__file__).parents[3],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert _counts(transaction) == (there, 2 * there, there)
    answer = portal.post(REQUESTS, BODY, key="k1")
    assert (answer.status_code, answer.json()["state"]) == (201, "awaiting_approval")
    assert ("idempotency-replayed" in answer.headers) == bool(there)
    assert _counts(transaction) == (1, 2, 1)
    with transaction() as session:
        assert audit.verify(session).broken_at is None


def _counts(transaction: Transaction) -> tuple[int, ...]:
    """Return how many requests, named records and receipts there are."""
    with transaction() as session:
        tables = (ErasureRequest, RequestRecord, IdempotencyKey)
        return tuple(session.scalar(select(func.count()).select_from(table)) or 0 for table in tables)
