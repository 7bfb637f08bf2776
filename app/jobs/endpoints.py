"""Jobs over HTTP: ask for one, watch it; see how far a model is from its anchor, and have that mended."""

from datetime import datetime
from typing import Annotated

from fastapi import Path, Response

from app.auth.dependencies import JobsRead, JobsRun, JobsWatch, ModelsFreeze, ModelsRead
from app.errors import Conflict, Forbidden, NotFound
from app.http import pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import JobId, ModelId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.preconditions import weak_tag
from app.http.problems import responses
from app.http.routing import router as new_router
from app.http.watching import Seen, WatchDep
from app.jobs import scheduling, service
from app.jobs.lifecycle import JobState
from app.jobs.scheduling import Standing
from app.jobs.schemas import Compaction, Job, JobAsked, JobDetail, JobRun, Outstanding
from app.jobs.views import JobShown
from app.storage.database import Session

router = new_router("/v1/jobs", tag="Jobs")
models = new_router("/v1/models", tag="Models")

LIST = "jobs"
ModelName = Annotated[str, Path(max_length=63)]


@router.post("", status_code=202, responses=responses(Conflict, Forbidden, NotFound))
def run_job(body: JobRun, session: SessionDep, _caller: JobsRun, now: NowDep) -> JobAsked:
    """Ask for a job on what is scheduled for a model, now."""
    model = scheduling.run_now(session, body.model, at=now)
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


@router.get("/{job_id}", response_model=JobDetail, responses=responses(Forbidden, NotFound))
async def read_job(job_id: JobId, _caller: JobsWatch, watch: WatchDep) -> Response:
    """Show one job with everything it has done; or wait until there is more to show."""

    def read(session: Session, _now: datetime) -> Seen:
        found = service.read(session, job_id)
        body = JobDetail(**_shown(found).model_dump(mode="python"), steps=service.steps(session, job_id))
        running = body.state == JobState.RUNNING
        return Seen(body=body, tag=weak_tag(body.model_dump_json()), retry_after=5 if running else None)

    return await watch.answer(read)


@models.get("/{name}/compaction", responses=responses(Conflict, Forbidden, NotFound))
def read_compaction(name: ModelName, session: SessionDep, _caller: ModelsRead, now: NowDep) -> Compaction:
    """Show how far a model is from its anchor, and whether a compaction is due."""
    return _standing(scheduling.read_standing(session, name, now=now))


@models.post("/{name}/compaction", status_code=202, responses=responses(Conflict, Forbidden, NotFound))
def compact_model(name: ModelName, session: SessionDep, caller: ModelsFreeze, now: NowDep) -> Compaction:
    """Have what was erased approximately made exact now; a job appears in the list once a worker opens it."""
    return _standing(scheduling.compact_now(session, name, principal_id=caller.principal_id, at=now))


def _standing(found: Standing) -> Compaction:
    between = found.outstanding
    return Compaction(
        model=found.model,
        anchor=found.anchor,
        anchor_live_at=found.anchor_live_at,
        deltas=found.deltas,
        outstanding=Outstanding(
            requests=between.requests,
            since=between.since,
            records=between.records,
            share=None if between.share is None else f"{between.share:.6f}",
            retain_rise=None if between.retain_rise is None else f"{between.retain_rise:.6f}",
        ),
        reason=found.reason,
        due_by=found.due_by,
        not_before=found.not_before,
        asked_at=found.asked_at,
    )


def _shown(job: JobShown) -> Job:
    return Job.model_validate(job, from_attributes=True)
