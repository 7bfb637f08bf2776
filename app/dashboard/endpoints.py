"""How the service does, over HTTP: counts and durations of all requests, of nobody's."""

from app.auth.dependencies import RequestsRead
from app.dashboard import service
from app.dashboard.schemas import DwellOut, FunnelOut, SlaOut
from app.errors import Forbidden
from app.http.dependencies import NowDep, SessionDep
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/stats", tag="Statistics")


@router.get("/sla", responses=responses(Forbidden))
def read_sla(session: SessionDep, _caller: RequestsRead, now: NowDep) -> SlaOut:
    """Say how requests stand to their dates: due in seven days, overdue, answered late, how fast."""
    found = service.sla(session, now=now)
    return SlaOut(
        open=found.open,
        overdue=found.overdue,
        due_in_7_days=found.due_soon,
        due_next_at=found.due_next_at,
        past_internal_target=found.past_target,
        answered=found.answered,
        answered_late=found.answered_late,
        breaches=found.answered_late + found.overdue,
        median_days=found.median_days,
        p90_days=found.p90_days,
    )


@router.get("/funnel", responses=responses(Forbidden))
def read_funnel(session: SessionDep, _caller: RequestsRead) -> FunnelOut:
    """Say how many requests stand in which state, and how long they stay there (median and p90)."""
    return FunnelOut(states=[DwellOut.model_validate(vars(each)) for each in service.funnel(session)])
