"""Requests over HTTP: receive one, read it, wait for it, list and search."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.audit.schemas import EventOut
from app.auth.dependencies import (
    RecordsLookup,
    RequestsJoin,
    RequestsRead,
    RequestsReadPii,
    RequestsWatch,
)
from app.erasure import reading, receiving, schemas, service
from app.erasure.bodies import ErasureRequestCreate, IdentifierIn, SearchIn
from app.erasure.endpoints.joining import Call, Intake, Shown
from app.erasure.endpoints.lines import PageAsked, Pages, Wanted
from app.erasure.lifecycle import BEFORE_APPROVAL, OPEN, Sort, State
from app.erasure.matching import Contents, Identifier, NamedRecords
from app.erasure.receiving import Asked
from app.erasure.repository import Filter
from app.erasure.schemas import CertificateLink, IdentityOut, Receipt, RecordOut, RequestOut, TargetOut
from app.erasure.steps import View
from app.errors import Conflict, Forbidden, Gone, Invalid, NotFound, Unavailable
from app.http import pagination, preconditions
from app.http.dependencies import KeyringDep, NowDep, SessionDep, keyring
from app.http.ids import DatasetId, ModelId, RequestId
from app.http.pagination import Cursor, Limit, Page
from app.http.problems import responses
from app.http.routing import router as new_router
from app.http.watching import Seen, WatchDep

router = new_router("/v1/erasure-requests", tag="Erasure requests")

RETRY_SECONDS_TRIAGE, RETRY_SECONDS_SCHEDULED, RETRY_SECONDS_JOB = 60, 300, 5


@router.post(
    "",
    status_code=201,
    response_model=Receipt,
    responses=responses(Conflict, Forbidden, Invalid, Unavailable),
)
async def receive_request(
    request: Request, body: ErasureRequestCreate, caller: RequestsJoin, keys: KeyringDep, now: NowDep
) -> Response:
    """Receive a data subject's request to be forgotten (GDPR Art. 17)."""
    intake: Intake = request.app.state.intake
    named = body.records and NamedRecords(dataset=body.records.dataset, external_ids=body.records.ids)
    contents = body.content and Contents(
        sha256=[bytes.fromhex(each) for each in body.content.sha256], key=keys.content
    )
    identifiers = _identifiers(body.subject or ())
    return await intake(
        Call(
            sent=request.state.sent,
            identifiers=identifiers,
            asked=Asked(
                submitted_by=caller.principal_id,
                named=named or None,
                content_macs=contents.macs() if contents else (),
                written=receiving.written(identifiers, body.note.get_secret_value() if body.note else None),
                external_ref=body.external_ref,
                vouched=body.identity == "vouched" and caller.vouches,
                received_at=now,
            ),
        )
    )


class WantedIn(BaseModel):
    """The filters of a list, read as one model: each of twelve parameters would be read by itself."""

    model_config = ConfigDict(hide_input_in_errors=True)

    state: Annotated[list[State] | None, Field(description="Only these states.")] = None
    attention: Annotated[bool | None, Field(description="Only what needs a person, or what does not.")] = None
    attention_reason: Annotated[str | None, Field(pattern="^[a-z_]{1,40}$")] = None
    overdue: Annotated[bool | None, Field(description="Open and past its date, or not.")] = None
    due_before: Annotated[date | None, Field(description="Due before this day.")] = None
    due_from: Annotated[date | None, Field(description="Due on this day or later.")] = None
    on_hold: Annotated[bool | None, Field(description="Under a legal hold, or not.")] = None
    clock_paused: Annotated[bool | None, Field(description="With a clock that stands still.")] = None
    dataset: Annotated[DatasetId | None, Field(description="Naming a record of it.")] = None
    model: Annotated[ModelId | None, Field(description="Approved for it.")] = None
    external_ref: Annotated[str | None, Field(pattern="^[A-Za-z0-9._:/#-]{1,128}$")] = None
    sort: Annotated[Sort, Field(description="Newest first, or what is due next first.")] = Sort.NEWEST


async def wanted(given: Annotated[WantedIn, Query()]) -> Wanted:
    """Read the filters of a list."""
    chosen = Filter(
        states=tuple(sorted(given.state or ())),
        attention=given.attention,
        attention_reason=given.attention_reason,
        overdue=given.overdue,
        due_before=given.due_before,
        due_from=given.due_from,
        on_hold=given.on_hold,
        clock_paused=given.clock_paused,
        dataset=given.dataset,
        model=given.model,
        external_ref=given.external_ref,
    )
    return Wanted(chosen=chosen, sort=given.sort)


