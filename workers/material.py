"""What a run is given: records gathered from their sources into one private file, and who is who.

    line-up     who is forgotten, who stays, who was never trained, who teaches and who judges
    records     the file that `workers.unlearning` reads, keyed by pseudonyms

Why a file per stage: content stays where the customer keeps it and is read by offset, once, just
before it is needed; the file lies in a private directory that is emptied when the job concludes.
Knows no weights.
"""

import hmac
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from app.erasure import service as erasure
from app.records import lottery
from app.records import service as records
from app.records.lines import Line
from app.records.reading import RecordRow
from app.storage.database import Session
from app.verification import cohort
from workers.context import Context
from workers.unlearning.spec import Examinee, ForgetSubject

UTILITY_RECORDS_MAX = 1000
PROBE_RECORDS_MAX = 64
PROBE_SHARE = 0.125


def key_of(record: RecordRow) -> str:
    """Return the record's pseudonym in files of a run: nobody finds it from an id without the key.

    The keyed hash of the content is what keys it; the id tells apart what says the same.
    """
    return sha256(b"lethe/key/v2\0" + record.content_mac + record.external_id.encode()).hexdigest()[:32]


def group_of(cluster: bytes) -> str:
    """Return a cluster's pseudonym in files of a run."""
    return sha256(b"lethe/cluster/v1\0" + cluster).hexdigest()[:32]


def _drawn(clusters: Iterable[bytes], *, seed: bytes) -> list[bytes]:
    """Return clusters in an order that nobody chose: by a hash of the seed and the cluster."""
    return sorted(clusters, key=lambda cluster: sha256(seed + cluster).digest())


