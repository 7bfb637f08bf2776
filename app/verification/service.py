"""Judge a candidate: stored numbers and a policy in, decisions out, all of it kept.

The numbers come from processes that hold weights; here nothing is measured. Whoever doubts a
verdict takes the stored bytes and the policy and decides again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from app import telemetry
from app.audit import events
from app.audit import service as audit
from app.errors import Conflict
from app.http import ids
from app.jobs import service as jobs
from app.jobs.escalation import Guarantee
from app.jobs.views import JobView
from app.registry import service as registry
from app.storage.database import Session
from app.tables import Qualification, VerdictRow, new_id
from app.verification import controls, fleet, qualification, recheck
from app.verification import policy as policies
from app.verification.cohort import Kind
from app.verification.measurements import (
    BatchEvidence,
    EarlierBatch,
    MethodFacts,
    batch_evidence,
    earlier_batches,
    earlier_sentinels,
    request_measurements,
)
from app.verification.policy import Policy
from app.verification.qualification import Admission, Configuration, Finding, Run, Standing
from app.verification.repository import Fleet, Qualifications, Verifications
from app.verification.verdict import BatchDecision, Decision, decide, decide_batch, doubted, worst

COHORT: Kind = "lottery"
"""How never-trained subjects come about here: held back at random at ingestion (V10)."""

LOOKS_MAX = 10_000
"""The newest decisions that the fleet's health is taken over."""

Files = Sequence[Mapping[str, Any]]

_log = telemetry.logger("verification")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was measured of an attempt, and the rules it is judged by."""

    policy: Policy
    method: MethodFacts
    evidence: BatchEvidence
    before: Sequence[bytes]
    """The stored numbers of the baseline, one file per form; `after` is the candidate's, read."""
    after: Files
    read_again: recheck.Files
    """`after`, as the second opinion reads it; and what it makes of the batch."""
    rooms: Mapping[str, recheck.Room]


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


def baseline(session: Session, request_id: UUID, *, model_id: UUID) -> tuple[bytes, ...]:
    """Return what was measured before anything was tried for a request; empty if nothing was judged yet.

    The first baseline counts: against a half-erased one everything would look unmeasurable (V25).
    """
    stored = Verifications(session)
    first = stored.first_job_of(request_id, model_id=model_id)
    return () if first is None else tuple(stored.bodies(job_id=first, attempt=0, moment="before").values())


def baseline_of_job(session: Session, job_id: UUID) -> tuple[bytes, ...]:
    """Return what a job measured of the version it began from."""
    return tuple(Verifications(session).bodies(job_id=job_id, attempt=0, moment="before").values())


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
    before = stored.bodies(job_id=view.id, attempt=0, moment="before")
    after = stored.bodies(job_id=view.id, attempt=view.attempt, moment="after")
    configuration = configuration_of(session, view)
    size = _size(after)
    admission = None
    if guarantee == "approximate":
        admission = qualify(session, view, configuration, rows=size["rows"], policy=policy, at=at)
    read_again = recheck.read(after.values())
    batch = Batch(
        policy=policy,
        method=MethodFacts(
            engine=str(view.engine),
            guarantee=guarantee,
            qualified=admission is not None,
            attempts=1,
            admission=admission,
        ),
        evidence=_evidence(session, view, configuration, before, after, policy, at=at),
        before=tuple(before.values()),
        after=_files(after.values()),
        read_again=read_again,
        rooms=recheck.rooms(
            recheck.read(before.values()), read_again, view.forms, policy.model_dump(mode="json")
        ),
    )
    decisions = {request_id: _decide(session, view, request_id, batch) for request_id in view.requests}
    decided = decide_batch(
        {str(request_id): decision for request_id, decision in decisions.items()},
        batch.evidence,
        batch.method,
        policy,
        released={str(each) for each in view.released},
        assurance_min=view.assurance_min,  # type: ignore[arg-type]  # validated when the model was registered
    )
    for request_id, decision in decisions.items():
        _keep(session, view, request_id, decision, at=at)
    digests = {form: hashlib.sha256(body).hexdigest() for form, body in after.items()}
    return _judgement(view, decided, decisions, digests, {"configuration": configuration.digest, **size})


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


