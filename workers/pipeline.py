"""What happens to a request, in order: one function per stage, read from top to bottom.

    prepare                                       what a version lacks: itself, its references, a server
    plan -> unlearn -> verify -> certify -> publish -> conclude
    audit                                         later, of some: `workers.audit`

    python -m workers.pipeline STAGE ID --epoch N        one stage, in a process of its own

Every stage claims, computes and records: two short transactions, and none open while it computes.
A stage that was done already finds nothing to claim and returns. Whatever holds weights is a run of
`workers.unlearning` in a process of its own; here nothing loads torch.
"""

import argparse
import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from uuid import UUID

from app import telemetry
from app.certificates import publishing
from app.certificates import service as certificates
from app.certificates.publication import Reaudit
from app.config import Settings
from app.erasure import calendars
from app.erasure import service as erasure
from app.erasure.identity import service as identity
from app.erasure.identity.courier import courier
from app.erasure.near import comparing
from app.erasure.scan import passing
from app.errors import LeaseLost, Problem, Unavailable
from app.failpoints import reach
from app.intake.bulk import service as bulk
from app.jobs import escalation, leases, scheduling
from app.jobs import service as jobs
from app.jobs.lifecycle import JobKind, JobStage
from app.jobs.views import JobView
from app.queue import Stage
from app.records import ingestion
from app.records import service as records
from app.records.content import canonical
from app.records.reading import DatasetChanged
from app.records.sketches import service as sketches
from app.registry import service as registry
from app.registry import weights
from app.serving import service as serving
from app.storage.database import DatabaseAway, Session
from app.verification import policy as policies
from app.verification import service as verification
from workers import audit, housekeeping, material, orders, results
from workers import context as composition
from workers.context import Context
from workers.launcher import Outcome, RunFailed
from workers.material import Draw
from workers.unlearning.spec import (
    EXIT_FAILED,
    EXIT_RESUMABLE,
)

EXIT_FENCED = 77
EXIT_CHANGED = 66
"""A dataset's file is not what was registered; only a person can put that right."""
PROGRESS_SECONDS = 1.0


class Overclaimed(Exception):  # noqa: N818  it is named for the fact
    """An engine's statement says more than the engine is trusted with."""


def register(dataset_id: UUID, epoch: int, context: Context) -> None:
    """Read a dataset where it lies and register it whole, or say what is wrong with it."""
    del epoch  # a dataset has one writer by compare-and-set, not by lease
    ingestion.ingest(
        context.transaction,
        dataset_id,
        keyring=context.keyring,
        work=context.workdir("datasets"),
        clock=context.clock,
    )


def sketch(dataset_id: UUID, epoch: int, context: Context) -> None:
    """Sketch the records of a registered dataset, so that near duplicates are found in it."""
    del epoch  # one pass at a time by compare-and-set of its place
    keys = context.keyring
    sketches.sketch(
        context.transaction, dataset_id, sketch_key=keys.sketch, content_key=keys.content, clock=context.clock
    )


def receive(import_id: UUID, epoch: int, context: Context) -> None:
    """Receive the requests of a file, row by row, from the first on that has no outcome."""
    del epoch  # one worker at a time by the lock on its row
    settings = context.settings
    bulk.work(
        context.transaction,
        import_id,
        calendar=calendars.load(settings.jurisdiction, settings.time_zone),
        rules=settings.requests_policy,
        clock=context.clock,
    )


def challenge(challenge_id: UUID, epoch: int, context: Context) -> None:
    """Draw and send the one-time codes that people wait for: this one, and whatever else is due."""
    del challenge_id, epoch  # each letter is claimed by itself, by whoever comes first
    identity.deliver(
        identity.Sender(
            transaction=context.transaction,
            courier=courier(context.settings, clock=context.clock),
            secret=context.keyring.api,
            clock=context.clock,
        )
    )


def search(request_id: UUID, epoch: int, context: Context) -> None:
    """Look for near duplicates of what a request concerns, and propose them to a person."""
    del epoch  # whoever concludes first does
    comparing.compare(
        context.transaction, request_id, content_key=context.keyring.content, clock=context.clock
    )


