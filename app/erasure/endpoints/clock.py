"""A request's clock over HTTP: proof of identity, pauses, extension."""

from fastapi import Response
from pydantic import BaseModel

from app.auth.dependencies import RequestsExtend, RequestsProve, RequestsRead
from app.auth.scopes import Scope
from app.erasure import schemas, timing
from app.erasure.bodies import ExtensionIn, IdentityProofIn, PauseEndIn, PauseIn
from app.erasure.endpoints.decisions import SAID
from app.erasure.endpoints.requests import receipt_of
from app.erasure.identity import service as identity
from app.erasure.schemas import PauseOut, Receipt
from app.errors import Forbidden, NotFound
from app.http.dependencies import KeyringDep, NowDep, SessionDep, TransactionDep
from app.http.ids import PauseId, RequestId
from app.http.preconditions import ExpectedDep
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/erasure-requests/{request_id}", tag="Erasure requests")


class PauseReceipt(BaseModel):
    """The pause that began, and the request as it is now."""

    pause: PauseOut
    request: Receipt


@router.post("/identity-proofs", status_code=201, responses=SAID)
def confirm_identity(
    request_id: RequestId,
    body: IdentityProofIn,
    session: SessionDep,
    transaction: TransactionDep,
    caller: RequestsProve,
    keys: KeyringDep,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Accept a proof of who asks; the clock runs again, and the records are searched for.

    A code may be brought by the source that submitted the request (`requests:create`); how else somebody
    has proven who they are, an officer says (`requests:resolve`). A guess counts, whatever becomes of it.
    """
    officer = Scope.REQUESTS_RESOLVE in caller.scopes
    if body.code is not None:
        if not officer:
            identity.may_speak_for(session, request_id, principal_id=caller.principal_id)
        known = identity.knows(transaction, keys.api, request_id, body.code.get_secret_value(), at=now)
        view = identity.prove(session, request_id, known, by=caller.principal_id, expecting=expecting, at=now)
        return receipt_of(view, response)
    caller.require(Scope.REQUESTS_RESOLVE)
    assert body.method is not None, "one of the two was given"
    view = timing.confirm_identity(
        session,
        request_id,
        method=body.method,
        evidence=body.evidence.get_secret_value() if body.evidence else None,
        by=caller,
        expecting=expecting,
        at=now,
    )
    return receipt_of(view, response)


@router.get("/clock-pauses", responses=responses(Forbidden, NotFound))
def list_pauses(request_id: RequestId, session: SessionDep, _caller: RequestsRead) -> list[PauseOut]:
    """Read from when to when the clock stood still."""
    return [schemas.pause_out(each) for each in timing.pauses(session, request_id)]


@router.post("/clock-pauses", status_code=201, responses=SAID)
def pause_clock(
    request_id: RequestId,
    body: PauseIn,
    session: SessionDep,
    caller: RequestsExtend,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> PauseReceipt:
    """Stop the clock while it is in doubt who asks (Art. 12(6)); nothing else stops it."""
    view, pause = timing.pause(
        session, request_id, asked_on=body.asked_on, by=caller, expecting=expecting, at=now
    )
    return PauseReceipt(pause=schemas.pause_out(pause), request=receipt_of(view, response))


@router.post("/clock-pauses/{pause_id}/end", responses=SAID)
def resume_clock(
    request_id: RequestId,
    pause_id: PauseId,
    body: PauseEndIn,
    session: SessionDep,
    caller: RequestsExtend,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Let the clock run again: the person has answered."""
    view = timing.resume(
        session,
        request_id,
        pause_id,
        answered_on=body.answered_on,
        by=caller,
        expecting=expecting,
        at=now,
    )
    return receipt_of(view, response)


@router.post("/extensions", status_code=201, responses=SAID)
def extend_request(
    request_id: RequestId,
    body: ExtensionIn,
    session: SessionDep,
    caller: RequestsExtend,
    expecting: ExpectedDep,
    now: NowDep,
    response: Response,
) -> Receipt:
    """Take three months from receipt, once, having told the person inside the first (Art. 12(3))."""
    view = timing.extend(
        session,
        request_id,
        reason=body.reason,
        notice=body.notice.notice(),
        by=caller,
        expecting=expecting,
        at=now,
    )
    return receipt_of(view, response)
