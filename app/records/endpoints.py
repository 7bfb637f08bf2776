"""Datasets over HTTP: submit, read, list, the ids of their records; and what no training may bring back."""

import json
from collections.abc import Iterator
from typing import Annotated
from uuid import UUID

from fastapi import Query, Request, Response

from app.auth.dependencies import (
    ModelsRead,
    RecordsLookup,
    RecordsRegister,
    RecordsScreen,
    RecordsScreenStream,
)
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.http import ids, pagination, streaming
from app.http.dependencies import KeyringDep, NowDep, SessionDep
from app.http.ids import DatasetId
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import responses
from app.http.routing import router as new_router
from app.http.streaming import TransactionDep
from app.records import schemas, service
from app.records.schemas import Arm, DatasetCreate, Record, Role, ScreeningIn, ScreeningOut
from app.records.suppression import service as suppression
from app.storage.database import Transaction

router = new_router("/v1/datasets", tag="Datasets")

bars = new_router("/v1/suppression", tag="Suppression list")

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


@bars.get("", response_class=streaming.NdjsonResponse, responses=responses(Forbidden, Invalid))
def list_suppressed(
    _request: Request,
    transaction: TransactionDep,
    caller: RecordsScreenStream,
    now: NowDep,
    after: Annotated[int, Query(ge=0, le=2**53 - 1, description="The last number that you have.")] = 0,
) -> Response:
    """Stream the suppression list: keyed hashes of contents, of use to who was given its key, else to nobody.

    Its last line says that it is whole: `{"end": true, "list_version": ..., "entries": ...}`.
    """
    with transaction() as session:
        suppression.listed(session, by=caller.principal_id, after=after, at=now)
    return streaming.NdjsonResponse(_bars(transaction, after))


@bars.post("/screenings", responses=responses(Forbidden, Invalid))
def screen_records(
    body: ScreeningIn, session: SessionDep, caller: RecordsScreen, keyring: KeyringDep, now: NowDep
) -> ScreeningOut:
    """Say which records must not be trained on, by the position of their digests; audited."""
    found = suppression.screen(
        session,
        [bytes.fromhex(each) for each in body.digests],
        manifest=body.manifest_digest,
        key=keyring.suppression,
        by=caller.principal_id,
        at=now,
    )
    return ScreeningOut(
        manifest_digest=body.manifest_digest,
        list_version=found.list_version,
        screened=len(body.digests),
        hits=found.hits,
    )


def _bars(transaction: Transaction, after: int) -> Iterator[bytes]:
    """Yield the list page by page, each in a transaction of its own: a slow reader holds nothing."""
    entries = 0
    while True:
        with transaction() as session:
            page = suppression.page(session, after=after)
        if not page:
            break
        yield b"".join(
            b'{"number":%d,"digest":"%b"}\n' % (bar.number, bar.mac.hex().encode()) for bar in page
        )
        after, entries = page[-1].number, entries + len(page)
    yield json.dumps({"end": True, "list_version": after, "entries": entries}).encode() + b"\n"
