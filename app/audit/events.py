"""The vocabulary of the audit chain: one frozen dataclass per kind of event.

Fields are ids, codes, counts and instants, never text that a person wrote. A field that holds a
UUID is named for what it identifies (`request`, `model`, `version`, `job`, `dataset`, `principal`,
`key`, `certificate`), and the service writes it as that kind's public id. The first field is what
the event is about. Knows neither the chain nor the database.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID


@dataclass(frozen=True)
class Event:
    """What every event has: a kind, and what it is about (its first field)."""

    KIND: ClassVar[str]


# Requests, of app.erasure


@dataclass(frozen=True)
class RequestReceived(Event):
    """A request came in; `principal` submitted it, `identifiers` counts what it was searched by."""

    KIND: ClassVar[str] = "request.received"

    request: UUID
    principal: UUID
    identifiers: int
    due_on: str
    at: datetime


@dataclass(frozen=True)
class RequestMoved(Event):
    """A request is in another state now."""

    KIND: ClassVar[str] = "request.moved"

    request: UUID
    origin: str
    state: str
    at: datetime


@dataclass(frozen=True)
class RecordsLocated(Event):
    """The records of a request were searched for; the set is bound by its hash."""

    KIND: ClassVar[str] = "request.located"

    request: UUID
    records: int
    models: int
    record_set_hash: str
    at: datetime


@dataclass(frozen=True)
class RequestApproved(Event):
    """A second person approved exactly this set of records."""

    KIND: ClassVar[str] = "request.approved"

    request: UUID
    principal: UUID
    record_set_hash: str
    level: str
    policy: str
    at: datetime


@dataclass(frozen=True)
class RequestWithdrawn(Event):
    """The subject or an officer took the request back before anything had begun."""

    KIND: ClassVar[str] = "request.withdrawn"

    request: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class RequestRejected(Event):
    """A second person refused the request on a ground of the regulation."""

    KIND: ClassVar[str] = "request.rejected"

    request: UUID
    principal: UUID
    ground: str
    notified_on: str
    at: datetime


@dataclass(frozen=True)
class TargetMoved(Event):
    """One model's part of a request is at another stage now."""

    KIND: ClassVar[str] = "target.moved"

    request: UUID
    model: UUID
    stage: str
    at: datetime


@dataclass(frozen=True)
class TargetConcluded(Event):
    """One model is rid of the records."""

    KIND: ClassVar[str] = "target.concluded"

    request: UUID
    model: UUID
    outcome: str
    certificate: UUID | None
    version: UUID | None
    at: datetime


@dataclass(frozen=True)
class TargetUpgraded(Event):
    """What one model had erased approximately is exact now; another certificate says so."""

    KIND: ClassVar[str] = "target.upgraded"

    request: UUID
    model: UUID
    outcome: str
    certificate: UUID
    version: UUID
    at: datetime


@dataclass(frozen=True)
class AttentionRaised(Event):
    """A request needs a person; its clock goes on running."""

    KIND: ClassVar[str] = "request.attention"

    request: UUID
    reason: str
    at: datetime


@dataclass(frozen=True)
class ResultReleased(Event):
    """A second person looked at what an exact engine's result was held for, and lets it be certified."""

    KIND: ClassVar[str] = "result.released"

    request: UUID
    model: UUID
    principal: UUID
    reason: str
    at: datetime


# Callers, of app.auth


@dataclass(frozen=True)
class PrincipalCreated(Event):
    """There is a new person or machine."""

    KIND: ClassVar[str] = "principal.created"

    principal: UUID
    type: str
    at: datetime


@dataclass(frozen=True)
class KeyCreated(Event):
    """A key was made and shown once."""

    KIND: ClassVar[str] = "key.created"

    key: UUID
    principal: UUID
    scopes: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class KeyRevoked(Event):
    """A key opens nothing any more."""

    KIND: ClassVar[str] = "key.revoked"

    key: UUID
    at: datetime


@dataclass(frozen=True)
class PrincipalDisabled(Event):
    """No key, token or session of a principal opens anything from now on; so many sessions ended."""

    KIND: ClassVar[str] = "principal.disabled"

    principal: UUID
    actor: UUID
    sessions: int
    at: datetime


