"""OpenDSR over HTTP: discovery, the certificate, a request, its status, its cancellation.

Every answer, also a refusal, is signed over its exact bytes. Mounted only where the installation has a
certificate (`app.intake.processor`). A refusal leaves by an exception, so that its transaction is
rolled back, and is rendered in the protocol's own form rather than as a problem.
"""

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.auth.dependencies import asks
from app.auth.scopes import Scope
from app.auth.service import Caller
from app.erasure.calendars import Calendar
from app.errors import Forbidden, Invalid, NotFound, Problem, Unavailable
from app.http.dependencies import KeyringDep, NowDep, RawBodyDep, SessionDep, SettingsDep
from app.http.outbound import Reach
from app.intake import opendsr, service
from app.intake.opendsr import ErasureAsked
from app.intake.signing import Processor

PREFIX: Final = "/opendsr/v2"
JSON: Final = "application/json"
STATUS_OF_KIND: Final[Mapping[type[Problem], int]] = {Forbidden: 403, NotFound: 404, Unavailable: 503}
"""Everything else is 400, as the specification has it (7.5)."""

SubjectRequestId = Annotated[
    UUID, Path(description="The `subject_request_id` that the controller gave the request.")
]


class Refused(Exception):  # noqa: N818  it is named for what it is answered with
    """A call that is answered with the protocol's error object."""

    def __init__(self, status: int, body: bytes) -> None:
        """Carry the answer, which is still to be signed."""
        super().__init__(status)
        self.status, self.body = status, body


class Signed(APIRoute):
    """A route whose answers are signed, and whose refusals are the protocol's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, followed by the signature."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(request)
            except RequestValidationError as invalid:
                raise _of_validation(invalid) from None
            except Problem as problem:
                raise _of_problem(problem) from None
            except HTTPException as broken:
                if broken.status_code != 400:
                    raise
                # FastAPI's word for a body that its parser gave up on: not UTF-8, or nested too deep.
                raise _refused(400, "the body is not JSON", [("/", "malformed-json")]) from None
            return _signed(request, response)

        return answer


router = APIRouter(prefix=PREFIX, tags=["OpenDSR"], route_class=Signed)


def _reach(request: Request) -> Reach:
    found: Reach = request.app.state.reach
    return found


def _processor(request: Request) -> Processor:
    found: Processor = request.app.state.processor
    return found


def _calendar(request: Request) -> Calendar:
    found: Calendar = request.app.state.calendar
    return found


ProcessorDep = Annotated[Processor, Depends(_processor)]
# No Idempotency-Key: the protocol has its own, the id that the controller gives a request.
Submits = Annotated[Caller, Depends(asks(Scope.REQUESTS_CREATE), scope="function")]
Reads = Annotated[Caller, Depends(asks(Scope.REQUESTS_READ), scope="function")]
Cancels = Annotated[Caller, Depends(asks(Scope.REQUESTS_WITHDRAW), scope="function")]


@router.get("/discovery")
def discover(settings: SettingsDep) -> Response:
    """Say what this processor can do; open, as whoever checks a callback must be able to ask."""
    where = f"{settings.public_url.rstrip('/')}{PREFIX}/certificate"
    return _json(opendsr.discovery(certificate=where))


@router.get("/certificate")
def read_certificate(processor: ProcessorDep) -> Response:
    """Hand out the certificate that answers are signed with, and those up to its authority (PEM)."""
    return Response(processor.chain_pem, media_type="application/x-pem-file")


@router.post("/requests", status_code=201)
def receive_request(
    asked: ErasureAsked,
    raw: RawBodyDep,
    session: SessionDep,
    caller: Submits,
    keys: KeyringDep,
    settings: SettingsDep,
    reach: Annotated[Reach, Depends(_reach)],
    calendar: Annotated[Calendar, Depends(_calendar)],
    now: NowDep,
) -> Response:
    """Receive a controller's request to erase a person."""
    received = service.receive(
        session,
        asked,
        raw,
        by=caller,
        subject_key=keys.subject,
        mark_key=keys.idempotency,
        calendar=calendar,
        rules=settings.requests_policy,
        regulation_required=settings.opendsr_regulation_required,
        reach=reach,
        at=now,
    )
    body = opendsr.receipt(
        controller_id=received.controller_id,
        subject_request_id=received.subject_request_id,
        received_at=received.received_at,
        expected_at=received.expected_at,
        encoded=received.encoded,
    )
    # The body holds what it was sent: no copy of it may stay anywhere on its way.
    return _json(body, status=201, headers={"Cache-Control": "no-store"})


