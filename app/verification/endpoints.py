"""Verification over HTTP: the health of all verdicts together. Nothing in it is about one person."""

from app.auth.dependencies import AuditRead
from app.errors import Forbidden
from app.http.dependencies import SessionDep
from app.http.problems import responses
from app.http.routing import router as new_router
from app.verification import service
from app.verification.schemas import FleetOut

router = new_router("/v1/verification", tag="Verification")


@router.get("/fleet", responses=responses(Forbidden))
def read_fleet(session: SessionDep, _caller: AuditRead) -> FleetOut:
    """Show whether erasures look, all together, as perfect ones would, and whether any has resurfaced."""
    return FleetOut.model_validate(service.fleet_health(session), from_attributes=True)
