"""Legal holds over HTTP: place one, list them, lift one."""

from typing import Annotated

from fastapi import Query

from app.auth.dependencies import RequestsHold, RequestsRead
from app.erasure import schemas
from app.erasure.bodies import HoldIn
from app.erasure.holds import service as holds
from app.erasure.holds.service import Subject
from app.erasure.matching import NamedRecords
from app.erasure.schemas import HoldOut
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http import pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import HoldId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/holds", tag="Holds")


@router.post("", status_code=201, responses=responses(Conflict, Forbidden, Invalid, NotFound))
def place_hold(body: HoldIn, session: SessionDep, caller: RequestsHold, now: NowDep) -> HoldOut:
    """Keep a request, a record or a model out of every batch; no deadline moves for it."""
    record = body.record
    on = Subject(
        request=body.request,
        record=None if record is None else NamedRecords(dataset=record.dataset, external_ids=[record.id]),
        model=body.model,
    )
    placed = holds.place(
        session,
        on=on,
        reason=body.reason,
        days=body.days,
        external_ref=body.external_ref,
        by=caller,
        at=now,
    )
    return schemas.hold_out(placed)


@router.get("", responses=responses(Forbidden, Invalid))
def list_holds(
    session: SessionDep,
    _caller: RequestsRead,
    keys: KeyringDep,
    now: NowDep,
    active: Annotated[bool | None, Query(description="Only those that hold, or that have ended.")] = None,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[HoldOut]:
    """List holds, newest first."""
    of = f"holds {active}"
    place = pagination.decode(keys.cursor, cursor, of=of)
    after = (place.created_at, place.id) if place else None
    found = holds.listing(session, active=active, now=now, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    return Page(
        items=[schemas.hold_out(each) for each in found[:limit]],
        next=pagination.encode(keys.cursor, Place(last.created_at, last.id), of=of) if last else None,
    )


@router.delete("/{hold_id}", responses=responses(Conflict, Forbidden, NotFound))
def lift_hold(hold_id: HoldId, session: SessionDep, caller: RequestsHold, now: NowDep) -> HoldOut:
    """End a hold: another person than who placed it."""
    return schemas.hold_out(holds.lift(session, hold_id, by=caller, at=now))
