"""What endpoints are given: a session, the time, settings, keys.

The session's scope is "function": it is committed before the response is sent, so a caller never
holds a 201 for a row that was rolled back (A31).
"""

import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from app.config import Settings
from app.errors import Unavailable
from app.storage.database import DatabaseError, Session, Transaction
from app.storage.keyring import Keyring
from app.storage.objects import ObjectStore

Found = TypeVar("Found")


def session(request: Request) -> Iterator[Session]:
    """Open the call's one transaction; commit it if nothing was raised."""
    yield from whole(request.app.state.transaction)


def whole(transaction: Transaction) -> Iterator[Session]:
    """Yield a transaction; `Unavailable` (`not-committed`) where it is unsure what became of its commit."""
    opened = transaction()
    current = opened.__enter__()
    try:
        yield current
    except BaseException:
        if not opened.__exit__(*sys.exc_info()):
            raise
        return
    try:
        opened.__exit__(None, None, None)
    except DatabaseError as error:
        raise Unavailable(
            "the change may not have been committed; read before trying again", code="not-committed"
        ) from error


def now(request: Request) -> datetime:
    """Return the present instant, by the application's clock."""
    instant: datetime = request.app.state.clock()
    return instant


def settings(request: Request) -> Settings:
    """Return where things are and how long to wait."""
    found: Settings = request.app.state.settings
    return found


def keyring(request: Request) -> Keyring:
    """Return the keys that live outside Postgres."""
    found: Keyring = request.app.state.keyring
    return found


def objects(request: Request) -> ObjectStore:
    """Return the content-addressed store."""
    found: ObjectStore = request.app.state.objects
    return found


def at_once(look: Callable[[Request], Found]) -> Callable[[Request], Awaitable[Found]]:
    """Return a look at what is there as a dependency without a thread: a way there and back costs more."""

    async def found(request: Request) -> Found:
        return look(request)

    return found


async def raw_body(request: Request) -> bytes:
    """Return the body as it was sent; bounded by the middleware."""
    return await request.body()


SessionDep = Annotated[Session, Depends(session, scope="function")]
NowDep = Annotated[datetime, Depends(at_once(now))]
SettingsDep = Annotated[Settings, Depends(at_once(settings))]
KeyringDep = Annotated[Keyring, Depends(at_once(keyring))]
ObjectsDep = Annotated[ObjectStore, Depends(at_once(objects))]
RawBodyDep = Annotated[bytes, Depends(raw_body)]
