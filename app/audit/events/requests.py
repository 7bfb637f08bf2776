"""What becomes of a request and of each model's part of it, of app.erasure."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


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
class RequestSentBack(Event):
    """A reviewer wants a request looked at again; approvals of it are void."""

    KIND: ClassVar[str] = "request.sent_back"

    request: UUID
    principal: UUID
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


@dataclass(frozen=True)
class RequestsSearched(Event):
    """Somebody asked whether a person has requests here; who the person is, is not kept."""

    KIND: ClassVar[str] = "requests.searched"

    principal: UUID
    identifiers: int
    found: int
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
