"""Requests on the wire: what comes in may be personal, nothing that goes out is."""

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
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
from app.erasure.reading import Identity, NamedRecord
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
TEXT_MAX = 4000
STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
HOLD_DAYS_MAX = policy.load("default").hold_days_longest

IndexState = Literal["searched", "searching", "unavailable", "hashed", "waived", "off"]
IdentifierType = Annotated[str, StringConstraints(pattern=content.TYPE_PATTERN)]


def _encodable(text: SecretStr) -> SecretStr:
    """Refuse half a character: JSON can spell one, and no bytes can."""
    try:
        text.get_secret_value().encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "no Unicode") from None
    return text


Text = Annotated[SecretStr, Field(min_length=1, max_length=TEXT_MAX), AfterValidator(_encodable)]
"""What somebody wrote; sealed, and shown to nobody without `requests:read_pii`."""
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
    """What a person is known by: searched for by its keyed hash, and sealed until the request is purged."""

    model_config = STRICT

    type: IdentifierType
    value: Annotated[SecretStr, Field(min_length=1, max_length=512)]


class RecordsIn(BaseModel):
    """Records by the ids that their dataset gives them."""

    model_config = STRICT

    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    ids: Annotated[list[RecordIdText], Field(min_length=1, max_length=RECORD_IDS_MAX)]


class ContentIn(BaseModel):
    """Records by what they say, in whichever dataset: SHA-256 of their canonical bytes (`lethe/canon/1`)."""

    model_config = STRICT

    sha256: Annotated[list[Hash], Field(min_length=1, max_length=RECORD_IDS_MAX)]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class ErasureRequestCreate(BaseModel):
    """Whom or what to forget: a person by identifiers, records by their ids, or by what they say."""

    model_config = example(
        {"subject": [{"type": "email", "value": "ada@example.org"}], "external_ref": "T-1042"},
        {"records": {"dataset": "people", "ids": ["ada-1", "ada-2"]}, "note": "asked by letter"},
        {"content": {"sha256": ["4f2b1c0c7a52b0d0a3a1b8b0f7c1b7f3f6f0a1f0d6f6f4d1f1a6b1f5e0c9d8a7"]}},
    )

    subject: (
        Annotated[
            list[IdentifierIn], BeforeValidator(_listed), Field(min_length=1, max_length=IDENTIFIERS_MAX)
        ]
        | None
    ) = None
    records: RecordsIn | None = None
    content: ContentIn | None = None
    external_ref: Reference | None = None
    """Your own ticket number; no personal data."""
    identity: Literal["vouched", "doubted"] = "vouched"
    """Whether you vouch for who asks; if not, nothing is searched for before that is proven."""
    note: Text | None = None
    """What else is to be known of it; sealed."""

    @model_validator(mode="after")
    def whom_or_what(self) -> Self:
        """Take exactly one of the three."""
        if sum(each is not None for each in (self.subject, self.records, self.content)) != 1:
            raise PydanticCustomError("subject_or_records", "give a subject, records or contents")
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

    model_config = example(
        {"ground": "12.5", "notice": NOTICE},
        {"ground": "12.6", "notice": NOTICE, "reason": "the letter was signed by another person"},
    )

    ground: Ground
    notice: NoticeIn
    reason: Text | None = None
    """Why, in words; sealed."""


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


