"""Erasure requests: their models, records, approvals, the pauses of their clock, what holds them."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.tables.base import Base, CreatedAt, Id, one_of

STATES = (
    "received",
    "identity_pending",
    "triage",
    "awaiting_approval",
    "no_match",
    "scheduled",
    "unlearning",
    "verifying",
    "publishing",
    "completed",
    "withdrawn",
    "rejected",
)


GROUNDS = ("12.5", "12.6", "17.3.a", "17.3.b", "17.3.c", "17.3.d", "17.3.e")
EXEMPTIONS = GROUNDS[2:]
HOLD_REASONS = ("litigation", "investigation", "regulator", "preservation_order")
LEVELS = ("reviewer", "privacy_officer")
CHALLENGE_ENDS = ("proven", "superseded", "failed", "stopped")
DECISIONS = ("adopted", "declined")


class ErasureRequest(Base):
    """A data subject's request to be forgotten (GDPR Art. 17), without the subject's identity."""

    __tablename__ = "erasure_requests"
    __table_args__ = (
        CheckConstraint(one_of("state", *STATES), name="state"),
        CheckConstraint(f"ground IS NULL OR {one_of('ground', *GROUNDS)}", name="ground"),
        # Who submitted a request is never the one who refuses it, whatever a program believes.
        CheckConstraint("decided_by IS NULL OR decided_by <> submitted_by", name="second_person"),
        Index("ix_erasure_requests_created", "created_at", "id"),
        # What is to be purged next: of the concluded ones only.
        Index(
            "ix_erasure_requests_unpurged",
            "concluded_at",
            postgresql_where="concluded_at IS NOT NULL AND purged_at IS NULL",
        ),
        # A tombstone leads to nobody, whatever a program believes.
        CheckConstraint(
            "purged_at IS NULL OR (cardinality(subject_macs) = 0"
            " AND num_nonnulls(external_ref, notice_ref, duplicate_of) = 0)",
            name="tombstone",
        ),
        # What is due next, and what is overdue: of the open ones only.
        Index("ix_erasure_requests_due", "due_at", "id", postgresql_where="concluded_at IS NULL"),
        Index("ix_erasure_requests_subject_macs", "subject_macs", postgresql_using="gin"),
        Index(
            "uq_erasure_requests_external",
            "submitted_by",
            "external_ref",
            unique=True,
            postgresql_where="external_ref IS NOT NULL",
        ),
    )

    id: Mapped[Id]
    version: Mapped[int] = mapped_column(default=1)
    state: Mapped[str] = mapped_column(Text)
    attention: Mapped[str | None] = mapped_column(Text)
    submitted_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    external_ref: Mapped[str | None] = mapped_column(Text)
    """The caller's own ticket number."""
    subject_macs: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary), default=list)
    """Keyed hashes of the identifiers given; empty when records were named instead."""
    content_macs: Mapped[list[bytes]] = mapped_column(ARRAY(LargeBinary), default=list)
    """Keyed hashes of contents, where what a record says was given instead of whom it is about."""
    record_set_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    records_matched: Mapped[int] = mapped_column(default=0)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    received_on: Mapped[date] = mapped_column(Date)
    """The local date of receipt in the controller's zone; the clock of Art. 12(3) starts here."""
    due_on: Mapped[date] = mapped_column(Date)
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """The first instant that is too late."""
    due_without_pause: Mapped[date] = mapped_column(Date)
    """As if no clock had been paused: what warnings run on, because authorities differ."""
    internal_target: Mapped[date] = mapped_column(Date)
    """When we want to have answered."""
    calendar: Mapped[str] = mapped_column(Text)
    """The rule and the dated list by which the dates were counted."""
    jurisdiction: Mapped[str] = mapped_column(Text, default="EU")
    time_zone: Mapped[str] = mapped_column(Text, default="UTC")
    policy: Mapped[str] = mapped_column(Text, default="default")
    alerted_days: Mapped[int | None]
    """The nearest warning that was given: 14, 7, 3, 1; 0 is the breach."""
    extended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    extension_reason: Mapped[str | None] = mapped_column(Text)
    extension_notified_on: Mapped[date | None] = mapped_column(Date)
    """When the subject was told that it takes longer, and why."""
    clock_paused: Mapped[bool] = mapped_column(Boolean, default=False)
    legal_hold: Mapped[bool] = mapped_column(Boolean, default=False)
    duplicate_of: Mapped[UUID | None] = mapped_column(ForeignKey("erasure_requests.id"))
    """An open request of the same person; linked, never merged, and it excuses nothing."""
    identity_method: Mapped[str | None] = mapped_column(Text)
    """How a doubted identity was proven."""
    records_exempt: Mapped[int] = mapped_column(default=0)
    records_near: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of the records, how many a person adopted as near duplicates of others."""
    records_mentioning: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of the records, how many a person adopted as they say what the person is known by."""
    proposals_open: Mapped[int] = mapped_column(default=0, server_default="0")
    """Proposals that nobody has decided on."""
    indexes: Mapped[dict[str, str]] = mapped_column(JSONB, default=dict, server_default="{}")
    """Where was looked: each index `searched`, `searching`, `unavailable`, `hashed`, `waived` or `off`."""
    concluded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ground: Mapped[str | None] = mapped_column(Text)
    """Why it was rejected, as an article's code."""
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """Who rejected it."""
    notified_on: Mapped[date | None] = mapped_column(Date)
    """When the subject was told of a refusal, in whole or in part (Art. 12(4))."""
    notice_ref: Mapped[str | None] = mapped_column(Text)
    purged_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """From then on it is a tombstone: nothing in it leads to a person."""
    grounds_kept: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Of a tombstone: on which grounds records were kept, as which ones they were is gone."""
    created_at: Mapped[CreatedAt]

    targets: Mapped[list["RequestTarget"]] = relationship(back_populates="request", lazy="raise")


class KeyEpoch(Base):
    """A week's key, by name; while its row is here, something may be wrapped by it."""

    __tablename__ = "key_epochs"

    id: Mapped[Id]
    week: Mapped[date] = mapped_column(Date, unique=True)
    """Its Monday."""
    created_at: Mapped[CreatedAt]


