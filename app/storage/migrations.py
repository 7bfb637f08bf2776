"""Bring a database to the newest revision, and say whether it is there.

Migrations lie in `migrations/` beside this package; Alembic runs them under a transaction lock, so
that several starters may ask at once. Knows no table.
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


def migrate(url: str, *, revision: str = "head") -> None:
    """Upgrade the database at `url`; nothing happens if it is up to date."""
    command.upgrade(_config(url), revision)


@cache
def head() -> str | None:
    """Return the newest revision that this release knows."""
    return ScriptDirectory.from_config(_config("")).get_current_head()


def at_head(session: Session) -> bool:
    """Return whether the database is where this release wants it (R61)."""
    return MigrationContext.configure(session.connection()).get_current_revision() == head()


def ensure_database(admin_url: str, name: str) -> None:
    """Create a role that may log in and its database, both called `name`, unless they exist."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*[sql.Identifier(name)] * 2))


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["url"] = url
    return config
