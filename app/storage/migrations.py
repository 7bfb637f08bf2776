"""Bring a database to the newest revision, and say whether it is there.

Migrations lie in `migrations/` beside this package; Alembic runs them under a transaction lock, so
that several starters may ask at once. Knows no table.

Why two roles: what owns the tables can drop their triggers. So one role owns and migrates, and the one
that the service runs as reads and writes rows, adds to append-only tables, and does nothing else.
"""

from functools import cache
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy.engine import make_url

from app.storage.database import Session

LOCK_SECONDS = 4
SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


def migrate(url: str, *, revision: str = "head", app_url: str | None = None) -> None:
    """Upgrade the database at `url`; nothing happens if it is up to date.

    The user of `app_url`, if it is another one, may use the tables afterwards and own none.
    """
    command.upgrade(_config(url), revision)
    owner, app = make_url(url).username, None if app_url is None else make_url(app_url).username
    if app is not None and app != owner:
        grant(url, app)


def grant(url: str, role: str) -> None:
    """Let a role do what the service does: rows of every table, and no row of an append-only one twice.

    Which these are the tables say themselves: they have the trigger `append_only`.
    """
    name = sql.Identifier(role)
    with psycopg.connect(_plain(url)) as connection:
        connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        growing = connection.execute(
            "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE t.tgname = 'append_only' ORDER BY 1"
        ).fetchall()
        for statement in (
            "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}",
            "GRANT USAGE ON SCHEMA public TO {}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
            "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {}",
            "REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {}",
        ):
            connection.execute(sql.SQL(statement).format(name))
        for (table,) in growing:
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


def ensure_database(admin_url: str, name: str, *, owner: str) -> None:
    """Create a database and the role of its service, both called `name`, and its owner, unless they exist."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for role in (owner, name):
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner))
            )


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["url"] = url
    return config
