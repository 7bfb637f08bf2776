"""Alembic's entry: one runner at a time, short locks, the URL given by whoever calls.

Why a transaction lock: a session-level one is lost behind a transaction pooler.
"""

import os

from alembic import context
from sqlalchemy import text

from app.storage.database import connect
from app.tables import Base

LOCK = 0x6C657468  # "leth"


def run() -> None:
    """Bring the database to the wanted revision."""
    url = context.config.attributes.get("url") or os.environ["LETHE_DATABASE_URL"]
    engine = connect(url, statement_seconds=60)
    try:
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
            with context.begin_transaction():
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                context.run_migrations()
    finally:
        engine.dispose()


run()