def scan(request_id: UUID, epoch: int, context: Context) -> None:
    """Seek in all texts what people are known by, for everybody who waits, and propose what names them."""
    del request_id, epoch  # one pass at a time, for all
    passing.scan(context.transaction, clock=context.clock)


def prepare(version_id: UUID, epoch: int, context: Context) -> None:
    """Train what a version lacks, itself and its references; then serve it if nothing else is served."""
    with context.transaction() as session:
        version = registry.version(session, version_id)
        model = leases.hold(session, version.model_id, epoch=epoch)
        missing = registry.missing_shards(session, model)
        rows = records.training_records(session, model.dataset_id, model.id)
    work = context.workdir(f"prepare-{version_id}")
    specs = orders.trainings(context, version, model, missing, rows, epoch=epoch, work=work)
    orders.run(context, list(specs.values()), lambda body: _show_version(context, version_id, body))
    reach("prepare.computed")
    for shard, spec in specs.items():
        results.record_trained(context, version, model, shard, spec, rows, epoch=epoch)
    if version.engine == "upload" and version.manifest is None:
        results.record_upload(context, version, epoch=epoch, work=work)
    reach("prepare.recorded")
    if model.live_version_id is None:
        _serve(context, model.id, version_id, parent_id=None, epoch=epoch, erasure_epoch_step=0)
    shutil.rmtree(work, ignore_errors=True)


def plan(model_id: UUID, epoch: int, context: Context) -> None:
    """Batch what is due, measure what the live version still knows of it, choose the engine."""
    started = time.monotonic()
    with context.transaction() as session:
        view = scheduling.open_next(session, model_id, epoch=epoch, now=context.clock())
        if view is None:
            return
        policy = policies.load(view.verification_policy)
        model = registry.model(session, model_id)
        if registry.missing_shards(session, model):
            return  # `prepare` is due first; the sweeper knows
        # A compaction spends no sentinels: it is judged by those whom it covers.
        planted = 0 if view.kind is JobKind.COMPACTION else policy.sentinels_per_batch
        draw = Draw(sentinels=planted, controls=policy.assay_subjects)
        line_up = orders.line_up(session, context, view, draw)
        anchor = registry.lineage(session, view.parent_id)[0]
    # Whatever the engines will make of it: from here on no training may bring it back (R67).
    housekeeping.bar_records(context)
    work = context.workdir(f"job-{view.id}", "plan")
    for form, body in orders.measured(context, view, line_up, view.parent_id, work, moment="before"):
        with context.transaction() as session:
            verification.put(session, view.id, attempt=0, moment="before", form=form, body=body)
    reach("plan.computed")
    seconds = registry.training_seconds(anchor) if model.recipe is not None else None
    with context.transaction() as session:
        floor = erasure.engine_floor(session, view.requests, model_id, ladder=view.policy.ladder)
        jobs.planned(
            session,
            view,
            engine=escalation.first(view.policy, floor=floor, exact_seconds=seconds),
            anchor_id=anchor.id,
            plan={
                "sentinels": [row.id for rows in line_up.sentinels.values() for row in rows],
                "controls": [row.id for rows in line_up.controls.values() for row in rows],
            },
            sentinels=len(line_up.sentinels),
            policy_digest=policy.digest,
            seconds=time.monotonic() - started,
            at=context.clock(),
        )