class RequestSecrets(Base):
    """What a caller wrote down of a person, sealed under the request's own key, and that key, wrapped.

    The key of the week is referred to, so that no week goes while a data key is wrapped by its key.
    """

    __tablename__ = "request_secrets"
    __table_args__ = (
        CheckConstraint("(epoch_id IS NULL) = (data_key IS NULL)", name="wrapped"),
        CheckConstraint("(data_key IS NULL) = (destroyed_at IS NOT NULL)", name="destroyed"),
        # Without its key a field is nothing, and nothing is left of it.
        CheckConstraint(
            "destroyed_at IS NULL OR num_nonnulls(identifiers, note, evidence, refusal) = 0",
            name="nothing_left",
        ),
    )

    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), primary_key=True
    )
    epoch_id: Mapped[UUID | None] = mapped_column(ForeignKey("key_epochs.id"), index=True)
    data_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    identifiers: Mapped[bytes | None] = mapped_column(LargeBinary)
    note: Mapped[bytes | None] = mapped_column(LargeBinary)
    evidence: Mapped[bytes | None] = mapped_column(LargeBinary)
    refusal: Mapped[bytes | None] = mapped_column(LargeBinary)
    destroyed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class RequestTarget(Base):
    """One model that learned one of the request's records; each walks the stages by itself."""

    __tablename__ = "request_targets"
    __table_args__ = (
        CheckConstraint(
            one_of("stage", "scheduled", "unlearning", "verifying", "publishing", "completed"), name="stage"
        ),
        # The planner's one query: what no job has taken yet, for one model.
        Index("unplanned", "model_id", postgresql_where="job_id IS NULL AND stage = 'scheduled'"),
    )

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(Text, default="scheduled")
    job_id: Mapped[UUID | None]
    engine_floor: Mapped[str | None] = mapped_column(Text)
    """The weakest engine that is still worth trying, after another one failed on this request."""
    looks: Mapped[int] = mapped_column(default=0)
    """How often its audit material has been used (V30: at most twice)."""
    version_id: Mapped[UUID | None] = mapped_column(ForeignKey("model_versions.id"))
    certificate_id: Mapped[UUID | None]
    outcome: Mapped[str | None] = mapped_column(Text)
    held: Mapped[str | None] = mapped_column(Text)
    """Why its result waits for a person; while it does, no job takes the target."""
    on_hold: Mapped[bool] = mapped_column(Boolean, default=False)
    """A legal hold keeps it out of batches; while it does, no job takes the target."""
    released_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """Who looked at a held result and let it be certified."""
    released_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    request: Mapped[ErasureRequest] = relationship(back_populates="targets", lazy="raise")


