"""Deep audits as work to be done: opened when certificates are released, held later, kept for good.

    open_after   the certificates of an attempt were released: whom to audit, and why
    due, begin   what the sweeper should run, and a try at it
    conclude     the numbers are there: decide, twice, and keep both
    give_up      it cannot be held: the records or the version are gone

An audit needs no lease: it changes nothing that a job reads, and its own row is locked while it is
decided. So it never stands in a job's way but for the device, and waits until the model has no job.
Rules are `audit`; who takes a certificate away is the caller, for certificates are above this domain.
"""

import hmac
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from app import telemetry
from app.audit import events
from app.audit import service as audit_chain
from app.erasure.forgetting import purge
from app.errors import Conflict, NotFound
from app.jobs import service as jobs
from app.jobs.views import JobView
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Audit, VerdictRow, new_id
from app.verification import audit, recheck
from app.verification import policy as policies
from app.verification import service as verification
from app.verification.audit import Certified, Decision
from app.verification.repository import Audits

TRIES_MAX = 3
DRAW_BYTES = 8
CONTRADICTED = "second_opinion_disagrees"

_log = telemetry.logger("audits")


@dataclass(frozen=True, kw_only=True)
class AuditView:
    """What whoever holds an audit must know."""

    id: UUID
    job: JobView
    version_id: UUID
    form: str
    requests: tuple[UUID, ...]


@dataclass(frozen=True, kw_only=True)
class Concluded:
    """What an audit came to, for whoever acts on it."""

    job_id: UUID
    attempt: int
    model_id: UUID
    withdrawn: Mapping[UUID, str]
    """Requests whose certificates are to be withdrawn, and why."""
    suspected: tuple[UUID, ...]


@dataclass(frozen=True, kw_only=True)
class AuditShown:
    """An audit as people see it: nothing in it is about one person."""

    id: UUID
    job: UUID
    attempt: int
    version: UUID
    state: str
    causes: tuple[str, ...]
    subjects: int
    outcome: str | None
    reasons: tuple[str, ...]
    withdrawn: int
    seen: Mapping[str, tuple[int, int]]
    shadows: int | None
    failure: str | None
    policy: str
    created_at: datetime
    concluded_at: datetime | None


# Opening -----------------------------------------------------------------------------------------


def open_after(
    session: Session, view: JobView, certificates: Mapping[UUID, UUID], *, key: bytes, at: datetime
) -> UUID | None:
    """Open the audit of an attempt whose certificates were released, if any of them is to be audited.

    `certificates` are by request. The draw is a keyed hash of a certificate's id, which is made after the
    engine ran: whoever forgets badly cannot know whom it will hit, and an auditor can repeat it.
    """
    policy = policies.load(view.verification_policy)
    configuration = verification.configuration_of(session, view).digest
    known = Audits(session).knows(view.model_id, configuration)
    rows = verification.of_attempt(session, view.id, view.attempt)
    batch = [_certified(rows[request], id_, key) for request, id_ in sorted(certificates.items())]
    causes = {
        each.request: found
        for each in batch
        if (found := audit.causes(each, audited_configuration=known, policy=policy))
    }
    if not causes:
        return None
    whom = audit.chosen(batch, causes.keys())
    return _open(session, view, configuration, {each: causes.get(each, ()) for each in whom}, at=at)


def ask(session: Session, job_id: UUID, *, at: datetime) -> AuditShown:
    """Open an audit of everybody whom a job's last attempt certified, because somebody wants one.

    Raises:
        Conflict: nothing of it was certified, or it is being audited, or was, or all of it is purged.
    """
    stored = Audits(session)
    view = jobs.past(session, job_id)
    attempt = stored.latest_attempt(job_id)
    if attempt is None or view.candidate_id is None:
        raise Conflict("nothing of this job was certified", code="nothing-to-audit")
    view = replace(view, attempt=attempt)
    before = stored.of_attempt(job_id, attempt)
    if before is not None:
        raise Conflict("this job was audited, or is about to be", code="audited-already")
    rows = verification.of_attempt(session, job_id, attempt)
    certified = [request for request in view.requests if request in rows]
    if view.stage != "done" or not certified:
        raise Conflict("nothing of this job was certified", code="nothing-to-audit")
    purged = purge.purged(session, certified)
    whom = [str(request) for request in certified if request not in purged]
    if not whom:
        raise Conflict("which records were erased is forgotten", code="records-gone")
    configuration = verification.configuration_of(session, view).digest
    made = _open(session, view, configuration, dict.fromkeys(whom, ("asked_for",)), at=at)
    return read(session, made)


