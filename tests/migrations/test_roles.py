"""Two roles: what the service runs as can do its work, and cannot undo what happened."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.engine import make_url

from app.storage import migrations

OWNER, SERVICE, DATABASE = "tests_owner", "tests_service", "tests_roles"
GROWING = ("audit_events", "stated_heads", "log_leaves", "log_nodes", "log_cosignatures")


def url(postgres: str, user: str) -> str:
    made = make_url(postgres).set(database=DATABASE, username=user, drivername="postgresql")
    return made.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def service(postgres: str) -> Iterator[psycopg.Connection]:
    """Return a connection as the service's role, to a database that another role owns."""
    admin = make_url(postgres).set(drivername="postgresql").render_as_string(hide_password=False)
    migrations.ensure_database(admin, SERVICE, owner=OWNER)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
    for _ in range(2):  # the second time nothing is left to do
        migrations.migrate(url(postgres, OWNER), app_url=url(postgres, SERVICE))
    with psycopg.connect(url(postgres, SERVICE), autocommit=True) as connection:
        yield connection
    with psycopg.connect(admin, autocommit=True) as connection:
        for database in (DATABASE, SERVICE):
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)")
        for role in (SERVICE, OWNER):
            connection.execute(f"DROP ROLE {role}")


def test_it_uses_every_table(service: psycopg.Connection) -> None:
    tables = service.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert len(tables) > 40
    for (table,) in tables:
        service.execute(f"SELECT 1 FROM {table} LIMIT 1")
        allowed = service.execute(
            "SELECT has_table_privilege(%s, 'INSERT'), has_table_privilege(%s, 'UPDATE'),"
            " has_table_privilege(%s, 'DELETE'), has_table_privilege(%s, 'TRUNCATE')",
            [table] * 4,
        ).fetchone()
        changes = (False,) * 3 if table == "alembic_version" else (True, *[table not in GROWING] * 2)
        assert allowed == (*changes, False), table
    service.execute(
        "INSERT INTO audit_events (seq, kind, body, hash, prev_hash) VALUES (1, 'x', '', 'a', 'b')"
    )
    service.execute("SELECT * FROM audit_head FOR UPDATE")
    service.execute("UPDATE audit_head SET seq = 1")
    service.execute("SELECT nextval(pg_get_serial_sequence('records', 'id'))")


@pytest.mark.parametrize("table", GROWING)
@pytest.mark.parametrize("change", ["UPDATE {} SET ctid = ctid", "DELETE FROM {}", "TRUNCATE {}"])
def test_what_happened_stays(service: psycopg.Connection, table: str, change: str) -> None:
    column = {"audit_events": "seq", "stated_heads": "seq", "log_leaves": "idx", "log_nodes": "level"}
    statement = change.replace("ctid", column.get(table, "size")).format(table)
    with pytest.raises(errors.InsufficientPrivilege):
        service.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE audit_events DISABLE TRIGGER append_only",
        "DROP TRIGGER second_person ON approvals",
        "TRUNCATE erasure_requests",
        "DROP TRIGGER append_only ON audit_events",
        "DROP TABLE audit_events",
        "CREATE TABLE mine (id int)",
        "ALTER TABLE erasure_requests ADD COLUMN mine int",
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "SET session_replication_role = replica",
        "UPDATE alembic_version SET version_num = 'x'",
        f"SET ROLE {OWNER}",
    ],
)
def test_nor_does_it_change_what_guards_them(service: psycopg.Connection, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        service.execute(statement.encode())
