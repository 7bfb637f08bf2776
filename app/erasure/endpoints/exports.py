"""Requests to take along: every one that a filter means, streamed in constant memory; nothing is kept."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Depends, Query, Response

from app.auth.dependencies import RequestsWatch
from app.erasure import reading, schemas
from app.erasure.endpoints.lines import Wanted
from app.erasure.endpoints.requests import wanted
from app.erasure.lifecycle import Sort
from app.erasure.schemas import RequestOut
from app.errors import Forbidden, Invalid
from app.http import streaming
from app.http.cells import csv_line
from app.http.dependencies import NowDep
from app.http.problems import responses
from app.http.routing import router as new_router
from app.http.streaming import TransactionDep
from app.storage.database import Transaction

router = new_router("/v1/exports", tag="Erasure requests")

PAGE_ROWS = 200
COLUMNS = (
    "id",
    "state",
    "outcome",
    "attention",
    "external_ref",
    "received_at",
    "due_on",
    "due_at",
    "due_without_pause",
    "internal_target",
    "overdue",
    "clock_paused",
    "legal_hold",
    "records_matched",
    "records_exempt",
    "approvals",
    "approvals_needed",
    "ground",
    "notified_on",
    "concluded_at",
    "duplicate_of",
    "identity_method",
    "submitted_by",
    "policy",
    "calendar",
)
"""Of a request as it is shown, what is one value; then how many models, and the certificates."""


@router.get(
    "",
    response_class=streaming.NdjsonResponse,
    responses={**streaming.LINES_OR_TABLE, **responses(Forbidden, Invalid)},
)
def export_requests(
    caller: RequestsWatch,
    transaction: TransactionDep,
    now: NowDep,
    wanted: Annotated[Wanted, Depends(wanted)],
    format: Annotated[Literal["ndjson", "csv"], Query()] = "ndjson",  # noqa: A002  the field's word
) -> Response:
    """Stream every request that the filters of the list mean; that somebody took them along is kept.

    CSV is quoted throughout, and no spreadsheet computes anything of it. Dates are those that are stored.
    """
    with transaction() as session:
        reading.exported(session, by=caller, form=format, at=now)
    if format == "csv":
        return streaming.CsvResponse(
            _csv(transaction, wanted, now), headers=streaming.attached("requests.csv")
        )
    return streaming.NdjsonResponse(_ndjson(transaction, wanted, now))


def _pages(transaction: Transaction, wanted: Wanted, now: datetime) -> Iterator[list[RequestOut]]:
    """Yield pages, each read in a transaction of its own: a slow reader holds nothing."""
    after = None
    while True:
        with transaction() as session:
            views = reading.listing(
                session, chosen=wanted.chosen, sort=wanted.sort, now=now, after=after, limit=PAGE_ROWS
            )
        if not views:
            return
        yield [schemas.shown(view, now) for view in views]
        last = views[-1].request
        after = (last.created_at if wanted.sort is Sort.NEWEST else last.due_at, last.id)


def _ndjson(transaction: Transaction, wanted: Wanted, now: datetime) -> Iterator[bytes]:
    for page in _pages(transaction, wanted, now):
        yield b"".join(row.model_dump_json().encode() + b"\n" for row in page)


def _csv(transaction: Transaction, wanted: Wanted, now: datetime) -> Iterator[bytes]:
    yield csv_line((*COLUMNS, "models", "certificates"))
    for page in _pages(transaction, wanted, now):
        yield b"".join(_line(row) for row in page)


def _line(row: RequestOut) -> bytes:
    shown = row.model_dump(mode="json", include={*COLUMNS})
    certificates = " ".join(str(each.certificate) for each in row.targets if each.certificate is not None)
    return csv_line((*(_word(shown[name]) for name in COLUMNS), len(row.targets), certificates))


def _word(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
