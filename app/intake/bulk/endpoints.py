"""Files of requests over HTTP: import, try, watch, read what became of each row."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Header, Query, Request, Response

from app.auth.dependencies import RequestsCreate, RequestsRead, RequestsWatch
from app.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from app.http import ids, pagination, streaming
from app.http.cells import csv_line
from app.http.dependencies import KeyringDep, NowDep, RawBodyDep, SessionDep, SettingsDep
from app.http.ids import ImportId
from app.http.limiting import RateLimiter
from app.http.pagination import Cursor, Limit, Page, Place
from app.http.problems import MEDIA_TYPE, ProblemDetails, responses
from app.http.routing import router as new_router
from app.http.streaming import TransactionDep
from app.intake.bulk import schemas, service
from app.intake.bulk.rows import TEMPLATE
from app.intake.bulk.schemas import ImportOut, Outcome, TrialOut
from app.storage.database import Transaction

router = new_router("/v1/imports", tag="Imports")

PATH = "/v1/imports"
LIST = "imports"
RETRY_SECONDS = 2
FORMATS = {"application/x-ndjson": "ndjson", "application/jsonl": "ndjson", "text/csv": "csv"}
ROWS_HEADER = ("row", "line", "outcome", "request", "external_ref", "errors")
OTHERWISE: dict[int | str, dict[str, Any]] = {
    200: {"model": ImportOut | TrialOut, "description": "A trial; or the import that the file already is."},
    413: {"model": ProblemDetails, "description": "The file is too large.", "content": {MEDIA_TYPE: {}}},
    415: {"model": ProblemDetails, "description": "It is neither of the two.", "content": {MEDIA_TYPE: {}}},
}
TABLE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The columns.", "content": {"text/csv": {"schema": {"type": "string"}}}}
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"subject":{"type":"email","value":"ada@example.org"},"external_ref":"T-1"}\n',
            },
            "text/csv": {
                "schema": {"type": "string"},
                "example": "external_ref,email\r\nT-1,ada@example.org\r\n",
            },
        },
    }
}


@router.post(
    "",
    status_code=202,
    openapi_extra=BODY,
    response_model=ImportOut | TrialOut,
    responses={**OTHERWISE, **responses(Conflict, Forbidden, Invalid, Unavailable)},
)
def import_requests(
    request: Request,
    raw: RawBodyDep,
    session: SessionDep,
    caller: RequestsCreate,
    keys: KeyringDep,
    settings: SettingsDep,
    now: NowDep,
    response: Response,
    content_type: Annotated[str, Header(include_in_schema=False)] = "",
    dry_run: Annotated[bool, Query(description="Say what would become of each row; keep nothing.")] = False,  # noqa: FBT002  a query
    again: Annotated[  # noqa: FBT002  a query
        bool, Query(description="Import the same file once more; else it is the import that it was.")
    ] = False,
) -> ImportOut | TrialOut:
    """Import requests from a file, NDJSON or CSV; a worker receives them row by row, each once.

    NDJSON has the body of a single request on each line. CSV names its columns on the first line; see
    `GET /v1/imports/template`. Who asked somebody else before may have `submitted_at`: dates run from it.
    """
    limiter: RateLimiter = request.app.state.limiter
    limiter.require_import(caller.principal_id)
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in FORMATS:
        raise Invalid(f"a file is one of {', '.join(FORMATS)}", code="media-type-unsupported")
    if dry_run:
        response.status_code = HTTPStatus.OK
        trial = service.check(
            session,
            raw,
            format=FORMATS[kind],
            by=caller,
            subject_key=keys.subject,
            rows_max=settings.import_rows_max,
            at=now,
        )
        return schemas.trial_out(trial)
    taken, new = service.take_in(
        session,
        raw,
        format=FORMATS[kind],
        by=caller,
        subject_key=keys.subject,
        mark_key=keys.idempotency,
        rows_max=settings.import_rows_max,
        again=again,
        at=now,
    )
    if not new:
        response.status_code = HTTPStatus.OK
    response.headers["Location"] = f"{PATH}/{ids.encode('imp', taken.id)}"
    return schemas.import_out(taken)


@router.get("", responses=responses(Forbidden, Invalid))
def list_imports(
    session: SessionDep,
    _caller: RequestsRead,
    keys: KeyringDep,
    limit: Limit = pagination.ROWS_DEFAULT,
    cursor: Cursor = None,
) -> Page[ImportOut]:
    """List imports, newest first."""
    place = pagination.decode(keys.cursor, cursor, of=LIST)
    after = (place.created_at, place.id) if place else None
    found = service.listing(session, after=after, limit=limit + 1)
    last = Place(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None
    return Page(
        items=[schemas.import_out(each) for each in found[:limit]],
        next=pagination.encode(keys.cursor, last, of=LIST) if last else None,
    )


@router.get("/template", response_class=Response, responses={**TABLE, **responses(Forbidden)})
def read_template(_caller: RequestsRead) -> Response:
    """Return a CSV file with the columns there are, and no row."""
    return Response(
        ",".join(TEMPLATE) + "\r\n",
        media_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="requests.csv"'},
    )


@router.get("/{import_id}", responses=responses(Forbidden, NotFound))
def read_import(
    import_id: ImportId, session: SessionDep, _caller: RequestsRead, response: Response
) -> ImportOut:
    """Read how far an import is."""
    found = service.read(session, import_id)
    if found.state != "done":
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return schemas.import_out(found)


@router.get(
    "/{import_id}/rows",
    response_class=streaming.NdjsonResponse,
    responses={**streaming.LINES_OR_TABLE, **responses(Forbidden, Invalid, NotFound)},
)
def read_rows(
    import_id: ImportId,
    _caller: RequestsWatch,
    transaction: TransactionDep,
    outcome: Annotated[list[Outcome] | None, Query(description="Only these outcomes.")] = None,
    format: Annotated[Literal["ndjson", "csv"], Query()] = "ndjson",  # noqa: A002  the field's word
) -> Response:
    """Stream what became of each row, in the order of the file."""
    with transaction() as session:
        service.read(session, import_id)
    if format == "csv":
        return streaming.CsvResponse(
            _csv(transaction, import_id, outcome or ()), headers=streaming.attached("import-rows.csv")
        )
    return streaming.NdjsonResponse(_ndjson(transaction, import_id, outcome or ()))


def _pages(
    transaction: Transaction, import_id: UUID, outcome: list[Outcome] | tuple[()]
) -> Iterator[list[schemas.RowOut]]:
    after = 0
    while True:
        with transaction() as session:
            page = service.outcomes(session, import_id, among=outcome, after=after)
        if not page:
            return
        yield [schemas.row_out(each) for each in page]
        after = page[-1].number


def _ndjson(transaction: Transaction, import_id: UUID, outcome: list[Outcome] | tuple[()]) -> Iterator[bytes]:
    for page in _pages(transaction, import_id, outcome):
        yield b"".join(row.model_dump_json().encode() + b"\n" for row in page)


def _csv(transaction: Transaction, import_id: UUID, outcome: list[Outcome] | tuple[()]) -> Iterator[bytes]:
    yield csv_line(ROWS_HEADER)
    for page in _pages(transaction, import_id, outcome):
        lines = []
        for row in page:
            shown = row.model_dump(mode="json")
            shown["errors"] = " ".join(f"{each.pointer}:{each.code}" for each in row.errors)
            lines.append(csv_line(shown[name] for name in ROWS_HEADER))
        yield b"".join(lines)
