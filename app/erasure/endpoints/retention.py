"""What is kept how long, and what is past its date: over HTTP."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from app import retention
from app.auth.dependencies import AuditRead
from app.erasure.forgetting import purge
from app.errors import Forbidden
from app.http.dependencies import NowDep, SessionDep
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/retention", tag="Retention")

EXAMPLE: dict[str, Any] = {
    "version": "2026-1",
    "kept_days": {
        "person": 30,
        "tombstone": 2192,
        "epochs": 35,
        "receipts": 1,
        "deliveries": 30,
        "openings": 30,
        "sessions": 14,
        "codes": 1,
        "logs": 14,
    },
    "backlog": {"requests": 0, "held": 1, "anchored": 2, "tombstones": 0},
}


class BacklogOut(BaseModel):
    """How many are past their date: to be purged, kept by a hold or an audit, kept until a compaction."""

    requests: int
    held: int
    anchored: int
    tombstones: int


class RetentionOut(BaseModel):
    """How many days each class of data is kept, and what is past its date."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    version: str
    kept_days: dict[str, int]
    backlog: BacklogOut


@router.get("", responses=responses(Forbidden))
def read_retention(session: SessionDep, _caller: AuditRead, now: NowDep) -> RetentionOut:
    """Read what is kept how long, and how much of it is past its date and still there."""
    return RetentionOut(
        version=retention.POLICY.version,
        kept_days={name: span.days for name, span in retention.spans().items()},
        backlog=BacklogOut(**vars(purge.backlog(session, now))),
    )