class RequestRecord(Base):
    """A record that the request names; one that is exempt is kept, and says on which ground."""

    __tablename__ = "request_records"
    __table_args__ = (
        CheckConstraint(f"exempt IS NULL OR {one_of('exempt', *EXEMPTIONS)}", name="exempt"),
        CheckConstraint("(exempt IS NULL) = (exempted_by IS NULL)", name="exempted_by"),
    )

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    record_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("records.id"), primary_key=True)
    exempt: Mapped[str | None] = mapped_column(Text)
    exempted_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))


class RequestSearch(Base):
    """A search for near duplicates of exactly one set of records that a worker is still owed, or has done."""

    __tablename__ = "request_searches"
    __table_args__ = (
        CheckConstraint(one_of("state", "open", "done", "waived"), name="state"),
        Index("ix_request_searches_open", "next_at", postgresql_where="state = 'open'"),
    )

    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), primary_key=True
    )
    record_set_hash: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(Text, default="open")
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """Until then another worker is at it, or what it needs was away a moment ago."""
    more: Mapped[bool] = mapped_column(Boolean, default=False)
    """It found more than one person can look at; once these are decided it begins again."""


class RequestScan(Base):
    """A scan of all texts for what the person of one request is known by; owed to a worker, or done."""

    __tablename__ = "request_scans"
    __table_args__ = (
        CheckConstraint(one_of("state", "open", "done"), name="state"),
        Index("ix_request_scans_open", "next_at", postgresql_where="state = 'open'"),
    )

    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), primary_key=True
    )
    state: Mapped[str] = mapped_column(Text, default="open")
    datasets: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), default=list)
    """Those that were read to the end, or that somebody goes on without."""
    records: Mapped[int] = mapped_column(BigInteger, default=0)
    """How many were read."""
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """Before that it is nobody's turn: what it needs was away a moment ago."""
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then a worker is reading; it says so again and again."""
    more: Mapped[bool] = mapped_column(Boolean, default=False)
    """It found more than one person can look at; once these are decided it begins again."""
    waived: Mapped[bool] = mapped_column(Boolean, default=False)
    """Somebody went on without what could not be read, or sought."""


class RequestProposal(Base):
    """A record that may concern a request, and by what it was found; a person decides.

    It says nearly the same as one that does, or names what the person is known by.
    """

    __tablename__ = "request_proposals"
    __table_args__ = (
        CheckConstraint("jaccard > 0 AND jaccard <= 1", name="jaccard"),
        CheckConstraint("num_nonnulls(near_id, found_by) > 0", name="found"),
        CheckConstraint("(near_id IS NULL) = (jaccard IS NULL)", name="near"),
        CheckConstraint("(found_by IS NULL) = (mentions IS NULL)", name="mentions"),
        CheckConstraint(f"decision IS NULL OR {one_of('decision', *DECISIONS)}", name="decision"),
        CheckConstraint("(decision IS NULL) = (decided_by IS NULL)", name="decided_by"),
    )

    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), primary_key=True
    )
    record_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("records.id", ondelete="CASCADE"), primary_key=True
    )
    near_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("records.id", ondelete="CASCADE"))
    """The record of the set that it is nearest to."""
    jaccard: Mapped[float | None]
    found_by: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """The types of the identifiers that it says; never which."""
    mentions: Mapped[int | None]
    """How often it says them."""
    decision: Mapped[str | None] = mapped_column(Text)
    decided_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class Approval(Base):
    """A second person's word for exactly one set of records."""

    __tablename__ = "approvals"
    __table_args__ = (CheckConstraint(one_of("level", *LEVELS), name="level"),)

    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), primary_key=True)
    approver_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), primary_key=True)
    record_set_hash: Mapped[bytes] = mapped_column(LargeBinary)
    level: Mapped[str] = mapped_column(Text, default=LEVELS[0])
    created_at: Mapped[CreatedAt]


