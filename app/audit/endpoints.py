"""The audit chain over HTTP; `main` attaches the scope, because callers are recorded here too."""

from typing import Annotated

from fastapi import Query

from app.audit import service
from app.audit.schemas import ChainOut, EventOut
from app.http import pagination
from app.http.dependencies import SessionDep
from app.http.pagination import Limit
from app.http.routing import router as new_router

router = new_router("/v1", tag="Audit")

After = Annotated[int, Query(ge=0, le=2**62, description="The last sequence number that you have.")]


@router.get("/audit-events")
def list_events(
    session: SessionDep, after: After = 0, limit: Limit = pagination.ROWS_DEFAULT
) -> list[EventOut]:
    """List what happened, oldest first; the sequence has no gaps."""
    return [EventOut(**vars(entry)) for entry in service.listing(session, after=after, limit=limit)]


@router.post("/audit/verify")
def verify_chain(session: SessionDep) -> ChainOut:
    """Recompute every hash of the chain."""
    found = service.verify(session)
    return ChainOut(
        valid=found.broken_at is None, events=found.events, head=found.head, broken_at=found.broken_at
    )