@dataclass(frozen=True, kw_only=True)
class LineUp:
    """Everybody's role in one job; records by their cluster, in a fixed order."""

    forget: Mapping[UUID, Mapping[bytes, tuple[RecordRow, ...]]]
    """request -> cluster -> the records it names."""
    sentinels: Mapping[bytes, tuple[RecordRow, ...]]
    earlier: Mapping[UUID, Mapping[bytes, tuple[RecordRow, ...]]]
    """job -> cluster -> the sentinels that it erased: every later candidate is asked about them (E46)."""
    controls: Mapping[bytes, tuple[RecordRow, ...]]
    retain: tuple[RecordRow, ...]
    """Every trained record that nobody has asked to erase, in hash order."""
    dev: tuple[tuple[RecordRow, ...], ...]
    audit: tuple[tuple[RecordRow, ...], ...]
    shards: Mapping[bytes, int]
    references: int

    def judges(self, cluster: bytes) -> tuple[str, ...]:
        """Return the references that may judge a cluster: never saw it, and do not teach it."""
        home = self.shards[cluster]
        banned = {home, self._teacher(home)}
        return tuple(str(n) for n in range(self.references) if n not in banned)

    def teacher(self, cluster: bytes) -> str | None:
        """Return the one reference that shows how not to know a cluster; never a judge of it."""
        return str(self._teacher(self.shards[cluster])) if self.references >= 2 else None

    def _teacher(self, home: int) -> int:
        return (home + 1) % max(self.references, 1)

    def examinees(self) -> tuple[Examinee, ...]:
        """Return whom to measure: each cluster of each request, the sentinels, the controls."""
        people = [
            self._examinee(f"{request}/{number}", "request", cluster, rows)
            for request, clusters in self.forget.items()
            for number, (cluster, rows) in enumerate(clusters.items())
        ]
        planted = [
            self._examinee(f"sentinel/{number}", "sentinel", cluster, rows)
            for number, (cluster, rows) in enumerate(self.sentinels.items())
        ]
        kept = [
            self._examinee(f"control/{number}", "control", cluster, rows)
            for number, (cluster, rows) in enumerate(self.controls.items())
        ]
        return (*people, *planted, *kept)

    def earlier_examinees(self) -> tuple[Examinee, ...]:
        """Return the sentinels of all earlier batches, numbered as they were when they were erased."""
        return tuple(
            self._examinee(f"earlier/{job}/{number}", "earlier", cluster, rows)
            for job, clusters in self.earlier.items()
            for number, (cluster, rows) in enumerate(clusters.items())
        )

    def earlier_rows(self) -> list[RecordRow]:
        """Return their records."""
        return [row for clusters in self.earlier.values() for rows in clusters.values() for row in rows]

    def _examinee(self, id_: str, kind: str, cluster: bytes, rows: Sequence[RecordRow]) -> Examinee:
        return Examinee(
            id=id_,
            kind=kind,  # type: ignore[arg-type]  # one of the words that the callers above give
            keys=tuple(key_of(row) for row in rows),
            judges=self.judges(cluster),
        )

    def forget_subjects(self) -> tuple[ForgetSubject, ...]:
        """Return the forget set of an engine: every cluster of the batch, sentinels included."""
        merged: dict[bytes, dict[int, RecordRow]] = defaultdict(dict)
        for clusters in (*self.forget.values(), self.sentinels):
            for cluster, rows in clusters.items():
                merged[cluster].update({row.id: row for row in rows})
        return tuple(
            ForgetSubject(
                subject=group_of(cluster),
                keys=tuple(key_of(row) for row in rows.values()),
                teacher=self.teacher(cluster),
            )
            for cluster, rows in merged.items()
        )

    def outstanding(self, gone: Iterable[RecordRow]) -> tuple[ForgetSubject, ...]:
        """Return whom earlier jobs erased and a recorded training still had, as far as this one does not."""
        now = {row.id for row in self.forgotten()}
        return tuple(
            ForgetSubject(subject=group_of(cluster), keys=tuple(key_of(row) for row in rows), teacher=None)
            for cluster, rows in _by_cluster([row for row in gone if row.id not in now]).items()
        )

    def forgotten(self, besides: Collection[UUID] = ()) -> list[RecordRow]:
        """Return every record of the forget set, once each; or of it without some requests."""
        asked = [clusters for request, clusters in self.forget.items() if request not in besides]
        rows = {
            row.id: row for clusters in (*asked, self.sentinels) for rows in clusters.values() for row in rows
        }
        return list(rows.values())

    def probe(self) -> tuple[RecordRow, ...]:
        """Return the retained records on which a budget is measured; no run trains on them to forget."""
        return self.retain[: min(PROBE_RECORDS_MAX, max(1, int(len(self.retain) * PROBE_SHARE)))]

    def cohort_rows(self) -> list[RecordRow]:
        """Return the records of the never-trained, dev and audit."""
        return [row for rows in (*self.dev, *self.audit) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How many sentinels and controls a job takes; or, once they are drawn, which records those are."""

    sentinels: int | Sequence[int]
    controls: int | Sequence[int]


def line_up(
    session: Session,
    context: Context,
    *,
    model_id: UUID,
    dataset_id: UUID,
    seed: int,
    requests: Sequence[UUID],
    references: int,
    dev_share: Decimal,
    draw: Draw,
    earlier: Mapping[UUID, Sequence[int]],
) -> LineUp:
    """Say who is who in a job. Counts draw afresh (at plan); record ids repeat that draw.

    `earlier` are the sentinels' records that each job before has erased.

    Whom it concerns is fixed from then on, whatever is erased from other models meanwhile.
    """
    trained = records.training_records(session, dataset_id, model_id)
    asked = {request: asked_for(session, request, dataset_id) for request in requests}
    erasing = {row.id for rows in asked.values() for row in rows}
    touched = {row.cluster for rows in asked.values() for row in rows}
    planted = [row for row in trained if row.role == "sentinel"]
    kept = [row for row in trained if row.role != "sentinel" and row.cluster not in touched]
    sentinels = _some(session, draw.sentinels, planted, seed=seed)
    controls = _some(session, draw.controls, kept, seed=seed)
    leaving = erasing | {row.id for rows in sentinels.values() for row in rows}
    held_back = {group.cluster: group.records for group in records.cohort(session, dataset_id)}
    split = cohort.split(
        records.drawn(session, dataset_id),
        key=context.keyring.lottery,
        dev_share=dev_share,
        vacant=records.read(session, dataset_id).forgotten_places,
    )
    planted_before = {job: _by_cluster(records.chosen(session, ids)) for job, ids in earlier.items()}
    everybody = {row.cluster for row in trained} | touched | sentinels.keys() | controls.keys()
    everybody |= {cluster for clusters in planted_before.values() for cluster in clusters}
    return LineUp(
        forget={request: _by_cluster(rows) for request, rows in asked.items()},
        sentinels=sentinels,
        earlier=planted_before,
        controls=controls,
        retain=tuple(sorted((row for row in trained if row.id not in leaving), key=key_of)),
        dev=tuple(held_back[cluster] for cluster in split.dev if cluster in held_back),
        audit=tuple(held_back[cluster] for cluster in split.audit if cluster in held_back),
        shards={c: shard_of(context, c, references) for c in everybody},
        references=references,
    )


def _some(
    session: Session, wanted: int | Sequence[int], among: Sequence[RecordRow], *, seed: int
) -> dict[bytes, tuple[RecordRow, ...]]:
    """Return so many clusters of these rows, drawn by the seed; or the records that were drawn before."""
    if not isinstance(wanted, int):
        return _by_cluster(records.chosen(session, wanted))
    there = _by_cluster(among)
    taken = sorted(_drawn(there, seed=seed.to_bytes(8, "big"))[:wanted])
    return {cluster: there[cluster] for cluster in taken}


def placement_key(context: Context, dataset_id: UUID, work: Path) -> Path:
    """Write a data set's placement key for one run: where its records stand in a recorded training."""
    path = work / "placement.key"
    path.touch(mode=0o600)
    path.write_bytes(
        hmac.digest(context.keyring.placement, b"lethe/placement/v1\0" + dataset_id.bytes, "sha256")
    )
    return path


def shard_of(context: Context, cluster: bytes, references: int) -> int:
    """Return which reference saw a cluster; all are in shard 0 where there are no references."""
    return lottery.shard_of(context.keyring.placement, cluster, shards=references) if references else 0


def _by_cluster(rows: Sequence[RecordRow]) -> dict[bytes, tuple[RecordRow, ...]]:
    found: dict[bytes, list[RecordRow]] = defaultdict(list)
    for row in rows:
        found[row.cluster].append(row)
    return {cluster: tuple(each) for cluster, each in sorted(found.items())}


def asked_for(session: Session, request_id: UUID, dataset_id: UUID) -> list[RecordRow]:
    """Return the trained records of one data set that a request names, in file order."""
    rows = records.chosen(session, erasure.record_ids(session, request_id, dataset_id))
    return [row for row in rows if row.arm == "train"]


def write(context: Context, dataset_id: UUID, rows: Iterable[RecordRow], path: Path) -> Path:
    """Gather the content of `rows` from its source into `path`, compared with what was registered.

    Raises:
        Conflict: the source has changed since registration (`dataset-changed`).
        Unavailable: the source cannot be read now.
    """
    once = list({row.id: row for row in rows}.values())
    with context.transaction() as session:
        source = records.source(session, dataset_id)
    temporary = path.with_suffix(".part")
    with temporary.open("w", encoding="utf-8") as file:
        temporary.chmod(0o600)
        for row, line in records.contents(source, once, content_key=context.keyring.content):
            file.write(json.dumps(_line(row, line), ensure_ascii=False) + "\n")
    temporary.replace(path)
    return path


def _line(row: RecordRow, line: Line) -> dict[str, object]:
    """Return a record as a run reads it; a plain text is a completion without a prompt."""
    said = line.model_dump(mode="json", include={"spans", "paraphrases", "fake"})
    return {
        "key": key_of(row),
        "subject": group_of(row.cluster),
        "prompt": line.passage.prompt,
        "completion": line.passage.completion,
        **said,
    }
