"""What can be done to model lines: create, register weights, look up, keep references, destroy.

Every verb takes the caller's session. A stage that records has made sure of its lease in the same
transaction; here the state of the version is compared as well. What lies in the store: `weights`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.errors import Conflict, Invalid, NotFound
from app.queue import Stage
from app.registry.repository import PRESENT, Models, References, Versions
from app.registry.weights import Adopted, Doomed
from app.storage import locations
from app.storage.database import Session
from app.tables import Dataset, Model, ModelVersion, ReferenceModel, new_id

MODELS_MAX = 1000
RECORDS_PER_STEP = 16
"""On average, in a recorded training (E18)."""
LINEAGE_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A line as it is shown: with its live version, the one begun last, and its references."""

    model: Model
    dataset: str
    live: ModelVersion | None
    latest: ModelVersion | None
    references_ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A version that went live and that this database, being a restored one, does not know."""

    version: UUID
    publish_epoch: int
    erasure_epoch: int


# Lines -------------------------------------------------------------------------------------------


def create_model(
    session: Session,
    created_by: UUID,
    *,
    name: str,
    dataset: str,
    base: str,
    recipe: Mapping[str, object] | None,
    recorded: Mapping[str, object] | None = None,
    references: int,
    verification_policy: str,
    jobs_policy: str,
    assurance_min: str,
    upload: str | None = None,
    at: datetime,
) -> tuple[Model, ModelVersion]:
    """Begin a line and ask for its first version: trained by the recipe, or taken from `upload`."""
    models = Models(session)
    if models.named(name) is not None:
        raise Conflict("a model has this name", code="name-taken")
    learned = _dataset(models, dataset)
    if recipe is None and upload is None:
        raise Invalid("a model needs a recipe, or weights trained elsewhere", code="recipe-or-upload")
    if recipe is None and references:
        raise Invalid(
            "references are trained by the recipe, and there is none", code="references-need-recipe"
        )
    if upload is not None and models.has_erasures(learned.id):
        # Weights that were trained elsewhere on the whole of it would bring everybody back.
        raise Conflict(
            f"people were erased from dataset {learned.id}; weights trained elsewhere would bring them back",
            code="dataset-has-erasures",
        )
    model = models.add(
        Model(
            id=new_id(),
            name=name,
            dataset_id=learned.id,
            base_uri=locations.check_uri(base),
            recipe=None if recipe is None else dict(recipe),
            layout=None if recorded is None else _layout(recorded, learned),
            references_wanted=references,
            verification_policy=verification_policy,
            jobs_policy=jobs_policy,
            assurance_min=assurance_min,
            created_by=created_by,
        )
    )
    if upload is None:
        models.withhold(model)
    elif barred := models.barred(model.id):
        raise Conflict(
            f"{barred} records of dataset {learned.id} are barred; weights trained elsewhere would bring"
            " them back",
            code="records-barred",
        )
    version = Versions(session).add(
        ModelVersion(
            id=new_id(),
            model_id=model.id,
            state="preparing",
            engine="train" if upload is None else "upload",
            exact=True,
            statement={} if upload is None else {"upload": locations.check_uri(upload)},
        )
    )
    queue.ring(session, Stage.PREPARE, version.id)
    audit.record(session, events.ModelRegistered(model.id, learned.id, created_by, at))
    return model, version


def _layout(recorded: Mapping[str, object], learned: Dataset) -> dict[str, object]:
    """Return how a training is cut: what depends on how many records there are is fixed now, for good."""
    trained = (learned.records or 0) * (1 - (learned.held_back or 0) / max(learned.subjects or 0, 1))
    steps = max(1, round(trained / (int(str(recorded["slices"])) * RECORDS_PER_STEP)))
    return {**recorded, "shards": 1, "scope": "full", "steps": steps}


def _dataset(models: Models, name: str) -> Dataset:
    dataset = models.dataset_named(name)
    if dataset is None:
        raise NotFound("there is no dataset of this name", code="dataset-unknown")
    if dataset.state != "ready":
        raise Conflict(f"dataset {dataset.id} is {dataset.state}", code=f"dataset-{dataset.state}")
    return dataset


def model(session: Session, model_id: UUID) -> Model:
    """Return a line."""
    found = Models(session).get(model_id)
    if found is None:
        raise NotFound("there is no such model")
    return found


def known(session: Session, model_ids: Collection[UUID]) -> tuple[UUID, ...]:
    """Return which of these lines there are, in their order."""
    models = Models(session)
    return tuple(each for each in model_ids if models.get(each) is not None)


def named(session: Session, name: str) -> Model:
    """Return the line of a name."""
    found = Models(session).named(name)
    if found is None:
        raise NotFound("there is no model of this name")
    return found


def overviews(session: Session, name: str | None = None) -> list[Overview]:
    """Return every line, or the one of a name, with what is to be shown of it."""
    models = Models(session)
    lines = models.all(limit=MODELS_MAX) if name is None else [named(session, name)]
    versions = Versions(session)
    datasets = models.dataset_names([line.dataset_id for line in lines])
    latest = {version.model_id: version for version in versions.latest([line.id for line in lines])}
    live_ids = [line.live_version_id for line in lines if line.live_version_id is not None]
    live = {version.id: version for version in versions.these(live_ids)}
    return [
        Overview(
            model=line,
            dataset=datasets[line.dataset_id],
            live=live.get(line.live_version_id) if line.live_version_id else None,
            latest=latest.get(line.id),
            references_ready=len(References(session).ready(line.id)),
        )
        for line in lines
    ]


def verifiable(model: Model) -> bool:
    """Return whether a verdict can be reached on a line: it has references that never saw a record."""
    return model.recipe is not None and model.references_wanted > 0


def freeze(session: Session, model_id: UUID, unknown: Unknown, *, reason: str, at: datetime) -> None:
    """Let nothing of a line be begun, served or destroyed before somebody resumes it.

    What is known of the version that went live counts: epochs never decrease, so the weights that are
    here, if others were erased from it since, are served to nobody any more, resumed or not.
    """
    line = Models(session).locked(model_id)
    line.breaker, line.attention = "frozen", reason
    # Whoever held the line when this was written down holds it no more.
    line.lease_epoch, line.lease_owner, line.lease_expires_at = line.lease_epoch + 1, None, None
    line.publish_epoch = max(line.publish_epoch, unknown.publish_epoch)
    line.erasure_epoch = max(line.erasure_epoch, unknown.erasure_epoch)
    session.flush()
    audit.record(session, events.ModelFrozen(line.id, unknown.version, reason, at))


def resume(session: Session, name: str, *, principal_id: UUID, at: datetime) -> Model:
    """Close a line's breaker after its jobs have failed, or it was frozen: what is due is begun again."""
    line = named(session, name)
    if line.breaker == "closed" and line.attention is None:
        raise Conflict(f"model {line.id} is not paused", code="not-paused")
    line.breaker, line.failed_jobs, line.attention = "closed", 0, None
    # Before the first is served, the one that is being prepared: else nobody would try it again.
    serving = live(session, line.id)
    for current in [serving] if serving is not None else Versions(session).latest([line.id]):
        current.failures, current.kills = 0, 0
    queue.ring(session, Stage.PLAN, line.id)
    audit.record(session, events.ModelResumed(line.id, principal_id, at))
    return line


