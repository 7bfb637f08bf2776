"""Requests on the wire: what comes in may be personal, nothing that goes out is."""

from datetime import date, datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.erasure.lifecycle import Ground, State
from app.erasure.service import View
from app.http import ids
from app.http.ids import JobId, ModelId, PrincipalId, RequestId, VersionId
from app.records import content
from app.records.service import RECORD_IDS_MAX

IDENTIFIERS_MAX = 20
STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)

IdentifierType = Annotated[str, StringConstraints(pattern=content.TYPE_PATTERN)]
RecordIdText = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,256}$")]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class IdentifierIn(BaseModel):
    """What a person is known by; kept as a keyed hash alone."""

    model_config = STRICT

    type: IdentifierType
    value: Annotated[SecretStr, Field(min_length=1, max_length=512)]


class RecordsIn(BaseModel):
    """Records by the ids that their dataset gives them."""

    model_config = STRICT

    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    ids: Annotated[list[RecordIdText], Field(min_length=1, max_length=RECORD_IDS_MAX)]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class ErasureRequestCreate(BaseModel):
    """Whom or what to forget: a person by one or more identifiers, or records by their ids."""

    model_config = STRICT

    subject: (
        Annotated[
            list[IdentifierIn], BeforeValidator(_listed), Field(min_length=1, max_length=IDENTIFIERS_MAX)
        ]
        | None
    ) = None
    records: RecordsIn | None = None
    external_ref: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/#-]{1,128}$")] | None = None
    """Your own ticket number; no personal data."""

    @model_validator(mode="after")
    def whom_or_what(self) -> Self:
        """Take exactly one of the two."""
        if (self.subject is None) == (self.records is None):
            raise PydanticCustomError("subject_or_records", "give a subject or records")
        return self


class ApprovalIn(BaseModel):
    """The hash of exactly the records and models that the approver has seen listed."""

    model_config = STRICT

    record_set_hash: Hash


class RejectionIn(BaseModel):
    """The ground, as a paragraph of the regulation."""

    model_config = STRICT

    ground: Ground


class Links(BaseModel):
    """Where to go on."""

    self: str
    events: str
    certificates: str


class Receipt(BaseModel):
    """What a successful call answers with: ids, state, dates, counts, links; nothing personal."""

    id: RequestId
    state: State
    version: int
    received_at: datetime
    due_on: date
    due_at: datetime
    records_matched: int
    record_set_hash: str | None
    links: Links


class TargetOut(BaseModel):
    """One model that learned one of the records, and how far it is rid of them."""

    model: ModelId
    stage: State
    job: JobId | None
    version: VersionId | None
    certificate: UUID | None
    outcome: str | None
    held: str | None
    """Why its result waits for a second person; `release` lets it be certified."""


class RequestOut(Receipt):
    """A request in full."""

    attention: str | None
    outcome: str | None
    submitted_by: PrincipalId
    external_ref: str | None
    calendar: str
    approvals: int
    ground: str | None
    concluded_at: datetime | None
    targets: list[TargetOut]


def receipt(view: View) -> Receipt:
    """Return the receipt of a call on this request."""
    request = view.request
    here = f"/v1/erasure-requests/{ids.encode('er', request.id)}"
    return Receipt(
        id=request.id,
        state=State(request.state),
        version=request.version,
        received_at=request.received_at,
        due_on=request.due_on,
        due_at=request.due_at,
        records_matched=request.records_matched,
        record_set_hash=bytes(request.record_set_hash).hex() if request.record_set_hash else None,
        links=Links(self=here, events=f"{here}/events", certificates=f"{here}/certificates"),
    )


def shown(view: View) -> RequestOut:
    """Return the request in full."""
    request = view.request
    return RequestOut(
        **receipt(view).model_dump(mode="python", exclude={"id", "links"}),
        id=request.id,
        links=receipt(view).links,
        attention=request.attention,
        outcome=view.outcome,
        submitted_by=request.submitted_by,
        external_ref=request.external_ref,
        calendar=request.calendar,
        approvals=view.approvals,
        ground=request.ground,
        concluded_at=request.concluded_at,
        targets=[
            TargetOut(
                model=target.model_id,
                stage=State(target.stage),
                job=target.job_id,
                version=target.version_id,
                certificate=target.certificate_id,
                outcome=target.outcome,
                held=target.held,
            )
            for target in view.targets
        ],
    )
