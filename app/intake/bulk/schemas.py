"""Imports on the wire: counts, codes and places; nothing of what a file said."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.http import ids
from app.http.ids import ImportId, PrincipalId, RequestId
from app.http.problems import ErrorAt
from app.intake.bulk.service import Became, Trial
from app.tables import Import

Outcome = Literal["pending", "created", "duplicate", "invalid"]


class ImportLinks(BaseModel):
    """Where to go on."""

    self: str
    rows: str


class ImportOut(BaseModel):
    """A file of requests, and how far it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "imp_01kaj9hm2qf8ps6g9xqj4w0v7d",
                    "state": "working",
                    "format": "csv",
                    "rows": 1000,
                    "done": 400,
                    "created": 397,
                    "duplicate": 1,
                    "invalid": 2,
                    "submitted_by": "pr_01kaj9d1gce6tt3z2hk5xv8m4q",
                    "received_at": "2026-11-21T12:00:00Z",
                    "ended_at": None,
                    "links": {
                        "self": "/v1/imports/imp_01kaj9hm2qf8ps6g9xqj4w0v7d",
                        "rows": "/v1/imports/imp_01kaj9hm2qf8ps6g9xqj4w0v7d/rows",
                    },
                }
            ]
        }
    )

    id: ImportId
    state: Literal["working", "done"]
    format: Literal["ndjson", "csv"]
    rows: int
    done: int
    created: int
    duplicate: int
    """A request of yours had the reference already, for the same person or records."""
    invalid: int
    submitted_by: PrincipalId
    received_at: datetime
    ended_at: datetime | None
    links: ImportLinks


class RowOut(BaseModel):
    """What became of a row; where and why it was refused, never what stood there."""

    row: int
    line: int
    outcome: Outcome
    errors: list[ErrorAt]
    request: RequestId | None
    external_ref: str | None


class TrialOut(BaseModel):
    """What an import would come to; nothing of it was kept."""

    dry_run: Literal[True] = True
    rows: int
    created: int
    duplicate: int
    invalid: int
    shown: list[RowOut]
    """The first rows that would not become requests."""


def import_out(row: Import) -> ImportOut:
    """Return an import as it is shown."""
    here = f"/v1/imports/{ids.encode('imp', row.id)}"
    return ImportOut.model_validate(
        {
            "id": row.id,
            "state": row.state,
            "format": row.format,
            "rows": row.rows,
            "done": row.created + row.duplicate + row.invalid,
            "created": row.created,
            "duplicate": row.duplicate,
            "invalid": row.invalid,
            "submitted_by": row.submitted_by,
            "received_at": row.received_at,
            "ended_at": row.ended_at,
            "links": {"self": here, "rows": f"{here}/rows"},
        }
    )


def row_out(row: Became) -> RowOut:
    """Return a row's outcome."""
    return RowOut.model_validate(
        {
            "row": row.number,
            "line": row.line,
            "outcome": row.outcome,
            "errors": [{"pointer": pointer, "code": code} for pointer, code in row.errors],
            "request": row.request_id,
            "external_ref": row.external_ref,
        }
    )


def trial_out(trial: Trial) -> TrialOut:
    """Return what an import would come to."""
    return TrialOut(
        rows=trial.rows,
        created=trial.created,
        duplicate=trial.duplicate,
        invalid=trial.invalid,
        shown=[row_out(each) for each in trial.shown],
    )