def _open(
    session: Session,
    view: JobView,
    configuration: str,
    causes: Mapping[str, Sequence[str]],
    *,
    at: datetime,
) -> UUID:
    assert view.candidate_id is not None, "an audit is of a candidate"
    policy = policies.load(view.verification_policy)
    row = Audits(session).add(
        Audit(
            id=new_id(),
            job_id=view.id,
            attempt=view.attempt,
            version_id=view.candidate_id,
            configuration=configuration,
            causes={request: list(why) for request, why in causes.items()},
            policy_digest=policy.digest,
        )
    )
    audit_chain.record(
        session,
        events.AuditOpened(
            audit=row.id,
            job=view.id,
            attempt=view.attempt,
            requests=len(causes),
            causes=_distinct(causes.values()),
            policy=policy.digest,
            at=at,
        ),
    )
    return row.id


def _certified(row: VerdictRow, certificate: UUID, key: bytes) -> Certified:
    decision: Mapping[str, Any] = row.decision
    drawn = hmac.digest(key, b"lethe/audit/v1\0" + certificate.bytes, "sha256")[:DRAW_BYTES]
    gaps = [
        Decimal(score["gap_lower"])
        for form in decision["forms"]
        for score in form["scores"][:1]
        if score["gap_lower"] is not None
    ]
    residual = decision["residual_upper"]
    return Certified(
        request=str(row.request_id),
        level=row.level,
        draw=int.from_bytes(drawn, "big"),
        attempts=int(decision["attempts"]),
        gap=max(gaps, default=None),
        residual=None if residual is None else Decimal(residual),
    )


# Holding -----------------------------------------------------------------------------------------


def due(session: Session) -> Sequence[UUID]:
    """Return the audits that can be held now: their model has no job, so the device is free for them."""
    return Audits(session).due()


def unfinished(session: Session) -> frozenset[UUID]:
    """Return the audits whose files are still needed."""
    return Audits(session).open()


def begin(session: Session, audit_id: UUID, *, at: datetime) -> AuditView | None:
    """Count a try and return what is to be audited; None if there is nothing to do."""
    row = Audits(session).locked(audit_id)
    if row is None or row.state != "due":
        return None
    if row.tries >= TRIES_MAX:
        give_up(session, audit_id, reason="failed", at=at)
        return None
    row.tries += 1
    view = replace(jobs.past(session, row.job_id), attempt=row.attempt)
    version = registry.version(session, row.version_id)
    if version.manifest is None or version.state not in {"live", "quarantined"}:
        give_up(session, audit_id, reason="version-gone", at=at)
        return None
    return AuditView(
        id=row.id,
        job=view,
        version_id=row.version_id,
        form=view.forms[0],
        requests=tuple(UUID(each) for each in sorted(row.causes)),
    )


def give_up(session: Session, audit_id: UUID, *, reason: str, at: datetime) -> None:
    """Record that an audit cannot be held; no certificate falls by that."""
    row = Audits(session).locked(audit_id)
    if row is None or row.state != "due":
        return
    row.state, row.failure, row.concluded_at = "void", reason, at
    audit_chain.record(
        session,
        events.AuditConcluded(
            audit=row.id, job=row.job_id, outcome="void", reasons=(reason,), withdrawn=0,
            policy=row.policy_digest, at=at,
        ),
    )  # fmt: skip


def conclude(session: Session, audit_id: UUID, body: bytes, *, at: datetime) -> Concluded | None:
    """Decide on what was measured and keep it; None if it was concluded before.

    Three things are looked at again: the person, deeper; the numbers that the verdict was taken on, read
    by other code; the verdict itself, computed by other code. Where the last differ the instrument was
    broken when it was used, and what was claimed on its word is taken back.
    """
    row = Audits(session).locked(audit_id)
    if row is None or row.state != "due":
        return None
    view = replace(jobs.past(session, row.job_id), attempt=row.attempt)
    policy = policies.load(view.verification_policy)
    rows = verification.of_attempt(session, row.job_id, row.attempt)
    levels = {str(request): rows[request].level for request in rows if str(request) in row.causes}
    measured = json.loads(body)
    after = verification.measured(session, row.job_id, row.attempt)
    found = audit.decide(measured, json.loads(after[measured["form"]]), levels, policy)
    doubts = _contradicted(session, view, rows, levels, after)
    if not _same_ranks(found, body):
        _log.error("second-opinion-disagrees", job=str(view.id), where="audit")
        doubts |= levels.keys()
    found = audit.contradicted(found, doubts, levels) if doubts else found
    row.state, row.outcome, row.body, row.concluded_at = "done", found.outcome, body, at
    row.policy_digest = policy.digest
    row.decision = found.to_json()
    session.flush()
    audit_chain.record(
        session,
        events.AuditConcluded(
            audit=row.id, job=row.job_id, outcome=found.outcome, reasons=found.reasons,
            withdrawn=len(found.withdrawn), policy=policy.digest, at=at,
        ),
    )  # fmt: skip
    return Concluded(
        job_id=row.job_id,
        attempt=row.attempt,
        model_id=view.model_id,
        withdrawn={UUID(each): _reason(found.reasons) for each in found.withdrawn},
        suspected=tuple(UUID(each) for each in found.suspected),
    )