def unlearn(job_id: UUID, epoch: int, context: Context) -> None:
    """Make the candidate: the anchor, less every record of the batch; or hear why an engine refuses.

    Never from the last candidate: the deltas of earlier approximate jobs are applied to the anchor anew,
    so that budgets are measured from it and drift is bounded (E4).
    """
    started = time.monotonic()
    with context.transaction() as session:
        view = jobs.claim(session, job_id, JobStage.UNLEARN, epoch=epoch, now=context.clock())
        if view is None:
            return
        line_up = orders.line_up(session, context, view)
        model = registry.model(session, view.model_id)
        anchor, *later = registry.lineage(session, view.parent_id)
    reach("unlearn.claimed")
    out = context.workdir(f"job-{job_id}", f"attempt-{view.attempt}")
    spec = orders.unlearning(context, view, line_up, model, anchor, later, out)
    [outcome] = orders.run(context, [spec], lambda body: orders.show_job(context, job_id, body))
    seconds = time.monotonic() - started
    reach("unlearn.computed")
    if outcome.body["outcome"] == "refused":
        _refused(context, view, outcome, seconds)
        return
    agree(str(view.engine), outcome)
    made = weights.adopt(context.objects, out / "model")
    delta = out / "delta.safetensors"
    sealed_delta = context.objects.put_file(delta) if delta.exists() else None
    curvature = out / "curvature.safetensors"
    left = context.objects.put_file(curvature) if curvature.exists() else None
    history = results.kept_history(context, out)
    statement = {**outcome.body, "given": orders.given(view, line_up, model, anchor, later)}
    reach("unlearn.adopted")
    with context.transaction() as session:
        candidate = registry.register_candidate(
            session, view.model_id, made, job_id=job_id, engine=str(view.engine), anchor_id=anchor.id,
            parent_id=view.parent_id, delta=sealed_delta, curvature=left, history=history,
            statement=statement, exact=outcome.body["guarantee"] == "exact", at=context.clock(),
        )  # fmt: skip
        jobs.made_candidate(
            session, view, candidate.id, output=_brief(outcome), seconds=seconds, at=context.clock()
        )
    reach("unlearn.recorded")


def verify(job_id: UUID, epoch: int, context: Context) -> None:
    """Measure the candidate as it would be served, decide, and go on, back or up the ladder."""
    started = time.monotonic()
    with context.transaction() as session:
        view = jobs.claim(session, job_id, JobStage.VERIFY, epoch=epoch, now=context.clock())
        if view is None:
            return
        line_up = orders.line_up(session, context, view)
    assert view.candidate_id is not None, "verify follows unlearn"
    work = context.workdir(f"job-{job_id}", f"verify-{view.attempt}")
    bodies = list(orders.measured(context, view, line_up, view.candidate_id, work, moment="after"))
    reach("verify.computed")
    with context.transaction() as session:
        for form, body in bodies:
            verification.put(session, job_id, attempt=view.attempt, moment="after", form=form, body=body)
        judgement = verification.judge(
            session, view, guarantee=escalation.GUARANTEES[str(view.engine)], at=context.clock()
        )
        seconds = time.monotonic() - started
        if judgement.publish:
            jobs.passed(
                session,
                view,
                leaving=judgement.leaving,
                held=judgement.held,
                output=judgement.output,
                seconds=seconds,
                at=context.clock(),
            )
        elif judgement.held:
            jobs.set_aside(
                session,
                view,
                held=judgement.held,
                output=judgement.output,
                seconds=seconds,
                at=context.clock(),
            )
            registry.condemn(session, view.candidate_id, at=context.clock())
        else:
            jobs.escalate(
                session, view, stage=JobStage.VERIFY, outcome=judgement.outcome, reasons=judgement.reasons,
                output=judgement.output, seconds=seconds, at=context.clock(),
            )  # fmt: skip
            registry.condemn(session, view.candidate_id, at=context.clock())
    reach("verify.recorded")
    housekeeping.destroy_condemned(context)


def certify(job_id: UUID, epoch: int, context: Context) -> None:
    """Sign one statement per request about what was measured; nobody receives it yet."""
    started = time.monotonic()
    with context.transaction() as session:
        view = jobs.claim(session, job_id, JobStage.CERTIFY, epoch=epoch, now=context.clock())
        if view is None:
            return
        facts = certificates.gather(session, view, issuer=context.settings.issuer, at=context.clock())
    drafts = [
        certificates.draft(
            each, canonical_sha256=_canonical(context, view, each.request_id), objects=context.objects
        )
        for each in facts
    ]
    signed = certificates.sign(drafts, context.settings.keys)
    reach("certify.computed")
    with context.transaction() as session:
        certificates.issue(session, view, signed, at=context.clock())
        jobs.certified(
            session,
            view,
            output={"certificates": len(signed)},
            seconds=time.monotonic() - started,
            at=context.clock(),
        )
    reach("certify.recorded")
    housekeeping.sequence_log(context)


