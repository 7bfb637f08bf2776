"""The schema's changes: up, down, up, and what the tables say is what the migrations make."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import psycopg
import pytest
from alembic import command
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

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


# Beside others


def test_a_migration_waits_for_nobody_long(empty: str) -> None:
    """It runs while an older release serves: who holds a table makes it fail at once, not queue up others."""
    migrations.migrate(empty)
    with psycopg.connect(plain(empty)) as serving:
        serving.execute("LOCK TABLE audit_events IN ACCESS SHARE MODE")
        begun = time.monotonic()
        with pytest.raises(OperationalError, match="lock timeout"):
            command.downgrade(migrations._config(empty), "base")
        assert 3 < time.monotonic() - begun < 30
        assert serving.execute("SELECT count(*) FROM audit_events").fetchone() == (0,)


def test_two_starters_at_once_are_one_after_the_other(empty: str) -> None:
    # In processes of their own, as Alembic keeps what it is at in a module.
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        for each in [pool.submit(migrations.migrate, empty) for _ in range(3)]:
            each.result()
    config = migrations._config(empty)
    command.check(config)
