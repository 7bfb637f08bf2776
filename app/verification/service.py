"""Judge a candidate: stored numbers and a policy in, decisions out, all of it kept.

The numbers come from processes that hold weights; here nothing is measured. Whoever doubts a
verdict takes the stored bytes and the policy and decides again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from app.audit import events
from app.audit import service as audit
from app.errors import Conflict
from app.jobs import service as jobs
from app.jobs.escalation import Guarantee
from app.jobs.service import JobView
from app.storage.database import Session
from app.tables import VerdictRow
from app.verification import policy as policies
from app.verification.cohort import Kind
from app.verification.measurements import (
    BatchEvidence,
    MethodFacts,
    batch_evidence,
    request_measurements,
)
from app.verification.policy import Policy
from app.verification.repository import Verifications
from app.verification.verdict import BatchDecision, Decision, decide, decide_batch, worst

COHORT: Kind = "lottery"
"""How never-trained subjects come about here: held back at random at ingestion (V10)."""

Files = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What follows from a verification, as the job's next step needs it."""

    publish: bool
    leaving: frozenset[UUID]
    """Requests that this candidate cannot settle; with `publish`, the others go on."""
    held: Mapping[UUID, str]
    """Of these, the results of an exact engine that a person must look at, and why.

    Without `publish` they are the whole batch, or there are none.
    """
    outcome: str
    reasons: tuple[str, ...]
    output: Mapping[str, object]


def put(session: Session, job_id: UUID, *, attempt: int, moment: str, form: str, body: bytes) -> None:
    """Store the numbers of one version in one form, byte for byte; what is there already stays."""
    Verifications(session).put(job_id=job_id, attempt=attempt, moment=moment, form=form, body=body)


def judge(session: Session, view: JobView, *, guarantee: Guarantee, at: datetime) -> Judgement:
    """Decide on each request of an attempt and on the batch, and store every decision.

    Raises:
        Conflict: the policy is not the one that was registered before the engine ran.
    """
    policy = policies.load(view.verification_policy)
    if policy.digest != view.policy_digest:
        raise Conflict(f"job {view.id} was planned under another policy", code="policy-not-registered")
    stored = Verifications(session)
    before = _files(stored.bodies(job_id=view.id, attempt=0, moment="before"))
    after_bodies = stored.bodies(job_id=view.id, attempt=view.attempt, moment="after")
    after = _files(after_bodies)
    evidence = _evidence(session, view, policy, before, after, at=at)
    # No configuration has passed a qualification yet, so none may claim one (V42).
    method = MethodFacts(engine=str(view.engine), guarantee=guarantee, qualified=False, attempts=1)
    decisions = {
        request_id: _decide(session, view, request_id, before, after, evidence, method, policy)
        for request_id in view.requests
    }
    batch = decide_batch(
        {str(request_id): decision for request_id, decision in decisions.items()},
        evidence,
        method,
        policy,
        released={str(each) for each in view.released},
        assurance_min=view.assurance_min,  # type: ignore[arg-type]  # validated when the model was registered
    )
    for request_id, decision in decisions.items():
        _keep(session, view, request_id, decision, at=at)
    digests = {form: hashlib.sha256(body).hexdigest() for form, body in after_bodies.items()}
    return _judgement(view, batch, decisions, digests)


def of_request(session: Session, request_id: UUID) -> Sequence[VerdictRow]:
    """Return every decision on a request, oldest first."""
    return Verifications(session).of_request(request_id)


def attempts(session: Session, request_id: UUID, model_id: UUID) -> int:
    """Return how many candidates of a model a request was judged on, over all its jobs."""
    return Verifications(session).count(request_id, model_id=model_id)


def of_attempt(session: Session, job_id: UUID, attempt: int) -> Mapping[UUID, VerdictRow]:
    """Return the decisions of one attempt by request."""
    return Verifications(session).of_attempt(job_id, attempt)


def measured(session: Session, job_id: UUID, attempt: int) -> Mapping[str, bytes]:
    """Return the stored numbers of an attempt's candidate, by form."""
    return Verifications(session).bodies(job_id=job_id, attempt=attempt, moment="after")


def _evidence(
    session: Session, view: JobView, policy: Policy, before: Files, after: Files, *, at: datetime
) -> BatchEvidence:
    failed, total = jobs.sentinel_record(
        session,
        view.model_id,
        engine=str(view.engine),
        since=at - timedelta(days=policy.sentinel_window_days),
    )
    return batch_evidence(
        before, after, forms=view.forms, sentinel_failures_before=failed, sentinels_before=total
    )


def _decide(
    session: Session,
    view: JobView,
    request_id: UUID,
    before: Files,
    after: Files,
    evidence: BatchEvidence,
    method: MethodFacts,
    policy: Policy,
) -> Decision:
    """Decide on each subject of a request; the request is as good as its worst."""
    stored = Verifications(session)
    first = stored.first_job_of(request_id, model_id=view.model_id)
    if first is not None and first != view.id:
        # The first baseline counts: against a half-erased one everything would look unmeasurable.
        before = _files(stored.bodies(job_id=first, attempt=0, moment="before"))
    subjects = [e["id"] for e in after[0]["examinees"] if e["id"].startswith(f"{request_id}/")]
    return worst(
        [
            decide(
                request_measurements(
                    subject,
                    before,
                    after,
                    look=view.looks[request_id] + 1,
                    cohort_kind=COHORT,
                    digests={"policy": str(view.policy_digest)},
                ),
                evidence,
                replace(method, attempts=stored.count(request_id, model_id=view.model_id) + 1),
                policy,
            )
            for subject in subjects
        ]
    )


def _keep(session: Session, view: JobView, request_id: UUID, decision: Decision, *, at: datetime) -> None:
    Verifications(session).add(
        VerdictRow(
            job_id=view.id,
            request_id=request_id,
            attempt=view.attempt,
            verdict=decision.verdict,
            level=decision.level,
            policy_digest=decision.policy,
            decision=decision.to_json(),
        )
    )
    audit.record(
        session,
        events.VerdictReached(
            request=request_id,
            job=view.id,
            attempt=view.attempt,
            engine=str(view.engine),
            verdict=decision.verdict,
            level=decision.level,
            reasons=decision.reasons,
            policy=decision.policy,
            at=at,
        ),
    )


def _judgement(
    view: JobView, batch: BatchDecision, decisions: Mapping[UUID, Decision], digests: Mapping[str, str]
) -> Judgement:
    leaving = frozenset(UUID(each) for each in batch.leaving)
    publish = batch.action == "publish" and len(leaving) < len(decisions)
    held = {UUID(each): why for each, why in batch.attention.items() if UUID(each) in leaving}
    if batch.action != "publish" or not (publish or held.keys() == leaving):
        held = {}
    levels = sorted({decision.level for decision in decisions.values()})
    reasons = dict.fromkeys([*batch.reasons, *(r for d in decisions.values() for r in d.reasons)])
    return Judgement(
        publish=publish,
        leaving=leaving if publish else frozenset(),
        held=held,
        outcome="passed" if publish else f"{batch.action}: {', '.join(levels)}",
        reasons=tuple(reasons),
        output={
            "engine": str(view.engine),
            "sentinels": batch.sentinels.here,
            "sentinel_failures": batch.sentinels.failures_here,
            "verdicts": {str(request): decision.verdict for request, decision in decisions.items()},
            "measurements": dict(digests),
            "batch": batch.to_json(),
        },
    )


def _files(bodies: Mapping[str, bytes]) -> Files:
    return [json.loads(body) for body in bodies.values()]
