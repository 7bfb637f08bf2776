"""Datasets and records on the wire: states, counts and ids; never what a record says."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.http.ids import DatasetId
from app.records.suppression.service import DIGESTS_MAX
from app.storage.locations import URI_CHARACTERS_MAX

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Arm = Literal["train", "held_back"]
Role = Literal["person", "sentinel"]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
EXAMPLE_DIGEST = "d0d0f1c0b6a5ce1a4e7f1ad1f2bb8f9bb0c1a3f2a90c4c6de8d9d1b5a6d7e8f9"


class DatasetCreate(BaseModel):
    """A training set to be registered: a JSONL or Parquet file that the worker can reach."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Name
    uri: Annotated[str, Field(min_length=1, max_length=URI_CHARACTERS_MAX)]
    """An absolute path, or any URI that fsspec knows; without credentials."""
    format: Literal["jsonl", "parquet"] | None = None
    """By default what the name ends in says."""
    hold_back: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """How many clusters of subjects are never trained on; by default 2 %, at least 299, at most 10 %."""


class Progress(BaseModel):
    """How far the reading is."""

    records: int = 0
    bytes: int = 0
    bytes_total: int = 0


class Failure(BaseModel):
    """What was wrong and where; never what stood there."""

    code: str
    line: int | None = None
    other_line: int | None = None
    pointer: str = ""


class Dataset(BaseModel):
    """A dataset as it is shown."""

    id: DatasetId
    name: str
    uri: str
    format: str
    state: Literal["registering", "ready", "failed"]
    records: int | None
    subjects: int | None
    held_back: int | None
    size_bytes: int | None
    digest: str | None
    """SHA-256 of the file as it was registered."""
    lottery_commitment: str | None
    """SHA-256 of the key that drew who is held back; made public before the draw."""
    sketched: bool
    """Whether near duplicates are found in it; a pass of its own, after the registration."""
    progress: Progress
    failure: Failure | None
    created_at: datetime


class Record(BaseModel):
    """One record by its own id; `subject` says only which records belong together."""

    record: str
    subject: str
    role: Role
    arm: Arm


class ScreeningIn(BaseModel):
    """SHA-256 digests of the canonical bytes of records that somebody is about to train on."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"digests": [EXAMPLE_DIGEST], "manifest_digest": EXAMPLE_DIGEST}]},
    )

    digests: Annotated[list[Digest], Field(min_length=1, max_length=DIGESTS_MAX)]
    manifest_digest: Digest | None = None
    """Of the whole training set, by your own rule; kept with the answer, as evidence of what was screened."""


class ScreeningOut(BaseModel):
    """Which of them are barred, by their positions, and how far the list went."""

    manifest_digest: str | None
    list_version: int
    screened: int
    hits: list[int]


def shown(row: Any) -> Dataset:
    """Return a dataset as it is shown."""
    return Dataset(
        id=row.id,
        name=row.name,
        uri=row.uri,
        format=row.format,
        state=row.state,
        records=row.records,
        subjects=row.subjects,
        held_back=row.held_back,
        size_bytes=row.size_bytes,
        digest=_hex(row.digest),
        lottery_commitment=_hex(row.lottery_commitment),
        sketched=row.sketch is not None,
        progress=Progress.model_validate(row.progress),
        failure=None if row.failure is None else Failure.model_validate(row.failure),
        created_at=row.created_at,
    )


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
