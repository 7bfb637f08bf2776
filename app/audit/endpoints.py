"""The audit chain over HTTP; `main` attaches the scopes, because callers are recorded here too."""

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.audit import service, stream
from app.audit.schemas import ChainOut, EventOut, HeadOut
from app.http import pagination
from app.http.dependencies import SessionDep
from app.http.pagination import Limit
from app.http.routing import router as new_router

router = new_router("/v1", tag="Audit")

live = new_router("/v1/events", tag="Events")

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
        valid=found.broken_at is None,
        events=found.events,
        head=found.head,
        stated=found.stated,
        broken_at=found.broken_at,
    )


@router.get("/audit/heads")
def list_heads(
    session: SessionDep, after: After = 0, limit: Limit = pagination.ROWS_DEFAULT
) -> list[HeadOut]:
    """List the signed statements of where the chain was, hourly while anything happens, oldest first."""
    return [
        HeadOut(
            seq=each.seq,
            hash=bytes(each.hash).hex(),
            produced_at=each.produced_at,
            statement=json.loads(each.envelope),
        )
        for each in service.stated(session, after=after, limit=limit)
    ]


@live.get("/stream", response_class=EventSourceResponse)
async def stream_events(
    request: Request,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**62, description="The `id` of the last event that you have.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Follow what happens: names and ids, from now on or from where you left off, for ten minutes."""
    state = request.app.state
    async for each in stream.follow(state.hub, state.transaction, after=last_event_id):
        yield ServerSentEvent(id=str(each.seq), event=each.kind, data=each.ids)
