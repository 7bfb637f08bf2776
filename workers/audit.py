"""The stage `audit`: look deeper into what was certified, and take back what does not stand.

    hold          claim, measure, decide; then whoever is withdrawn or suspected hears of it
    open_after    at the end of a job: whom to audit, by rule and by lot

A process of its own, after everything was published: it stands in nobody's way, and no certificate waits
for it. It reads the records of the erased once more from where they lie, which is why they must not be
gone from there before; if they are, it says so and gives up. Loads no weights: the measuring is a run of
`workers.unlearning`, as at every stage.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from app.certificates import service as certificates
from app.erasure import service as erasure
from app.errors import Conflict
from app.failpoints import reach
from app.jobs.views import JobView
from app.registry import service as registry
from app.signing import canonical
from app.storage.database import Session
from app.verification import audits
from app.verification import policy as policies
from app.verification.audits import AuditView, Concluded
from workers import material, orders
from workers.context import Context
from workers.material import Draw, LineUp
from workers.unlearning.spec import AuditSpec, Examinee

RETAIN_RECORDS_MAX = 256
"""Retained records that the maps between layers are fitted on, and that a relearning reads."""

SUSPECTED = "audit_suspected"


def open_after(session: Session, context: Context, view: JobView, released: Mapping[UUID, UUID]) -> None:
    """Open the audit of what a job has released, by request, if any of it is to be audited."""
    audits.open_after(session, view, released, key=context.keyring.lottery, at=context.clock())


def hold(audit_id: UUID, epoch: int, context: Context) -> None:
    """Audit some certificates of one job; nothing of it is in the way of another."""
    del epoch  # its own row is what it writes: no model is held
    with context.transaction() as session:
        if not _can_begin(session, audit_id):
            return
        view = audits.begin(session, audit_id, at=context.clock())
        if view is None:
            return
        policy = policies.load(view.job.verification_policy)
        draw = Draw(sentinels=view.job.plan["sentinels"], controls=policy.audit_controls)
        who = orders.line_up(session, context, view.job, draw)
    work = context.workdir(f"audit-{audit_id}")
    try:
        spec = _spec(context, view, who, work)
    except Conflict:
        with context.transaction() as session:
            audits.give_up(session, audit_id, reason="records-gone", at=context.clock())
        return
    orders.run(context, [spec], lambda _: None)
    body = canonical.encode(json.loads((spec.out / "audit.json").read_bytes()))
    reach("audit.computed")
    with context.transaction() as session:
        concluded = audits.conclude(session, audit_id, body, at=context.clock())
        if concluded is not None:
            _tell(session, context, concluded)
    shutil.rmtree(work, ignore_errors=True)


def _can_begin(session: Session, audit_id: UUID) -> bool:
    """Say whether every judge is there: one that saw an erased person is trained anew first."""
    version_id = audits.read(session, audit_id).version
    model = registry.model(session, registry.version(session, version_id).model_id)
    return not registry.missing_shards(session, model)


def _tell(session: Session, context: Context, concluded: Concluded) -> None:
    """Withdraw what fell, and have a person look at whatever is doubtful."""
    at = context.clock()
    changed = certificates.altered(session, job_id=concluded.job_id, attempt=concluded.attempt)
    fallen = {**dict.fromkeys(changed, "evidence_altered"), **concluded.withdrawn}
    for request_id, reason in fallen.items():
        certificates.withdraw(
            session, job_id=concluded.job_id, attempt=concluded.attempt, request_id=request_id,
            reason=reason, at=at,
        )  # fmt: skip
    for request_id in concluded.suspected:
        erasure.raise_attention(session, request_id, SUSPECTED, at=at)


def _spec(context: Context, view: AuditView, who: LineUp, work: Path) -> AuditSpec:
    """Return what the audit is told: the stored version, whom it was to forget, whom to compare them with."""
    policy = policies.load(view.job.verification_policy)
    with context.transaction() as session:
        version = registry.version(session, view.version_id)
        model = registry.model(session, view.job.model_id)
        references = {str(each.shard): each.manifest for each in registry.references(session, model.id)}
    examinees = _whom(who, view)
    retain = who.retain[:RETAIN_RECORDS_MAX]
    strangers = [row for subject in who.dev for row in subject]
    asked = [row for request in view.requests for rows in who.forget[request].values() for row in rows]
    kept = [row for rows in who.controls.values() for row in rows]
    compared = [row for subject in who.audit for row in subject]
    path = material.write(
        context, view.job.dataset_id, [*asked, *kept, *compared, *retain, *strangers], work / "records.jsonl"
    )
    return AuditSpec(
        model=orders.staged(context, str(version.manifest), work / "model"),
        form=view.form,
        references={
            shard: orders.staged(context, references[shard], work / f"reference-{shard}")
            for shard in {judge for each in examinees for judge in each.judges}
        },
        records=path,
        examinees=examinees,
        cohort=tuple(tuple(material.key_of(row) for row in subject) for subject in who.audit),
        retain=tuple(material.key_of(row) for row in retain),
        unrelated=tuple(material.key_of(row) for row in strangers),
        relearn_steps=policy.relearn_steps,
        relearn_controls=policy.relearn_controls,
        min_k=str(policy.min_k),
        recipe=orders.recipe_of(model),
        seed=view.job.seed % 2**31,
        out=work / "run",
    )


def _whom(who: LineUp, view: AuditView) -> tuple[Examinee, ...]:
    """Return the subjects of the requests audited, and the people who were kept."""
    audited = {str(request) for request in view.requests}
    return tuple(
        each
        for each in who.examinees()
        if each.kind == "control" or (each.kind == "request" and each.id.rsplit("/", 1)[0] in audited)
    )