@router.get("", response_model=Page[RequestOut], responses=responses(Forbidden, Invalid))
async def list_requests(
    request: Request,
    _caller: RequestsWatch,
    watch: WatchDep,
    wanted: Annotated[Wanted, Depends(wanted)],
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """List requests, newest first or by date; 304 if nothing has happened since `If-None-Match`."""
    place = pagination.decode(keyring(request).cursor, cursor, of=wanted.name)
    pages: Pages = request.app.state.pages
    return await watch.answer_by(
        lambda: pages(PageAsked(wanted=wanted, limit=limit, cursor=cursor, after=place))
    )


@router.post("/search", responses=responses(Forbidden, Invalid))
def search_requests(
    body: SearchIn, session: SessionDep, caller: RecordsLookup, keys: KeyringDep, now: NowDep
) -> list[RequestOut]:
    """Find the requests of a person; that somebody asked is kept, about whom is not."""
    found = reading.search(
        session, identifiers=_identifiers(body.subject), subject_key=keys.subject, by=caller, at=now
    )
    return [schemas.shown(view, now) for view in found]


@router.get("/{request_id}", response_model=RequestOut, responses=responses(Forbidden, NotFound))
async def read_request(request_id: RequestId, _caller: RequestsWatch, watch: WatchDep) -> Response:
    """Read a request: state, dates, counts, models, approvals; or wait until it is another version."""
    shown: Shown = watch.request.app.state.shown

    async def look() -> Seen:
        view, now = await shown(request_id)
        state = State(view.request.state)
        return Seen(
            body=schemas.shown(view, now),
            tag=preconditions.tag(view.request.version),
            retry_after=_retry_seconds(state),
        )

    return await watch.answer_by(look)


@router.get("/{request_id}/events", responses=responses(Forbidden, NotFound))
def read_events(
    request_id: RequestId,
    session: SessionDep,
    _caller: RequestsRead,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Limit = pagination.ROWS_DEFAULT,
) -> list[EventOut]:
    """Read what happened to a request, oldest first."""
    return [EventOut(**vars(each)) for each in reading.history(session, request_id, after=after, limit=limit)]


@router.get("/{request_id}/targets", responses=responses(Forbidden, NotFound))
def read_targets(request_id: RequestId, session: SessionDep, _caller: RequestsRead) -> list[TargetOut]:
    """Read how far each model is rid of the records."""
    return [schemas.target_out(each) for each in service.read(session, request_id).targets]


@router.get("/{request_id}/records", responses=responses(Forbidden, NotFound, Gone))
def read_records(
    request_id: RequestId,
    session: SessionDep,
    _caller: RequestsRead,
    after: Annotated[int, Query(ge=0, le=2**62, description="The number of the last `rec_` you have.")] = 0,
    limit: Limit = pagination.ROWS_DEFAULT,
) -> list[RecordOut]:
    """Read which records a request names and what becomes of each; never what they say, and not for ever."""
    return [
        schemas.record_out(each) for each in reading.records(session, request_id, after=after, limit=limit)
    ]


@router.get("/{request_id}/identity", responses=responses(Forbidden, NotFound, Gone))
def read_identity(
    request_id: RequestId, session: SessionDep, caller: RequestsReadPii, now: NowDep, response: Response
) -> IdentityOut:
    """Read who asks, and what was written of them; that you did is kept. Gone once the request is purged."""
    response.headers["Cache-Control"] = "no-store"
    return schemas.identity_out(reading.identity(session, request_id, by=caller, at=now))


@router.get("/{request_id}/certificates", responses=responses(Forbidden, NotFound))
def read_certificates(
    request_id: RequestId, session: SessionDep, _caller: RequestsRead
) -> list[CertificateLink]:
    """Read where the certificates of a request are; each model has its own."""
    return schemas.certificates(service.read(session, request_id))


def receipt_of(view: View, response: Response) -> Receipt:
    """Return the receipt of a call, with the version that it led to as its tag."""
    response.headers["ETag"] = preconditions.tag(view.request.version)
    return schemas.receipt(view)


def _identifiers(given: Sequence[IdentifierIn]) -> list[Identifier]:
    return [Identifier(type=each.type, value=each.value.get_secret_value()) for each in given]


def _retry_seconds(state: State) -> int | None:
    """Return in how many seconds looking again is worth while; None at an end."""
    if state not in OPEN:
        return None
    if state is State.SCHEDULED:
        return RETRY_SECONDS_SCHEDULED
    return RETRY_SECONDS_TRIAGE if state in BEFORE_APPROVAL or state is State.RECEIVED else RETRY_SECONDS_JOB
