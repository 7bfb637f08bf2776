"""All SQL about datasets and their records."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    LargeBinary,
    Row,
    Select,
    Text,
    Uuid,
    and_,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.orm import aliased

from app.records.reading import RecordRow
from app.storage.database import Session
from app.tables import (
    Dataset,
    Hold,
    Job,
    Record,
    RecordExclusion,
    RequestRecord,
    Suppression,
)

STALE_SECONDS = 60
"""A worker that has shown no progress for so long has lost the dataset to the next one."""

SKETCH_WAIT_SECONDS_MAX = 3600
"""How long a dataset whose file cannot be read waits at most for the next try at sketching it."""

COPY_SECONDS_MAX = 900
"""How long the one COPY of a registration may take; every other statement has its usual limit."""

COPY_COLUMNS = (
    "dataset_id, external_id, position, length, content_mac, suppression_mac, subject_macs, key_version,"
    " role, cluster, arm"
)

_ROW = (
    Record.id,
    Record.external_id,
    Record.position,
    Record.length,
    Record.content_mac,
    Record.cluster,
    Record.role,
    Record.arm,
)


class Datasets:
    """Training sets and how far their registration is."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def add(self, dataset: Dataset) -> Dataset:
        """Insert a dataset."""
        self.session.add(dataset)
        self.session.flush()
        return dataset

    def get(self, dataset_id: UUID) -> Dataset | None:
        """Return a dataset."""
        return self.session.get(Dataset, dataset_id)

    def named(self, name: str) -> Dataset | None:
        """Return the dataset of a name."""
        return self.session.scalar(select(Dataset).where(Dataset.name == name))

    def failed(self, name: str) -> Dataset | None:
        """Return the dataset of a name if its registration failed, locked until the commit.

        No other row is locked: the one that a worker is just filling stays so for as long as a COPY.
        """
        return self.session.scalar(
            select(Dataset).where(Dataset.name == name, Dataset.state == "failed").with_for_update()
        )

    def page(self, *, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Dataset]:
        """Return datasets, newest first, from behind a given one."""
        query = select(Dataset).order_by(Dataset.created_at.desc(), Dataset.id.desc()).limit(limit)
        if after is not None:
            at, id_ = after
            query = query.where(
                or_(Dataset.created_at < at, and_(Dataset.created_at == at, Dataset.id < id_))
            )
        return self.session.scalars(query).all()

    def locked(self, dataset_id: UUID) -> Dataset:
        """Return a dataset that must exist, locked until the commit."""
        return self.session.scalars(
            select(Dataset)
            .where(Dataset.id == dataset_id)
            .with_for_update()
            .execution_options(populate_existing=True)
        ).one()

    def unread(self) -> Sequence[UUID]:
        """Return the datasets that wait for a worker, or whose worker has gone silent."""
        return self.session.scalars(
            select(Dataset.id).where(Dataset.state == "registering", _silent()).order_by(Dataset.created_at)
        ).all()

    def registering(self) -> Sequence[UUID]:
        """Return the datasets that are not registered yet."""
        return self.session.scalars(select(Dataset.id).where(Dataset.state == "registering")).all()

    def claim(self, dataset_id: UUID) -> Dataset | None:
        """Return a dataset that nobody is reading, now ours for a minute; None if there is nothing to do."""
        dataset = self.session.scalar(
            select(Dataset)
            .where(Dataset.id == dataset_id, Dataset.state == "registering", _silent())
            .with_for_update(skip_locked=True)
        )
        if dataset is not None:
            self.show_progress(dataset_id, records=0, bytes_read=0, size_bytes=0)
        return dataset

    def show_progress(self, dataset_id: UUID, *, records: int, bytes_read: int, size_bytes: int) -> None:
        """Say how far the reading is, and that the reader lives."""
        body = {"records": records, "bytes": bytes_read, "bytes_total": size_bytes}
        beat = func.jsonb_build_object("beat", func.extract("epoch", func.clock_timestamp()))
        self._while_registering(dataset_id, {"progress": cast(body, JSONB).op("||")(beat)})

    def release(self, dataset_id: UUID) -> None:
        """Let another worker try at once."""
        self._while_registering(dataset_id, {"progress": {}})

    def finish(self, dataset_id: UUID, values: Mapping[str, object]) -> bool:
        """Move a dataset out of `registering` for good; False if another has done so, or is doing it."""
        locked = self.session.scalar(
            select(Dataset.id)
            .where(Dataset.id == dataset_id, Dataset.state == "registering")
            .with_for_update(skip_locked=True)
        )
        if locked is None:
            return False
        self._while_registering(dataset_id, values)
        return True

    # Sketching

    def to_sketch(self, name: str, *, now: datetime) -> Sequence[UUID]:
        """Return the registered datasets that are not sketched by this name, and whose turn it is."""
        return self.session.scalars(
            select(Dataset.id).where(*_to_sketch(name, now)).order_by(Dataset.created_at)
        ).all()

    def unsketched(self) -> Sequence[UUID]:
        """Return the registered datasets that are not wholly sketched."""
        return self.session.scalars(
            select(Dataset.id).where(Dataset.state == "ready", Dataset.sketch.is_(None))
        ).all()

    def claim_sketching(self, dataset_id: UUID, name: str, *, now: datetime) -> int | None:
        """Return behind which record to go on, the pass now ours for a minute; None: nothing to do."""
        dataset = self.session.scalar(
            select(Dataset)
            .where(Dataset.id == dataset_id, *_to_sketch(name, now))
            .with_for_update(skip_locked=True)
        )
        if dataset is None:
            return None
        said = dataset.sketching
        after = int(str(said["after"])) if said.get("name") == name else 0
        dataset.sketch = None
        dataset.sketching = {**_pass(name, after=after, now=now), "tries": said.get("tries", 0)}
        self.session.flush()
        return after

    def go_on_sketching(
        self, dataset_id: UUID, name: str, *, after: int, last: int | None, now: datetime
    ) -> bool:
        """Move a pass on if it still stands behind `after`; without a `last` it is whole."""
        dataset = self.session.scalar(
            select(Dataset)
            .where(
                Dataset.id == dataset_id,
                Dataset.sketching["name"].as_string() == name,
                Dataset.sketching["after"].as_integer() == after,
            )
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        if dataset is None:
            return False
        if last is None:
            dataset.sketch, dataset.sketching = name, {}
        else:
            dataset.sketching = _pass(name, after=last, now=now)
        self.session.flush()
        return True

    def put_sketching_off(self, dataset_id: UUID, *, now: datetime) -> None:
        """Let the next try come later than the last one did."""
        dataset = self.session.get(Dataset, dataset_id, with_for_update=True)
        if dataset is None or not dataset.sketching:
            return
        tries = int(str(dataset.sketching.get("tries", 0))) + 1
        wait = min(STALE_SECONDS * 2**tries, SKETCH_WAIT_SECONDS_MAX)
        dataset.sketching = {
            **dataset.sketching,
            "tries": tries,
            "not_before": (now + timedelta(seconds=wait)).timestamp(),
        }
        self.session.flush()

    def _while_registering(self, dataset_id: UUID, values: Mapping[str, object]) -> None:
        self.session.execute(
            update(Dataset)
            .where(Dataset.id == dataset_id, Dataset.state == "registering")
            .values(**values)
            .execution_options(synchronize_session=False)
        )


class Records:
    """The records of all datasets."""

    def __init__(self, session: Session) -> None:
        """Ask within the caller's transaction."""
        self.session = session

    def copy_in(self, blocks: Iterable[bytes]) -> None:
        """Insert rows that are already in COPY's text format (`COPY_COLUMNS`)."""
        self.session.execute(text(f"SET LOCAL statement_timeout = '{COPY_SECONDS_MAX}s'"))
        connection = self.session.connection().connection.driver_connection
        assert connection is not None
        with connection.cursor() as cursor, cursor.copy(f"COPY records ({COPY_COLUMNS}) FROM STDIN") as copy:
            for block in blocks:
                copy.write(block)

    def known(self, dataset_id: UUID, *, arm: str, model_id: UUID | None = None) -> Sequence[RecordRow]:
        """Return the records of an arm that are not erased, in the order in which they lie in the file.

        With a model, less those that it does not know.
        """
        query = select(*_ROW).where(
            Record.dataset_id == dataset_id, Record.arm == arm, Record.erased_at.is_(None)
        )
        if model_id is not None:
            query = query.where(
                ~exists().where(RecordExclusion.record_id == Record.id, RecordExclusion.model_id == model_id)
            )
        return self._rows(query.order_by(Record.position))

    def erased_since(self, model_id: UUID, since: datetime, *, besides: UUID | None) -> Sequence[RecordRow]:
        """Return the records that were erased from one model after an instant, but for those of one job."""
        return self._rows(
            select(*_ROW)
            .join(RecordExclusion, RecordExclusion.record_id == Record.id)
            .where(
                RecordExclusion.model_id == model_id,
                RecordExclusion.reason == "erased",
                RecordExclusion.created_at > since,
                RecordExclusion.job_id.is_distinct_from(besides),
            )
            .order_by(Record.position)
        )

    def drawn(self, dataset_id: UUID) -> Sequence[bytes]:
        """Return the clusters of the held-back arm, erased or not, in a fixed order."""
        return self.session.scalars(
            select(Record.cluster)
            .where(Record.dataset_id == dataset_id, Record.arm == "held_back")
            .distinct()
            .order_by(Record.cluster)
        ).all()

    def chosen(self, record_ids: Collection[int]) -> Sequence[RecordRow]:
        """Return these records, erased or not, in the order in which they lie in their file."""
        return self._rows(select(*_ROW).where(among(record_ids)).order_by(Record.position))

    def page(
        self, dataset_id: UUID, *, arm: str | None, role: str | None, after: int | None, limit: int
    ) -> Sequence[RecordRow]:
        """Return records that are not erased, in order of their ids, from behind a given one."""
        query = (
            select(*_ROW)
            .where(Record.dataset_id == dataset_id, Record.erased_at.is_(None))
            .order_by(Record.id)
            .limit(limit)
        )
        if arm is not None:
            query = query.where(Record.arm == arm)
        if role is not None:
            query = query.where(Record.role == role)
        if after is not None:
            query = query.where(Record.id > after)
        return self._rows(query)

    def of_subjects(
        self, subject_macs: Collection[bytes]
    ) -> Sequence[Row[int, UUID, str, str, bytes, list[bytes]]]:
        """Return (id, dataset, external id, arm, content MAC, subjects) of what is about any of these."""
        return self.session.execute(
            select(
                Record.id,
                Record.dataset_id,
                Record.external_id,
                Record.arm,
                Record.content_mac,
                Record.subject_macs,
            )
            .join(Dataset, Dataset.id == Record.dataset_id)
            .where(
                Record.subject_macs.op("&&")(cast(list(subject_macs), ARRAY(LargeBinary))),
                Record.erased_at.is_(None),
                Dataset.state == "ready",
            )
            .order_by(Record.dataset_id, Record.external_id)
        ).all()

    def of_contents(self, content_macs: Collection[bytes]) -> Sequence[Row[int, UUID, str, str, bytes]]:
        """Return the same of what says exactly one of these."""
        return self.session.execute(
            select(Record.id, Record.dataset_id, Record.external_id, Record.arm, Record.content_mac)
            .join(Dataset, Dataset.id == Record.dataset_id)
            .where(
                Record.content_mac == func.any(cast(list(content_macs), ARRAY(LargeBinary))),
                Record.erased_at.is_(None),
                Dataset.state == "ready",
            )
            .order_by(Record.dataset_id, Record.external_id)
        ).all()

    def of_external_ids(
        self, dataset_id: UUID, external_ids: Collection[str]
    ) -> Sequence[Row[int, UUID, str, str, bytes]]:
        """Return the same of records named by their own ids."""
        return self.session.execute(
            select(Record.id, Record.dataset_id, Record.external_id, Record.arm, Record.content_mac)
            .where(
                Record.dataset_id == dataset_id,
                Record.external_id == func.any(cast(list(external_ids), ARRAY(Text))),
                Record.erased_at.is_(None),
            )
            .order_by(Record.external_id)
        ).all()

    def erase(self, record_ids: Collection[int], *, at: datetime) -> Sequence[tuple[UUID, str]]:
        """Mark records as erased; return (dataset, arm) of each that was not so already."""
        erased = self.session.execute(
            update(Record)
            .where(among(record_ids), Record.erased_at.is_(None))
            .values(erased_at=at)
            .returning(Record.dataset_id, Record.arm)
            .execution_options(synchronize_session=False)
        )
        return [(dataset_id, arm) for dataset_id, arm in erased]

    def exclude(
        self, record_ids: Collection[int], *, model_id: UUID, job_id: UUID | None
    ) -> Sequence[tuple[UUID, str]]:
        """Mark records as erased from one model; return (dataset, arm) of each that was not so already."""
        rows = select(literal(model_id), Record.id, literal("erased"), literal(job_id, Uuid)).where(
            among(record_ids)
        )
        made = self.session.scalars(
            insert(RecordExclusion)
            .from_select(["model_id", "record_id", "reason", "job_id"], rows)
            .on_conflict_do_nothing()
            .returning(RecordExclusion.record_id)
        ).all()
        found = self.session.execute(select(Record.dataset_id, Record.arm).where(among(made)))
        return [(dataset_id, arm) for dataset_id, arm in found]

    def erase_returned(self, dataset_id: UUID, *, at: datetime) -> int:
        """Mark as erased what a new dataset brings back of anybody's erased records; return how many."""
        gone = aliased(Record)
        returned = self.session.execute(
            update(Record)
            .where(
                Record.dataset_id == dataset_id,
                gone.dataset_id != dataset_id,
                gone.erased_at.is_not(None),
                gone.content_mac == Record.content_mac,
                gone.subject_macs.op("&&")(Record.subject_macs),
            )
            .values(erased_at=at)
            .returning(Record.id)
            .execution_options(synchronize_session=False)
        )
        return len(set(returned.scalars()))

    def erase_barred(self, dataset_id: UUID, *, at: datetime) -> int:
        """Mark as erased what a new dataset brings back of what is barred; return how many."""
        returned = self.session.execute(
            update(Record)
            .where(Record.dataset_id == dataset_id, Record.erased_at.is_(None), _barred())
            .values(erased_at=at)
            .returning(Record.id)
            .execution_options(synchronize_session=False)
        )
        return len(returned.all())

    def over(self, *, before: datetime, now: datetime, limit: int) -> Sequence[Row[int, UUID, str, bytes]]:
        """Return (id, dataset, arm, cluster) of rows that were erased before and that nothing needs.

        Needed is what a request still names, what is held, what a running job compares with, and what
        could not be kept out of a training without its row.
        """
        held = exists().where(Hold.record_id == Record.id, Hold.ended_at.is_(None), Hold.expires_at > now)
        compared = exists().where(
            Job.state == "running", Job.plan["controls"].contains(func.to_jsonb(Record.id))
        )
        bar = exists().where(Suppression.record_id == Record.id, Suppression.mac.is_not(None))
        return self.session.execute(
            select(Record.id, Record.dataset_id, Record.arm, Record.cluster)
            .where(
                Record.erased_at <= before,
                Record.role == "person",
                ~exists().where(RequestRecord.record_id == Record.id),
                ~held,
                ~compared,
                or_(Record.suppression_mac.is_not(None), bar),
            )
            .order_by(Record.dataset_id, Record.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).all()

    def clusters_left(self, dataset_id: UUID, *, besides: Collection[int]) -> frozenset[bytes]:
        """Return the held-back clusters of a dataset that have other rows than these."""
        found = self.session.scalars(
            select(Record.cluster)
            .where(Record.dataset_id == dataset_id, Record.arm == "held_back", ~among(besides))
            .distinct()
        )
        return frozenset(bytes(each) for each in found)

    def delete(self, record_ids: Collection[int]) -> None:
        """Delete rows, which models do not know them, and holds on them that have ended."""
        ids = cast(list(record_ids), ARRAY(BigInteger))
        self.session.execute(delete(RecordExclusion).where(RecordExclusion.record_id == func.any(ids)))
        self.session.execute(delete(Hold).where(Hold.record_id == func.any(ids)))
        self.session.execute(delete(Record).where(among(record_ids)))

    def _rows(self, query: Select[int, str, int, int, bytes, bytes, str, str]) -> Sequence[RecordRow]:
        return [RecordRow._make(row) for row in self.session.execute(query)]


def _barred() -> ColumnElement[bool]:
    """Return the condition that the list bars what the record says."""
    return exists().where(Suppression.mac == Record.suppression_mac)


def among(record_ids: Collection[int]) -> ColumnElement[bool]:
    """Return the condition as one array: thousands of ids are one parameter, not thousands."""
    return Record.id == func.any(cast(list(record_ids), ARRAY(BigInteger)))


def _pass(name: str, *, after: int, now: datetime) -> dict[str, object]:
    """Return how far a pass is; for a minute nobody else goes on with it."""
    not_before = (now + timedelta(seconds=STALE_SECONDS)).timestamp()
    return {"name": name, "after": after, "tries": 0, "not_before": not_before}


def _to_sketch(name: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a dataset lacks its sketches, and that nobody is just at it."""
    not_before = Dataset.sketching["not_before"].as_float()
    return (
        Dataset.state == "ready",
        Dataset.sketch.is_distinct_from(name),
        or_(not_before.is_(None), not_before <= now.timestamp()),
    )


def _silent() -> ColumnElement[bool]:
    """Return the condition that no worker has shown a sign of life lately."""
    beat = Dataset.progress["beat"].as_float()
    return or_(beat.is_(None), beat < func.extract("epoch", func.clock_timestamp()) - STALE_SECONDS)