# Qualification -------------------------------------------------------------------------------------


def qualify(
    session: Session,
    view: JobView,
    configuration: Configuration,
    *,
    rows: int,
    policy: Policy,
    at: datetime,
) -> Admission | None:
    """Return the qualification under which a batch of so many rows may be certified, if there is one.

    A test that is due is held here, on the runs before this one: nobody chooses when. An admission whose
    time is over, or whose record broke, is marked as lapsed (V42).
    """
    stored = Qualifications(session)
    tests = stored.of_configuration(view.model_id, configuration.digest)
    newest = tests[0] if tests else None
    if newest is not None and newest.state == "admitted":
        _mark_if_lapsed(session, view, newest, policy, at=at)
    if newest is None or newest.state != "admitted":
        found = qualification.examine(
            _runs(session, view, since=at - timedelta(days=policy.qualification_days)),
            configuration=configuration.digest,
            after=None if newest is None else newest.through,
            refusals=sum(test.state == "refused" for test in tests),
            policy=policy,
        )
        if found.state == "waiting":
            return None
        newest = stored.add(_tested(view, configuration, found, policy, at=at))
        _tell_tested(session, newest, at=at)
    admission = Admission(
        id=str(newest.id),
        configuration=newest.configuration,
        sentinels=newest.sentinels,
        losses=newest.losses,
        tests=newest.tests,
        risk_upper=Decimal(newest.risk_upper),
        rows_min=newest.rows_min,
        rows_max=newest.rows_max,
    )
    return admission if newest.state == "admitted" and qualification.covers(admission, rows) else None


def _mark_if_lapsed(
    session: Session, view: JobView, held: Qualification, policy: Policy, *, at: datetime
) -> None:
    window = _runs(session, view, since=at - timedelta(days=policy.sentinel_window_days))
    runs = [run for run in window if run.configuration == held.configuration]
    reason = qualification.lapsed(
        held.decided_at,
        at=at,
        failures=sum(run.failures for run in runs),
        sentinels=sum(run.sentinels for run in runs),
        policy=policy,
    )
    if reason is None:
        return
    held.state, held.lapsed_at, held.lapse = "lapsed", at, reason
    if reason == "sentinels" and runs:
        held.through = runs[-1].at  # what broke the record does not count towards the next
    session.flush()
    audit.record(
        session,
        events.QualificationLapsed(
            model=view.model_id,
            engine=held.engine,
            configuration=held.configuration,
            reason=reason,
            at=at,
        ),
    )


def _tested(
    view: JobView, configuration: Configuration, found: Finding, policy: Policy, *, at: datetime
) -> Qualification:
    rows_min, rows_max = found.rows
    return Qualification(
        id=new_id(),
        model_id=view.model_id,
        engine=configuration.engine,
        configuration=configuration.digest,
        state=found.state,
        tests=found.tests,
        sentinels=found.sentinels,
        losses=found.losses,
        risk_upper=str(found.upper),
        rows_min=rows_min,
        rows_max=rows_max,
        jobs=[str(run.job) for run in found.runs],
        policy_digest=policy.digest,
        through=found.runs[-1].at,
        decided_at=at,
    )


def _tell_tested(session: Session, tested: Qualification, *, at: datetime) -> None:
    audit.record(
        session,
        events.ConfigurationTested(
            model=tested.model_id,
            engine=tested.engine,
            configuration=tested.configuration,
            state=tested.state,
            tests=tested.tests,
            sentinels=tested.sentinels,
            losses=tested.losses,
            risk_upper=tested.risk_upper,
            policy=tested.policy_digest,
            at=at,
        ),
    )


def configuration_of(session: Session, view: JobView) -> Configuration:
    """Return what made the candidate, by its own statement."""
    assert view.candidate_id is not None, "only a candidate is judged"
    made: Mapping[str, Any] = registry.version(session, view.candidate_id).statement
    return Configuration.of(
        made["statement"], line=view.model, recipe=made["given"]["recipe"], forms=view.forms
    )