def that_know(session: Session, record_ids: Collection[int]) -> Sequence[Model]:
    """Return the lines that know, or are just learning, any of these records."""
    return Models(session).that_know(record_ids) if record_ids else []


def that_know_each(session: Session, record_ids: Collection[int]) -> Mapping[int, Sequence[UUID]]:
    """Return the same by record: one search for many requests."""
    found: dict[int, list[UUID]] = {}
    for record_id, model_id in Models(session).that_know_each(record_ids) if record_ids else ():
        found.setdefault(record_id, []).append(model_id)
    return found


# Versions ----------------------------------------------------------------------------------------


def version(session: Session, version_id: UUID) -> ModelVersion:
    """Return a version."""
    found = Versions(session).get(version_id)
    if found is None:
        raise NotFound("there is no such version")
    return found


def numbered(session: Session, model_id: UUID, number: int) -> ModelVersion:
    """Return a published version by its number."""
    found = Versions(session).numbered(model_id, number)
    if found is None:
        raise NotFound(f"model {model_id} has no version {number}")
    return found


def versions(session: Session, model_id: UUID) -> Sequence[ModelVersion]:
    """Return every version of a line, oldest first."""
    return Versions(session).of_model(model_id)


def live(session: Session, model_id: UUID) -> ModelVersion | None:
    """Return the version that users get; None before the first is published."""
    found = model(session, model_id)
    return None if found.live_version_id is None else Versions(session).get(found.live_version_id)