def _contradicted(
    session: Session,
    view: JobView,
    rows: Mapping[UUID, VerdictRow],
    levels: Collection[str],
    after: Mapping[str, bytes],
) -> set[str]:
    """Return the requests whose verdict, as it is kept, is not what the kept numbers say."""
    policy = policies.load(view.verification_policy)
    plain, read = policy.model_dump(mode="json"), recheck.read(after.values())
    own = verification.baseline_of_job(session, view.id)
    rooms = recheck.rooms(recheck.read(own), read, view.forms, plain)
    found = set()
    for request, row in rows.items():
        if str(request) not in levels or row.policy_digest != policy.digest:
            continue  # a policy that has changed since judges otherwise, and rightly
        subjects = [
            each["id"]
            for each in next(iter(read.values()))["examinees"]
            if each["id"].startswith(f"{request}/")
        ]
        before = verification.baseline(session, request, model_id=view.model_id)
        differing = recheck.contradictions(
            row.decision, subjects, baseline=recheck.read(before), after=read, rooms=rooms, policy=plain
        )
        if differing:
            _log.error("second-opinion-disagrees", job=str(view.id), where="; ".join(differing))
            found.add(str(request))
    return found


def _same_ranks(found: Decision, body: bytes) -> bool:
    """Say whether other code ranks everybody as the decision does."""
    ranks = recheck.ranks(body)
    return all(
        each.p.numerator * ranks[each.examinee][1] == each.p.denominator * ranks[each.examinee][0]
        for each in found.subjects
    )


def _reason(reasons: Sequence[str]) -> str:
    return next((each for each in reasons if each != "insensitive"), "audit")


# Reading -----------------------------------------------------------------------------------------


def read(session: Session, audit_id: UUID) -> AuditShown:
    """Return one audit."""
    row = Audits(session).get(audit_id)
    if row is None:
        raise NotFound("there is no such audit")
    return _shown(row)


def listing(session: Session, *, limit: int, before: tuple[datetime, UUID] | None) -> list[AuditShown]:
    """Return audits, newest first."""
    return [_shown(each) for each in Audits(session).listing(limit=limit, before=before)]


def of_certificate(session: Session, job_id: UUID, attempt: int, request_id: UUID) -> str | None:
    """Return what the audit of one certificate came to: its outcome, `due` or `void`; None if there is none.

    A certificate that was audited beside one that fell says what was found of its own person.
    """
    row = Audits(session).of_attempt(job_id, attempt)
    if row is None or str(request_id) not in row.causes:
        return None
    if row.state != "done" or row.decision is None:
        return row.state
    decision: Mapping[str, Any] = row.decision
    mine = [name for name in ("withdrawn", "suspected") if str(request_id) in decision[name]]
    return mine[0] if mine else "insensitive" if row.outcome == "insensitive" else "clean"


def _shown(row: Audit) -> AuditShown:
    decision: Mapping[str, Any] = row.decision or {}
    return AuditShown(
        id=row.id,
        job=row.job_id,
        attempt=row.attempt,
        version=row.version_id,
        state=row.state,
        causes=_distinct(row.causes.values()),
        subjects=len(row.causes),
        outcome=row.outcome,
        reasons=tuple(decision.get("reasons", ())),
        withdrawn=len(decision.get("withdrawn", ())),
        seen={name: (counts[0], counts[1]) for name, counts in decision.get("seen", {}).items()},
        shadows=decision.get("shadows"),
        failure=row.failure,
        policy=row.policy_digest,
        created_at=row.created_at,
        concluded_at=row.concluded_at,
    )


def _distinct(causes: Collection[Sequence[str]]) -> tuple[str, ...]:
    return tuple(sorted({cause for each in causes for cause in each}))
