"""What all calls have in common, told once in `/openapi.json`: keys, and the answers that no endpoint names.

    shows a key or token        401, 429
    runs once per key           Idempotency-Key, 400, 409, 422
    takes a body                400, 413
    names anything              404, 422
    any                         503 while the database is away, or a rival holds the row

An endpoint names the answers of its own (`problems.responses`); the rest would stand in each of them.
What the description does not name is refused: a filter that is spelled wrong would be a list of all.
"""

from typing import Any

from fastapi import FastAPI, Request

from app.errors import Invalid
from app.http.idempotency import HEADER, KEY
from app.http.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS

Schema = dict[str, Any]

PROBLEM = {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
RETRY: Schema = {
    "Retry-After": {"schema": {"type": "string"}, "description": f"Seconds, such as {RETRY_AFTER_SECONDS}."}
}


def install(app: FastAPI) -> None:
    """Let the app describe itself whole."""
    plain = app.openapi
    completed: list[Schema] = []

    def described() -> Schema:
        schema = plain()
        if not any(schema is each for each in completed):
            for path in schema["paths"].values():
                for method, operation in path.items():
                    _complete(operation, runs_once=_take_key(operation, method))
            completed.append(schema)
        return schema

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI has it extended


async def only_named(request: Request) -> None:
    """Refuse query parameters that the description does not name; a dependency of every call."""
    if not request.query_params:
        return
    app: FastAPI = request.app
    route = request.scope["route"]
    operation = app.openapi()["paths"].get(route.path_format, {}).get(request.method.lower())
    if operation is not None:
        parameters = operation.get("parameters", [])
        named = {each["name"] for each in parameters if each["in"] == "query"}
        if not named >= request.query_params.keys():
            raise Invalid("this call has no such query parameter", errors=[("query:*", "unknown")])


def _take_key(operation: Schema, method: str) -> bool:
    """Return whether the call runs once per key; where it need not, no key is asked for."""
    parameters = operation.get("parameters", [])
    found = [each for each in parameters if each["name"] == HEADER]
    for each in found:
        if method == "post":
            each |= {"required": True, "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"}}
        else:
            parameters.remove(each)
    return bool(found) and method == "post"


def _complete(operation: Schema, *, runs_once: bool) -> None:
    answers = operation["responses"]
    if operation.get("security"):
        _answer(answers, 401, "No key or token, or none that opens anything.")
        _answer(answers, 429, "Too many calls in this minute.", RETRY)
    if runs_once:
        _answer(answers, 409, "The first call with this key is still running.")
        _answer(answers, 422, "This key belongs to another call.")
    if runs_once or "requestBody" in operation:
        _answer(answers, 400, "The body is not JSON, or the idempotency key is missing.")
        _answer(answers, 413, "The body is too large.")
    if "requestBody" in operation or operation.get("parameters"):
        _answer(answers, 404, "There is no such thing, or not for this caller.")
        _answer(answers, 422, "It cannot be accepted; `errors` says where and why.")
    _answer(answers, 503, "It cannot be done just now; trying again is right.", RETRY)


def _answer(answers: Schema, status: int, text: str, headers: Schema | None = None) -> None:
    answer = answers.setdefault(str(status), {"description": text})
    if "application/json" in answer.setdefault("content", {}):  # FastAPI's own 422
        answer["content"] = {}
    answer["content"].setdefault(MEDIA_TYPE, PROBLEM)
    if headers:
        answer.setdefault("headers", headers)