class ResolutionIn(BaseModel):
    """What becomes of records that are proposed: of these, or of all that nobody has decided on.

    They are near duplicates, or name the person (`texts`): one kind at a time. `waive` goes on without them
    where they cannot be sought; it takes no records.
    """

    model_config = example(
        {"near_duplicates": "adopt", "records": ["rec_1044"]},
        {"near_duplicates": "decline"},
        {"near_duplicates": "waive"},
        {"texts": "adopt", "records": ["rec_2071"]},
    )

    near_duplicates: Literal["adopt", "decline", "waive"] | None = None
    texts: Literal["adopt", "decline", "waive"] | None = None
    records: Annotated[list[RecordId], Field(min_length=1, max_length=RECORD_IDS_MAX)] | None = None

    @model_validator(mode="after")
    def waived_as_a_whole(self) -> Self:
        """Take no records where nothing is known of any."""
        if self.decision == "waive" and self.records is not None:
            raise PydanticCustomError("waive_takes_no_records", "waive takes no records")
        return self

    @model_validator(mode="after")
    def of_one_kind(self) -> Self:
        """Decide on near duplicates or on what was found in texts: a list of records is of one of them."""
        if (self.near_duplicates is None) == (self.texts is None):
            raise PydanticCustomError("one_decision", "near_duplicates or texts")
        return self

    @property
    def decision(self) -> str | None:
        """Return what is decided."""
        return self.near_duplicates or self.texts

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
    """The code that the person was sent; or how else it was proven, and what you write of that."""

    model_config = example(
        {"code": "08154711"},
        {"method": "account_login"},
        {"method": "callback", "evidence": "called back on the number on file"},
    )

    code: Annotated[SecretStr, Field(min_length=8, max_length=8)] | None = None
    method: Literal["account_login", "one_time_code", "document", "callback", "in_person"] | None = None
    evidence: Text | None = None
    """What it was proven by, in words; sealed."""

    @model_validator(mode="after")
    def code_or_method(self) -> Self:
        """Take exactly one of the two; of a code there is nothing to write."""
        if (self.code is None) == (self.method is None) or (self.code and self.evidence):
            raise PydanticCustomError("code_or_method", "give a code or a method")
        return self


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
    "records_near": 0,
    "proposals_open": 0,
    "records_mentioning": 0,
    "indexes": {"subjects": "searched", "near_duplicates": "searched", "texts": "searched"},
    "ground": None,
    "notified_on": None,
    "concluded_at": None,
    "purged_at": None,
    "grounds_kept": [],
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
    records_near: int
    """Of the records, how many were adopted as near duplicates of others."""
    records_mentioning: int
    """Of the records, how many were adopted as they say what the person is known by."""
    proposals_open: int
    """Proposed records that nobody has decided on; until then it is not approved."""
    indexes: dict[str, IndexState]
    """Where was looked: with one `unavailable` or `hashed`, nothing found is not said.

    `hashed`: something that the person is known by came as a hash, which is in no text.
    """
    ground: str | None
    notified_on: date | None
    """When the person was told of a refusal, in whole or in part."""
    concluded_at: datetime | None
    purged_at: datetime | None
    """From then on it is a tombstone: nothing here leads to the person any more."""
    grounds_kept: list[str]
    """Of a tombstone: on which grounds records were kept."""
    targets: list[TargetOut]


class SealedIdentifier(BaseModel):
    """What the person is known by, as it was given; what came as a hash is one."""

    type: str
    value: str | None = None
    sha256: str | None = None


class IdentityOut(BaseModel):
    """What is known of the person of a request; what nobody gave is null."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "identifiers": [{"type": "email", "value": "ada@example.org", "sha256": None}],
                    "note": None,
                    "evidence": "called back on the number on file",
                    "refusal": None,
                }
            ]
        }
    )

    identifiers: list[SealedIdentifier]
    note: str | None
    evidence: str | None
    refusal: str | None


class CertificateLink(BaseModel):
    """The certificate of one model's part."""

    model: ModelId
    certificate: UUID
    outcome: str
    link: str


class RecordOut(BaseModel):
    """A record that a request names, or that is proposed to it, and by what; never what it says."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "rec_2071",
                    "dataset": "ds_01kaj9cz2ye7ta5k3w8r6v4m1h",
                    "action": "proposed",
                    "ground": None,
                    "near": None,
                    "jaccard": None,
                    "identifiers": ["email", "phone"],
                    "mentions": 3,
                    "erased_at": None,
                }
            ]
        }
    )

    id: RecordId
    dataset: DatasetId
    action: Literal["erase", "exempt", "proposed", "declined"]
    ground: str | None
    near: RecordId | None
    """The record that it is nearest to, where it came as a near duplicate."""
    jaccard: float | None
    """How much of their shingles both share, from 0 to 1."""
    identifiers: list[str]
    """The types of those that it says, where the text scan found it; never a value."""
    mentions: int | None
    """How often it says them."""
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
        records_near=request.records_near,
        records_mentioning=request.records_mentioning,
        proposals_open=request.proposals_open,
        indexes=request.indexes,
        ground=request.ground,
        notified_on=request.notified_on,
        concluded_at=request.concluded_at,
        purged_at=request.purged_at,
        grounds_kept=request.grounds_kept or [],
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


def identity_out(known: Identity) -> IdentityOut:
    """Return what is known of a person."""
    return IdentityOut(
        identifiers=[SealedIdentifier(**each) for each in known.identifiers],
        note=known.note,
        evidence=known.evidence,
        refusal=known.refusal,
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
        action=_action(record),
        ground=record.exempt,
        near=None if record.near is None else f"rec_{record.near}",
        jaccard=None if record.jaccard is None else round(record.jaccard, 3),
        identifiers=list(record.found_by),
        mentions=record.mentions,
        erased_at=record.erased_at,
    )


def _action(record: NamedRecord) -> Literal["erase", "exempt", "proposed", "declined"]:
    if not record.named:
        return "declined" if record.declined else "proposed"
    return "erase" if record.exempt is None else "exempt"


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