@dataclass(frozen=True)
class PrincipalEnabled(Event):
    """Keys and tokens of a principal count again; their sessions stay ended."""

    KIND: ClassVar[str] = "principal.enabled"

    principal: UUID
    actor: UUID
    at: datetime


@dataclass(frozen=True)
class RolesChanged(Event):
    """An identity provider says that somebody has other roles now; so many sessions ended for it."""

    KIND: ClassVar[str] = "principal.roles_changed"

    principal: UUID
    roles: tuple[str, ...]
    sessions: int
    at: datetime


@dataclass(frozen=True)
class SessionStarted(Event):
    """A person logged in."""

    KIND: ClassVar[str] = "session.started"

    session: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class SessionEnded(Event):
    """A session opens nothing any more; left idle, or at its time, it ends without a word."""

    KIND: ClassVar[str] = "session.ended"

    session: UUID
    principal: UUID
    how: str
    at: datetime


# Jobs, of app.jobs


@dataclass(frozen=True)
class JobOpened(Event):
    """A batch of requests against one model began, or a compaction (`work`); `reason` says why now."""

    KIND: ClassVar[str] = "job.opened"

    job: UUID
    model: UUID
    work: str
    reason: str
    requests: int
    policy: str
    at: datetime


@dataclass(frozen=True)
class JobPlanned(Event):
    """What the live version still knows was measured, and an engine was chosen."""

    KIND: ClassVar[str] = "job.planned"

    job: UUID
    engine: str
    sentinels: int
    verification_policy: str
    at: datetime


@dataclass(frozen=True)
class JobEscalated(Event):
    """An engine refused, or its result did not suffice; `next` follows, or nobody is left."""

    KIND: ClassVar[str] = "job.escalated"

    job: UUID
    engine: str
    outcome: str
    reasons: tuple[str, ...]
    next: str | None
    at: datetime


@dataclass(frozen=True)
class StageFailed(Event):
    """A stage ended abnormally, for the `failures`-th time in a row."""

    KIND: ClassVar[str] = "job.stage_failed"

    job: UUID
    stage: str
    failures: int
    code: str
    at: datetime


@dataclass(frozen=True)
class JobFailed(Event):
    """A job gave up; its requests wait again, with attention."""

    KIND: ClassVar[str] = "job.failed"

    job: UUID
    reason: str
    breaker: str
    at: datetime


@dataclass(frozen=True)
class JobSetAside(Event):
    """A job ended without publishing: so many results wait for a person; none if every request had left."""

    KIND: ClassVar[str] = "job.set_aside"

    job: UUID
    engine: str
    requests: int
    at: datetime


@dataclass(frozen=True)
class JobConcluded(Event):
    """Every request of the batch is concluded."""

    KIND: ClassVar[str] = "job.concluded"

    job: UUID
    engine: str
    attempts: int
    at: datetime


# Verdicts, of app.verification


@dataclass(frozen=True)
class VerdictReached(Event):
    """One request was judged on one attempt; the numbers are kept apart, for auditors."""

    KIND: ClassVar[str] = "verdict.reached"

    request: UUID
    job: UUID
    attempt: int
    engine: str
    verdict: str
    level: str
    reasons: tuple[str, ...]
    policy: str
    at: datetime


@dataclass(frozen=True)
class ConfigurationTested(Event):
    """A configuration of an engine was admitted for certificates on a model line, or refused."""

    KIND: ClassVar[str] = "configuration.tested"

    model: UUID
    engine: str
    configuration: str
    state: str
    tests: int
    sentinels: int
    losses: int
    risk_upper: str
    policy: str
    at: datetime


@dataclass(frozen=True)
class QualificationLapsed(Event):
    """A configuration may certify no longer: its time is over, or its sentinels' record broke."""

    KIND: ClassVar[str] = "qualification.lapsed"

    model: UUID
    engine: str
    configuration: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class AuditOpened(Event):
    """Certificates of a job's attempt are to be audited deeply; who and why was decided by rule and lot."""

    KIND: ClassVar[str] = "audit.opened"

    audit: UUID
    job: UUID
    attempt: int
    requests: int
    causes: tuple[str, ...]
    policy: str
    at: datetime


@dataclass(frozen=True)
class AuditConcluded(Event):
    """A deep audit came to an end; `void` if it could not be held."""

    KIND: ClassVar[str] = "audit.concluded"

    audit: UUID
    job: UUID
    outcome: str
    reasons: tuple[str, ...]
    withdrawn: int
    policy: str
    at: datetime


