"""Whether the parts that a process needs would answer right now; nothing here raises for a "no"."""

from enum import StrEnum

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.storage import migrations
from app.storage.database import Transaction

WAIT_SECONDS = 1


class Postgres(StrEnum):
    """How the database stands."""

    OK = "ok"
    PENDING = "pending"
    """It answers, and is not at this release's revision."""
    DOWN = "down"


def postgres(transaction: Transaction) -> Postgres:
    """Return how the database stands; it has a second to answer."""
    try:
        with transaction() as session:
            session.execute(text(f"SET LOCAL statement_timeout = '{WAIT_SECONDS}s'"))
            return Postgres.OK if migrations.at_head(session) else Postgres.PENDING
    except SQLAlchemyError:
        return Postgres.DOWN


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
