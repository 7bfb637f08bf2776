"""A call that creates or acts runs once, however often it is sent (Idempotency-Key, IETF draft 07).

    missing or malformed key    400
    the first call still runs   409   pg_try_advisory_xact_lock; an INSERT would wait for its rival
    same key, another payload   422   the fingerprint is a keyed hash of method, path and body
    finished                    the stored receipt, with `Idempotency-Replayed: true`
    finished, showed a secret   409   such receipts (`Cache-Control: no-store`) keep no body

The receipt is written in the transaction of the effect, so a failed call frees its key. With
`receipts` one of the three places beside repositories that write SQL.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Header, Request
from fastapi.responses import Response
from sqlalchemy import select, text, tuple_
from sqlalchemy.dialects.postgresql import insert

from app.errors import Conflict, Invalid
from app.http.receipts import KEPT
from app.storage.database import Session
from app.tables import IdempotencyKey

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEPT_HEADERS = ("content-type", "location", "etag")
KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
KeyHeader = Annotated[
    str | None,
    Header(
        alias=HEADER,
        description="Of your choice, a new one for each intent: a call that is sent again is not run again.",
    ),
]
"""How a call's key is described; `sent` reads it itself, so that it has codes of its own."""
_LOCKS: Final = text(
    "SELECT pg_try_advisory_xact_lock(hashtextextended(name, 0))"
    " FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS asked(name, place) ORDER BY place"
)


class Replay(Exception):  # noqa: N818  not an error: the answer is already known
    """The call was made before; this is what it was answered."""

    def __init__(self, receipt: IdempotencyKey) -> None:
        """Carry the receipt."""
        super().__init__()
        self.receipt = receipt


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A call as it was sent: whose it is, under which key, and what it was, as a keyed hash."""

    principal_id: UUID
    key: str
    fingerprint: bytes
    at: datetime


@dataclass(frozen=True)
class Claim:
    """A key that this transaction holds: its receipt is still to be written."""

    session: Session
    call: Sent


def sent(secret: bytes, request: Request, body: bytes, *, principal_id: UUID, at: datetime) -> Sent:
    """Return the call with its key; Invalid without one."""
    key = request.headers.get(HEADER)
    if key is None:
        raise Invalid(f"this call needs the header {HEADER}", code="idempotency-key-missing")
    if not KEY.fullmatch(key):
        raise Invalid(f"{HEADER} has 1 to 255 visible ASCII characters", code="idempotency-key-malformed")
    mark = fingerprint(secret, request.method, request.url.path, body)
    return Sent(principal_id=principal_id, key=key, fingerprint=mark, at=at)


def claim(
    session: Session, secret: bytes, request: Request, body: bytes, *, principal_id: UUID, at: datetime
) -> Claim:
    """Take the call's key for this transaction; raise what is already known about it."""
    call = sent(secret, request, body, principal_id=principal_id, at=at)
    [known] = claim_all(session, [call])
    if known is not None:
        raise known
    return Claim(session, call)


def claim_all(session: Session, calls: Sequence[Sent]) -> list[Exception | None]:
    """Take the keys of several calls for this transaction; return what is already known of each, or None.

    The receipts are looked for by a statement of its own, so that it sees what was committed until the
    locks were had. The lock lets its own session pass twice: of two calls with one key the second waits
    for no one, and is told so here.
    """
    names = [f"{call.principal_id}|{call.key}" for call in calls]
    had = session.execute(_LOCKS, {"names": names}).scalars().all()
    places = [(call.principal_id, call.key) for call in calls]
    query = select(IdempotencyKey).where(tuple_(IdempotencyKey.principal_id, IdempotencyKey.key).in_(places))
    receipts = {(each.principal_id, each.key): each for each in session.scalars(query)}
    found: list[Exception | None] = []
    for number, call in enumerate(calls):
        receipt = receipts.get((call.principal_id, call.key))
        if not had[number] or names[number] in names[:number]:
            found.append(
                Conflict("the first call with this key is still running", code="idempotency-key-in-use")
            )
        elif receipt is not None and receipt.created_at > call.at - KEPT:
            found.append(_answered(receipt, call.fingerprint))
        else:
            found.append(None)
    return found


def keep(claimed: Claim, response: Response) -> None:
    """Write the receipt, in the transaction of the effect; a secret is not kept."""
    keep_all(claimed.session, [(claimed.call, response)])


def keep_all(session: Session, answered: Sequence[tuple[Sent, Response]]) -> None:
    """Write the receipts of several calls."""
    if not answered:
        return
    row = IdempotencyKey
    columns = (row.principal_id, row.key, row.fingerprint, row.status, row.headers, row.body, row.created_at)
    rows = [
        {
            "principal_id": call.principal_id,
            "key": call.key,
            "fingerprint": call.fingerprint,
            "status": response.status_code,
            "headers": {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers},
            "body": b"" if _secret(response) else bytes(response.body),
            "created_at": call.at,
        }
        for call, response in answered
    ]
    given = insert(row)
    changed = {each.name: given.excluded[each.name] for each in columns[2:]}
    session.execute(given.on_conflict_do_update(index_elements=["principal_id", "key"], set_=changed), rows)


def _secret(response: Response) -> bool:
    return "no-store" in response.headers.get("cache-control", "")


def replay(receipt: IdempotencyKey) -> Response:
    """Return the answer that the first call got."""
    return Response(
        content=bytes(receipt.body), status_code=receipt.status, headers={**receipt.headers, REPLAYED: "true"}
    )


def fingerprint(secret: bytes, method: str, path: str, body: bytes) -> bytes:
    """Return the keyed hash of a call: equal for the same call, telling nothing of its body."""
    message = b"\x00".join((method.encode(), path.encode(), hashlib.sha256(body).digest()))
    return hmac.digest(secret, message, "sha256")


def _answered(receipt: IdempotencyKey, mark: bytes) -> Exception:
    if not hmac.compare_digest(bytes(receipt.fingerprint), mark):
        return Invalid("this key was used for another call", code="idempotency-key-reused")
    if not receipt.body:
        return Conflict("this call was made, and its answer is not shown twice", code="receipt-not-kept")
    return Replay(receipt)
