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
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import Header, Request
from fastapi.responses import Response
from sqlalchemy import func, select
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
"""How a call's key is described; `claim` reads it itself, so that it has codes of its own."""


class Replay(Exception):  # noqa: N818  not an error: the answer is already known
    """The call was made before; this is what it was answered."""

    def __init__(self, receipt: IdempotencyKey) -> None:
        """Carry the receipt."""
        super().__init__()
        self.receipt = receipt


@dataclass(frozen=True)
class Claim:
    """A key that this transaction holds: its receipt is still to be written."""

    session: Session
    principal_id: UUID
    key: str
    fingerprint: bytes
    at: datetime


def claim(
    session: Session, secret: bytes, request: Request, body: bytes, *, principal_id: UUID, at: datetime
) -> Claim:
    """Take the call's key for this transaction; raise what is already known about it."""
    key = request.headers.get(HEADER)
    if key is None:
        raise Invalid(f"this call needs the header {HEADER}", code="idempotency-key-missing")
    if not KEY.fullmatch(key):
        raise Invalid(f"{HEADER} has 1 to 255 visible ASCII characters", code="idempotency-key-malformed")
    lock = func.hashtextextended(f"{principal_id}|{key}", 0)
    if not session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise Conflict("the first call with this key is still running", code="idempotency-key-in-use")
    mark = fingerprint(secret, request.method, request.url.path, body)
    receipt = session.get(IdempotencyKey, (principal_id, key))
    if receipt is not None and receipt.created_at > at - KEPT:
        raise _answered(receipt, mark)
    return Claim(session, principal_id, key, mark, at)


def keep(claimed: Claim, response: Response) -> None:
    """Write the receipt, in the transaction of the effect; a secret is not kept."""
    secret = "no-store" in response.headers.get("cache-control", "")
    values = {
        "fingerprint": claimed.fingerprint,
        "status": response.status_code,
        "headers": {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers},
        "body": b"" if secret else bytes(response.body),
        "created_at": claimed.at,
    }
    claimed.session.execute(
        insert(IdempotencyKey)
        .values(principal_id=claimed.principal_id, key=claimed.key, **values)
        .on_conflict_do_update(index_elements=["principal_id", "key"], set_=values)
    )


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
