"""Registering a dataset: read it once, draw the lottery, then insert all of it or nothing.

    claim       one short transaction; whoever claims second has nothing to do
    read        no transaction: every line is checked and hashed into a spool file that has no name
    record      one transaction: COPY of the spool, `ready`; or `failed` and the number of the line

Costs one pass over the source and one over the spool. In memory are the ids and subjects seen, never
content. A second delivery, or a rival after a minute of silence, finds the state moved and leaves.
"""

import hashlib
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol
from uuid import UUID

from app.clock import Clock
from app.errors import Invalid, Unavailable
from app.failpoints import reach
from app.records import lottery, service
from app.records.content import canonical, content_mac, subject_mac, suppression_mac
from app.records.lines import BadLine, Line
from app.records.lottery import PERSON, SENTINEL, Clusters
from app.records.reading import Entry, Scan, Source
from app.storage.database import Transaction
from app.storage.locations import opened

RECORDS_MAX = 50_000_000
PROGRESS_SECONDS = 1.0
PROGRESS_LINES = 256
COPY_BYTES = 256 * 1024

Progress = Callable[[Mapping[str, object]], None]


class Keys(Protocol):
    """The part of the keyring that registration needs."""

    @property
    def subject(self) -> bytes:
        """Return the key of the subject MACs."""

    @property
    def content(self) -> bytes:
        """Return the key of the content MACs."""

    @property
    def suppression(self) -> bytes:
        """Return the key of the suppression MACs."""

    @property
    def lottery(self) -> bytes:
        """Return the key of the draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What reading a dataset came to."""

    size_bytes: int
    digest: bytes
    records: int
    clusters: int
    held_back: frozenset[bytes]
    homes: "array[int]"
    """Per record, the place of its cluster in `names`."""
    names: list[bytes]


def ingest(
    transaction: Transaction,
    dataset_id: UUID,
    *,
    keyring: Keys,
    work: Path,
    clock: Clock,
    progress: Progress | None = None,
) -> None:
    """Register a dataset that was submitted; harmless when called twice, or for what is done."""
    with transaction() as session:
        claimed = service.claim(session, dataset_id)
    if claimed is None:
        return
    source, hold_back = claimed
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Keyed hashes are personal data still: the spool has no name, and dies with the process.
    with TemporaryFile(dir=work) as spool:
        try:
            drawn = _read(
                source, spool, hold_back, keyring, _Teller(transaction, source.dataset_id, progress)
            )
        except (BadLine, FileNotFoundError, PermissionError, IsADirectoryError, ImportError) as error:
            bad = error if isinstance(error, BadLine) else BadLine(_UNREADABLE[type(error)])
            with transaction() as session:
                service.fail(session, dataset_id, bad, at=clock())
            return
        except OSError:
            with suppress(Exception), transaction() as session:
                service.release(session, dataset_id)
            # The reason may quote the path or the address; another try is right, so its kind is enough.
            raise Unavailable(f"dataset {dataset_id} cannot be read now", code="dataset-unreadable") from None
        reach("register-before-record")
        with transaction() as session:
            service.record(
                session,
                dataset_id,
                _rows(spool, drawn),
                digest=drawn.digest,
                size_bytes=drawn.size_bytes,
                records=drawn.records,
                subjects=drawn.clusters,
                held_back=len(drawn.held_back),
                at=clock(),
            )
    reach("register-after-record")


_UNREADABLE: Mapping[type[Exception], str] = {
    FileNotFoundError: "source-missing",
    PermissionError: "source-forbidden",
    IsADirectoryError: "source-is-a-directory",
    ImportError: "source-scheme",
    ModuleNotFoundError: "source-scheme",
}


class _Teller:
    """Says how far the reading is, at most once a second, each time in a transaction of its own."""

    def __init__(self, transaction: Transaction, dataset_id: UUID, progress: Progress | None) -> None:
        self._transaction = transaction
        self._dataset_id = dataset_id
        self._progress = progress
        self._told = time.monotonic()

    def tell(self, records: int, scan: Scan) -> None:
        if time.monotonic() - self._told < PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        with self._transaction() as session:
            service.show_progress(
                session,
                self._dataset_id,
                records=records,
                bytes_read=scan.bytes_read,
                size_bytes=scan.size_bytes,
            )
        if self._progress is not None:
            self._progress({"records": records, "bytes": scan.bytes_read, "bytes_total": scan.size_bytes})


