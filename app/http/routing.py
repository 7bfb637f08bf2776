"""The route class of every router: it keeps the receipt of a finished call, before the commit.

FastAPI's order for a session of scope "function" is: endpoint, serialise, commit, send. The receipt
is written between the second and the third, so it exists exactly if its effect does.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app.http import idempotency


class Route(APIRoute):
    """A route whose answers can be replayed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, followed by the receipt if the caller's dependency claimed a key."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except idempotency.Replay as known:
                return idempotency.replay(known.receipt)
            claimed: idempotency.Claim | None = getattr(request.state, "claim", None)
            if claimed is not None and response.status_code < 400:
                await run_in_threadpool(idempotency.keep, claimed, response)
            return response

        return answer


def router(prefix: str, *, tag: str) -> APIRouter:
    """Return a router for one resource; each domain's `endpoints.py` makes its own."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=Route)
