"""Audit events on the wire."""

from datetime import datetime

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
    stated: int
    """How many signed statements of where it was agree with it."""
    broken_at: int | None
    """The first event that does not follow, or of which a signed statement says otherwise."""


class HeadOut(BaseModel):
    """A signed statement of where the chain was; its digest is in the public log."""

    seq: int
    hash: str
    produced_at: datetime
    statement: dict[str, object]
    """The DSSE envelope: an in-toto Statement of the kind `audit-head/v1`."""
