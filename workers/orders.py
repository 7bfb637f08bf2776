"""What a run is told: specs written from who is who, the store's weights and the policy.

    trainings      a version and its references, from the recorded recipe
    unlearning     an engine: never the cohort or the references that will judge
    measurements   the examiner: one spec per declared form

Knows which stage asks for what; knows no lease, and no verdict.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from app.jobs import leases
from app.jobs import service as jobs
from app.jobs.views import JobView
from app.records import service as records
from app.records.reading import RecordRow
from app.registry import service as registry
from app.registry import weights
from app.signing import canonical
from app.storage import locations
from app.storage.database import DatabaseError, Session
from app.tables import Model, ModelVersion
from app.transparency import tree
from app.verification import policy as policies
from workers import material
from workers.context import Context
from workers.launcher import Outcome
from workers.material import Draw, LineUp
from workers.unlearning.spec import (
    Layout,
    MeasureSpec,
    Recipe,
    Spec,
    TrainSpec,
    UnlearnSpec,
    read_recipe,
)

PROGRESS_SECONDS = 1.0
HISTORY = "history"
"""Where a recorded run leaves its history, below its output."""

Show = Callable[[dict[str, object]], None]


def line_up(session: Session, context: Context, view: JobView, draw: Draw | None = None) -> LineUp:
    """Return who is who: drawn at `plan`, repeated from the job's plan afterwards."""
    model = registry.model(session, view.model_id)
    return material.line_up(
        session,
        context,
        model_id=view.model_id,
        dataset_id=view.dataset_id,
        seed=view.seed,
        requests=view.requests,
        references=model.references_wanted if model.recipe is not None else 0,
        dev_share=policies.load(view.verification_policy).dev_share,
        draw=draw or Draw(sentinels=view.plan["sentinels"], controls=view.plan["controls"]),
        earlier=jobs.earlier_sentinels(session, view.id),
    )


def trainings(
    context: Context,
    version: ModelVersion,
    model: Model,
    missing: Sequence[int],
    rows: Sequence[RecordRow],
    *,
    epoch: int,
    work: Path,
) -> dict[int | None, TrainSpec]:
    """Return what is to be trained, by shard; None is the version itself."""
    recipe = recipe_of(model)
    if recipe is None:
        return {}
    base = _base(context, model, epoch=epoch, work=work)
    wanted: dict[int | None, list[RecordRow]] = {
        shard: [
            row for row in rows if material.shard_of(context, row.cluster, model.references_wanted) == shard
        ]
        for shard in missing
    }
    if version.engine == "train" and version.manifest is None:
        wanted = {None: list(rows), **wanted}
    layout = _layout(model)
    key = material.placement_key(context, model.dataset_id, work) if layout is not None else None
    specs = {}
    for shard, chosen in wanted.items():
        out = _made(work / ("model" if shard is None else f"reference-{shard}"))
        path = material.write(context, model.dataset_id, chosen, out / "records.jsonl")
        specs[shard] = TrainSpec(
            recipe=recipe, base=base, records=path, out=out, layout=layout, placement_key=key
        )
    return specs


def unlearning(
    context: Context,
    view: JobView,
    who: LineUp,
    model: Model,
    anchor: ModelVersion,
    later: Sequence[ModelVersion],
    out: Path,
) -> UnlearnSpec:
    """Return what an engine is told: never the cohort or the references that will judge."""
    with context.transaction() as session:
        references = {str(each.shard): each.manifest for each in registry.references(session, view.model_id)}
        gone = records.erased_since(session, view.model_id, anchor.created_at, besides=anchor.job_id)
    recorded = anchor.history is not None
    subjects = who.forget_subjects()
    probe = who.probe()
    rows = [*who.forgotten(), *who.retain, *(row for subject in who.dev for row in subject)]
    work = _made(out / "given")
    return UnlearnSpec(
        engine=str(view.engine),
        anchor=staged(context, str(anchor.manifest), work / "anchor"),
        base=staged(context, str(model.base_manifest), work / "base"),
        recipe=recipe_of(model),
        history=staged(context, str(anchor.history), work / HISTORY) if recorded else None,
        placement_key=material.placement_key(context, view.dataset_id, work) if recorded else None,
        outstanding=who.outstanding(gone) if recorded else (),
        sealed=tuple(_fetched(context, str(each.delta), work / f"delta-{each.id}") for each in later),
        curvature=_curvature(context, (anchor, *later)[-1], work / "curvature.safetensors"),
        references={
            shard: staged(context, references[shard], work / f"reference-{shard}")
            for shard in {each.teacher for each in subjects if each.teacher is not None}
        },
        records=material.write(context, view.dataset_id, rows, work / "records.jsonl"),
        forget=subjects,
        retain=tuple(material.key_of(row) for row in who.retain[len(probe) :]),
        probe=tuple(material.key_of(row) for row in probe),
        dev_cohort=tuple(tuple(material.key_of(row) for row in subject) for subject in who.dev),
        seed=view.seed % 2**31,
        out=out,
    )


