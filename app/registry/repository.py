"""All SQL about model lines, their versions and their reference models."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    cast,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on

from app.storage.database import Session
from app.tables import (
    Dataset,
    ErasureRequest,
    Model,
    ModelVersion,
    Record,
    RecordExclusion,
    ReferenceModel,
    RequestRecord,
    RequestTarget,
    Suppression,
)

PRESENT = ("preparing", "candidate", "live", "quarantined")
"""States in which a version's weights exist, or are being made, and may be used for something."""


class Models:
    """Model lines."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def add(self, model: Model) -> Model:
        """Insert a model line."""
        self.session.add(model)
        self.session.flush()
        return model

    def get(self, model_id: UUID) -> Model | None:
        """Return a model line."""
        return self.session.get(Model, model_id)

    def locked(self, model_id: UUID) -> Model:
        """Return a line that must exist, as it is now, locked until the commit."""
        return self.session.get_one(Model, model_id, with_for_update=True, populate_existing=True)

    def frozen(self) -> frozenset[UUID]:
        """Return the lines of which nothing may be destroyed."""
        return frozenset(self.session.scalars(select(Model.id).where(Model.breaker == "frozen")))

    def named(self, name: str) -> Model | None:
        """Return the model line of a name."""
        return self.session.scalar(select(Model).where(Model.name == name))

    def all(self, *, limit: int) -> Sequence[Model]:
        """Return the model lines, oldest first."""
        return self.session.scalars(select(Model).order_by(Model.created_at, Model.id).limit(limit)).all()

    def that_know(self, record_ids: Collection[int]) -> Sequence[Model]:
        """Return the lines that have, or are making, weights from any of these records."""
        learned = exists().where(*_learned(record_ids)).correlate(Model)
        return self.session.scalars(select(Model).where(_WEIGHTS, learned).order_by(Model.id)).all()

    def that_know_each(self, record_ids: Collection[int]) -> Sequence[Row[int, UUID]]:
        """Return (record, line) of the same."""
        return self.session.execute(
            select(Record.id, Model.id).where(_WEIGHTS, *_learned(record_ids)).order_by(Record.id, Model.id)
        ).all()

    def withhold(self, model: Model) -> None:
        """Keep from a new line what is being erased elsewhere under an approval without it, or is barred."""
        pending = (
            select(literal(model.id), RequestRecord.record_id, literal("withheld"))
            .join(ErasureRequest, ErasureRequest.id == RequestRecord.request_id)
            .join(Record, Record.id == RequestRecord.record_id)
            .where(
                Record.dataset_id == model.dataset_id,
                ErasureRequest.state.in_(("scheduled", "unlearning", "verifying", "publishing")),
                RequestRecord.exempt.is_(None),
            )
            .distinct()
        )
        barred = select(literal(model.id), Record.id, literal("withheld")).where(
            Record.dataset_id == model.dataset_id,
            Record.erased_at.is_(None),
            exists().where(Suppression.mac == Record.suppression_mac),
        )
        self.session.execute(
            insert(RecordExclusion).from_select(["model_id", "record_id", "reason"], pending.union(barred))
        )

    def has_erasures(self, dataset_id: UUID) -> bool:
        """Return whether anybody's records of a dataset were erased, anywhere."""
        people = (Record.dataset_id == dataset_id, Record.role == "person")
        excluded = exists().where(RecordExclusion.record_id == Record.id, RecordExclusion.reason == "erased")
        erased = exists().where(*people, or_(Record.erased_at.is_not(None), excluded))
        forgotten = exists().where(Dataset.id == dataset_id, Dataset.forgotten > 0)
        return bool(self.session.scalar(select(or_(erased, forgotten))))

    def barred(self, model_id: UUID) -> int:
        """Return how many records a line has learned or will learn that the suppression list bars.

        Less those that it does not know, and those that a request is taking out of it.
        """
        excluded = exists().where(
            RecordExclusion.record_id == Record.id, RecordExclusion.model_id == model_id
        )
        leaving = exists(
            select(RequestRecord.request_id)
            .join(RequestTarget, RequestTarget.request_id == RequestRecord.request_id)
            .where(
                RequestRecord.record_id == Record.id,
                RequestTarget.model_id == model_id,
                RequestTarget.stage != "completed",
            )
        )
        found = self.session.scalar(
            select(func.count())
            .select_from(Record)
            .join(Model, Model.dataset_id == Record.dataset_id)
            .where(
                Model.id == model_id,
                Record.arm == "train",
                Record.erased_at.is_(None),
                exists().where(Suppression.mac == Record.suppression_mac),
                ~excluded,
                ~leaving,
            )
        )
        return found or 0

    def erased_outside(self, model_id: UUID, *, since: datetime, jobs: Collection[UUID]) -> int:
        """Return how many records were erased from a line after an instant, and by none of these jobs."""
        by_others = or_(RecordExclusion.job_id.is_(None), RecordExclusion.job_id.not_in(jobs))
        found = self.session.scalar(
            select(func.count())
            .select_from(RecordExclusion)
            .where(
                RecordExclusion.model_id == model_id,
                RecordExclusion.reason == "erased",
                RecordExclusion.created_at > since,
                by_others,
            )
        )
        return found or 0

    def bases_in_use(self) -> frozenset[str]:
        """Return the manifests of every base that was copied into the store."""
        return frozenset(
            digest for digest in self.session.scalars(select(Model.base_manifest)) if digest is not None
        )

    def dataset_named(self, name: str) -> Dataset | None:
        """Return the dataset that a new line is to learn from."""
        return self.session.scalar(select(Dataset).where(Dataset.name == name))

    def dataset_names(self, dataset_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Return what these datasets are called."""
        rows = self.session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(dataset_ids)))
        return dict(rows.all())


class Versions:
    """Versions of model lines."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def add(self, version: ModelVersion) -> ModelVersion:
        """Insert a version."""
        self.session.add(version)
        self.session.flush()
        return version

    def get(self, version_id: UUID) -> ModelVersion | None:
        """Return a version."""
        return self.session.get(ModelVersion, version_id)

    def numbered(self, model_id: UUID, number: int) -> ModelVersion | None:
        """Return a published version by its number."""
        return self.session.scalar(
            select(ModelVersion).where(ModelVersion.model_id == model_id, ModelVersion.number == number)
        )

    def of_model(self, model_id: UUID) -> Sequence[ModelVersion]:
        """Return every version of a line, in the order in which they were begun."""
        return self.session.scalars(
            select(ModelVersion)
            .where(ModelVersion.model_id == model_id)
            .order_by(ModelVersion.created_at, ModelVersion.id)
        ).all()

    def latest(self, model_ids: Collection[UUID]) -> Sequence[ModelVersion]:
        """Return the version of each line that was begun last."""
        return self.session.scalars(
            select(ModelVersion)
            .where(ModelVersion.model_id.in_(model_ids))
            .ext(distinct_on(ModelVersion.model_id))
            .order_by(ModelVersion.model_id, ModelVersion.created_at.desc(), ModelVersion.id.desc())
        ).all()

    def these(self, version_ids: Collection[UUID]) -> Sequence[ModelVersion]:
        """Return versions by id."""
        return self.session.scalars(select(ModelVersion).where(ModelVersion.id.in_(version_ids))).all()

    def anchor(self, model_id: UUID) -> ModelVersion | None:
        """Return the newest published version that came from training alone and is still there."""
        return self.session.scalar(
            select(ModelVersion)
            .where(
                ModelVersion.model_id == model_id,
                ModelVersion.exact,
                ModelVersion.state.in_(("live", "quarantined")),
                ModelVersion.number.is_not(None),
            )
            .order_by(ModelVersion.number.desc())
            .limit(1)
        )

    def in_state(self, state: str) -> Sequence[ModelVersion]:
        """Return the versions in a state, oldest first."""
        return self.session.scalars(
            select(ModelVersion).where(ModelVersion.state == state).order_by(ModelVersion.id)
        ).all()

    def with_condemned_history(self) -> Sequence[ModelVersion]:
        """Return the versions of which a history is to be destroyed."""
        return self.session.scalars(
            select(ModelVersion).where(ModelVersion.history_condemned.is_not(None)).order_by(ModelVersion.id)
        ).all()

    def move(self, version_id: UUID, *, expected: Collection[str], to: str, **values: Any) -> bool:
        """Change a version that is in one of the expected states; False if it is in none of them."""
        moved = self.session.execute(
            update(ModelVersion)
            .where(ModelVersion.id == version_id, ModelVersion.state.in_(expected))
            .values(state=to, **values)
            .returning(ModelVersion.id)
            .execution_options(synchronize_session="fetch")
        )
        return moved.first() is not None

    def show_progress(self, version_id: UUID, body: Mapping[str, object]) -> None:
        """Say how far the making of a version is."""
        self.session.execute(
            update(ModelVersion)
            .where(ModelVersion.id == version_id, ModelVersion.state == "preparing")
            .values(progress=dict(body))
            .execution_options(synchronize_session=False)
        )


class References:
    """Reference models: by line and by shard."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def add(self, reference: ReferenceModel) -> ReferenceModel:
        """Insert a reference model; one per shard is ready at a time."""
        self.session.add(reference)
        self.session.flush()
        return reference

    def ready(self, model_id: UUID) -> Sequence[ReferenceModel]:
        """Return the references of a line, by shard."""
        return self.session.scalars(
            select(ReferenceModel)
            .where(ReferenceModel.model_id == model_id, ReferenceModel.state == "ready")
            .order_by(ReferenceModel.shard)
        ).all()

    def on_shards(self, model_id: UUID, shards: Collection[int]) -> Sequence[ReferenceModel]:
        """Return the references that were trained on these shards, locked until the commit."""
        return self.session.scalars(
            select(ReferenceModel)
            .where(
                ReferenceModel.model_id == model_id,
                ReferenceModel.shard.in_(shards),
                ReferenceModel.state == "ready",
            )
            .order_by(ReferenceModel.shard)
            .with_for_update()
        ).all()

    def condemned(self) -> Sequence[ReferenceModel]:
        """Return the references that are to be destroyed."""
        return self.session.scalars(
            select(ReferenceModel).where(ReferenceModel.state == "condemned").order_by(ReferenceModel.id)
        ).all()

    def destroyed(self, reference_id: UUID, *, at: datetime) -> ReferenceModel | None:
        """Record that the weights are gone; None if that was recorded before."""
        return self.session.scalar(
            update(ReferenceModel)
            .where(ReferenceModel.id == reference_id, ReferenceModel.state == "condemned")
            .values(state="destroyed", destroyed_at=at)
            .returning(ReferenceModel)
        )

    def manifests_in_use(self) -> frozenset[str]:
        """Return the manifests of every reference that is neither condemned nor destroyed."""
        return frozenset(
            self.session.scalars(select(ReferenceModel.manifest).where(ReferenceModel.state == "ready"))
        )


_WEIGHTS = exists().where(ModelVersion.model_id == Model.id, ModelVersion.state.in_(PRESENT)).correlate(Model)


def _learned(record_ids: Collection[int]) -> tuple[ColumnElement[bool], ...]:
    """Return what holds of a record and a line that may learn, or has learned, from it."""
    excluded = (
        exists()
        .where(RecordExclusion.model_id == Model.id, RecordExclusion.record_id == Record.id)
        .correlate(Model, Record)
    )
    return (
        Record.dataset_id == Model.dataset_id,
        Record.id == func.any(cast(list(record_ids), ARRAY(BigInteger))),
        Record.arm == "train",
        Record.erased_at.is_(None),
        ~excluded,
    )
