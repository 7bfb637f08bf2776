"""Postgres: one engine per process, short transactions, a hook that runs after the commit.

Why the server settings: a transaction may span statements, never a GPU, a network call or a key
service, and Postgres enforces it (`idle_in_transaction_session_timeout`). Parameters and rows are
hidden from errors and echoes because they may be keyed hashes of people.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError as DatabaseAway
from sqlalchemy.exc import SQLAlchemyError as DatabaseError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry

__all__ = [
    "DatabaseAway",
    "DatabaseError",
    "Engine",
    "Session",
    "Transaction",
    "after_commit",
    "at_one_moment",
    "before_commit",
    "close",
    "connect",
    "on_connect",
    "savepoint",
    "transactions",
]

Transaction = Callable[[], AbstractContextManager[Session]]

IDLE_SECONDS = 10
"""How long a transaction may wait for its next statement before Postgres ends it."""


def connect(url: str, *, statement_seconds: int, pool: int = 5, idle_seconds: int = IDLE_SECONDS) -> Engine:
    """Return an engine for `url` (any `postgresql://` form); nothing is opened yet.

    A statement may take `statement_seconds`, a transaction wait `idle_seconds` for its next one.
    """
    if url.startswith(("postgres://", "postgresql://")):
        url = "postgresql+psycopg://" + url.split("://", 1)[1]
    engine = create_engine(
        url,
        pool_size=pool,
        max_overflow=5,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"prepare_threshold": None, "connect_timeout": 5},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: object, _record: object) -> None:
        """Set the limits on each new connection; `SET` survives poolers, startup options do not."""
        with connection.cursor() as cursor:  # type: ignore[attr-defined]  # psycopg's, seen as object
            cursor.execute(
                f"SET lock_timeout = '4s'; SET statement_timeout = '{statement_seconds}s';"
                f" SET idle_in_transaction_session_timeout = '{idle_seconds}s'; SET timezone = 'UTC'"
            )
        connection.commit()  # type: ignore[attr-defined]  # psycopg's, seen as object

    return engine


def close(engine: Engine) -> None:
    """Close every connection; one that a thread still holds, as soon as it comes back.

    `dispose` alone leaves those to the garbage collector: Postgres keeps a session for each until then.
    """

    @event.listens_for(engine, "checkin")
    def returned(_connection: object, record: ConnectionPoolEntry) -> None:
        record.close()

    engine.dispose()


def at_one_moment(session: Session) -> None:
    """Let all that the transaction reads be of the same moment; its first statement."""
    session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def on_connect(engine: Engine, call: Callable[[], None]) -> None:
    """Run `call` whenever a connection is made: what was known of the database may be of another one."""

    @event.listens_for(engine, "connect")
    def connected(_connection: object, _record: object) -> None:
        call()


def transactions(engine: Engine, info: Mapping[str, object] | None = None) -> Transaction:
    """Return the way to open a transaction: `with transaction() as session`, committed at the end.

    What was registered by `after_commit` runs once the commit is certain, and never if it failed.
    `info` is handed to each session (`app.queue` finds its `poke` there, `app.audit` its `whole`).
    """

    @contextmanager
    def transaction() -> Iterator[Session]:
        with Session(engine, expire_on_commit=False, info=dict(info or {})) as session, session.begin():
            yield session
            while calls := session.info.pop("before_commit", ()):
                for call in calls:
                    call()
        # The block above has committed; an exception would have left by now.
        for call in session.info.pop("after_commit", ()):
            call()

    return transaction


@contextmanager
def savepoint(session: Session, *, keep: bool = True) -> Iterator[None]:
    """Do a part of the caller's transaction: if it raises, it has done nothing, and the rest goes on.

    What it has put off to the commit, and what else it keeps in lists of the session, is forgotten too.
    Without `keep` it is a trial, and is taken back in any case.
    """
    kept = {name: list(value) for name, value in session.info.items() if isinstance(value, list)}
    part = session.begin_nested()
    try:
        yield
        session.flush()
    except BaseException:
        _take_back(session, part, kept)
        raise
    if keep:
        part.commit()
    else:
        _take_back(session, part, kept)


def _take_back(session: Session, part: SessionTransaction, kept: Mapping[str, list[Any]]) -> None:
    part.rollback()
    for name in [name for name, value in session.info.items() if isinstance(value, list)]:
        session.info[name] = kept.get(name, [])


def before_commit(session: Session, call: Callable[[], None]) -> None:
    """Run `call` as the last of the caller's transaction, if nothing was raised until then."""
    session.info.setdefault("before_commit", []).append(call)


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Run `call` after the caller's transaction has committed; it must not raise."""
    session.info.setdefault("after_commit", []).append(call)
