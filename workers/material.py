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
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from app.records import service as records
from app.records.content import shard_of
from app.storage.database import Session
from app.tables import Record
from app.verification import cohort
from workers.context import Context
from workers.unlearning.spec import Examinee, ForgetSubject

SENTINELS_MAX = 64
UTILITY_RECORDS_MAX = 1000
PROBE_RECORDS_MAX = 64
PROBE_SHARE = 0.125


def key_of(record: Record) -> str:
    """Return the record's pseudonym in files of a run: stable over registrations, no content in it."""
    return sha256(b"lethe/key/v1\0" + record.external_id.encode()).hexdigest()[:32]


def _drawn(clusters: Iterable[bytes], *, seed: bytes) -> list[bytes]:
    """Return clusters in an order that nobody chose: by a hash of the seed and the cluster."""
    return sorted(clusters, key=lambda cluster: sha256(seed + cluster).digest())


@dataclass(frozen=True, kw_only=True)
class LineUp:
    """Everybody's role in one job; records by their cluster, in a fixed order."""

    forget: Mapping[UUID, Mapping[bytes, tuple[Record, ...]]]
    """request -> cluster -> the records it names."""
    sentinels: Mapping[bytes, tuple[Record, ...]]
    controls: Mapping[bytes, tuple[Record, ...]]
    retain: tuple[Record, ...]
    """Every trained record that nobody has asked to erase, in hash order."""
    dev: tuple[tuple[Record, ...], ...]
    audit: tuple[tuple[Record, ...], ...]
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

    def _examinee(self, id_: str, kind: str, cluster: bytes, rows: Sequence[Record]) -> Examinee:
        return Examinee(
            id=id_,
            kind=kind,  # type: ignore[arg-type]  # one of the three words, two lines above
            keys=tuple(key_of(row) for row in rows),
            judges=self.judges(cluster),
        )

    def forget_subjects(self) -> tuple[ForgetSubject, ...]:
        """Return the forget set of an engine: every cluster of the batch, sentinels included."""
        merged: dict[bytes, dict[int, Record]] = defaultdict(dict)
        for clusters in (*self.forget.values(), self.sentinels):
            for cluster, rows in clusters.items():
                merged[cluster].update({row.id: row for row in rows})
        return tuple(
            ForgetSubject(
                subject=sha256(b"lethe/group/v1\0" + cluster).hexdigest()[:32],
                keys=tuple(key_of(row) for row in rows.values()),
                teacher=self.teacher(cluster),
            )
            for cluster, rows in merged.items()
        )

    def forgotten(self) -> list[Record]:
        """Return every record of the forget set, once each."""
        rows = {
            row.id: row
            for clusters in (*self.forget.values(), self.sentinels)
            for rows in clusters.values()
            for row in rows
        }
        return list(rows.values())

    def probe(self) -> tuple[Record, ...]:
        """Return the retained records on which a budget is measured; no run trains on them to forget."""
        return self.retain[: min(PROBE_RECORDS_MAX, max(1, int(len(self.retain) * PROBE_SHARE)))]

    def cohort_rows(self) -> list[Record]:
        """Return the records of the never-trained, dev and audit."""
        return [row for rows in (*self.dev, *self.audit) for row in rows]


def line_up(
    session: Session,
    context: Context,
    *,
    dataset_id: UUID,
    job_id: UUID,
    requests: Sequence[UUID],
    references: int,
    dev_share: str,
    sentinels: int | Sequence[bytes],
    controls: int | Sequence[bytes],
) -> LineUp:
    """Say who is who in a job. Counts draw afresh (at plan); clusters repeat an earlier draw."""
    trained = records.training_records(session, dataset_id)
    asked = {request: records.of_request(session, request, dataset_id) for request in requests}
    erasing = {row.id for rows in asked.values() for row in rows}
    planted, kept = defaultdict(list), defaultdict(list)
    for row in trained:
        (planted if row.role == "sentinel" else kept)[row.cluster].append(row)
    touched = {row.cluster for rows in asked.values() for row in rows}
    seed = job_id.bytes
    if isinstance(sentinels, int):
        sentinels = _drawn(planted, seed=seed)[: min(sentinels, SENTINELS_MAX)]
    if isinstance(controls, int):
        controls = _drawn(kept.keys() - touched, seed=seed)[:controls]
    leaving = erasing | {row.id for cluster in sentinels for row in planted[cluster]}
    dev, audit = cohort.split(records.cohort(session, dataset_id), dev_share=dev_share)
    everybody = {row.cluster for row in trained} | touched
    return LineUp(
        forget={request: _by_cluster(rows) for request, rows in asked.items()},
        sentinels={cluster: tuple(planted[cluster]) for cluster in sentinels},
        controls={cluster: tuple(kept[cluster]) for cluster in controls},
        retain=tuple(
            sorted((row for row in trained if row.id not in leaving), key=lambda row: sha256(row.content_mac).digest())
        ),
        dev=tuple(tuple(rows) for rows in dev),
        audit=tuple(tuple(rows) for rows in audit),
        shards={c: shard_of(context.keyring.placement, c, references) if references else 0 for c in everybody},
        references=references,
    )


def _by_cluster(rows: Sequence[Record]) -> dict[bytes, tuple[Record, ...]]:
    found: dict[bytes, list[Record]] = defaultdict(list)
    for row in rows:
        found[row.cluster].append(row)
    return {cluster: tuple(each) for cluster, each in sorted(found.items())}


def write(context: Context, dataset_id: UUID, rows: Iterable[Record], path: Path) -> Path:
    """Gather the content of `rows` from its source into `path`, checked against what was registered.

    Raises:
        Conflict: the source has changed since registration (`dataset-changed`).
        Unavailable: the source cannot be read now.
    """
    by_id = {row.id: row for row in rows}
    temporary = path.with_suffix(".part")
    with temporary.open("w", encoding="utf-8") as file:
        for record_id, line in records.read_contents(
            context.transaction, dataset_id, sorted(by_id), keyring=context.keyring
        ):
            file.write(json.dumps(_line(by_id[record_id], line), ensure_ascii=False) + "\n")
    temporary.chmod(0o600)
    temporary.replace(path)
    return path


def _line(record: Record, line: Mapping[str, object]) -> dict[str, object]:
    """Return a record as a run reads it; a plain text is a completion without a prompt."""
    return {
        "key": key_of(record),
        "subject": sha256(b"lethe/group/v1\0" + record.cluster).hexdigest()[:32],
        "prompt": line.get("prompt", ""),
        "completion": line["completion"] if "completion" in line else line["text"],
        "spans": line.get("spans"),
        "paraphrases": line.get("paraphrases") or [],
        "fake": line.get("fake") or [],
    }