# Certificates, of app.certificates


@dataclass(frozen=True)
class CertificateWithdrawn(Event):
    """What a certificate says was found not to stand; from now on its state says so."""

    KIND: ClassVar[str] = "certificate.withdrawn"

    certificate: UUID
    reason: str
    at: datetime


@dataclass(frozen=True)
class CertificateIssued(Event):
    """A statement was signed; nobody receives it before the version is served."""

    KIND: ClassVar[str] = "certificate.issued"

    certificate: UUID
    request: UUID
    level: str
    pae_sha256: str
    at: datetime


@dataclass(frozen=True)
class CertificateReleased(Event):
    """The version is served; the certificate can be fetched."""

    KIND: ClassVar[str] = "certificate.released"

    certificate: UUID
    at: datetime


@dataclass(frozen=True)
class CertificateSuperseded(Event):
    """A newer certificate of the same request and model, named by its identity, takes its place."""

    KIND: ClassVar[str] = "certificate.superseded"

    certificate: UUID
    by_pae_sha256: str
    at: datetime


@dataclass(frozen=True)
class OpeningDelivered(Event):
    """The requester received the nonces, once; they are destroyed here."""

    KIND: ClassVar[str] = "certificate.opening_delivered"

    certificate: UUID
    principal: UUID
    at: datetime


# Datasets, of app.records


@dataclass(frozen=True)
class LotteryCommitted(Event):
    """The hash of the lottery key, before a line is read: the draw can be replayed, not repeated."""

    KIND: ClassVar[str] = "lottery.committed"

    dataset: UUID
    commitment: bytes
    at: datetime


@dataclass(frozen=True)
class DatasetSubmitted(Event):
    """A training set is to be registered."""

    KIND: ClassVar[str] = "dataset.submitted"

    dataset: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class DatasetRegistered(Event):
    """A training set is registered whole; `digest` is of the file's bytes."""

    KIND: ClassVar[str] = "dataset.registered"

    dataset: UUID
    records: int
    subjects: int
    held_back: int
    digest: bytes
    at: datetime


@dataclass(frozen=True)
class DatasetFailed(Event):
    """Nothing of a training set is registered, because of one line of it."""

    KIND: ClassVar[str] = "dataset.failed"

    dataset: UUID
    code: str
    line: int | None
    at: datetime


@dataclass(frozen=True)
class RecordsListed(Event):
    """Somebody was shown ids of a dataset's records."""

    KIND: ClassVar[str] = "records.listed"

    dataset: UUID
    principal: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class HistoryCondemned(Event):
    """The record of a training that met somebody who is erased is to be destroyed."""

    KIND: ClassVar[str] = "history.condemned"

    version: UUID
    model: UUID
    manifest: str
    at: datetime


@dataclass(frozen=True)
class HistoryDestroyed(Event):
    """The record of that training is no more in the store."""

    KIND: ClassVar[str] = "history.destroyed"

    version: UUID
    model: UUID
    manifest: str
    at: datetime


@dataclass(frozen=True)
class ModelResumed(Event):
    """Somebody has looked at a line that was paused after failed jobs; work on it begins again."""

    KIND: ClassVar[str] = "model.resumed"

    model: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class CompactionAsked(Event):
    """Somebody asked that what a line erased approximately be made exact now."""

    KIND: ClassVar[str] = "model.compaction_asked"

    model: UUID
    principal: UUID
    requests: int
    at: datetime


@dataclass(frozen=True)
class RecordsErased(Event):
    """Records are no part of one model's data any more; without a model, of nobody's."""

    KIND: ClassVar[str] = "records.erased"

    dataset: UUID
    model: UUID | None
    records: int
    held_back: int
    at: datetime


@dataclass(frozen=True)
class RecordsSuppressed(Event):
    """A file brought back what had been erased; it is registered as erased."""

    KIND: ClassVar[str] = "records.suppressed"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class RecordsBarred(Event):
    """No training may bring these records back; of so many nobody could read any more what they say."""

    KIND: ClassVar[str] = "suppression.extended"

    dataset: UUID
    records: int
    unreadable: int
    at: datetime


