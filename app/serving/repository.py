"""All SQL about who serves what: replicas, publish epochs, and the one swap of the live version."""

from collections.abc import Sequence
from datetime import datetime
from typing import cast
from uuid import UUID

from sqlalchemy import CursorResult, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.storage.database import Session
from app.tables import Job, Model, ModelVersion, ServingReplica, new_id

DB_NOW = func.clock_timestamp()
"""The wall clock of the database: `now()` stands still inside a transaction (R55)."""


class Serving:
    """Models, as far as they are served."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def model(self, model_id: UUID) -> Model | None:
        """Return a model line."""
        return self.session.get(Model, model_id)

    def version(self, version_id: UUID) -> ModelVersion | None:
        """Return a version."""
        return self.session.get(ModelVersion, version_id)

    def holds_lease(self, model_id: UUID, *, lease_epoch: int) -> bool:
        """Return whether this epoch's lease is the current one and has not run out."""
        return bool(
            self.session.scalar(
                select(
                    exists().where(
                        Model.id == model_id,
                        Model.lease_epoch == lease_epoch,
                        Model.lease_expires_at > DB_NOW,
                    )
                )
            )
        )

    def next_publish_epoch(self, model_id: UUID, *, lease_epoch: int) -> int | None:
        """Return a publish epoch that nobody has used; None if the lease is lost."""
        return self.session.scalar(
            update(Model)
            .where(Model.id == model_id, Model.lease_epoch == lease_epoch, Model.lease_expires_at > DB_NOW)
            .values(publish_epoch=Model.publish_epoch + 1)
            .returning(Model.publish_epoch)
        )

    def next_publish_epoch_between_jobs(self, model_id: UUID) -> int | None:
        """Return a publish epoch that nobody has used; None while a job publishes, or if it is frozen."""
        publishing = exists().where(Job.model_id == model_id, Job.state == "running", Job.stage == "publish")
        return self.session.scalar(
            update(Model)
            .where(
                Model.id == model_id,
                Model.breaker != "frozen",
                Model.live_version_id.is_not(None),
                ~publishing,
            )
            .values(publish_epoch=Model.publish_epoch + 1)
            .returning(Model.publish_epoch)
        )

    def add_replica(self, model_id: UUID, address: str) -> None:
        """Know that a replica serves, or is to serve, this model."""
        self.session.execute(
            insert(ServingReplica)
            .values(id=new_id(), model_id=model_id, address=address, publish_epoch=0)
            .on_conflict_do_nothing(index_elements=["model_id", "address"])
        )

    def forget_replicas(self, model_id: UUID, *, besides: Sequence[str]) -> None:
        """Know no replica of this model but these."""
        self.session.execute(
            delete(ServingReplica).where(
                ServingReplica.model_id == model_id, ServingReplica.address.not_in(besides)
            )
        )

    def replicas(self, model_id: UUID) -> Sequence[ServingReplica]:
        """Return every replica of a model, locked until the commit: none joins unseen meanwhile."""
        return self.session.scalars(
            select(ServingReplica)
            .where(ServingReplica.model_id == model_id)
            .order_by(ServingReplica.address)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).all()

    def swap_live(
        self,
        model_id: UUID,
        *,
        parent_id: UUID | None,
        candidate_id: UUID,
        lease_epoch: int,
        publish_epoch: int,
        erasure_epoch_step: int,
    ) -> int | None:
        """Return the new erasure epoch if the candidate is live now; None if anything had moved on."""
        return self.session.scalar(
            update(Model)
            .where(
                Model.id == model_id,
                Model.live_version_id.is_not_distinct_from(parent_id),
                Model.lease_epoch == lease_epoch,
                Model.lease_expires_at > DB_NOW,
                Model.publish_epoch == publish_epoch,
            )
            .values(live_version_id=candidate_id, erasure_epoch=Model.erasure_epoch + erasure_epoch_step)
            .returning(Model.erasure_epoch)
        )

    def number_next(self, model_id: UUID) -> int:
        """Return the number after the highest of the line; safe once the model's row is locked."""
        highest = self.session.scalar(
            select(func.max(ModelVersion.number)).where(ModelVersion.model_id == model_id)
        )
        return (highest or 0) + 1

    def make_live(
        self, version_id: UUID, model_id: UUID, *, number: int, erasure_epoch: int, at: datetime
    ) -> bool:
        """Return whether the version was a candidate of this line, and now is its live one."""
        result = self.session.execute(
            update(ModelVersion)
            .where(
                ModelVersion.id == version_id,
                ModelVersion.model_id == model_id,
                ModelVersion.state == "candidate",
            )
            .values(state="live", number=number, erasure_epoch=erasure_epoch, published_at=at)
        )
        return cast("CursorResult[tuple[()]]", result).rowcount == 1

    def quarantine(self, version_id: UUID) -> None:
        """Take the version that was live out of use; it is destroyed later."""
        self.session.execute(
            update(ModelVersion)
            .where(ModelVersion.id == version_id, ModelVersion.state == "live")
            .values(state="quarantined")
        )
