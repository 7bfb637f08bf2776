"""Audit events on the wire."""

from pydantic import BaseModel


class EventOut(BaseModel):
    """One event: ids, codes, counts, and times in microseconds since 1970."""

    seq: int
    kind: str
    body: dict[str, object]
    hash: str


class ChainOut(BaseModel):
    """What recomputing the whole chain found."""

    valid: bool
    events: int
    head: str
    broken_at: int | None