@dataclass(frozen=True)
class BarsLifted(Event):
    """Records may be trained on again: whoever asked for their erasure took it back before it began."""

    KIND: ClassVar[str] = "suppression.lifted"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class SuppressionListed(Event):
    """Somebody read the suppression list, from after a number on."""

    KIND: ClassVar[str] = "suppression.listed"

    principal: UUID
    after: int
    at: datetime


@dataclass(frozen=True)
class SuppressionScreened(Event):
    """Somebody asked which records of a training set are barred; `manifest` is its digest, if it has one."""

    KIND: ClassVar[str] = "suppression.screened"

    principal: UUID
    manifest: str | None
    digests: int
    hits: int
    list_version: int
    at: datetime


# Models, of app.registry


@dataclass(frozen=True)
class ModelRegistered(Event):
    """There is a new model line."""

    KIND: ClassVar[str] = "model.registered"

    model: UUID
    dataset: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class VersionRegistered(Event):
    """A version's weights are in the store; `manifest` and `tensor_root` name them."""

    KIND: ClassVar[str] = "version.registered"

    version: UUID
    model: UUID
    engine: str
    manifest: str
    tensor_root: str
    at: datetime


@dataclass(frozen=True)
class VersionFailed(Event):
    """A version could not be made or may not be used."""

    KIND: ClassVar[str] = "version.failed"

    version: UUID
    model: UUID
    code: str
    at: datetime


@dataclass(frozen=True)
class VersionCondemned(Event):
    """A version is to be destroyed; nothing may read it any more."""

    KIND: ClassVar[str] = "version.condemned"

    version: UUID
    model: UUID
    at: datetime


@dataclass(frozen=True)
class VersionDestroyed(Event):
    """A version's weights are gone from the store, as far as no other version holds the same bytes."""

    KIND: ClassVar[str] = "version.destroyed"

    version: UUID
    model: UUID
    manifest: str
    at: datetime


@dataclass(frozen=True)
class ReferenceAdded(Event):
    """A reference model was trained on one shard; `saw` is the root over the records it saw."""

    KIND: ClassVar[str] = "reference.added"

    model: UUID
    shard: int
    manifest: str
    saw: str
    at: datetime


@dataclass(frozen=True)
class ReferenceCondemned(Event):
    """A reference model saw an erased record and is to be destroyed."""

    KIND: ClassVar[str] = "reference.condemned"

    model: UUID
    shard: int
    manifest: str
    at: datetime


@dataclass(frozen=True)
class ReferenceDestroyed(Event):
    """A reference model's weights are gone from the store."""

    KIND: ClassVar[str] = "reference.destroyed"

    model: UUID
    shard: int
    manifest: str
    at: datetime


# Serving, of app.serving


@dataclass(frozen=True)
class VersionPublished(Event):
    """A version is what users get: every replica attested it, and it became the live one."""

    KIND: ClassVar[str] = "version.published"

    version: UUID
    model: UUID
    number: int
    manifest: str
    publish_epoch: int
    erasure_epoch: int
    replicas: int
    at: datetime


# The clock, holds and exemptions, of app.erasure


@dataclass(frozen=True)
class IdentityConfirmed(Event):
    """A doubted identity was proven; `method` says how, never by what."""

    KIND: ClassVar[str] = "request.identity_confirmed"

    request: UUID
    principal: UUID | None
    """Nobody, where the person brought a code without anybody's key."""
    method: str
    at: datetime


@dataclass(frozen=True)
class IdentityChallenged(Event):
    """A one-time code was sent to the address that a request names."""

    KIND: ClassVar[str] = "request.identity_challenged"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class IdentityRefused(Event):
    """A code was shown that is not the one that was sent."""

    KIND: ClassVar[str] = "request.identity_refused"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class ClockPaused(Event):
    """The person was asked who they are; until they answer, the clock stands still."""

    KIND: ClassVar[str] = "request.clock_paused"

    request: UUID
    principal: UUID
    asked_on: str
    at: datetime


@dataclass(frozen=True)
class ClockResumed(Event):
    """The question was answered; `paused_days` counts all pauses of the request."""

    KIND: ClassVar[str] = "request.clock_resumed"

    request: UUID
    principal: UUID | None
    answered_on: str
    paused_days: int
    due_on: str
    at: datetime


