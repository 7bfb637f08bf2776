"""Bring a database to the newest revision, and say whether it is there.

Migrations lie in `migrations/` beside this package; Alembic runs them under a transaction lock, so
that several starters may ask at once. Knows no table.

Who owns the tables and who works with them are two roles: the second may read and write rows, may only
add to what can only grow, and can change no table, so that no fault of a program rewrites the audit chain.
"""

from functools import cache
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql

from app.storage.database import Session

SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


APP_ROLE = "lethe_app"
"""Who works with the tables, where they are told apart from who owns them."""


def migrate(url: str, *, revision: str = "head", app_role: str | None = None) -> None:
    """Upgrade the database at `url`, as who owns it; nothing happens if it is up to date.

    The role that works with the tables is given what it needs, and no more.
    """
    command.upgrade(_config(url), revision)
    if app_role is not None:
        grant(url, app_role)


def grant(url: str, role: str) -> None:
    """Let a role work with rows: of append-only tables it may read and add, the revision it may read."""
    name = sql.Identifier(role)
    with psycopg.connect(_plain(url)) as connection:
        connection.execute("SET LOCAL lock_timeout = '4s'")
        for statement in (
            "GRANT USAGE ON SCHEMA public TO {}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}",
            "REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {}",
        ):
            connection.execute(sql.SQL(statement).format(name))
        # A table that refuses changes by trigger is not open to them by right either.
        grown = connection.execute(
            "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE t.tgname = 'append_only'"
        ).fetchall()
        for (table,) in grown:
            connection.execute(
                sql.SQL("REVOKE UPDATE, DELETE ON {} FROM {}").format(sql.Identifier(table), name)
            )


@cache
def head() -> str | None:
    """Return the newest revision that this release knows."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


def at_head(session: Session) -> bool:
    """Return whether the database is where this release wants it (R61)."""
    return MigrationContext.configure(session.connection()).get_current_revision() == head()


def ensure_database(admin_url: str, name: str, *, app_role: str = APP_ROLE) -> None:
    """Create a role and its database, both called `name`, and who works there, unless they exist."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for role in (name, app_role):
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*[sql.Identifier(name)] * 2))


def _plain(url: str) -> str:
    """Return the URL as libpq has it: SQLAlchemy's names the driver."""
    return "postgresql://" + url.split("://", 1)[1]


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["url"] = url
    return config
