"""What a run is given: records gathered from their sources into one private file, and who is who.

    line-up     who is forgotten, who stays, who was never trained, who teaches and who judges
    records     the file that `workers.unlearning` reads, keyed by pseudonyms

Why a file per stage: content stays where the customer keeps it and is read by offset, once, just
before it is needed; the file lies in a private directory that is emptied when the job concludes.
Knows no weights.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

SENTINELS_MAX = 64
UTILITY_RECORDS_MAX = 1000
PROBE_RECORDS_MAX = 64
PROBE_SHARE = 0.125


def key_of(record: RecordRow) -> str:
    """Return the record's pseudonym in files of a run: stable over registrations, no content in it."""
    return sha256(b"lethe/key/v1\0" + record.external_id.encode()).hexdigest()[:32]


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

    def _examinee(self, id_: str, kind: str, cluster: bytes, rows: Sequence[RecordRow]) -> Examinee:
        return Examinee(
            id=id_,
            kind=kind,  # type: ignore[arg-type]  # one of the three words, two lines above
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

    def forgotten(self) -> list[RecordRow]:
        """Return every record of the forget set, once each."""
        rows = {
            row.id: row
            for clusters in (*self.forget.values(), self.sentinels)
            for rows in clusters.values()
            for row in rows
        }
        return list(rows.values())

    def probe(self) -> tuple[RecordRow, ...]:
        """Return the retained records on which a budget is measured; no run trains on them to forget."""
        return self.retain[: min(PROBE_RECORDS_MAX, max(1, int(len(self.retain) * PROBE_SHARE)))]

    def cohort_rows(self) -> list[RecordRow]:
        """Return the records of the never-trained, dev and audit."""
        return [row for rows in (*self.dev, *self.audit) for row in rows]


def line_up(
    session: Session,
    context: Context,
    *,
    dataset_id: UUID,
    seed: int,
    requests: Sequence[UUID],
    references: int,
    dev_share: Decimal,
    sentinels: int | Sequence[bytes],
    controls: int | Sequence[bytes],
) -> LineUp:
    """Say who is who in a job. Counts draw afresh (at plan); clusters repeat an earlier draw."""
    trained = records.training_records(session, dataset_id)
    asked = {request: asked_for(session, request, dataset_id) for request in requests}
    erasing = {row.id for rows in asked.values() for row in rows}
    planted: dict[bytes, list[RecordRow]] = defaultdict(list)
    kept: dict[bytes, list[RecordRow]] = defaultdict(list)
    for row in trained:
        (planted if row.role == "sentinel" else kept)[row.cluster].append(row)
    touched = {row.cluster for rows in asked.values() for row in rows}
    draw = seed.to_bytes(8, "big")
    if isinstance(sentinels, int):
        sentinels = _drawn(planted, seed=draw)[: min(sentinels, SENTINELS_MAX)]
    if isinstance(controls, int):
        controls = _drawn(kept.keys() - touched, seed=draw)[:controls]
    leaving = erasing | {row.id for cluster in sentinels for row in planted[cluster]}
    held_back = {group.cluster: group.records for group in records.cohort(session, dataset_id)}
    split = cohort.split(records.drawn(session, dataset_id), key=context.keyring.lottery, dev_share=dev_share)
    everybody = {row.cluster for row in trained} | touched
    return LineUp(
        forget={request: _by_cluster(rows) for request, rows in asked.items()},
        sentinels={cluster: tuple(planted[cluster]) for cluster in sentinels},
        controls={cluster: tuple(kept[cluster]) for cluster in controls},
        retain=tuple(sorted((row for row in trained if row.id not in leaving), key=key_of)),
        dev=tuple(held_back[cluster] for cluster in split.dev if cluster in held_back),
        audit=tuple(held_back[cluster] for cluster in split.audit if cluster in held_back),
        shards={c: shard_of(context, c, references) for c in everybody},
        references=references,
    )


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
