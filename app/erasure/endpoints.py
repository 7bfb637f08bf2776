"""Erasure requests over HTTP: receive, read, list, resolve, approve, withdraw, reject."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response

from app.audit.schemas import EventOut
from app.auth.dependencies import (
    RequestsCreate,
    RequestsRead,
    RequestsResolve,
    RequestsReview,
    RequestsWithdraw,
)
from app.erasure import schemas, service
from app.erasure.calendars import Calendar
from app.erasure.lifecycle import State
from app.erasure.matching import Identifier, NamedRecords
from app.erasure.schemas import ApprovalIn, ErasureRequestCreate, Receipt, RejectionIn, RequestOut
from app.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from app.http import pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import RequestId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/erasure-requests", tag="Erasure requests")


def _calendar(request: Request) -> Calendar:
    found: Calendar = request.app.state.calendar
    return found


CalendarDep = Annotated[Calendar, Depends(_calendar)]


@router.post("", status_code=201, responses=responses(Conflict, Forbidden, Invalid, Unavailable))
def receive_request(
    body: ErasureRequestCreate,
    session: SessionDep,
    caller: RequestsCreate,
    keyring: KeyringDep,
    calendar: CalendarDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Receive a data subject's request to be forgotten (GDPR Art. 17)."""
    view = service.receive(
        session,
        submitted_by=caller.principal_id,
        identifiers=[
            Identifier(type=each.type, value=each.value.get_secret_value()) for each in body.subject or ()
        ],
        named=NamedRecords(dataset=body.records.dataset, external_ids=body.records.ids)
        if body.records
        else None,
        external_ref=body.external_ref,
        subject_key=keyring.subject,
        calendar=calendar,
        received_at=now,
    )
    receipt = schemas.receipt(view)
    response.headers["Location"] = receipt.links.self
    return receipt


@router.get("", responses=responses(Forbidden, Invalid))
def list_requests(
    session: SessionDep,
    _caller: RequestsRead,
    keyring: KeyringDep,
    state: Annotated[list[State] | None, Query(description="Only these states.")] = None,
    attention: Annotated[
        bool | None, Query(description="Only what needs a person, or what does not.")
    ] = None,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[RequestOut]:
    """List requests, newest first."""
    of = f"erasure-requests {sorted(state or ())} {attention}"
    place = pagination.decode(keyring.cursor, cursor, of=of)
    views = service.listing(
        session,
        states=state or (),
        attention=attention,
        after=(place.created_at, place.id) if place else None,
        limit=limit + 1,
    )
    last = views[limit - 1].request if len(views) > limit else None
    return Page(
        items=[schemas.shown(view) for view in views[:limit]],
        next=pagination.encode(keyring.cursor, Place(last.created_at, last.id), of=of) if last else None,
    )


@router.get("/{request_id}", responses=responses(Forbidden, NotFound))
def read_request(request_id: RequestId, session: SessionDep, _caller: RequestsRead) -> RequestOut:
    """Read a request: state, dates, counts, models, approvals."""
    return schemas.shown(service.read(session, request_id))


@router.get("/{request_id}/events", responses=responses(Forbidden, NotFound))
def read_events(
    request_id: RequestId,
    session: SessionDep,
    _caller: RequestsRead,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Limit = pagination.ROWS_DEFAULT,
) -> list[EventOut]:
    """Read what happened to a request, oldest first."""
    return [EventOut(**vars(each)) for each in service.history(session, request_id, after=after, limit=limit)]


@router.post("/{request_id}/resolutions", responses=responses(Conflict, Forbidden, NotFound))
def resolve_request(
    request_id: RequestId, session: SessionDep, _caller: RequestsResolve, now: NowDep
) -> Receipt:
    """Search again, because something could not be searched or was added since; approvals are void."""
    return schemas.receipt(service.resolve(session, request_id, at=now))


@router.post("/{request_id}/approvals", status_code=201, responses=responses(Conflict, Forbidden, NotFound))
def approve_request(
    request_id: RequestId, body: ApprovalIn, session: SessionDep, caller: RequestsReview, now: NowDep
) -> Receipt:
    """Approve exactly the records and models behind a hash."""
    view = service.approve(
        session,
        request_id,
        approver_id=caller.principal_id,
        person=caller.person,
        record_set_hash=bytes.fromhex(body.record_set_hash),
        at=now,
    )
    return schemas.receipt(view)


@router.post("/{request_id}/release", responses=responses(Conflict, Forbidden, NotFound))
def release_request(
    request_id: RequestId, session: SessionDep, caller: RequestsReview, now: NowDep
) -> Receipt:
    """Let a held result be certified, having looked: exact results are detected by chance now and then."""
    view = service.release(
        session, request_id, principal_id=caller.principal_id, person=caller.person, at=now
    )
    return schemas.receipt(view)


@router.post("/{request_id}/withdrawal", responses=responses(Conflict, Forbidden, NotFound))
def withdraw_request(
    request_id: RequestId, session: SessionDep, caller: RequestsWithdraw, now: NowDep
) -> Receipt:
    """Take a request back, as long as nothing has been erased for it."""
    return schemas.receipt(service.withdraw(session, request_id, principal_id=caller.principal_id, at=now))


@router.post("/{request_id}/rejection", responses=responses(Conflict, Forbidden, NotFound))
def reject_request(
    request_id: RequestId, body: RejectionIn, session: SessionDep, caller: RequestsReview, now: NowDep
) -> Receipt:
    """Refuse a request on a ground of the regulation."""
    view = service.reject(
        session,
        request_id,
        principal_id=caller.principal_id,
        person=caller.person,
        ground=body.ground,
        at=now,
    )
    return schemas.receipt(view)
