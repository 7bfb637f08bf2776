"""The source of a dataset, streamed: every line once, or chosen records by where they lie.

    Scan       reads a source from end to end, hashing its bytes; the registration's way
    contents   reads chosen records and compares each with its keyed hash; the trainer's way
    everything reads every record, and compares the whole with its digest; the way of who looks for something

JSONL is read by byte offset, Parquet by row group; anything fsspec knows can be the source. At no
time is more held than one chunk and one line (one batch of rows). Knows no database.
"""

import hashlib
import hmac
import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, BinaryIO, NamedTuple
from uuid import UUID

from app.errors import Conflict, Unavailable
from app.records.content import canonical, content_mac
from app.records.lines import LINE_BYTES_MAX, BadLine, Line, parse, parse_row
from app.storage.locations import opened

CHUNK_BYTES = 1024 * 1024
BATCH_ROWS = 256
WHOLE_SHARE = 8
"""Reading an eighth of the file or more is done in one pass, which also proves the whole of it."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_COLUMNS = tuple(Line.model_fields)


class DatasetChanged(Conflict):
    """The file is no longer what was registered."""

    code = "dataset-changed"

    def __init__(self, dataset_id: UUID) -> None:
        """Say which dataset; never which record."""
        super().__init__(f"the file of dataset {dataset_id} changed after it was registered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a dataset lies, and what it was when it was registered."""

    dataset_id: UUID
    uri: str
    format: str
    size_bytes: int | None = None
    digest: bytes | None = None


class RecordRow(NamedTuple):
    """What the database knows of a record."""

    id: int
    external_id: str
    position: int
    length: int
    content_mac: bytes
    cluster: bytes
    role: str
    arm: str


class Entry(NamedTuple):
    """One record as a scan meets it."""

    number: int
    """Line or row, counted from one, for people."""
    position: int
    length: int
    line: Line


def format_of(uri: str) -> str:
    """Return the format that a name suggests."""
    return "parquet" if uri.partition("?")[0].lower().endswith((".parquet", ".pq")) else "jsonl"


class Scan:
    """One pass over an open source: its records in order, and in the end its SHA-256."""

    def __init__(self, file: BinaryIO, *, format: str) -> None:  # noqa: A002  the column's word
        """Take the file as it was opened; nothing is read yet."""
        self._file = file
        self._format = format
        self._hash = hashlib.sha256()
        self.size_bytes = file.seek(0, io.SEEK_END)
        self.bytes_read = 0
        file.seek(0)

    @property
    def digest(self) -> bytes:
        """Return the SHA-256 of what was read: of the whole source once the entries are through."""
        return self._hash.digest()

    def entries(self) -> Iterator[Entry]:
        """Return the records in the source's order; BadLine carries the number of the line."""
        return self._rows() if self._format == "parquet" else self._lines()

    def _chunks(self) -> Iterator[bytes]:
        while chunk := self._file.read(CHUNK_BYTES):
            self._hash.update(chunk)
            self.bytes_read += len(chunk)
            yield chunk

    def _lines(self) -> Iterator[Entry]:
        number, position, tail = 0, 0, b""
        for chunk in self._chunks():
            *lines, tail = (tail + chunk).split(b"\n")
            for line in lines:
                number += 1
                entry = _entry(number, position, line)
                if entry is not None:
                    yield entry
                position += len(line) + 1
            if len(tail) > LINE_BYTES_MAX:
                raise BadLine("line-too-long", line=number + 1)
        entry = _entry(number + 1, position, tail)
        if entry is not None:
            yield entry

    def _rows(self) -> Iterator[Entry]:
        for _ in self._chunks():
            pass  # Parquet is read from its end; its bytes are hashed before.
        self._file.seek(0)
        number = 0
        for batch in _batches(_parquet(self._file)):
            for row in batch:
                number += 1
                try:
                    line = parse_row(row)
                except BadLine as bad:
                    raise BadLine(bad.code, pointer=bad.pointer, line=number) from None
                yield Entry(number, number - 1, 0, line)


def _entry(number: int, position: int, line: bytes) -> Entry | None:
    """Return the record of one line, None for a blank one."""
    if number == 1 and line.startswith(_BYTE_ORDER_MARK):
        line = line.removeprefix(_BYTE_ORDER_MARK)
        position += len(_BYTE_ORDER_MARK)
    line = line.removesuffix(b"\r")
    if not line or line.isspace():
        return None
    if len(line) > LINE_BYTES_MAX:
        raise BadLine("line-too-long", line=number)
    try:
        return Entry(number, position, len(line), parse(line))
    except BadLine as bad:
        raise BadLine(bad.code, pointer=bad.pointer, line=number) from None


