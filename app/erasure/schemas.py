"""Requests as they are shown: nothing that goes out is personal, but for what `identity` reads."""

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
)

from app.erasure.bodies import HASH, REQUEST, RecordId
from app.erasure.lifecycle import State
from app.erasure.reading import Identity, NamedRecord
from app.erasure.steps import View
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
from app.tables import ClockPause, Hold, RequestTarget

IndexState = Literal["searched", "searching", "unavailable", "hashed", "waived", "off"]


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
