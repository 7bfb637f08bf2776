"""Datasets over HTTP: submit, read, list, and the ids of their records."""

from uuid import UUID

from fastapi import Response

from app.auth.dependencies import ModelsRead, RecordsLookup, RecordsRegister
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http import ids, pagination
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import DatasetId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router
from app.records import schemas, service
from app.records.schemas import Arm, DatasetCreate, Record, Role

router = new_router("/v1/datasets", tag="Datasets")

LIST = "datasets"


@router.post("", status_code=202, responses=responses(Conflict, Forbidden, Invalid))
def register_dataset(
    body: DatasetCreate,
    session: SessionDep,
    caller: RecordsRegister,
    keyring: KeyringDep,
    now: NowDep,
    response: Response,
) -> schemas.Dataset:
    """Submit a training set; a worker reads it, and registers all of it or nothing."""
    dataset = service.register(
        session,
        caller.principal_id,
        name=body.name,
        uri=body.uri,
        format=body.format,
        hold_back=body.hold_back,
        lottery_key=keyring.lottery,
        at=now,
    )
    response.headers["Location"] = f"/v1/datasets/{ids.encode('ds', dataset.id)}"
    return schemas.shown(dataset)


@router.get("", responses=responses(Forbidden, Invalid))
def list_datasets(
    session: SessionDep,
    _caller: ModelsRead,
    keyring: KeyringDep,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[schemas.Dataset]:
    """List the datasets, newest first."""
    place = pagination.decode(keyring.cursor, cursor, of=LIST)
    after = (place.created_at, place.id) if place else None
    found = service.listing(session, after=after, limit=limit + 1)
    last = Place(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None
    return Page(
        items=[schemas.shown(dataset) for dataset in found[:limit]],
        next=pagination.encode(keyring.cursor, last, of=LIST) if last else None,
    )


@router.get("/{dataset_id}", responses=responses(Forbidden, NotFound))
def read_dataset(dataset_id: DatasetId, session: SessionDep, _caller: ModelsRead) -> schemas.Dataset:
    """Return a dataset: how far its registration is, what was registered, or what was wrong."""
    return schemas.shown(service.read(session, dataset_id))


@router.get("/{dataset_id}/records", responses=responses(Conflict, Forbidden, Invalid, NotFound))
def list_records(
    dataset_id: DatasetId,
    session: SessionDep,
    caller: RecordsLookup,
    keyring: KeyringDep,
    now: NowDep,
    arm: Arm | None = None,
    role: Role | None = None,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[Record]:
    """List the ids of a dataset's records and which belong together; never what they say. Audited."""
    of = f"records/{dataset_id}/{arm}/{role}"
    place = pagination.decode(keyring.cursor, cursor, of=of)
    found = service.page(
        session,
        dataset_id,
        caller.principal_id,
        arm=arm,
        role=role,
        after=place.id.int if place else None,
        limit=limit,
        at=now,
    )
    last = Place(pagination.EPOCH, UUID(int=found[limit - 1].id)) if len(found) > limit else None
    return Page(
        items=[
            Record.model_validate(
                {
                    "record": row.external_id,
                    "subject": service.group_token(keyring.subject, row.cluster),
                    "role": row.role,
                    "arm": row.arm,
                }
            )
            for row in found[:limit]
        ],
        next=pagination.encode(keyring.cursor, last, of=of) if last else None,
    )
