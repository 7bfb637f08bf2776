"""The schema's changes: up, down, up, and what the tables say is what the migrations make."""

import psycopg
import pytest
from alembic import command
from sqlalchemy.engine import make_url

from app.storage import migrations

pytestmark = pytest.mark.slow


@pytest.fixture
def empty(postgres: str) -> str:
    """Return the URL of a database of its own on the tests' server."""
    url = make_url(postgres)
    with psycopg.connect(plain(postgres), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS up_and_down")
        connection.execute("CREATE DATABASE up_and_down")
    return url.set(database="up_and_down").render_as_string(hide_password=False)


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def test_up_down_up_and_no_drift(empty: str) -> None:
    config = migrations._config(empty)
    command.upgrade(config, "head")
    command.check(config)
    command.downgrade(config, "base")
    command.upgrade(config, "head")
    command.check(config)


@pytest.mark.parametrize(
    "change", ["UPDATE audit_events SET kind = 'x'", "DELETE FROM audit_events", "TRUNCATE audit_events"]
)
def test_the_audit_chain_can_only_grow(empty: str, change: str) -> None:
    migrations.migrate(empty)
    with psycopg.connect(plain(empty)) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute(change.encode())