def anchor(session: Session, model_id: UUID) -> ModelVersion:
    """Return the version that a job starts from: the newest that came from training alone."""
    found = Versions(session).anchor(model_id)
    if found is None:
        raise Conflict(f"model {model_id} has no version to start from", code="no-anchor")
    return found


def lineage(session: Session, version_id: UUID) -> list[ModelVersion]:
    """Return the versions from the anchor of a version up to it, in order of their making.

    Their deltas, in this order, are what was sealed on top of the anchor.
    """
    chain = [version(session, version_id)]
    while not chain[-1].exact:
        parent_id = chain[-1].parent_id
        assert parent_id is not None, "what did not come from training has a parent"
        assert len(chain) < LINEAGE_MAX, "a lineage ends at an anchor"
        chain.append(version(session, parent_id))
    return chain[::-1]


def require_clean(session: Session, version_id: UUID) -> None:
    """Refuse to serve a version that would bring back what was erased.

    What comes out of a training, here or elsewhere, has learned nothing that the suppression list bars;
    asked again when it is to be served, as the list has grown meanwhile. A job's result only takes
    records out: to refuse it would keep more in. Whatever was erased from the line since its anchor was
    made, a job of its own lineage has erased; so no earlier version comes back.

    Raises:
        Conflict: `records-barred` or `lineage-has-erased`, and how many records it is about.
    """
    made, *_ = chain = lineage(session, version_id)
    wanted, models = chain[-1], Models(session)
    if wanted.job_id is None and (barred := models.barred(wanted.model_id)):
        raise Conflict(
            f"version {version_id} has learned {barred} records that are barred", code="records-barred"
        )
    jobs = [each.job_id for each in chain if each.job_id is not None]
    kept = models.erased_outside(wanted.model_id, since=made.created_at, jobs=jobs)
    if kept:
        raise Conflict(
            f"{kept} records were erased from model {wanted.model_id} outside of the lineage of version"
            f" {version_id}",
            code="lineage-has-erased",
        )


def training_seconds(version: ModelVersion) -> float | None:
    """Return how long the training of a version took here; None if it was not trained here."""
    seconds = version.statement.get("seconds")
    return float(seconds) if isinstance(seconds, int | float | str) else None


def telemetry(version: ModelVersion) -> Mapping[str, object]:
    """Return what an engine measured of itself while it made a version; empty if it said nothing."""
    said = version.statement.get("telemetry")
    return said if isinstance(said, dict) else {}


def register_version(
    session: Session,
    version_id: UUID,
    adopted: Adopted,
    *,
    statement: Mapping[str, object],
    history: str | None = None,
    at: datetime,
) -> ModelVersion:
    """Record the weights of a version that was being prepared; it is a candidate now."""
    prepared = version(session, version_id)
    moved = Versions(session).move(
        version_id,
        expected=("preparing",),
        to="candidate",
        manifest=adopted.manifest,
        tensor_root=adopted.tensor_root,
        history=history,
        statement={**prepared.statement, **statement},
    )
    if not moved:
        raise Conflict(f"version {version_id} is not being prepared", code="version-state")
    _registered(session, prepared, adopted, at)
    return prepared


