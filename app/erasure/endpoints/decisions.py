"""Decisions about a request over HTTP; each names the version it is about (`If-Match`)."""

from typing import Any

from fastapi import Response

from app.auth.dependencies import RequestsResolve, RequestsReview, RequestsWithdraw
from app.erasure import service
from app.erasure.bodies import ApprovalIn, ExemptionIn, RejectionIn, ResolutionIn
from app.erasure.endpoints.requests import receipt_of
from app.erasure.near import service as near
from app.erasure.scan import service as scan
from app.erasure.schemas import Receipt
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http import preconditions
from app.http.dependencies import NowDep, SessionDep
from app.http.ids import RequestId
from app.http.preconditions import ExpectedDep
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/erasure-requests/{request_id}", tag="Erasure requests")

SAID: dict[int | str, dict[str, Any]] = {
    **responses(Conflict, Forbidden, Invalid, NotFound),
    **preconditions.responses(),
}


@router.post("/resolutions", responses=SAID)
def resolve_request(
    request_id: RequestId,
    session: SessionDep,
    caller: RequestsResolve,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
    body: ResolutionIn | None = None,
) -> Receipt:
    """Search again, as something could not be searched or was added since; or decide on what is proposed.

    Approvals are void; of a set into which anything proposed was adopted, two people approve.
    """
    verbs = scan if body is not None and body.texts is not None else near
    if body is None:
        view = service.resolve(session, request_id, expecting=expecting, at=now)
    elif body.decision == "waive":
        view = verbs.waive(session, request_id, by=caller, expecting=expecting, at=now)
    else:
        view = verbs.decide(
            session,
            request_id,
            adopt=body.decision == "adopt",
            record_ids=body.ids(),
            by=caller,
            expecting=expecting,
            at=now,
        )
    return receipt_of(view, response)


@router.post("/approvals", status_code=201, responses=SAID)
def approve_request(
    request_id: RequestId,
    body: ApprovalIn,
    session: SessionDep,
    caller: RequestsReview,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Approve exactly the records and models behind a hash, or send the request back."""
    if body.decision == "send_back":
        view = service.send_back(session, request_id, by=caller, expecting=expecting, at=now)
        return receipt_of(view, response)
    view = service.approve(
        session,
        request_id,
        by=caller,
        record_set_hash=bytes.fromhex(body.record_set_hash),
        notice=None if body.notice is None else body.notice.notice(),
        expecting=expecting,
        at=now,
    )
    return receipt_of(view, response)


@router.post("/exemptions", responses=SAID)
def exempt_records(
    request_id: RequestId,
    body: ExemptionIn,
    session: SessionDep,
    caller: RequestsReview,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Propose to keep records on a ground of Art. 17(3); another person approves the set with them."""
    view = service.exempt(
        session,
        request_id,
        record_ids=body.ids(),
        ground=body.ground,
        by=caller,
        expecting=expecting,
        at=now,
    )
    return receipt_of(view, response)


@router.post("/release", responses=SAID)
def release_request(
    request_id: RequestId,
    session: SessionDep,
    caller: RequestsReview,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Let a held result be certified, having looked: exact results are detected by chance now and then."""
    view = service.release(session, request_id, by=caller, expecting=expecting, at=now)
    return receipt_of(view, response)


@router.post("/withdrawal", responses=SAID)
def withdraw_request(
    request_id: RequestId,
    session: SessionDep,
    caller: RequestsWithdraw,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Take a request back, as long as nothing has been erased for it."""
    view = service.withdraw(session, request_id, by=caller, expecting=expecting, at=now)
    return receipt_of(view, response)


@router.post("/rejection", responses=SAID)
def reject_request(
    request_id: RequestId,
    body: RejectionIn,
    session: SessionDep,
    caller: RequestsReview,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Refuse a request on a ground of the regulation, having told the person (Art. 12(4))."""
    view = service.reject(
        session,
        request_id,
        by=caller,
        ground=body.ground,
        notice=body.notice.notice(),
        reason=body.reason.get_secret_value() if body.reason else None,
        expecting=expecting,
        at=now,
    )
    return receipt_of(view, response)