def _read(source: Source, spool: BinaryIO, hold_back: int | None, keys: Keys, teller: _Teller) -> Draw:
    """Check, hash and spool every record; then draw who is held back."""
    seen: dict[str, int] = {}
    clusters = Clusters()
    homes = array("q")
    prefix = str(source.dataset_id).encode()
    with opened(source.uri) as file:
        scan = Scan(file, format=source.format)
        for entry in scan.entries():
            earlier = seen.setdefault(entry.line.id, entry.number)
            if earlier != entry.number:
                raise BadLine("duplicate-id", pointer="/id", line=entry.number, other=earlier)
            macs = _subject_macs(entry, keys.subject)
            home = clusters.join(macs, SENTINEL if entry.line.role == "sentinel" else PERSON)
            if home is None:
                raise BadLine("role-contradicts", pointer="/role", line=entry.number)
            homes.append(home)
            said = canonical(entry.line.content)
            barred_by = suppression_mac(keys.suppression, hashlib.sha256(said).digest())
            spool.write(_spooled(prefix, entry, content_mac(keys.content, said), barred_by, macs))
            if len(homes) % PROGRESS_LINES == 0:
                teller.tell(len(homes), scan)
            if len(homes) > RECORDS_MAX:
                raise BadLine("too-many-records", line=entry.number)
    if not homes:
        raise BadLine("empty")
    names = clusters.names()
    return Draw(
        size_bytes=scan.bytes_read,
        digest=scan.digest,
        records=len(homes),
        clusters=len(set(names)),
        held_back=_held_back(names, clusters, hold_back, keys.lottery),
        homes=homes,
        names=names,
    )


def _subject_macs(entry: Entry, key: bytes) -> list[bytes]:
    """Return the subjects' keyed hashes, each once."""
    macs: dict[bytes, None] = {}
    for index, subject in enumerate(entry.line.subject):
        try:
            macs[subject_mac(key, subject.type, subject.value)] = None
        except Invalid as invalid:
            raise BadLine(invalid.code, pointer=f"/subject/{index}/value", line=entry.number) from None
    return list(macs)


def _held_back(
    names: list[bytes], clusters: Clusters, hold_back: int | None, lottery_key: bytes
) -> frozenset[bytes]:
    persons = {name for name, role in zip(names, clusters.roles(), strict=True) if role == PERSON}
    if hold_back is None:
        hold_back = lottery.held_back_count(len(persons))
    if hold_back and hold_back >= len(persons):
        raise BadLine("hold-back-too-large")
    return lottery.draw(lottery_key, persons, hold_back=hold_back)


def _spooled(
    dataset_id: bytes, entry: Entry, mac: bytes, barred_by: bytes, subject_macs: list[bytes]
) -> bytes:
    r"""Return the record in COPY's text format, without cluster and arm, which nobody knows yet.

    COPY unescapes once and bytea needs one backslash, so a hash is `\\x..`; inside an array literal
    it is quoted there as well. An id has no control characters, so only backslashes are escaped.
    """
    line: Line = entry.line
    hashes = ",".join(f'"\\\\\\\\x{each.hex()}"' for each in subject_macs)
    external_id = line.id.replace("\\", "\\\\")
    return b"%b\t%b\t%d\t%d\t\\\\x%b\t\\\\x%b\t{%b}\t1\t%b\n" % (
        dataset_id,
        external_id.encode(),
        entry.position,
        entry.length,
        mac.hex().encode(),
        barred_by.hex().encode(),
        hashes.encode(),
        line.role.encode(),
    )


def _rows(spool: BinaryIO, drawn: Draw) -> Iterator[bytes]:
    """Return the spool again in blocks, each record now with its cluster and its arm."""
    endings = [
        b"\t\\\\x%b\t%b\n" % (name.hex().encode(), b"held_back" if name in drawn.held_back else b"train")
        for name in drawn.names
    ]
    spool.seek(0)
    block: list[bytes] = []
    size = 0
    for row, home in zip(spool, drawn.homes, strict=True):
        block += (row[:-1], endings[home])
        size += len(row)
        if size > COPY_BYTES:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)