def register_candidate(
    session: Session,
    model_id: UUID,
    adopted: Adopted,
    *,
    engine: str,
    exact: bool,
    anchor_id: UUID | None,
    parent_id: UUID | None,
    job_id: UUID,
    statement: Mapping[str, object],
    delta: str | None = None,
    curvature: str | None = None,
    history: str | None = None,
    at: datetime,
) -> ModelVersion:
    """Record what a job made; nobody is served it before it is verified."""
    made = Versions(session).add(
        ModelVersion(
            id=new_id(),
            model_id=model_id,
            state="candidate",
            manifest=adopted.manifest,
            tensor_root=adopted.tensor_root,
            engine=engine,
            exact=exact,
            anchor_id=anchor_id,
            parent_id=parent_id,
            delta=delta,
            curvature=curvature,
            history=history,
            job_id=job_id,
            erasure_epoch=model(session, model_id).erasure_epoch + 1,
            statement=dict(statement),
        )
    )
    _registered(session, made, adopted, at)
    return made


def _registered(session: Session, made: ModelVersion, adopted: Adopted, at: datetime) -> None:
    audit.record(
        session,
        events.VersionRegistered(
            made.id,
            model=made.model_id,
            engine=made.engine,
            manifest=adopted.manifest,
            tensor_root=adopted.tensor_root,
            at=at,
        ),
    )


def show_progress(session: Session, version_id: UUID, body: Mapping[str, object]) -> None:
    """Say how far a version is; never worth failing for."""
    Versions(session).show_progress(version_id, body)


def fail_version(session: Session, version_id: UUID, *, code: str, at: datetime) -> None:
    """Give up a version that could not be made; a new line has to be created for another try."""
    failed = version(session, version_id)
    if Versions(session).move(version_id, expected=("preparing",), to="failed", failure=code, progress={}):
        queue.heard(session, Stage.PREPARE, version_id)
        audit.record(session, events.VersionFailed(version_id, model=failed.model_id, code=code, at=at))


def condemn(session: Session, version_id: UUID, *, at: datetime) -> None:
    """Say that a version that is not live is to be destroyed; from now on nothing may read it."""
    doomed = version(session, version_id)
    if Versions(session).move(version_id, expected=("candidate", "quarantined"), to="condemned"):
        audit.record(session, events.VersionCondemned(version_id, model=doomed.model_id, at=at))
    elif doomed.state in PRESENT:
        raise Conflict(f"version {version_id} is {doomed.state}", code="version-state")


def retire(session: Session, version_id: UUID, *, at: datetime) -> list[ModelVersion]:
    """Say that a version, its anchor and every delta between are to be destroyed; return those versions.

    To be called once a newer anchor is served: nothing starts from the old one any more, and anchor and
    deltas are one secret, since whoever has a version and its delta has the erased back (E6). An anchor
    that no delta was made over is an old version like any other, and stays in quarantine for its time.
    """
    retired = lineage(session, version_id)
    if len(retired) == 1:
        return []
    for each in retired:
        condemn(session, each.id, at=at)
    return retired


def condemn_histories(session: Session, model_id: UUID, *, except_of: UUID, at: datetime) -> None:
    """Say that what the recorder kept of a line's earlier trainings is to be destroyed.

    To be called once a version that came from training without the erased is served: until then an
    exact engine starts from these states.
    """
    for each in Versions(session).of_model(model_id):
        if each.id != except_of and each.history is not None:
            digest, each.history = each.history, None
            each.history_condemned = digest
            audit.record(session, events.HistoryCondemned(each.id, model_id, digest, at))


# References --------------------------------------------------------------------------------------


def references(session: Session, model_id: UUID) -> Sequence[ReferenceModel]:
    """Return the reference models of a line that may be used, by shard."""
    return References(session).ready(model_id)


