"""Certificates on the wire."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from app.http.ids import ModelId, RequestId, VersionId


class Certificate(BaseModel):
    """A certificate as it is listed; what it says is in its bundle."""

    id: UUID
    request: RequestId
    model: ModelId
    version: VersionId
    level: str
    state: str
    pae_sha256: str
    issued_at: datetime
    released_at: datetime | None


class CheckReport(BaseModel):
    """What the offline checker found, step by step."""

    steps: list[dict[str, Any]]
    claim: dict[str, Any]
    failed: int | None
    exit_code: int
