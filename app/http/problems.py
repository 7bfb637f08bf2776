"""The one map from errors to HTTP: RFC 9457 problems.

A problem says what kind, where and under which request id. Of invalid input it repeats nothing: a
validation error becomes pydantic's error type and a JSON pointer, in which every segment that is
not a name of our own API is `*`, because an unknown key may be somebody's e-mail address (R16).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app import telemetry
from app.errors import Conflict, Forbidden, Gone, Invalid, NotFound, Problem, Unavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
ERRORS_MAX = 100

STATUS_OF_KIND: Mapping[type[Problem], int] = {
    NotFound: 404,
    Gone: 410,
    Conflict: 409,
    Forbidden: 403,
    Invalid: 422,
    Unavailable: 503,
    Problem: 400,
}
STATUS_OF_CODE: Mapping[str, int] = {
    "unauthenticated": 401,
    "idempotency-key-missing": 400,
    "idempotency-key-malformed": 400,
    "malformed-json": 400,
    "body-too-large": 413,
    "media-type-unsupported": 415,
    "version-changed": 412,
    "precondition-required": 428,
    "rate-limited": 429,
}
UNIQUE_VIOLATION = "23505"
RETRYABLE = ("08", "25P", "40", "53", "55P", "57")
"""SQLSTATE prefixes: connection, idle transaction, rollback, resources, lock, cancelled or shut down."""


class ErrorAt(BaseModel):
    """One place of the input that cannot be accepted."""

    pointer: str
    code: str


class ProblemDetails(BaseModel):
    """RFC 9457, with our code, the request id and the places."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    request_id: str | None = None
    errors: list[ErrorAt] = []


def responses(*kinds: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI declaration of the problems that an endpoint may answer with."""
    return {
        STATUS_OF_KIND[kind]: {
            "model": ProblemDetails,
            "description": (kind.__doc__ or "").partition("\n")[0],
            "content": {MEDIA_TYPE: {}},
        }
        for kind in kinds
    }


def too_many() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI declaration of a limit that counts by something else than keys."""
    said = {"model": ProblemDetails, "description": "Too many from here; `Retry-After` says when."}
    return {429: {**said, "content": {MEDIA_TYPE: {}}}}


def status_of(problem: Problem) -> int:
    """Return the status: by the code where it has one of its own, else by the kind."""
    if problem.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[problem.code]
    return next(status for kind, status in STATUS_OF_KIND.items() if isinstance(problem, kind))


def response(problem: Problem, *, request_id: str | None) -> Response:
    """Return the problem as a response."""
    status = status_of(problem)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(problem, Unavailable):
        headers["Retry-After"] = str(getattr(problem, "retry_after", RETRY_AFTER_SECONDS))
    errors = problem.errors if isinstance(problem, Invalid) else ()
    return render(
        status,
        problem.code,
        detail=str(problem),
        request_id=request_id,
        errors=[{"pointer": pointer, "code": code} for pointer, code in errors[:ERRORS_MAX]],
        headers=headers,
    )


def render(
    status: int,
    code: str,
    *,
    detail: str | None = None,
    request_id: str | None = None,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem from its parts."""
    content: dict[str, object] = {
        "type": f"urn:lethe:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
    }
    if detail is not None:
        content["detail"] = detail
    if request_id is not None:
        content["request_id"] = request_id
    if errors:
        content["errors"] = list(errors)
    return JSONResponse(content, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Give the app its handlers; nothing else answers with an error."""

    def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return response(error, request_id=_request_id(request))

    def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation(error, names=_names(app), request_id=_request_id(request))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
            # FastAPI's word for a body that its parser gave up on: not UTF-8, or nested too deep.
            return render(
                400, "malformed-json", detail="the body is not JSON", request_id=_request_id(request)
            )
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return render(error.status_code, code, request_id=_request_id(request), headers=error.headers)

    def database(request: Request, error: Exception) -> Response:
        return response(_of_database(error), request_id=_request_id(request))

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(DBAPIError, database)
    app.add_exception_handler(PoolTimeout, database)


def _of_database(error: Exception) -> Problem:
    """Return what a database error means to the caller; a defect of ours is raised again."""
    if isinstance(error, PoolTimeout):
        return Unavailable("every database connection is in use", code="database-busy")
    assert isinstance(error, DBAPIError)
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(error, IntegrityError) and state == UNIQUE_VIOLATION:
        return Conflict("another call has done the same at the same time", code="done-meanwhile")
    if error.connection_invalidated or state is None or state.startswith(RETRYABLE):
        telemetry.logger("http").warning("database-unavailable", **telemetry.failure(error), code=state)
        return Unavailable("the database did not answer in time", code="database-unavailable")
    raise error


def _validation(error: RequestValidationError, *, names: frozenset[str], request_id: str | None) -> Response:
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        return render(400, "malformed-json", detail="the body is not JSON", request_id=request_id)
    return render(
        422,
        "invalid",
        detail="the input cannot be accepted; see the pointers",
        request_id=request_id,
        errors=[
            {"pointer": _pointer(each["loc"], names), "code": each["type"]} for each in found[:ERRORS_MAX]
        ],
    )


def _pointer(location: Sequence[str | int], names: frozenset[str]) -> str:
    """Return a JSON pointer into the body, or `query:limit` and the like; unknown names are `*`."""
    source, *rest = location
    segments = [str(each) if isinstance(each, int) or each in names else "*" for each in rest]
    return "".join(f"/{each}" for each in segments) if source == "body" else f"{source}:{'/'.join(segments)}"


@cache
def _names(app: FastAPI) -> frozenset[str]:
    """Return every property and parameter name of our own API: what a pointer may repeat."""
    schema = app.openapi()
    names: set[str] = set()
    for model in schema.get("components", {}).get("schemas", {}).values():
        names |= model.get("properties", {}).keys()
    for path in schema.get("paths", {}).values():
        for operation in path.values():
            names |= {parameter["name"] for parameter in operation.get("parameters", [])}
    return frozenset(names)


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)
