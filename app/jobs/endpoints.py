"""Jobs over HTTP: ask for one, watch it."""

from app.auth.dependencies import JobsRead, JobsRun
from app.errors import Conflict, Forbidden, NotFound
from app.http import pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import JobId, ModelId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router
from app.jobs import service
from app.jobs.schemas import Job, JobAsked, JobDetail, JobRun
from app.jobs.service import JobShown

router = new_router("/v1/jobs", tag="Jobs")

LIST = "jobs"


@router.post("", status_code=202, responses=responses(Conflict, Forbidden, NotFound))
def run_job(body: JobRun, session: SessionDep, _caller: JobsRun, now: NowDep) -> JobAsked:
    """Ask for a job on what is scheduled for a model, now."""
    model = service.run_now(session, body.model, at=now)
    return JobAsked(model=model.id, asked_at=now)


@router.get("", responses=responses(Forbidden))
def list_jobs(
    session: SessionDep,
    _caller: JobsRead,
    keyring: KeyringDep,
    model: ModelId | None = None,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Job]:
    """List jobs, newest first."""
    of = f"{LIST}:{model}"
    place = pagination.decode(keyring.cursor, cursor, of=of)
    before = (place.created_at, place.id) if place else None
    found = service.listing(session, model_id=model, limit=limit + 1, before=before)
    last = Place(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None
    return Page(
        items=[_shown(each) for each in found[:limit]],
        next=pagination.encode(keyring.cursor, last, of=of) if last else None,
    )


@router.get("/{job_id}", responses=responses(Forbidden, NotFound))
def read_job(job_id: JobId, session: SessionDep, _caller: JobsRead) -> JobDetail:
    """Show one job with everything it has done."""
    found = service.read(session, job_id)
    return JobDetail(**_shown(found).model_dump(mode="python"), steps=service.steps(session, job_id))


def _shown(job: JobShown) -> Job:
    return Job.model_validate(job, from_attributes=True)