class ClockPause(Base):
    """A doubt about the identity, from asking to answer (Art. 12(6)); the only thing that stops the clock."""

    __tablename__ = "clock_pauses"
    __table_args__ = (
        CheckConstraint("answered_on IS NULL OR answered_on >= asked_on", name="in_order"),
        Index("one_open_pause", "request_id", unique=True, postgresql_where="answered_on IS NULL"),
    )

    id: Mapped[Id]
    request_id: Mapped[UUID] = mapped_column(ForeignKey("erasure_requests.id"), index=True)
    asked_on: Mapped[date] = mapped_column(Date)
    answered_on: Mapped[date | None] = mapped_column(Date)
    asked_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    answered_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    created_at: Mapped[CreatedAt]


class IdentityChallenge(Base):
    """A one-time code that a person is to be sent, or was; of the code itself only the HMAC is kept."""

    __tablename__ = "identity_challenges"
    __table_args__ = (
        CheckConstraint("attempts BETWEEN 0 AND 5", name="attempts"),
        CheckConstraint("(code_mac IS NULL) = (expires_at IS NULL)", name="drawn"),
        CheckConstraint("(ended_at IS NULL) = (ended_how IS NULL)", name="ended"),
        CheckConstraint(f"ended_how IS NULL OR {one_of('ended_how', *CHALLENGE_ENDS)}", name="ended_how"),
        # Of a request one code counts: the one that was drawn last.
        Index(
            "one_open_code",
            "request_id",
            unique=True,
            postgresql_where="code_mac IS NOT NULL AND ended_at IS NULL",
        ),
        Index(
            "ix_identity_challenges_due",
            "next_try_at",
            postgresql_where="sent_at IS NULL AND ended_at IS NULL",
        ),
    )

    id: Mapped[Id]
    request_id: Mapped[UUID] = mapped_column(
        ForeignKey("erasure_requests.id", ondelete="CASCADE"), index=True
    )
    asked_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    code_mac: Mapped[bytes | None] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    attempts: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)
    """How often a letter was begun."""
    next_try_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    sent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    ended_how: Mapped[str | None] = mapped_column(Text)


class IdentityKnock(Base):
    """A call that nobody's key vouches for; by a keyed hash of where it came from, for an hour."""

    __tablename__ = "identity_knocks"
    __table_args__ = (Index("ix_identity_knocks_address", "address_mac", "at"),)

    id: Mapped[Id]
    address_mac: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class Hold(Base):
    """A legal hold on a request, a record or a model: out of batches, and the clock runs on."""

    __tablename__ = "holds"
    __table_args__ = (
        CheckConstraint("num_nonnulls(request_id, record_id, model_id) = 1", name="one_subject"),
        CheckConstraint(one_of("reason", *HOLD_REASONS), name="reason"),
        CheckConstraint("lifted_by IS NULL OR lifted_by <> placed_by", name="second_person"),
        CheckConstraint("lifted_by IS NULL OR ended_at IS NOT NULL", name="ended"),
        Index("ix_holds_open", "expires_at", postgresql_where="ended_at IS NULL"),
    )

    id: Mapped[Id]
    request_id: Mapped[UUID | None] = mapped_column(ForeignKey("erasure_requests.id"), index=True)
    record_id: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("records.id"), index=True)
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("models.id"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    external_ref: Mapped[str | None] = mapped_column(Text)
    placed_by: Mapped[UUID] = mapped_column(ForeignKey("principals.id"))
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    lifted_by: Mapped[UUID | None] = mapped_column(ForeignKey("principals.id"))
    """A second person; nobody, when it expired."""
    created_at: Mapped[CreatedAt]
