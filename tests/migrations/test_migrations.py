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


# Two roles


@pytest.fixture
def app_url(postgres: str, empty: str) -> str:
    """Return the migrated database as the role that works with it sees it."""
    with psycopg.connect(plain(postgres), autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'worker'").fetchone()
        if known is None:
            connection.execute("CREATE ROLE worker LOGIN")
    migrations.migrate(empty, app_role="worker")
    return make_url(plain(empty)).set(username="worker").render_as_string(hide_password=False)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE mine (id int)",
        "ALTER TABLE erasure_requests ADD COLUMN mine int",
        "DROP TABLE approvals",
        "DROP TRIGGER second_person ON approvals",
        "ALTER TABLE audit_events DISABLE TRIGGER append_only",
        "SET session_replication_role = replica",
        "TRUNCATE erasure_requests",
        "UPDATE audit_events SET kind = 'x'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "UPDATE log_leaves SET idx = 7",
        "DELETE FROM log_nodes",
        "UPDATE alembic_version SET version_num = '9999'",
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    ],
)
def test_who_works_with_the_tables_changes_none_and_rewrites_no_history(app_url: str, change: str) -> None:
    refused = (psycopg.errors.InsufficientPrivilege, psycopg.errors.DuplicateFunction)
    with psycopg.connect(app_url) as connection, pytest.raises(refused):
        connection.execute(change.encode())


def test_who_works_with_the_tables_can_work(app_url: str) -> None:
    with psycopg.connect(app_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() is not None
        connection.execute(
            "INSERT INTO audit_events (seq, kind, body, hash, prev_hash) VALUES (1, 'x', 'b', 'h', 'p')"
        )
        connection.execute("SELECT * FROM audit_head FOR UPDATE")
        connection.execute("UPDATE audit_head SET seq = 1")
        connection.execute("INSERT INTO outbox (id, stage, target_id) SELECT uuidv7(), 'plan', uuidv7()")
        connection.execute("DELETE FROM outbox")
        connection.execute("SELECT nextval(pg_get_serial_sequence('records', 'id'))")


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
