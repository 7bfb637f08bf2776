"""Around every call: a request id, one access line, a bound on the body.

The line has the route's template and never the path that was asked for: a path that matches nothing
may hold anything. The request id is ours; what a caller sends may be somebody's name. What no
handler expected becomes a 500 that says nothing, and a line that says where.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPMethod

import uuid_utils.compat
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.http import ids, problems

DISCARD_SECONDS = 5.0
DISCARD_BYTES_MAX = 256 * 1024 * 1024
UNMATCHED = "unmatched"
METHODS = frozenset(HTTPMethod)

_log = telemetry.logger("http")


class Access:
    """Gives each call an id, answers what nobody expected, writes the access line."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the rest of the application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = _Call(ids.encode("req", uuid_utils.compat.uuid7()), send)
        scope.setdefault("state", {})["request_id"] = call.request_id
        started = time.perf_counter()
        try:
            await self.app(scope, receive, call.send)
        except Exception as error:  # noqa: BLE001  the door is where an accident of ours ends
            _log.error("unexpected", request_id=call.request_id, **telemetry.failure(error))
            if call.status is None:
                answer = problems.render(500, "internal", request_id=call.request_id)
                await answer(scope, receive, call.send)
        finally:
            _account(scope, call, time.perf_counter() - started)


class BodyLimit:
    """Answers 413 to a body over the bound, without reading it into memory."""

    def __init__(self, app: ASGIApp, bytes_max: int, larger: Mapping[str, int] | None = None) -> None:
        """Wrap the rest of the application; the paths in `larger` have bounds of their own."""
        self.app = app
        self.bytes_max = bytes_max
        self.larger = dict(larger or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse at once by the declared length; count what comes without one."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bytes_max = self.larger.get(scope["path"], self.bytes_max)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > bytes_max:
            await _refuse(scope, receive, send, bytes_max)
            return
        body = _Body(receive, bytes_max)

        async def unless_over(message: Message) -> None:
            if not body.over:
                await send(message)

        await self.app(scope, body.receive, unless_over)
        if body.over:
            await _refuse(scope, receive, send, bytes_max)


@dataclass
class _Call:
    """One call under way: its id and what it was answered."""

    request_id: str
    sender: Send
    status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self.request_id
        await self.sender(message)


@dataclass
class _Body:
    """A body that came without its length, counted on its way."""

    receiver: Receive
    bytes_max: int
    seen: int = 0

    @property
    def over(self) -> bool:
        return self.seen > self.bytes_max

    async def receive(self) -> Message:
        message = await self.receiver()
        self.seen += len(message.get("body", b""))
        if self.over:
            # The one exception that the application hands on as it is; its answer is replaced by ours.
            raise HTTPException(413)
        return message


async def _refuse(scope: Scope, receive: Receive, send: Send, bytes_max: int) -> None:
    """Send the problem whole, then let the rest of the body run into the sand for a bounded time.

    Closing while the caller still sends makes its kernel drop our answer (RFC 9112, section 9.6).
    """
    answer = problems.render(
        413,
        "body-too-large",
        detail=f"a body may have {bytes_max} bytes",
        request_id=scope["state"]["request_id"],
        headers={"Connection": "close"},
    )
    await send({"type": "http.response.start", "status": 413, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": bytes(answer.body), "more_body": True})
    until, discarded = time.monotonic() + DISCARD_SECONDS, 0
    while time.monotonic() < until and discarded < DISCARD_BYTES_MAX:
        message = await receive()
        discarded += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _account(scope: Scope, call: _Call, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", UNMATCHED)
    # A method may be any word that a caller makes up; it is neither counted nor logged then.
    known = scope.get("route") is not None and scope["method"] in METHODS
    status, method = str(call.status or 499), scope["method"] if known else "-"
    telemetry.requests.labels(method, route, status).inc()
    telemetry.request_seconds.labels(method, route).observe(seconds)
    _log.info(
        "call",
        request_id=call.request_id,
        method=method,
        route=route,
        status=int(status),
        milliseconds=round(seconds * 1000, 1),
    )