@router.get("/requests/{subject_request_id}")
@router.get("/status/{subject_request_id}")
def read_status(
    subject_request_id: SubjectRequestId, session: SessionDep, caller: Reads, processor: ProcessorDep
) -> Response:
    """Say where a request of the caller's stands."""
    standing = service.status(session, subject_request_id, by=caller)
    return _json(opendsr.status_body(standing, domain=processor.domain))


@router.delete("/requests/{subject_request_id}", status_code=202)
def cancel_request(
    subject_request_id: SubjectRequestId, session: SessionDep, caller: Cancels, now: NowDep
) -> Response:
    """Take a request back, while it is pending."""
    standing = service.cancel(session, subject_request_id, by=caller, at=now)
    body = opendsr.cancelled(
        controller_id=standing.controller_id,
        subject_request_id=standing.subject_request_id,
        received_at=now,
    )
    return _json(body, status=202)


def mount(app: FastAPI, processor: Processor) -> None:
    """Give the app these doors, and the older names of them if the processor goes by those too."""
    app.state.processor = processor
    app.add_exception_handler(Refused, _answer_refused)
    app.include_router(router)
    if processor.legacy:
        older = APIRouter(prefix=PREFIX, tags=["OpenDSR"], route_class=Signed, include_in_schema=False)
        one = "/opengdpr_requests/{subject_request_id}"
        older.add_api_route("/opengdpr_requests", receive_request, methods=["POST"], status_code=201)
        older.add_api_route(one, read_status, methods=["GET"])
        older.add_api_route(one, cancel_request, methods=["DELETE"], status_code=202)
        app.include_router(older)


def _json(
    body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    content = json.dumps(body, separators=(",", ":"), ensure_ascii=True).encode()
    return Response(content, status_code=status, headers=dict(headers or {}), media_type=JSON)


def _signed(request: Request, response: Response) -> Response:
    for name, value in _processor(request).headers(bytes(response.body)).items():
        response.headers[name] = value
    return response


def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {"Cache-Control": "no-store"} | ({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})
    response = Response(error.body, status_code=error.status, headers=headers, media_type=JSON)
    return _signed(request, response)


def _of_problem(problem: Problem) -> Refused:
    status = next((status for kind, status in STATUS_OF_KIND.items() if isinstance(problem, kind)), 400)
    if problem.code == "unauthenticated":
        status = 401
    places = list(problem.errors) if isinstance(problem, Invalid) else []
    return _refused(status, str(problem), places or [("/", problem.code)])


def _of_validation(invalid: RequestValidationError) -> Refused:
    """Say where and what kind of, by our own names: a member that they made up may be anybody's name."""
    found = []
    for each in invalid.errors():
        known = ErasureAsked.model_fields.keys() | opendsr.Identity.model_fields.keys()
        known |= {"subject_request_id"}
        segments = [
            str(part) if isinstance(part, int) or part in known else "*" for part in list(each["loc"])[1:]
        ]
        found.append(("/" + "/".join(segments), str(each["type"])))
    return _refused(400, "the request is not one of OpenDSR", found)


def _refused(status: int, message: str, errors: list[tuple[str, str]]) -> Refused:
    return Refused(status, json.dumps(opendsr.error_body(status, message, errors)).encode())
