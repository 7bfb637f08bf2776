"""What can be done to datasets and records: register, find, read, list, mark as erased.

Every verb takes the caller's session. Content is never read inside a transaction: `source` and the
rows first, then `reading.contents` without one. The worker's part of a registration is `ingestion`.
"""

import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from app import queue
from app.audit import events
from app.audit import service as audit
from app.errors import Conflict, Invalid, NotFound
from app.queue import Stage
from app.records import lottery, reading
from app.records.lines import BadLine, Line
from app.records.reading import RecordRow, Source
from app.records.repository import Datasets, Records
from app.records.sketches.repository import Sketches
from app.storage import locations
from app.storage.database import Session
from app.tables import Dataset, new_id

PAGE_ROWS_MAX = 200
RECORD_IDS_MAX = 10_000
GROUP_BYTES = 10


class Match(NamedTuple):
    """A record that a search found; what it says stays where it is."""

    id: int
    dataset_id: UUID
    external_id: str
    arm: str
    content_mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The records of one cluster, in the order of their keyed hashes."""

    cluster: bytes
    records: tuple[RecordRow, ...]


# Registering -------------------------------------------------------------------------------------


def register(
    session: Session,
    created_by: UUID,
    *,
    name: str,
    uri: str,
    format: str | None = None,  # noqa: A002  the column's word
    hold_back: int | None = None,
    lottery_key: bytes,
    at: datetime,
) -> Dataset:
    """Submit a dataset for registration by a worker; the lottery's key is committed to before.

    A name whose registration failed may be submitted again; nothing of the failure was registered.
    """
    uri = locations.check_uri(uri)
    datasets = Datasets(session)
    dataset = datasets.failed(name)
    if dataset is None:
        taken = datasets.named(name)
        if taken is not None:
            raise Conflict(f"dataset {taken.id} has this name", code="name-taken")
        dataset = Dataset(id=new_id(), name=name)
    dataset.uri = uri
    dataset.format = format or reading.format_of(uri)
    dataset.state, dataset.failure, dataset.progress = "registering", None, {}
    dataset.hold_back = hold_back
    dataset.lottery_commitment = lottery.commitment(lottery_key)
    dataset.created_by = created_by
    datasets.add(dataset)
    queue.ring(session, Stage.REGISTER, dataset.id)
    audit.record(session, events.DatasetSubmitted(dataset.id, created_by, at))
    audit.record(session, events.LotteryCommitted(dataset.id, dataset.lottery_commitment, at))
    return dataset


def claim(session: Session, dataset_id: UUID) -> tuple[Source, int | None] | None:
    """Return a dataset that waits to be read, and how many to hold back; None if there is nothing to do."""
    dataset = Datasets(session).claim(dataset_id)
    if dataset is None:
        return None
    return Source(dataset_id=dataset.id, uri=dataset.uri, format=dataset.format), dataset.hold_back


def release(session: Session, dataset_id: UUID) -> None:
    """Leave a dataset to the next worker: this one could not reach the source."""
    Datasets(session).release(dataset_id)


def show_progress(
    session: Session, dataset_id: UUID, *, records: int, bytes_read: int, size_bytes: int
) -> None:
    """Say how far the reading is; this also keeps rivals away."""
    Datasets(session).show_progress(dataset_id, records=records, bytes_read=bytes_read, size_bytes=size_bytes)


def record(
    session: Session,
    dataset_id: UUID,
    rows: Iterable[bytes],
    *,
    digest: bytes,
    size_bytes: int,
    records: int,
    subjects: int,
    held_back: int,
    at: datetime,
) -> None:
    """Insert every record and declare the dataset ready; nothing happens if another has done so."""
    values = {
        "state": "ready",
        "digest": digest,
        "size_bytes": size_bytes,
        "records": records,
        "subjects": subjects,
        "held_back": held_back,
        "progress": {"records": records, "bytes": size_bytes, "bytes_total": size_bytes},
    }
    if not Datasets(session).finish(dataset_id, values):
        return
    stored = Records(session)
    stored.copy_in(rows)
    queue.heard(session, Stage.REGISTER, dataset_id)
    queue.ring(session, Stage.SKETCH, dataset_id)
    audit.record(
        session,
        events.DatasetRegistered(
            dataset_id, records=records, subjects=subjects, held_back=held_back, digest=digest, at=at
        ),
    )
    returned = stored.erase_returned(dataset_id, at=at) + stored.erase_barred(dataset_id, at=at)
    if returned:
        audit.record(session, events.RecordsSuppressed(dataset_id, returned, at))


def fail(session: Session, dataset_id: UUID, bad: BadLine, *, at: datetime) -> None:
    """Register nothing, and keep what was wrong: a code and a place, never what stood there."""
    failure = {"code": bad.code, "line": bad.line, "pointer": bad.pointer}
    if bad.other is not None:
        failure["other_line"] = bad.other
    if Datasets(session).finish(dataset_id, {"state": "failed", "failure": failure, "progress": {}}):
        queue.heard(session, Stage.REGISTER, dataset_id)
        audit.record(session, events.DatasetFailed(dataset_id, bad.code, bad.line, at))


# Reading what is registered ----------------------------------------------------------------------


def read(session: Session, dataset_id: UUID) -> Dataset:
    """Return a dataset."""
    dataset = Datasets(session).get(dataset_id)
    if dataset is None:
        raise NotFound("there is no such dataset")
    return dataset


def ready(session: Session, dataset_id: UUID) -> Dataset:
    """Return a dataset whose records may be used; Conflict while it is not registered."""
    dataset = read(session, dataset_id)
    if dataset.state != "ready":
        raise Conflict(f"dataset {dataset_id} is {dataset.state}", code=f"dataset-{dataset.state}")
    return dataset


def named(session: Session, name: str) -> Dataset:
    """Return the dataset of a name."""
    dataset = Datasets(session).named(name)
    if dataset is None:
        raise NotFound("there is no dataset of this name")
    return dataset


def listing(session: Session, *, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Dataset]:
    """Return a page of datasets, newest first."""
    return Datasets(session).page(after=after, limit=limit)


def unread(session: Session) -> Sequence[UUID]:
    """Return the datasets that a worker should read, whether or not a bell was heard."""
    return Datasets(session).unread()


def source(session: Session, dataset_id: UUID) -> Source:
    """Return where a registered dataset lies and what it was, for `contents`."""
    dataset = ready(session, dataset_id)
    return Source(
        dataset_id=dataset.id,
        uri=dataset.uri,
        format=dataset.format,
        size_bytes=dataset.size_bytes,
        digest=dataset.digest,
    )


def contents(
    where: Source, records: Sequence[RecordRow], *, content_key: bytes
) -> Iterator[tuple[RecordRow, Line]]:
    """Return what the records say, in file order, each compared with its keyed hash; needs no session.

    `Conflict` (`dataset-changed`) if the file changed, `Unavailable` if it cannot be read.
    """
    return reading.contents(where, records, content_key=content_key)


def everything(where: Source) -> Iterator[Line]:
    """Return what every record says, erased or not, in file order; to be believed once it is at its end.

    `Conflict` (`dataset-changed`) if the file changed, `Unavailable` if it cannot be read; needs no session.
    """
    return reading.everything(where)


def training_records(session: Session, dataset_id: UUID, model_id: UUID | None = None) -> Sequence[RecordRow]:
    """Return the records that may be trained on: of the train arm, and not erased.

    With a model, less those that were erased from it, or withheld when it was made.
    """
    ready(session, dataset_id)
    return Records(session).known(dataset_id, arm="train", model_id=model_id)


def cohort(session: Session, dataset_id: UUID) -> Sequence[Group]:
    """Return the clusters that were never trained on and not erased, ordered by their keyed hashes."""
    ready(session, dataset_id)
    return grouped(Records(session).known(dataset_id, arm="held_back"))


def drawn(session: Session, dataset_id: UUID) -> Sequence[bytes]:
    """Return every cluster that the lottery held back, whoever has been erased since included.

    The cohort is split along this list, so that an erasure moves nobody from one part to the other.
    """
    ready(session, dataset_id)
    return Records(session).drawn(dataset_id)


def grouped(records: Iterable[RecordRow]) -> Sequence[Group]:
    """Return records by cluster; both orders are those of keyed hashes, so nobody chose them."""
    ordered = sorted(records, key=lambda record: (record.cluster, record.content_mac, record.id))
    return [
        Group(cluster=cluster, records=tuple(members))
        for cluster, members in groupby(ordered, key=lambda record: record.cluster)
    ]


def erased_since(
    session: Session, model_id: UUID, since: datetime, *, besides: UUID | None
) -> Sequence[RecordRow]:
    """Return the records that were erased from one model after an instant, but for those of one job."""
    return Records(session).erased_since(model_id, since, besides=besides)


def chosen(session: Session, record_ids: Collection[int]) -> Sequence[RecordRow]:
    """Return these records, erased or not, in file order."""
    return Records(session).chosen(record_ids)


def page(
    session: Session,
    dataset_id: UUID,
    caller: UUID,
    *,
    arm: str | None,
    role: str | None,
    after: int | None,
    limit: int,
    at: datetime,
) -> Sequence[RecordRow]:
    """Return a page of a dataset's records, without content, and the row behind it if there is one.

    That somebody looked is audited.
    """
    ready(session, dataset_id)
    rows = Records(session).page(dataset_id, arm=arm, role=role, after=after, limit=limit + 1)
    audit.record(session, events.RecordsListed(dataset_id, caller, min(len(rows), limit), at))
    return rows


def group_token(key: bytes, cluster: bytes) -> str:
    """Return a short name for a cluster that tells nothing but who belongs together."""
    return hmac.digest(key, b"lethe/group/v1\0" + cluster, "sha256")[:GROUP_BYTES].hex()


# Sketching ---------------------------------------------------------------------------------------


def to_sketch(session: Session, *, name: str, now: datetime) -> Sequence[UUID]:
    """Return the datasets that a worker should sketch under this name, whether or not a bell was heard."""
    return Datasets(session).to_sketch(name, now=now)


def sketched(session: Session) -> bool:
    """Return whether near duplicates can be sought in every registered dataset."""
    return not Datasets(session).unsketched()


def claim_sketching(
    session: Session, dataset_id: UUID, *, name: str, now: datetime
) -> tuple[Source, int] | None:
    """Return a dataset to be sketched, and behind which record to go on; None if there is nothing to do."""
    after = Datasets(session).claim_sketching(dataset_id, name, now=now)
    if after is None:
        return None
    if after == 0:
        Sketches(session).drop(dataset_id)
    return source(session, dataset_id), after


def unsketched(session: Session, dataset_id: UUID, *, after: int, limit: int) -> Sequence[RecordRow]:
    """Return the next records of a pass, in order of their ids."""
    return Records(session).page(dataset_id, arm=None, role=None, after=after, limit=limit)


def put_sketches(
    session: Session,
    dataset_id: UUID,
    found: Mapping[int, Sequence[int]],
    *,
    name: str,
    after: int,
    last: int | None,
    at: datetime,
) -> bool:
    """Keep a batch that begins behind `after`; without a `last`, end the pass. False if another went on."""
    datasets, sketches = Datasets(session), Sketches(session)
    if not datasets.go_on_sketching(dataset_id, name, after=after, last=last, now=at):
        return False
    if last is not None:
        sketches.add(found)
        return True
    queue.heard(session, Stage.SKETCH, dataset_id)
    audit.record(session, events.DatasetSketched(dataset_id, sketches.count(dataset_id), at))
    return True


def put_sketching_off(session: Session, dataset_id: UUID, *, now: datetime) -> None:
    """Leave a pass to a later try, each after a longer while: its file cannot be read, or has changed."""
    Datasets(session).put_sketching_off(dataset_id, now=now)


# Erasing -----------------------------------------------------------------------------------------


def locate(session: Session, subject_macs: Collection[bytes]) -> Sequence[Match]:
    """Return the records about any of these subjects, in every registered dataset, both arms.

    Datasets that are still being registered are not searched; `unsearched` names them.
    """
    return [match for match, _ in locate_each(session, subject_macs)]


def locate_each(
    session: Session, subject_macs: Collection[bytes]
) -> Sequence[tuple[Match, frozenset[bytes]]]:
    """Return the same with whom of them each record is about: one search for many people."""
    if not subject_macs:
        return []
    found = Records(session).of_subjects(subject_macs)
    return [
        (Match(*row[:5]), frozenset(map(bytes, row.subject_macs)).intersection(subject_macs)) for row in found
    ]


def locate_contents(session: Session, content_macs: Collection[bytes]) -> Sequence[Match]:
    """Return the records that say exactly one of these, in every registered dataset, about whomever."""
    return [Match(*row) for row in Records(session).of_contents(content_macs)] if content_macs else []


def locate_named(session: Session, dataset_id: UUID, external_ids: Sequence[str]) -> Sequence[Match]:
    """Return the records of these ids; Invalid if one is unknown or erased, told by its place alone."""
    if len(external_ids) > RECORD_IDS_MAX:
        raise Invalid(f"at most {RECORD_IDS_MAX} records can be named", code="too-many-records")
    ready(session, dataset_id)
    found = [Match(*row) for row in Records(session).of_external_ids(dataset_id, set(external_ids))]
    known = {match.external_id for match in found}
    missing = [place for place, id_ in enumerate(external_ids) if id_ not in known]
    if missing:
        raise Invalid(
            f"dataset {dataset_id} has no record for {len(missing)} of the ids",
            code="unknown-records",
            errors=[(f"/records/ids/{place}", "unknown") for place in missing],
        )
    return found


def unsearched(session: Session) -> Sequence[UUID]:
    """Return the datasets in which nothing can be found yet: "no match" would be a guess."""
    return Datasets(session).registering()


def mark_erased(
    session: Session,
    record_ids: Collection[int],
    *,
    model_id: UUID | None = None,
    job_id: UUID | None = None,
    at: datetime,
) -> int:
    """Take records out of one model's training, or of everything for good; return how many were still in.

    Without a model they leave comparison as well, and come back by no file: see `record`.
    """
    stored = Records(session)
    erased = (
        stored.erase(record_ids, at=at)
        if model_id is None
        else stored.exclude(record_ids, model_id=model_id, job_id=job_id)
    )
    arms: dict[UUID, list[str]] = {}
    for dataset_id, arm in erased:
        arms.setdefault(dataset_id, []).append(arm)
    for dataset_id, each in sorted(arms.items()):
        held_back = each.count("held_back")
        audit.record(session, events.RecordsErased(dataset_id, model_id, len(each), held_back, at))
    return len(erased)
