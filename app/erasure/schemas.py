"""Requests on the wire: what comes in may be personal, nothing that goes out is."""

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
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

from app.erasure import policy
from app.erasure.exemptions import Exemption, ExtensionReason, Ground, HoldReason
from app.erasure.lifecycle import State
from app.erasure.reading import NamedRecord
from app.erasure.steps import Notice, View
from app.http import ids
from app.http.ids import (
    DatasetId,
    HoldId,
    JobId,
    ModelId,
    PauseId,
    PrincipalId,
    RequestId,
    VersionId,
)
from app.records import content
from app.records.service import RECORD_IDS_MAX
from app.tables import ClockPause, Hold, RequestTarget

IDENTIFIERS_MAX = 20
STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
HOLD_DAYS_MAX = policy.load("default").hold_days_longest

IdentifierType = Annotated[str, StringConstraints(pattern=content.TYPE_PATTERN)]
RecordIdText = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,256}$")]
RecordId = Annotated[str, StringConstraints(pattern=r"^rec_[1-9][0-9]{0,17}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/#-]{1,128}$")]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def example(*bodies: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a body that comes in, with examples for the OpenAPI document."""
    return ConfigDict(**STRICT, json_schema_extra={"examples": list(bodies)})


HASH = "f91e70740ddf85be2c7c568ed55b8f2ac1382a1aada5d0f1577ab440a7d79aea"
REQUEST, MODEL = "er_01kaj9hm2qf8ps6g9xqj4w0v7d", "mdl_01kaj9e40meq5td0e5ys0t93rc"
NOTICE: dict[str, Any] = {"sent_on": "2026-11-25", "complaint": True, "court": True, "reference": "L-1042"}


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

    model_config = example(
        {"subject": [{"type": "email", "value": "ada@example.org"}], "external_ref": "T-1042"},
        {"records": {"dataset": "people", "ids": ["ada-1", "ada-2"]}},
    )

    subject: (
        Annotated[
            list[IdentifierIn], BeforeValidator(_listed), Field(min_length=1, max_length=IDENTIFIERS_MAX)
        ]
        | None
    ) = None
    records: RecordsIn | None = None
    external_ref: Reference | None = None
    """Your own ticket number; no personal data."""
    identity: Literal["vouched", "doubted"] = "vouched"
    """Whether you vouch for who asks; if not, nothing is searched for before that is proven."""

    @model_validator(mode="after")
    def whom_or_what(self) -> Self:
        """Take exactly one of the two."""
        if (self.subject is None) == (self.records is None):
            raise PydanticCustomError("subject_or_records", "give a subject or records")
        return self


class SearchIn(BaseModel):
    """A person whose requests are sought."""

    model_config = example({"subject": [{"type": "email", "value": "ada@example.org"}]})

    subject: Annotated[
        list[IdentifierIn], BeforeValidator(_listed), Field(min_length=1, max_length=IDENTIFIERS_MAX)
    ]


class ToldIn(BaseModel):
    """That the person was told of an extension: when, and under which number of yours."""

    model_config = STRICT

    sent_on: date
    reference: Reference | None = None

    def notice(self) -> Notice:
        """Return it for the service."""
        return Notice(sent_on=self.sent_on, reference=self.reference)


class NoticeIn(ToldIn):
    """That the person was told of a refusal, of the authority to complain to, and of going to court."""

    complaint: Literal[True]
    court: Literal[True]


class ApprovalIn(BaseModel):
    """The hash of exactly the records and models that the approver has seen listed."""

    model_config = example(
        {"record_set_hash": HASH},
        {"record_set_hash": HASH, "decision": "send_back"},
        {"record_set_hash": HASH, "notice": NOTICE},
    )

    record_set_hash: Hash
    decision: Literal["approve", "send_back"] = "approve"
    """`send_back` has the request looked at again; approvals of it are void."""
    notice: NoticeIn | None = None
    """Needed by the last approval of a set of which records are kept."""


class RejectionIn(BaseModel):
    """The ground, as a paragraph of the regulation, and that the person was told (Art. 12(4))."""

    model_config = example({"ground": "12.5", "notice": NOTICE})

    ground: Ground
    notice: NoticeIn


class ExemptionIn(BaseModel):
    """Records to be kept, all of the request's without a list; without a ground, no longer."""

    model_config = example(
        {"ground": "17.3.b", "records": ["rec_1042", "rec_1043"]}, {"ground": None, "records": ["rec_1042"]}
    )

    ground: Exemption | None
    records: Annotated[list[RecordId], Field(min_length=1, max_length=RECORD_IDS_MAX)] | None = None

    def ids(self) -> list[int] | None:
        """Return the rows' ids."""
        return None if self.records is None else [int(each.removeprefix("rec_")) for each in self.records]


class ExtensionIn(BaseModel):
    """Why it takes longer, and that the person was told so inside the first month (Art. 12(3))."""

    model_config = example({"reason": "complexity", "notice": {"sent_on": "2026-12-01", "reference": "L-7"}})

    reason: ExtensionReason
    notice: ToldIn


class PauseIn(BaseModel):
    """The day on which the person was asked who they are; today if it is not said."""

    model_config = example({}, {"asked_on": "2026-11-23"})

    asked_on: date | None = None


class PauseEndIn(BaseModel):
    """The day on which the person answered; today if it is not said."""

    model_config = example({}, {"answered_on": "2026-11-30"})

    answered_on: date | None = None


class IdentityProofIn(BaseModel):
    """How the identity was proven; what with is not kept."""

    model_config = example({"method": "account_login"})

    method: Literal["account_login", "one_time_code", "document", "callback", "in_person"]


class RecordIn(BaseModel):
    """One record by the id that its dataset gives it."""

    model_config = STRICT

    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    id: RecordIdText


class HoldIn(BaseModel):
    """What must not be erased from for now: exactly one of a request, a record, a model."""

    model_config = example(
        {"request": REQUEST, "reason": "litigation", "external_ref": "C-17"},
        {"model": MODEL, "reason": "regulator", "days": 30},
        {"record": {"dataset": "people", "id": "ada-1"}, "reason": "preservation_order"},
    )

    request: RequestId | None = None
    record: RecordIn | None = None
    model: ModelId | None = None
    reason: HoldReason
    days: Annotated[int, Field(ge=1, le=HOLD_DAYS_MAX)] = HOLD_DAYS_MAX
    external_ref: Reference | None = None

    @model_validator(mode="after")
    def one_subject(self) -> Self:
        """Take exactly one of the three."""
        if sum(each is not None for each in (self.request, self.record, self.model)) != 1:
            raise PydanticCustomError("one_subject", "give a request, a record or a model")
        return self


class Links(BaseModel):
    """Where to go on."""

    self: str
    events: str
    records: str
    certificates: str


RECEIPT: dict[str, Any] = {
    "id": REQUEST,
    "state": "awaiting_approval",
    "version": 3,
    "received_at": "2026-11-21T12:00:00Z",
    "due_on": "2026-12-21",
    "due_at": "2026-12-22T00:00:00Z",
    "records_matched": 2,
    "record_set_hash": HASH,
    "links": {
        "self": f"/v1/erasure-requests/{REQUEST}",
        "events": f"/v1/erasure-requests/{REQUEST}/events",
        "records": f"/v1/erasure-requests/{REQUEST}/records",
        "certificates": f"/v1/erasure-requests/{REQUEST}/certificates",
    },
}


SHOWN: dict[str, Any] = {
    "attention": None,
    "overdue": False,
    "clock_paused": False,
    "legal_hold": False,
    "due_without_pause": "2026-12-21",
    "internal_target": "2026-12-12",
    "extension": None,
    "outcome": None,
    "submitted_by": "pr_01kaj9d1gce6tt3z2hk5xv8m4q",
    "external_ref": "T-1042",
    "duplicate_of": None,
    "identity_method": None,
    "calendar": "eu-1182-71/1 target/holidays-0.108",
    "policy": "default",
    "approvals": 0,
    "approvals_needed": 1,
    "records_exempt": 0,
    "ground": None,
    "notified_on": None,
    "concluded_at": None,
    "targets": [],
}


class Receipt(BaseModel):
    """What a successful call answers with: ids, state, dates, counts, links; nothing personal."""

    model_config = ConfigDict(json_schema_extra={"examples": [RECEIPT]})

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
    on_hold: bool
    """Whether a legal hold keeps this model's part out of batches."""


class Extension(BaseModel):
    """That the answer may take three months from receipt."""

    at: datetime
    reason: str
    notified_on: date


class RequestOut(Receipt):
    """A request in full."""

    model_config = ConfigDict(json_schema_extra={"examples": [RECEIPT | SHOWN]})

    attention: str | None
    overdue: bool
    """Open and past its date; while its clock stands still it is not."""
    clock_paused: bool
    legal_hold: bool
    due_without_pause: date
    """What warnings run on, because authorities differ on what stops the clock."""
    internal_target: date
    extension: Extension | None
    outcome: str | None
    submitted_by: PrincipalId
    external_ref: str | None
    duplicate_of: RequestId | None
    identity_method: str | None
    calendar: str
    policy: str
    approvals: int
    approvals_needed: int
    records_exempt: int
    ground: str | None
    notified_on: date | None
    """When the person was told of a refusal, in whole or in part."""
    concluded_at: datetime | None
    targets: list[TargetOut]


class CertificateLink(BaseModel):
    """The certificate of one model's part."""

    model: ModelId
    certificate: UUID
    outcome: str
    link: str


class RecordOut(BaseModel):
    """A record that a request names, and what becomes of it; never what it says."""

    id: RecordId
    dataset: DatasetId
    action: Literal["erase", "exempt"]
    ground: str | None
    erased_at: datetime | None


class PauseOut(BaseModel):
    """From when to when the clock stood still."""

    id: PauseId
    asked_on: date
    answered_on: date | None


class HoldOut(BaseModel):
    """A hold, its subject and its end."""

    id: HoldId
    request: RequestId | None
    record: RecordId | None
    model: ModelId | None
    reason: str
    external_ref: str | None
    placed_by: PrincipalId
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    lifted_by: PrincipalId | None


def receipt(view: View) -> Receipt:
    """Return the receipt of a call on this request."""
    return Receipt(**_received(view))


def _received(view: View) -> dict[str, Any]:
    """Return what a receipt and a request in full have in common."""
    request = view.request
    here = f"/v1/erasure-requests/{ids.encode('er', request.id)}"
    return {
        "id": request.id,
        "state": State(request.state),
        "version": request.version,
        "received_at": request.received_at,
        "due_on": request.due_on,
        "due_at": request.due_at,
        "records_matched": request.records_matched,
        "record_set_hash": bytes(request.record_set_hash).hex() if request.record_set_hash else None,
        "links": Links(
            self=here, events=f"{here}/events", records=f"{here}/records", certificates=f"{here}/certificates"
        ),
    }


def shown(view: View, now: datetime) -> RequestOut:
    """Return the request in full, as it is now."""
    request = view.request
    extension = None
    if request.extended_at is not None:
        assert request.extension_notified_on is not None, "an extension is told"
        extension = Extension(
            at=request.extended_at,
            reason=str(request.extension_reason),
            notified_on=request.extension_notified_on,
        )
    return RequestOut(
        **_received(view),
        attention=request.attention,
        overdue=view.overdue(now),
        clock_paused=request.clock_paused,
        legal_hold=request.legal_hold,
        due_without_pause=request.due_without_pause,
        internal_target=request.internal_target,
        extension=extension,
        outcome=view.outcome,
        submitted_by=request.submitted_by,
        external_ref=request.external_ref,
        duplicate_of=request.duplicate_of,
        identity_method=request.identity_method,
        calendar=request.calendar,
        policy=request.policy,
        approvals=view.approvals,
        approvals_needed=view.approvals_needed,
        records_exempt=request.records_exempt,
        ground=request.ground,
        notified_on=request.notified_on,
        concluded_at=request.concluded_at,
        targets=[target_out(target) for target in view.targets],
    )


def target_out(target: RequestTarget) -> TargetOut:
    """Return one model's part of a request."""
    return TargetOut(
        model=target.model_id,
        stage=State(target.stage),
        job=target.job_id,
        version=target.version_id,
        certificate=target.certificate_id,
        outcome=target.outcome,
        held=target.held,
        on_hold=target.on_hold,
    )


def certificates(view: View) -> list[CertificateLink]:
    """Return where the certificates of a request are, as far as it has any."""
    return [
        CertificateLink(
            model=target.model_id,
            certificate=target.certificate_id,
            outcome=str(target.outcome),
            link=f"/v1/certificates/{target.certificate_id}",
        )
        for target in view.targets
        if target.certificate_id is not None
    ]


def record_out(record: NamedRecord) -> RecordOut:
    """Return a record by its ids."""
    return RecordOut(
        id=f"rec_{record.id}",
        dataset=record.dataset,
        action="erase" if record.exempt is None else "exempt",
        ground=record.exempt,
        erased_at=record.erased_at,
    )


def pause_out(pause: ClockPause) -> PauseOut:
    """Return a pause."""
    return PauseOut(id=pause.id, asked_on=pause.asked_on, answered_on=pause.answered_on)


def hold_out(hold: Hold) -> HoldOut:
    """Return a hold."""
    return HoldOut(
        id=hold.id,
        request=hold.request_id,
        record=None if hold.record_id is None else f"rec_{hold.record_id}",
        model=hold.model_id,
        reason=hold.reason,
        external_ref=hold.external_ref,
        placed_by=hold.placed_by,
        created_at=hold.created_at,
        expires_at=hold.expires_at,
        ended_at=hold.ended_at,
        lifted_by=hold.lifted_by,
    )