def _runs(session: Session, view: JobView, *, since: datetime) -> list[Run]:
    """Return the runs of this job's engine on its model, oldest first; this attempt is none of them yet."""
    done = jobs.verifications(session, view.model_id, engine=str(view.engine), since=since)
    return [
        Run(
            job=job_id,
            at=when,
            configuration=str(output["configuration"]),
            rows=int(str(output["rows"])),
            sentinels=int(str(output["sentinels"])),
            failures=int(str(output["sentinel_failures"])),
            repeated=int(str(output["repeated"])),
            gate_failed=bool(output["gate_failed"]),
        )
        for job_id, when, output in done
        if "configuration" in output
    ]


def _size(after: Mapping[str, bytes]) -> dict[str, int]:
    """Return how many rows an attempt was to forget, and how many sentinels stand on several."""
    file = json.loads(next(iter(after.values())))
    planted = [each["rows"] for each in file["examinees"] if each["kind"] == "sentinel"]
    people = [each["rows"] for each in file["examinees"] if each["kind"] == "request"]
    return {
        "rows": sum(people) + sum(planted),
        "repeated": sum(rows >= qualification.REPEATED_ROWS for rows in planted),
    }


# The fleet -----------------------------------------------------------------------------------------


def fleet_health(session: Session) -> fleet.Health:
    """Return what many verdicts show together, over the newest of them (V44, V45)."""
    first: dict[tuple[UUID, str, str], fleet.Look] = {}
    for each in Fleet(session).judged(limit=LOOKS_MAX):
        if each.p is not None and each.look == 1:
            look = fleet.Look(
                model=each.model,
                engine=each.engine,
                release=ids.encode("job", each.job_id),
                count=fleet.rank_of(each.p, each.m),
                m=each.m,
            )
            first.setdefault((each.request_id, each.model, each.engine), look)
    survived = [
        found
        for job_id, attempt, named in Fleet(session).latest()
        for found in _survived(session, job_id, attempt, policies.load(named))
    ]
    return replace(fleet.health(list(first.values()), survived), qualifications=_standings(session))


def _standings(session: Session) -> tuple[Standing, ...]:
    return tuple(
        Standing(
            model=model,
            engine=row.engine,
            configuration=row.configuration,
            state=row.state,
            sentinels=row.sentinels,
            losses=row.losses,
            tests=row.tests,
            risk_upper=Decimal(row.risk_upper),
            decided_at=row.decided_at,
        )
        for row, model in Qualifications(session).newest()
    )


def reaudited(session: Session, job_id: UUID, attempt: int, policy: str) -> tuple[int, int]:
    """Return how many sentinels of earlier batches were looked for on a candidate, and how many are back."""
    found = _survived(session, job_id, attempt, policies.load(policy))
    return sum(each.sentinels for each in found), sum(each.back for each in found)


def _survived(session: Session, job_id: UUID, attempt: int, policy: Policy) -> list[fleet.Survival]:
    """Return what the sentinels of all earlier batches say on one candidate."""
    stored = Verifications(session)
    after = _files(stored.bodies(job_id=job_id, attempt=attempt, moment="after").values())
    found = []
    for name in earlier_batches(after):
        batch = _earlier(session, name, after)
        found.append(
            fleet.survival(
                fleet.Batch(
                    job=ids.encode("job", UUID(name)),
                    on=ids.encode("job", job_id),
                    sentinels=len({each.id for form in batch.sentinels.values() for each in form}),
                    back=len(controls.resurfaced(batch.sentinels, policy.delta)),
                    others=batch.others,
                    others_failed=batch.others_failed,
                ),
                risk=policy.sentinel_risk,
            )
        )
    return found


def _record(session: Session, job_id: UUID) -> Mapping[str, int]:
    """Return the sentinels' record that a job's batch was decided on."""
    *_, output = (step["output"] for step in jobs.steps(session, job_id) if step["stage"] == "verify")
    found: Mapping[str, int] = output["batch"]["sentinels"]  # type: ignore[index]  # JSON of our own
    return found


# Deciding ------------------------------------------------------------------------------------------


