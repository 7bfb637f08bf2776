"""The public door: the OpenAI API over the live versions, every answer naming the one it came from.

Prompts and answers go through and are never logged; an error says where the input is wrong and
repeats nothing of it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.errors import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable
from app.http.middleware import Access, BodyLimit
from workers.inference.admission import Admission
from workers.inference.computation import STARTS_MAX, Computation
from workers.inference.openai import (
    Answer,
    ChatAsk,
    ChatShape,
    CompletionAsk,
    CompletionShape,
    Delta,
    Shape,
    error,
)
from workers.inference.replica import Replica
from workers.inference.slot import Ask, Revoked

RETRY_AFTER_SECONDS = 2
STATUS = {NotFound: 404, Conflict: 409, Forbidden: 403, Invalid: 400, Unavailable: 503}
NAMES = (CompletionAsk.model_fields.keys() | ChatAsk.model_fields.keys()) | {
    "audio", "best_of", "echo", "frequency_penalty", "function_call", "functions", "logit_bias", "metadata",
    "min_p", "modalities", "parallel_tool_calls", "prediction", "presence_penalty", "prompt_logprobs",
    "reasoning_effort", "repetition_penalty", "response_format", "service_tier", "store", "suffix",
    "tool_choice", "tools", "top_k", "use_beam_search", "user",
}  # fmt: skip
"""What an error may repeat: names of the API. Any other key may be somebody's name."""

_log = telemetry.logger("serving")


def create_app(replica: Replica, *, threads: Executor, places: int, body_bytes_max: int) -> FastAPI:
    """Return the public application."""
    app = FastAPI(title="Lethe model server", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, bytes_max=body_bytes_max)
    app.add_middleware(Named, replica=replica)
    app.add_middleware(Access)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    _add_status(app, replica)
    _add_asking(app, replica, threads, Admission(places))
    return app


def _add_asking(app: FastAPI, replica: Replica, threads: Executor, admission: Admission) -> None:
    async def answer(request: Request, ask: Ask, shape: Shape) -> Response:
        for _ in range(STARTS_MAX):
            computation = await Computation.start(replica, admission, threads, ask)
            version = computation.version
            saying = Answer.begin(shape, model=version.model, fingerprint=version.fingerprint)
            if ask.stream:
                return StreamingResponse(
                    _events(computation, saying, ask), media_type="text/event-stream", headers=version.headers
                )
            with suppress(Revoked):  # nothing was sent: from the prompt again, on the version that is live
                return JSONResponse(await _whole(request, computation, saying), headers=version.headers)
        raise Unavailable("the model is being replaced; ask again")

    @app.post("/v1/completions")
    async def complete(request: Request, body: CompletionAsk) -> Response:
        """Continue a text."""
        return await answer(request, body, CompletionShape())

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatAsk) -> Response:
        """Answer a conversation, where the model has a chat template."""
        return await answer(request, body, ChatShape())


def _add_status(app: FastAPI, replica: Replica) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List what is served: one entry per model line, whatever its version."""
        return {"object": "list", "data": [_model(version.model) for version in replica.versions()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """Show one model."""
        if name not in {version.model for version in replica.versions()}:
            raise NotFound("there is no such model here; /v1/models lists them", code="model_not_found")
        return _model(name)

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        """Say that the process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        """Say whether a model is served, and if not, what to do next."""
        reason = replica.why_not_ready()
        return PlainTextResponse(f"{reason or 'ready'}\n", status_code=503 if reason else 200)


class Named:
    """Adds to every answer which version this server serves; an answer that knows better keeps its own."""

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        """Wrap the rest of the application."""
        self.app = app
        self.replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                versions = self.replica.versions()
                if "x-model-version" not in headers and len(versions) == 1:
                    headers.update(versions[0].headers)
            await send(message)

        await self.app(scope, receive, named if scope["type"] == "http" else send)


async def _whole(request: Request, computation: Computation, saying: Answer) -> dict[str, Any]:
    """Return the body of an answer that is not streamed; stop computing if the caller has gone."""
    gone = asyncio.create_task(_cancel_when_gone(request, computation))
    choices: dict[int, Delta] = {}
    try:
        async for part in computation.parts():
            known = choices.get(part.index)
            choices[part.index] = part if known is None else _joined(known, part)
    finally:
        gone.cancel()
    return saying.body([choices[index] for index in sorted(choices)], computation.usage)


async def _cancel_when_gone(request: Request, computation: Computation) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    computation.cancel()


async def _events(computation: Computation, saying: Answer, ask: Ask) -> AsyncIterator[str]:
    """Yield server-sent events; a stream that cannot be finished ends with an error and no [DONE]."""
    try:
        async for part in computation.parts():
            yield _event(saying.chunk(part))
    except Revoked:
        yield _event(error("the model was replaced", kind="server_error", code="version-replaced"))
        return
    except Exception as reason:  # noqa: BLE001  a stream has no status left to say it with
        _log.error("stream-broken", **telemetry.failure(reason))
        yield _event(error("the answer could not be finished", kind="server_error", code="internal"))
        return
    if ask.wants_usage:
        yield _event(saying.counts(computation.usage))
    yield "data: [DONE]\n\n"


def _event(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _joined(before: Delta, after: Delta) -> Delta:
    return Delta(
        index=before.index,
        text=before.text + after.text,
        tokens=None if before.tokens is None else before.tokens + (after.tokens or ()),
        offset=0,
        finish=after.finish,
        first=True,
    )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "lethe"}


async def _problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    status = next((code for kind, code in STATUS.items() if isinstance(problem, kind)), 400)
    headers = {"retry-after": str(RETRY_AFTER_SECONDS)} if status == STATUS[Unavailable] else None
    kind = "server_error" if status == STATUS[Unavailable] else "invalid_request_error"
    return JSONResponse(
        error(str(problem), kind=kind, code=problem.code), status_code=status, headers=headers
    )


async def _validation(_request: Request, problem: Exception) -> Response:
    """Say which field is wrong and why, in pydantic's word for it; never what was in it."""
    assert isinstance(problem, RequestValidationError)
    found = problem.errors()
    if any(each["type"] == "json_invalid" for each in found):
        body = error("the body is not JSON", kind="invalid_request_error", code="malformed-json")
        return JSONResponse(body, status_code=400)
    place, kind = found[0]["loc"], found[0]["type"]
    name = next((str(each) for each in place[1:2] if each in NAMES), None)
    if kind == "extra_forbidden":
        message = f"{name or 'a field of the body'} is not known to this server, which ignores nothing"
    else:
        message = f"{name or 'the body'} cannot be accepted: {kind}"
    return JSONResponse(error(message, kind="invalid_request_error", code=kind, param=name), status_code=422)


async def _http(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    body = error(str(problem.detail), kind="invalid_request_error", code=str(problem.status_code))
    return JSONResponse(body, status_code=problem.status_code, headers=problem.headers)
