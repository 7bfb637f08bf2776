"""Models over HTTP: create a line, list them as OpenAI does, read a line and its versions."""

from typing import Annotated

from fastapi import Path, Response

from app.auth.dependencies import ModelsFreeze, ModelsRead, ModelsRegister
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http.dependencies import NowDep, SessionDep
from app.http.problems import responses
from app.http.routing import router as new_router
from app.registry import schemas, service
from app.registry.schemas import Model, ModelCreate, ModelList, Version, VersionList

router = new_router("/v1/models", tag="Models")

ModelName = Annotated[str, Path(max_length=63)]


@router.post("", status_code=202, responses=responses(Conflict, Forbidden, Invalid, NotFound))
def create_model(
    body: ModelCreate, session: SessionDep, caller: ModelsRegister, now: NowDep, response: Response
) -> Model:
    """Begin a model line; a worker trains its first version and its references, or takes the upload."""
    service.create_model(
        session,
        caller.principal_id,
        name=body.name,
        dataset=body.dataset,
        base=body.base,
        recipe=None if body.recipe is None else body.recipe.model_dump(),
        recorded=None if body.recorded is None else body.recorded.model_dump(),
        references=body.references_wanted,
        verification_policy=body.verification_policy,
        jobs_policy=body.jobs_policy,
        assurance_min=body.assurance_min,
        upload=body.upload,
        at=now,
    )
    response.headers["Location"] = f"/v1/models/{body.name}"
    return schemas.shown(service.overviews(session, body.name)[0])


@router.post("/{name}/resumption", responses=responses(Conflict, Forbidden, NotFound))
def resume_model(name: ModelName, session: SessionDep, caller: ModelsFreeze, now: NowDep) -> Model:
    """Begin again on a model that was paused after failed jobs, or frozen; somebody has looked at why."""
    service.resume(session, name, principal_id=caller.principal_id, at=now)
    return schemas.shown(service.overviews(session, name)[0])


@router.get("", responses=responses(Forbidden))
def list_models(session: SessionDep, _caller: ModelsRead) -> ModelList:
    """List the model lines."""
    return ModelList(data=[schemas.shown(overview) for overview in service.overviews(session)])


@router.get("/{name}", responses=responses(Forbidden, NotFound))
def read_model(name: ModelName, session: SessionDep, _caller: ModelsRead) -> Model:
    """Return a model line: what is live, and how far the version begun last is."""
    return schemas.shown(service.overviews(session, name)[0])


@router.get("/{name}/versions", responses=responses(Forbidden, NotFound))
def list_versions(name: ModelName, session: SessionDep, _caller: ModelsRead) -> VersionList:
    """List every version of a line, oldest first."""
    model = service.named(session, name)
    return VersionList(items=[schemas.shown_version(row) for row in service.versions(session, model.id)])


@router.get("/{name}/versions/{number}", responses=responses(Forbidden, NotFound))
def read_version(name: ModelName, number: int, session: SessionDep, _caller: ModelsRead) -> Version:
    """Return a published version."""
    model = service.named(session, name)
    return schemas.shown_version(service.numbered(session, model.id, number))
