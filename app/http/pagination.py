"""Lists by keyset: a cursor is the last row's place, signed and bound to the list it came from.

No offsets and no totals: both cost what the list is long, and both are wrong by the next page.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel

from app.errors import Invalid

Item = TypeVar("Item")

ROWS_DEFAULT = 50
ROWS_MAX = 200
SIGNATURE_BYTES = 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Limit = Annotated[int, Query(ge=1, le=ROWS_MAX, description="How many rows at most.")]
Cursor = Annotated[str | None, Query(max_length=100, description="`next` of the page before.")]


class Page(BaseModel, Generic[Item]):
    """One page of a list; `next` is the cursor of the following one, None on the last."""

    items: list[Item]
    next: str | None = None


def page(items: Sequence[bytes], *, following: str | None) -> bytes:
    """Return a page of rows that are JSON already, as `Page` is written."""
    return b'{"items":[' + b",".join(items) + b'],"next":' + json.dumps(following).encode() + b"}"


@dataclass(frozen=True)
class Place:
    """Where a row stands in a list ordered by time of creation, then id."""

    created_at: datetime
    id: UUID


def encode(key: bytes, place: Place, *, of: str) -> str:
    """Return the cursor after `place` in the list `of` (its name and filters)."""
    microseconds = (place.created_at - EPOCH) // timedelta(microseconds=1)
    content = microseconds.to_bytes(8, "big") + place.id.bytes
    return base64.urlsafe_b64encode(content + _sign(key, content, of)).rstrip(b"=").decode()


def decode(key: bytes, cursor: str | None, *, of: str) -> Place | None:
    """Return the place of a cursor; refuse one that we did not make, or made for another list."""
    if cursor is None:
        return None
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        content = b""
    place, signature = content[:24], content[24:]
    if len(place) != 24 or not hmac.compare_digest(signature, _sign(key, place, of)):
        raise Invalid("the cursor is not one of this list", errors=[("query:cursor", "cursor-invalid")])
    created_at = EPOCH + timedelta(microseconds=int.from_bytes(place[:8], "big"))
    return Place(created_at, UUID(bytes=place[8:]))


def _sign(key: bytes, content: bytes, of: str) -> bytes:
    message = b"lethe/cursor/v1\x00" + of.encode() + b"\x00" + content
    return hmac.digest(key, message, "sha256")[:SIGNATURE_BYTES]