def publish(job_id: UUID, epoch: int, context: Context) -> None:
    """Swap the served model to the candidate; it counts once the server attests the digest it holds."""
    started = time.monotonic()
    with context.transaction() as session:
        view = jobs.claim(session, job_id, JobStage.PUBLISH, epoch=epoch, now=context.clock())
        if view is None:
            return
        checked, back = verification.reaudited(session, view.id, view.attempt, view.verification_policy)
    assert view.candidate_id is not None, "publish follows unlearn"
    _serve(
        context,
        view.model_id,
        view.candidate_id,
        parent_id=view.parent_id,
        epoch=epoch,
        erasure_epoch_step=1,
        reaudit=Reaudit(checked=checked, failed=back) if checked else None,
        then=lambda session: jobs.published(session, view, output={}, seconds=time.monotonic() - started),
    )
    reach("publish.recorded")


def conclude(job_id: UUID, epoch: int, context: Context) -> None:
    """Destroy what saw the erased, release the certificates, close the requests and the job.

    An exact candidate is the new anchor: the old one goes with all that was made over it.
    """
    started = time.monotonic()
    with context.transaction() as session:
        view = jobs.claim(session, job_id, JobStage.CONCLUDE, epoch=epoch, now=context.clock())
        if view is None:
            return
        line_up = orders.line_up(session, context, view)
        # Of those who are covered again, the references have been rid since they were erased first.
        gone = line_up.forgotten(besides=view.covered)
        touched = {line_up.shards[row.cluster] for row in gone}
        leases.hold(session, view.model_id, epoch=epoch)
        # Together: references that are rebuilt from here on must not see them again.
        ids = [row.id for row in gone]
        records.mark_erased(session, ids, model_id=view.model_id, job_id=view.id, at=context.clock())
        registry.condemn_references(session, view.model_id, touched, at=context.clock())
        if escalation.is_exact(str(view.engine)):
            assert view.candidate_id is not None, "conclude follows unlearn"
            registry.condemn_histories(
                session, view.model_id, except_of=view.candidate_id, at=context.clock()
            )
            registry.retire(session, view.parent_id, at=context.clock())
    assert view.candidate_id is not None, "conclude follows unlearn"
    destroyed = housekeeping.destroy_condemned(context)
    reach("conclude.destroyed")
    housekeeping.sign_statements(context)
    housekeeping.sequence_log(context)
    with context.transaction() as session:
        directory, now = context.settings.keys, context.clock()
        if not certificates.logged(session, view, directory=directory, now=now):
            raise Unavailable(
                "the public log has not published the certificates and their version", code="log-behind"
            )
    shutil.rmtree(context.settings.work / f"job-{job_id}", ignore_errors=True)
    with context.transaction() as session:
        at = context.clock()
        leases.hold(session, view.model_id, epoch=epoch)
        handed_out = certificates.release(session, view, at=at)
        for request_id, released in handed_out.items():
            settle = erasure.upgrade if request_id in view.covered else erasure.conclude
            settle(
                session, request_id, view.model_id, outcome=released.level, certificate_id=released.id,
                version_id=view.candidate_id, at=at,
            )  # fmt: skip
        jobs.concluded(
            session, view, output={"destroyed": destroyed}, seconds=time.monotonic() - started, at=at
        )
        audit.open_after(session, context, view, {each: made.id for each, made in handed_out.items()})
    reach("conclude.recorded")


# Parts of stages -----------------------------------------------------------------------------------


def _refused(context: Context, view: JobView, outcome: Outcome, seconds: float) -> None:
    """Record that an engine would not, with its numbers; the next rung is tried."""
    refusal = outcome.body["refusal"]
    with context.transaction() as session:
        jobs.escalate(
            session, view, stage=JobStage.UNLEARN, outcome="refused", reasons=(refusal["reason"],),
            output={"engine": str(view.engine), "refusal": refusal, **_brief(outcome)}, seconds=seconds,
            at=context.clock(),
        )  # fmt: skip


def agree(engine: str, outcome: Outcome) -> None:
    """Refuse to go on if an engine says more of itself than the ladder's table does, or only hides.

    Raises:
        Overclaimed: nothing of its candidate is kept.
    """
    if outcome.body["statement"]["aim"] != "erasure":
        raise Overclaimed("a suppression is no erasure")
    if outcome.body["guarantee"] != escalation.GUARANTEES[engine]:
        raise Overclaimed("an engine cannot promote itself")


