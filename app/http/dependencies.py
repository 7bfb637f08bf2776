"""What endpoints are given: a session, the time, settings, keys.

The session's scope is "function": it is committed before the response is sent, so a caller never
holds a 201 for a row that was rolled back (A31).
"""

import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request

from app.config import Settings
from app.errors import Unavailable
from app.storage.database import DatabaseError, Session, Transaction
from app.storage.keyring import Keyring
from app.storage.objects import ObjectStore


def session(request: Request) -> Iterator[Session]:
    """Open the call's one transaction; commit it if nothing was raised."""
    transaction: Transaction = request.app.state.transaction
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


async def raw_body(request: Request) -> bytes:
    """Return the body as it was sent; bounded by the middleware."""
    return await request.body()


SessionDep = Annotated[Session, Depends(session, scope="function")]
NowDep = Annotated[datetime, Depends(now)]
SettingsDep = Annotated[Settings, Depends(settings)]
KeyringDep = Annotated[Keyring, Depends(keyring)]
ObjectsDep = Annotated[ObjectStore, Depends(objects)]
RawBodyDep = Annotated[bytes, Depends(raw_body)]