@dataclass(frozen=True)
class RequestExtended(Event):
    """The answer may take three months from receipt; the person was told so inside the first."""

    KIND: ClassVar[str] = "request.extended"

    request: UUID
    principal: UUID
    reason: str
    notified_on: str
    due_on: str
    at: datetime


@dataclass(frozen=True)
class DeadlineWarned(Event):
    """A request is so many days before its date, pauses not counted; 0 days: the date has passed."""

    KIND: ClassVar[str] = "request.deadline"

    request: UUID
    days: int
    due_on: str
    at: datetime


@dataclass(frozen=True)
class RequestSentBack(Event):
    """A reviewer wants a request looked at again; approvals of it are void."""

    KIND: ClassVar[str] = "request.sent_back"

    request: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class RecordsExempted(Event):
    """So many of a request's records are kept on a ground of Art. 17(3); without one, no longer."""

    KIND: ClassVar[str] = "request.exempted"

    request: UUID
    principal: UUID
    records: int
    ground: str | None
    at: datetime


@dataclass(frozen=True)
class RefusalNotified(Event):
    """The person was told what is refused and why, and where to complain (Art. 12(4))."""

    KIND: ClassVar[str] = "request.refusal_notified"

    request: UUID
    principal: UUID
    notified_on: str
    at: datetime


@dataclass(frozen=True)
class HoldPlaced(Event):
    """A request, a record or a model (`subject`) must not be erased from for now."""

    KIND: ClassVar[str] = "hold.placed"

    hold: UUID
    principal: UUID
    subject: str
    reason: str
    expires_at: datetime
    at: datetime


@dataclass(frozen=True)
class HoldEnded(Event):
    """A hold was lifted by a second person, or expired without one."""

    KIND: ClassVar[str] = "hold.ended"

    hold: UUID
    principal: UUID | None
    how: str
    at: datetime


@dataclass(frozen=True)
class RequestHeld(Event):
    """A hold keeps a request out of batches; its clock goes on running."""

    KIND: ClassVar[str] = "request.held"

    request: UUID
    hold: UUID
    executing: int
    """In how many models it is too late: their jobs had begun."""
    at: datetime


@dataclass(frozen=True)
class RequestFreed(Event):
    """No hold keeps a request any longer."""

    KIND: ClassVar[str] = "request.freed"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class RequestsSearched(Event):
    """Somebody asked whether a person has requests here; who the person is, is not kept."""

    KIND: ClassVar[str] = "requests.searched"

    principal: UUID
    identifiers: int
    found: int
    at: datetime


@dataclass(frozen=True)
class IdentityRead(Event):
    """Somebody looked at what is known of the person of a request; `what` names fields, never values."""

    KIND: ClassVar[str] = "identity.read"

    request: UUID
    principal: UUID
    what: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class RequestPurged(Event):
    """What was known of the person is destroyed; the request is a tombstone from here on."""

    KIND: ClassVar[str] = "request.purged"

    request: UUID
    sealed: int
    """How many sealed fields there were."""
    at: datetime


@dataclass(frozen=True)
class RecordsForgotten(Event):
    """The rows of records that were erased long enough ago are deleted; what bars them stays."""

    KIND: ClassVar[str] = "dataset.records_forgotten"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class TombstoneDeleted(Event):
    """A purged request is deleted itself, its years being over; this chain is what is left of it."""

    KIND: ClassVar[str] = "request.deleted"

    request: UUID
    at: datetime


@dataclass(frozen=True)
class EpochRetired(Event):
    """Nothing is wrapped by a week's key any more, and its file is destroyed."""

    KIND: ClassVar[str] = "keys.epoch_retired"

    week: str
    rewrapped: int
    at: datetime


@dataclass(frozen=True)
class RequestsExported(Event):
    """Somebody took a list of requests with them."""

    KIND: ClassVar[str] = "requests.exported"

    principal: UUID
    form: str
    at: datetime


@dataclass(frozen=True)
class BulkActed(Event):
    """Somebody acted on many requests at once; what became of each is told of by its own events."""

    KIND: ClassVar[str] = "requests.bulk_action"

    principal: UUID
    action: str
    matched: int
    done: int
    refused: int
    at: datetime


# Files of requests, of app.intake