def _brief(outcome: Outcome) -> dict[str, object]:
    """Return what of an outcome belongs into the job's steps."""
    return {
        name: outcome.body[name]
        for name in ("engine", "records_processed", "seconds")
        if name in outcome.body
    }


def _serve(
    context: Context,
    model_id: UUID,
    version_id: UUID,
    *,
    parent_id: UUID | None,
    epoch: int,
    erasure_epoch_step: int,
    reaudit: Reaudit | None = None,
    then: Callable[[Session], None] = lambda _session: None,
) -> None:
    """Have every model server load, swap to and attest a version; then, in one transaction, promote it."""
    with context.transaction() as session:
        order = serving.begin(
            session, model_id=model_id, candidate_id=version_id, lease_epoch=epoch,
            erasure_epoch_step=erasure_epoch_step, backends=context.backends,
        )  # fmt: skip
    attested = serving.publish(context.backends, order, drain_seconds=context.settings.drain_seconds)
    reach("publish.swapped")
    with context.transaction() as session:
        serving.promote(
            session, model_id=model_id, candidate_id=version_id, parent_id=parent_id, lease_epoch=epoch,
            publish_epoch=order.publish_epoch, erasure_epoch_step=erasure_epoch_step, attestation=attested,
            at=context.clock(),
        )  # fmt: skip
        publishing.record(
            session, version_id, attestations=[each.envelope for each in attested], reaudit=reaudit,
            at=context.clock(),
        )  # fmt: skip
        then(session)
    serving.announce(context.backends, order)


def _canonical(context: Context, view: JobView, request_id: UUID) -> list[str]:
    """Return the SHA-256 of each record of a request, read once more from its source."""
    with context.transaction() as session:
        rows = material.asked_for(session, request_id, view.dataset_id)
        source = records.source(session, view.dataset_id)
    lines = records.contents(source, rows, content_key=context.keyring.content)
    return [sha256(canonical(line.content)).hexdigest() for _, line in lines]


def _show_version(context: Context, version_id: UUID, body: dict[str, object]) -> None:
    with context.transaction() as session:
        registry.show_progress(session, version_id, body)


# The process --------------------------------------------------------------------------------------

STAGES: dict[Stage, Callable[[UUID, int, Context], None]] = {
    Stage.REGISTER: register,
    Stage.SKETCH: sketch,
    Stage.PREPARE: prepare,
    Stage.PLAN: plan,
    Stage.UNLEARN: unlearn,
    Stage.VERIFY: verify,
    Stage.CERTIFY: certify,
    Stage.PUBLISH: publish,
    Stage.CONCLUDE: conclude,
    Stage.AUDIT: audit.hold,
    Stage.IMPORT: receive,
    Stage.CHALLENGE: challenge,
    Stage.SEARCH: search,
    Stage.SCAN: scan,
}


def _die_with_the_supervisor() -> None:
    """Exit when the pipe on standard input closes: whoever held the lease for us is gone."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="supervisor-watch").start()


def main() -> int:
    """Run one stage; return the exit code that the supervisor understands."""
    parser = argparse.ArgumentParser(prog="python -m workers.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("stage", type=Stage, choices=list(STAGES))
    parser.add_argument("id", type=UUID)
    parser.add_argument("--epoch", type=int, required=True, help="the lease epoch this stage runs under")
    given = parser.parse_args()
    _die_with_the_supervisor()
    telemetry.configure()
    try:
        STAGES[given.stage](given.id, given.epoch, composition.build(Settings()))
    except Exception as error:  # noqa: BLE001  only its place is logged: texts may quote a record
        log = telemetry.logger("stage")
        code = getattr(error, "code", None) if isinstance(error, Problem) else None
        log.warning(
            "stage failed",
            stage=given.stage.value,
            target=str(given.id),
            code=code,
            **telemetry.failure(error),
        )
        return _exit_code(error)
    return 0


def _exit_code(error: Exception) -> int:
    match error:
        case LeaseLost():
            return EXIT_FENCED
        case DatasetChanged():
            return EXIT_CHANGED
        case Unavailable() | DatabaseAway() | ConnectionError() | TimeoutError():
            return EXIT_RESUMABLE
        case RunFailed() if error.resumable or error.bad_data:
            return error.code
        case _:
            return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
