"""What endpoints are given: a session, the time, settings, keys.

The session's scope is "function": it is committed before the response is sent, so a caller never
holds a 201 for a row that was rolled back (A31).
"""

import ipaddress
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
IPV6_CUSTOMER_BITS = 64


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


def transaction(request: Request) -> Transaction:
    """Return the way to open transactions: for calls that wait for others, or must not undo what they did."""
    found: Transaction = request.app.state.transaction
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
TransactionDep = Annotated[Transaction, Depends(transaction)]


def address_of(request: Request) -> str:
    """Return where a call comes from: an address, or of IPv6 the network that one customer has (a /64).

    Behind a proxy it is the proxy's word, where uvicorn is told to believe it (`FORWARDED_ALLOW_IPS`).
    """
    host = "" if request.client is None else request.client.host
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_CUSTOMER_BITS), strict=False))
    return str(address)