@dataclass(frozen=True)
class ImportReceived(Event):
    """A file of requests came in; so many of its rows could not be read."""

    KIND: ClassVar[str] = "import.received"

    upload: UUID
    principal: UUID
    rows: int
    invalid: int
    at: datetime


@dataclass(frozen=True)
class ImportConcluded(Event):
    """Every row of a file has its outcome."""

    KIND: ClassVar[str] = "import.concluded"

    upload: UUID
    created: int
    duplicate: int
    invalid: int
    at: datetime


# Whoever is told, of app.webhooks and app.intake


@dataclass(frozen=True)
class EndpointCreated(Event):
    """A URL is to be told of these kinds of events."""

    KIND: ClassVar[str] = "endpoint.created"

    endpoint: UUID
    principal: UUID
    kinds: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class EndpointChanged(Event):
    """What an endpoint is told of, or where, is another; `what` names the fields."""

    KIND: ClassVar[str] = "endpoint.changed"

    endpoint: UUID
    principal: UUID
    what: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class EndpointDisabled(Event):
    """An endpoint is told nothing more: somebody asked, or it answered 410, or failed for days."""

    KIND: ClassVar[str] = "endpoint.disabled"

    endpoint: UUID
    principal: UUID | None
    reason: str
    stopped: int
    """How many deliveries were under way."""
    at: datetime


@dataclass(frozen=True)
class EndpointEnabled(Event):
    """An endpoint is told again."""

    KIND: ClassVar[str] = "endpoint.enabled"

    endpoint: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class SecretRotated(Event):
    """An endpoint's messages are signed by new keys, for a day by the old ones too."""

    KIND: ClassVar[str] = "endpoint.secret_rotated"

    endpoint: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class DeliveryFailed(Event):
    """A message was given up; `status` is what the endpoint answered last."""

    KIND: ClassVar[str] = "endpoint.delivery_failed"

    endpoint: UUID
    message_id: str
    attempts: int
    status: int | None
    at: datetime


@dataclass(frozen=True)
class DeliveriesReplayed(Event):
    """Messages are delivered once more."""

    KIND: ClassVar[str] = "endpoint.replayed"

    endpoint: UUID
    principal: UUID
    messages: int
    at: datetime


@dataclass(frozen=True)
class CallbackFailed(Event):
    """A controller could not be told of a request's status; its callback was given up."""

    KIND: ClassVar[str] = "request.callback_failed"

    request: UUID
    status: str
    attempts: int
    at: datetime


# The chain itself, of app.audit


@dataclass(frozen=True)
class DatabaseRestored(Event):
    """A backup was restored: its chain ended at `seq` with the hash `backup`, its copy had it to `copied`.

    `requests_lost` came in since, and nothing but their ids and dates is known of them.
    """

    KIND: ClassVar[str] = "database.restored"

    backup: str
    seq: int
    copied: int
    requests_lost: int
    at: datetime


# Near duplicates, of app.records and app.erasure.near


@dataclass(frozen=True)
class DatasetSketched(Event):
    """Near duplicates can be sought among the records of a dataset."""

    KIND: ClassVar[str] = "dataset.sketched"

    dataset: UUID
    records: int
    at: datetime


@dataclass(frozen=True)
class NearDuplicatesSought(Event):
    """Near duplicates of a request's records were sought: of how many, how many are proposed to a person."""

    KIND: ClassVar[str] = "request.compared"

    request: UUID
    records: int
    proposed: int
    record_set_hash: str
    at: datetime


@dataclass(frozen=True)
class ProposalsDecided(Event):
    """A person adopted near duplicates, or declined them; or goes on without having looked (`waived`)."""

    KIND: ClassVar[str] = "request.proposals"

    request: UUID
    principal: UUID
    decision: str
    records: int
    at: datetime


# The text scan, of app.erasure.scan


@dataclass(frozen=True)
class TextsSought(Event):
    """What a person is known by was sought in all texts: so many identifiers, and hashes that no text has."""

    KIND: ClassVar[str] = "request.scanned"

    request: UUID
    identifiers: int
    hashed: int
    datasets: int
    records: int
    proposed: int
    at: datetime


@dataclass(frozen=True)
class TextsDecided(Event):
    """A person adopted records that name the subject, or declined them; or goes on without (`waived`)."""

    KIND: ClassVar[str] = "request.texts"

    request: UUID
    principal: UUID
    decision: str
    records: int
    at: datetime