def missing_shards(session: Session, model: Model) -> list[int]:
    """Return the shards whose reference is to be trained: never was, or saw somebody who is erased."""
    if model.recipe is None:
        return []
    present = {reference.shard for reference in References(session).ready(model.id)}
    return [shard for shard in range(model.references_wanted) if shard not in present]


def add_reference(
    session: Session, model_id: UUID, *, shard: int, manifest: str, saw: str, at: datetime
) -> ReferenceModel:
    """Record a reference model; `saw` is the hex root over the content MACs of its records."""
    added = References(session).add(
        ReferenceModel(id=new_id(), model_id=model_id, shard=shard, manifest=manifest, saw=saw)
    )
    audit.record(session, events.ReferenceAdded(model_id, shard=shard, manifest=manifest, saw=saw, at=at))
    return added


def condemn_references(
    session: Session, model_id: UUID, shards: Collection[int], *, at: datetime
) -> Sequence[ReferenceModel]:
    """Say that the references of these shards are to be destroyed: they saw somebody who is erased."""
    doomed = References(session).on_shards(model_id, shards) if shards else []
    for reference in doomed:
        reference.state = "condemned"
        audit.record(
            session,
            events.ReferenceCondemned(model_id, shard=reference.shard, manifest=reference.manifest, at=at),
        )
    return doomed


# Destroying --------------------------------------------------------------------------------------


def doomed(session: Session) -> list[Doomed]:
    """Return what is condemned and still in the store, but for lines that are frozen."""
    frozen = Models(session).frozen()
    return (
        [
            Doomed(
                kind="version", id=each.id, manifest=each.manifest, apart=_apart(each), history=each.history
            )
            for each in Versions(session).in_state("condemned")
            if each.model_id not in frozen
        ]
        + [
            Doomed(kind="history", id=each.id, manifest=None, history=each.history_condemned)
            for each in Versions(session).with_condemned_history()
            if each.model_id not in frozen
        ]
        + [
            Doomed(kind="reference", id=each.id, manifest=each.manifest)
            for each in References(session).condemned()
            if each.model_id not in frozen
        ]
    )


def manifests_in_use(session: Session) -> frozenset[str]:
    """Return the manifests whose blobs must stay: versions, references and bases that may be used."""
    present = [each for state in PRESENT for each in Versions(session).in_state(state)]
    used = {digest for each in present for digest in (each.manifest, each.history) if digest is not None}
    return Models(session).bases_in_use() | References(session).manifests_in_use() | used


def apart_in_use(session: Session) -> frozenset[str]:
    """Return the objects that must stay although no manifest names them."""
    versions = Versions(session)
    return frozenset(
        digest for state in PRESENT for each in versions.in_state(state) for digest in _apart(each)
    )


def _apart(each: ModelVersion) -> tuple[str, ...]:
    return tuple(digest for digest in (each.delta, each.curvature) if digest is not None)


def record_destroyed(session: Session, gone: Doomed, *, at: datetime) -> None:
    """Record that something condemned is no more in the store; saying so twice changes nothing."""
    if gone.kind == "reference":
        reference = References(session).destroyed(gone.id, at=at)
        if reference is not None:
            audit.record(
                session,
                events.ReferenceDestroyed(
                    reference.model_id, shard=reference.shard, manifest=reference.manifest, at=at
                ),
            )
        return
    destroyed = version(session, gone.id)
    if gone.kind == "history":
        if destroyed.history_condemned is not None:
            destroyed.history_condemned = None
            audit.record(session, events.HistoryDestroyed(gone.id, destroyed.model_id, str(gone.history), at))
        return
    if Versions(session).move(gone.id, expected=("condemned",), to="destroyed"):
        audit.record(
            session,
            events.VersionDestroyed(
                gone.id, model=destroyed.model_id, manifest=destroyed.manifest or "", at=at
            ),
        )