def contents(
    source: Source, records: Sequence[RecordRow], *, content_key: bytes
) -> Iterator[tuple[RecordRow, Line]]:
    """Return the chosen records with what they say, in the order in which they lie in the file.

    Each is compared with its keyed hash. When much of the file is wanted it is read in one pass and
    compared as a whole at the end; the caller must read to the end before believing any of it.
    """
    wanted = sorted(records, key=lambda record: record.position)
    if not wanted:
        return
    try:
        with opened(source.uri) as file:
            if source.size_bytes is not None and file.seek(0, io.SEEK_END) != source.size_bytes:
                raise DatasetChanged(source.dataset_id)
            read = _chosen_rows if source.format == "parquet" else _chosen_lines
            for record, line in read(file, source, wanted):
                _compare(source, record, line, content_key)
                yield record, line
    except BadLine:
        raise DatasetChanged(source.dataset_id) from None
    except (OSError, ImportError):
        raise _unreadable(source) from None


def everything(source: Source) -> Iterator[Line]:
    """Return what every record says, in the file's order; nothing is to be believed before its end."""
    try:
        with opened(source.uri) as file:
            scan = Scan(file, format=source.format)
            if source.size_bytes is not None and scan.size_bytes != source.size_bytes:
                raise DatasetChanged(source.dataset_id)
            for entry in scan.entries():
                yield entry.line
            if source.digest is not None and not hmac.compare_digest(scan.digest, source.digest):
                raise DatasetChanged(source.dataset_id)
    except BadLine:
        raise DatasetChanged(source.dataset_id) from None
    except (OSError, ImportError):
        raise _unreadable(source) from None


def _unreadable(source: Source) -> Unavailable:
    """Return the fact alone: the reason may quote the path or the line."""
    return Unavailable(f"the file of dataset {source.dataset_id} cannot be read", code="dataset-unreadable")


def _compare(source: Source, record: RecordRow, line: Line, content_key: bytes) -> None:
    mac = content_mac(content_key, canonical(line.content))
    if line.id != record.external_id or not hmac.compare_digest(mac, record.content_mac):
        raise DatasetChanged(source.dataset_id)


def _chosen_lines(
    file: BinaryIO, source: Source, wanted: Sequence[RecordRow]
) -> Iterator[tuple[RecordRow, Line]]:
    if sum(record.length for record in wanted) * WHOLE_SHARE >= (source.size_bytes or 0):
        yield from _in_one_pass(file, source, wanted)
        return
    for record in wanted:
        file.seek(record.position)
        yield record, parse(file.read(record.length))


def _in_one_pass(
    file: BinaryIO, source: Source, wanted: Sequence[RecordRow]
) -> Iterator[tuple[RecordRow, Line]]:
    digest = hashlib.sha256()
    file.seek(0)
    held, start = b"", 0
    for record in wanted:
        end = record.position + record.length
        while start + len(held) < end:
            chunk = file.read(CHUNK_BYTES)
            if not chunk:
                raise DatasetChanged(source.dataset_id)
            digest.update(chunk)
            keep = max(0, record.position - start)
            start += min(keep, len(held) + len(chunk))
            held = (held + chunk)[keep:]
        yield record, parse(held[record.position - start : end - start])
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    if source.digest is not None and not hmac.compare_digest(digest.digest(), source.digest):
        raise DatasetChanged(source.dataset_id)


def _chosen_rows(
    file: BinaryIO, source: Source, wanted: Sequence[RecordRow]
) -> Iterator[tuple[RecordRow, Line]]:
    """Read the row groups that hold a wanted row, and no others."""
    parquet = _parquet(file)
    rows = parquet.metadata.num_rows
    if wanted[-1].position >= rows:
        raise DatasetChanged(source.dataset_id)
    if len(wanted) * WHOLE_SHARE >= rows and source.digest is not None:
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        if digest.digest() != source.digest:
            raise DatasetChanged(source.dataset_id)
    sizes = (parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups))
    starts = [0, *accumulate(sizes)]
    for group, members in groupby(wanted, key=lambda record: bisect_right(starts, record.position) - 1):
        number = starts[group]
        rest = list(members)[::-1]
        for batch in _batches(parquet, [group]):
            for row in batch:
                if rest and rest[-1].position == number:
                    yield rest.pop(), parse_row(row)
                number += 1


def _batches(parquet: Any, row_groups: list[int] | None = None) -> Iterator[list[dict[str, Any]]]:
    from pyarrow.lib import ArrowException  # noqa: PLC0415  the API has no pyarrow

    try:
        columns = [name for name in parquet.schema_arrow.names if name in _COLUMNS]
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns, row_groups=row_groups):
            yield batch.to_pylist()
    except ArrowException:
        raise BadLine("file-format") from None


def _parquet(file: BinaryIO) -> Any:
    from pyarrow.lib import ArrowException  # noqa: PLC0415  the API has no pyarrow
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415  the API has no pyarrow

    try:
        return ParquetFile(file, pre_buffer=False, buffer_size=CHUNK_BYTES)
    except ArrowException:
        raise BadLine("file-format") from None
