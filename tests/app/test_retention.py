"""The one table of what is kept how long: every class of data has its code, and nobody keeps a second one."""

import ast
from datetime import timedelta
from pathlib import Path

import pytest

from app import retention
from app.certificates import service as certificates
from app.http import receipts
from app.intake import service as intake
from app.intake.bulk import service as bulk
from app.webhooks import service as webhooks
from tests.fixtures.api import Caller, Callers

ROOT = Path(retention.__file__).parent


def test_the_table_of_the_page() -> None:
    kept = retention.POLICY
    assert kept.person == kept.deliveries == kept.openings == timedelta(days=30)
    assert (kept.receipts, kept.logs, kept.epochs) == (
        timedelta(hours=24), timedelta(days=14), timedelta(weeks=5)
    )  # fmt: skip
    assert kept.tombstone >= timedelta(days=6 * 365)
    # A week's key is made at the week's start, used for seven days, and left alone for five weeks more.
    assert kept.epochs + timedelta(weeks=1) <= timedelta(weeks=6)


def test_every_class_is_destroyed_by_the_table() -> None:
    assert retention.POLICY.receipts == receipts.KEPT
    assert {webhooks.KEPT, intake.KEPT, bulk.KEPT} == {retention.POLICY.deliveries}
    assert retention.POLICY.openings == certificates.OPENING_KEPT


@pytest.mark.parametrize("name", sorted(retention.spans()))
def test_every_line_of_it_is_used(name: str) -> None:
    used = [
        path
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == name
        and ast.unparse(node.value).endswith("POLICY")
    ]
    assert used


def test_it_is_shown_to_who_may_read_the_audit(officer: Caller, callers: Callers) -> None:
    found = officer.get("/v1/retention").json()
    assert found["kept_days"]["person"] == 30
    assert set(found["backlog"].values()) == {0}
    assert callers("viewer", "viewer").get("/v1/retention").status_code == 403
