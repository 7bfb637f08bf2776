"""Certificates on the wire."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

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
    supersedes: UUID | None
    """An older certificate of the same request and model that this one takes the place of."""
    superseded_by: UUID | None
    """The one that has taken its place: it is as much as can be said now."""
    audit: str | None
    """What a deep audit of it came to: `clean`, `suspected`, `withdrawn`, `insensitive`; `due`, `void`, or
    nothing where it was not drawn."""


class Revocation(BaseModel):
    """Why a certificate does not stand; the others of these reasons are given by what happens."""

    model_config = ConfigDict(extra="forbid")

    reason: Literal["issued-in-error", "evidence-invalid", "resurfaced", "key-compromise"]


class CheckReport(BaseModel):
    """What the offline checker found, step by step."""

    steps: list[dict[str, Any]]
    claim: dict[str, Any]
    failed: int | None
    exit_code: int