def measured(
    context: Context, view: JobView, who: LineUp, version_id: UUID, work: Path, *, moment: str
) -> list[tuple[str, bytes]]:
    """Measure one version in every declared form, loaded from the store by its digest."""
    policy = policies.load(view.verification_policy)
    with context.transaction() as session:
        version = registry.version(session, version_id)
        references = {str(each.shard): each.manifest for each in registry.references(session, view.model_id)}
        model = registry.model(session, view.model_id)
    # A candidate is asked about whom the jobs before it have erased, too; the baseline need not be.
    later = moment == "after"
    examinees = (*who.examinees(), *(who.earlier_examinees() if later else ()))
    retain = who.retain[: material.UTILITY_RECORDS_MAX]
    rows = [*who.forgotten(), *who.cohort_rows(), *retain]
    rows += [row for kept in who.controls.values() for row in kept]
    rows += who.earlier_rows() if later else []
    path = material.write(context, view.dataset_id, rows, work / "records.jsonl")
    judges = {judge for each in examinees for judge in each.judges}
    specs = [
        MeasureSpec(
            model=staged(context, str(version.manifest), work / "model"),
            form=form,
            references={
                shard: staged(context, references[shard], work / f"reference-{shard}") for shard in judges
            },
            records=path,
            examinees=examinees,
            cohort=tuple(tuple(material.key_of(row) for row in subject) for subject in who.audit),
            retain=tuple(material.key_of(row) for row in retain),
            attacks=policy.attacks,
            min_k=str(policy.min_k),
            paraphrases_min=policy.paraphrases_min,
            extraction=later,
            extraction_samples=policy.extraction_samples,
            gated_field_bits=policy.gated_field_bits,
            relearn_steps=policy.relearn_steps[0] if later else 0,
            relearn_controls=policy.relearn_controls,
            recipe=recipe_of(model),
            seed=view.seed % 2**31,
            cache=context.workdir(f"job-{view.id}", "judges"),
            out=_made(work / f"measure-{number}"),
        )
        for number, form in enumerate(view.forms)
    ]
    run(context, specs, lambda body: show_job(context, view.id, body))
    return [
        (form, canonical.encode(json.loads((spec.out / "measurements.json").read_bytes())))
        for form, spec in zip(view.forms, specs, strict=True)
    ]


def given(
    view: JobView, who: LineUp, model: Model, anchor: ModelVersion, later: Sequence[ModelVersion]
) -> dict[str, object]:
    """Return what a method was given, by digests: whoever has the same can run it again.

    `retained` is the Merkle root over the sorted content MACs of the records that stayed: for an
    exact method it names the data that the version was computed from.
    """
    retained = sorted(row.content_mac for row in who.retain)
    return {
        "anchor": anchor.manifest,
        "base": model.base_manifest,
        "curvature": (anchor, *later)[-1].curvature,
        "deltas": [each.delta for each in later],
        "history": anchor.history,
        "layout": dict(model.layout) if model.layout is not None else None,
        "recipe": dict(model.recipe) if model.recipe is not None else None,
        "retained": {"root": tree.root(retained).hex(), "size": len(retained)},
        "seed": view.seed % 2**31,
    }


def run(context: Context, specs: Sequence[Spec], show: Callable[[dict[str, object]], None]) -> list[Outcome]:
    """Run specs side by side, as many as there are cores, showing how far they are once a second."""
    shown = 0.0

    def progress(bodies: list[dict[str, object]]) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PROGRESS_SECONDS:
            shown = time.monotonic()
            show({"runs": bodies})

    return context.launcher.run(specs, progress=progress) if specs else []


def _base(context: Context, model: Model, *, epoch: int, work: Path) -> Path:
    """Return the base's directory; copied into the store first, so that a replay has the same bytes."""
    manifest = model.base_manifest
    if manifest is None:
        manifest = weights.keep_base(context.objects, locations.copied(model.base_uri, work / "fetched"))
        with context.transaction() as session:
            leases.hold(session, model.id, epoch=epoch).base_manifest = manifest
    return staged(context, manifest, work / "base")


def staged(context: Context, manifest: str, into: Path) -> Path:
    """Return a model's files, taken from the store by its manifest's digest and compared with it."""
    if not into.exists():
        context.objects.stage(manifest, into)
    return into


def _fetched(context: Context, digest: str, into: Path) -> Path:
    context.objects.fetch(digest, into)
    return into


def _curvature(context: Context, start: ModelVersion, into: Path) -> Path | None:
    """Fetch what the job before left for this one; after an anchor there is none."""
    return None if start.curvature is None else _fetched(context, start.curvature, into)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _layout(model: Model) -> Layout | None:
    return None if model.layout is None else Layout(**model.layout)  # type: ignore[arg-type]  # made at registration


def recipe_of(model: Model) -> Recipe | None:
    """Return how a line is trained; None if nobody knows."""
    return None if model.recipe is None else read_recipe(model.recipe)


def show_job(context: Context, job_id: UUID, body: dict[str, object]) -> None:
    """Let people see how far a job is; never worth failing for."""
    with suppress(DatabaseError), context.transaction() as session:
        jobs.progress(session, job_id, body)
