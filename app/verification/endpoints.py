"""Verification over HTTP: the health of all verdicts, and deep audits. Nothing is about one person."""

from app.auth.dependencies import AuditRead, JobsRun
from app.errors import Conflict, Forbidden, NotFound
from app.http import pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import AuditId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router
from app.verification import audits as held
from app.verification import service
from app.verification.schemas import Audit, AuditAsk, FleetOut

router = new_router("/v1/verification", tag="Verification")
audits = new_router("/v1/audits", tag="Verification")

LIST = "audits"


@router.get("/fleet", responses=responses(Forbidden))
def read_fleet(session: SessionDep, _caller: AuditRead) -> FleetOut:
    """Show whether erasures look, all together, as perfect ones would, and whether any has resurfaced."""
    return FleetOut.model_validate(service.fleet_health(session), from_attributes=True)


@audits.post("", status_code=202, responses=responses(Conflict, Forbidden, NotFound))
def ask_for_audit(body: AuditAsk, session: SessionDep, _caller: JobsRun, now: NowDep) -> Audit:
    """Have everybody whom a job certified audited deeply, whether or not the lot fell on them."""
    return Audit.model_validate(held.ask(session, body.job, at=now), from_attributes=True)


@audits.get("", responses=responses(Forbidden))
def list_audits(
    session: SessionDep,
    _caller: AuditRead,
    keyring: KeyringDep,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Audit]:
    """List deep audits, newest first."""
    place = pagination.decode(keyring.cursor, cursor, of=LIST)
    before = (place.created_at, place.id) if place else None
    found = held.listing(session, limit=limit + 1, before=before)
    last = Place(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None
    return Page(
        items=[Audit.model_validate(each, from_attributes=True) for each in found[:limit]],
        next=pagination.encode(keyring.cursor, last, of=LIST) if last else None,
    )


@audits.get("/{audit_id}", responses=responses(Forbidden, NotFound))
def read_audit(audit_id: AuditId, session: SessionDep, _caller: AuditRead) -> Audit:
    """Show one deep audit: what it looked at, what it could see, and what it came to."""
    return Audit.model_validate(held.read(session, audit_id), from_attributes=True)
