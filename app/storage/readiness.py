"""Whether the parts that a process needs would answer right now; nothing here raises for a "no"."""

import redis
from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from app.storage.database import Transaction

WAIT_SECONDS = 1


def migrated(transaction: Transaction) -> frozenset[str] | None:
    """Return the migrations that Postgres stands at; None if it does not answer within a second."""
    try:
        with transaction() as session:
            session.execute(text(f"SET LOCAL statement_timeout = '{WAIT_SECONDS}s'"))
            if not inspect(session.connection()).has_table("alembic_version"):
                return frozenset()
            return frozenset(session.scalars(text("SELECT version_num FROM alembic_version")))
    except SQLAlchemyError:
        return None


def broker_answers(redis_url: str) -> bool:
    """Return whether Redis answers a ping within a second."""
    client = redis.Redis.from_url(
        redis_url, socket_timeout=WAIT_SECONDS, socket_connect_timeout=WAIT_SECONDS, retry=None
    )
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