def _evidence(
    session: Session,
    view: JobView,
    configuration: Configuration,
    before: Mapping[str, bytes],
    after: Mapping[str, bytes],
    policy: Policy,
    *,
    at: datetime,
) -> BatchEvidence:
    """Return the batch's evidence, with the sentinels' record under this configuration (V19)."""
    window = _runs(session, view, since=at - timedelta(days=policy.sentinel_window_days))
    runs = [run for run in window if run.configuration == configuration.digest]
    measured = _files(after.values())
    return batch_evidence(
        _files(before.values()),
        measured,
        forms=view.forms,
        sentinel_failures_before=sum(run.failures for run in runs),
        sentinels_before=sum(run.sentinels for run in runs),
        anchor=_of_anchor(session, view, before),
        earlier=[_earlier(session, name, measured) for name in earlier_batches(measured)],
    )


def _of_anchor(session: Session, view: JobView, before: Mapping[str, bytes]) -> Files:
    """Return what was measured of the anchor itself, by the first job that began from it (V49)."""
    if view.anchor_id is None or view.anchor_id == view.parent_id:
        return _files(before.values())
    stored = Verifications(session)
    first = stored.first_job_from(view.anchor_id)
    return [] if first is None else _files(stored.bodies(job_id=first, attempt=0, moment="before").values())


def _earlier(session: Session, name: str, after: Files) -> EarlierBatch:
    """Return what the sentinels of an earlier batch say on this candidate, and the record they stood on."""
    batch = UUID(name)
    before = _files(Verifications(session).bodies(job_id=batch, attempt=0, moment="before").values())
    record = _record(session, batch)
    return EarlierBatch(
        job=name,
        sentinels=earlier_sentinels(name, before, after),
        others=record["total"] - record["here"],
        others_failed=record["failures"] - record["failures_here"],
    )


def _decide(session: Session, view: JobView, request_id: UUID, batch: Batch) -> Decision:
    """Decide on each subject of a request, twice; the request is as good as its worst."""
    stored = Verifications(session)
    bodies = baseline(session, request_id, model_id=view.model_id) or batch.before
    before, read_again = _files(bodies), recheck.read(bodies)
    method = replace(batch.method, attempts=stored.count(request_id, model_id=view.model_id) + 1)
    look = view.looks[request_id] + 1
    subjects = [e["id"] for e in batch.after[0]["examinees"] if e["id"].startswith(f"{request_id}/")]
    decisions = []
    for subject in subjects:
        measured = request_measurements(
            subject,
            before,
            batch.after,
            look=look,
            cohort_kind=COHORT,
            digests={"policy": str(view.policy_digest)},
        )
        decision = decide(measured, batch.evidence, method, batch.policy)
        disagreeing = _second_opinion(decision, subject, view, batch, read_again, look=look)
        decisions.append(doubted(decision) if disagreeing else decision)
    return worst(decisions)


def _second_opinion(
    decision: Decision,
    subject: str,
    view: JobView,
    batch: Batch,
    baseline: recheck.Files,
    *,
    look: int,
) -> tuple[str, ...]:
    """Return where another computation, on the same bytes, finds otherwise (`recheck`)."""
    own = recheck.opinion(
        subject,
        baseline=baseline,
        after=batch.read_again,
        rooms=batch.rooms,
        forms=view.forms,
        look=look,
        cohort_kind=COHORT,
        policy=batch.policy.model_dump(mode="json"),
    )
    differing = recheck.disagreements(decision.to_json(), own)
    if differing:
        _log.error("second-opinion-disagrees", job=str(view.id), where="; ".join(differing))
    return differing


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
    view: JobView,
    batch: BatchDecision,
    decisions: Mapping[UUID, Decision],
    digests: Mapping[str, str],
    run: Mapping[str, object],
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
            "gate_failed": bool(batch.utility.reasons),
            **run,
            "verdicts": {str(request): decision.verdict for request, decision in decisions.items()},
            "measurements": dict(digests),
            "batch": batch.to_json(),
        },
    )


def _files(bodies: Iterable[bytes]) -> Files:
    return [json.loads(body) for body in bodies]
