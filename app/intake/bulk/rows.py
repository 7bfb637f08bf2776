"""What a row of an import may say, NDJSON and CSV alike. Pure: bytes in, rows out.

    {"subject": {"type": "email", "value": "..."}, "external_ref": "T-1", "submitted_at": "2026-11-02T09:30Z"}

    external_ref,email,phone,customer_id,device_id,subject.card,dataset,record_ids,identity,submitted_at

A line of NDJSON is the body of a single request, and may say when the person asked. In CSV (RFC 4180,
UTF-8; commas, semicolons or tabs, as the first line has it) each column of a kind of identifier adds one,
and `record_ids` are separated by `|`. A refusal says what is wrong and where, never what stands there.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import AwareDatetime, ConfigDict, ValidationError

from app.erasure.bodies import STRICT, ErasureRequestCreate, IdentifierIn, RecordsIn
from app.errors import Invalid
from app.http.cells import FORMULA

LINE_BYTES_MAX = 256 * 1024
TYPES: Final = ("email", "phone", "customer_id", "device_id")
CUSTOM: Final = "subject."
PLAIN: Final = ("external_ref", "identity", "submitted_at")
RECORDS: Final = ("dataset", "record_ids")
TEMPLATE: Final = ("external_ref", *TYPES, *RECORDS, "identity", "submitted_at")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class RowIn(ErasureRequestCreate):
    """A request as a row has it: as any other, and perhaps when the person asked."""

    model_config = ConfigDict(**STRICT)

    submitted_at: AwareDatetime | None = None


_NAMES = frozenset(RowIn.model_fields | IdentifierIn.model_fields | RecordsIn.model_fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: what it asks for, or why that cannot be read."""

    number: int
    """Counted from one over the rows."""
    line: int
    """Counted from one over the file's lines, for people."""
    asked: RowIn | None = None
    errors: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    """CSV: the column of each identifier, in their order."""

    def pointer(self, pointer: str) -> str:
        """Return where in this row that is: in CSV by its column."""
        if not self.columns:
            return pointer
        parts = pointer.split("/")[1:]
        if parts[:1] == ["subject"] and len(parts) > 1 and parts[1].isdigit():
            return f"/{self.columns[int(parts[1])]}"
        if parts[:1] == ["records"]:
            return "/dataset" if parts[1:2] == ["dataset"] else "/record_ids"
        return pointer


def read(body: bytes, format: str) -> Iterator[Row]:  # noqa: A002  the field's word
    """Yield the rows of a file; Invalid if it is none of its format."""
    return _csv(body) if format == "csv" else _ndjson(body)


def _ndjson(body: bytes) -> Iterator[Row]:
    number = 0
    start, line = (len(_BYTE_ORDER_MARK) if body.startswith(_BYTE_ORDER_MARK) else 0), 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        text, start, line = body[start:end], end + 1, line + 1
        if not text or text.isspace():
            continue
        number += 1
        if len(text) > LINE_BYTES_MAX:
            yield Row(number=number, line=line, errors=(("/", "line-too-long"),))
            continue
        try:
            yield Row(number=number, line=line, asked=RowIn.model_validate_json(text))
        except ValidationError as error:
            yield Row(number=number, line=line, errors=_errors(error))


def _csv(body: bytes) -> Iterator[Row]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Invalid("the file is not UTF-8", code="not-utf-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check(header)
        number, line = 0, reader.line_num + 1
        for cells in reader:
            # A quoted cell may hold line ends; a row is told by the line on which it begins.
            began, line = line, reader.line_num + 1
            if not any(cells):
                continue
            number += 1
            yield _row(number, began, header, cells)
    except csv.Error:
        raise Invalid(
            "the file is not CSV as RFC 4180 has it",
            errors=[(f"/lines/{reader.line_num}", "csv-malformed")],
        ) from None


def _delimiter(text: str) -> str:
    head = text.partition("\n")[0]
    return next((each for each in (",", ";", "\t") if each in head), ",")


def _check(header: Sequence[str]) -> None:
    """Refuse a header with a column that we do not know: a misspelt one would go unseen."""
    known = {*TEMPLATE}
    errors = [
        (f"/columns/{index}", "unknown-column" if header.count(name) == 1 else "duplicate-column")
        for index, name in enumerate(header)
        if header.count(name) > 1 or not (name in known or name.startswith(CUSTOM))
    ]
    identified = any(name in TYPES or name.startswith(CUSTOM) for name in header)
    if not errors and not identified and not {*RECORDS} <= {*header}:
        errors = [("/columns", "nobody-is-named")]
    if errors:
        raise Invalid("the first line does not name the columns of an import", errors=errors)


def _row(number: int, line: int, header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        return Row(number=number, line=line, errors=(("/", "cell-count"),))
    given = {name: _plain(cell) for name, cell in zip(header, cells, strict=True) if cell.strip()}
    named = [(name, value) for name, value in given.items() if name in TYPES or name.startswith(CUSTOM)]
    columns = tuple(name for name, _ in named)
    asked: dict[str, Any] = {name: given[name].strip() for name in PLAIN if name in given}
    if named:
        asked["subject"] = [{"type": name.removeprefix(CUSTOM), "value": value} for name, value in named]
    if given.keys() & {*RECORDS}:
        ids = given.get("record_ids", "")
        asked["records"] = {"dataset": given.get("dataset", "").strip(), "ids": ids.split("|") if ids else []}
    where = Row(number=number, line=line, columns=columns or ("-",))
    try:
        return Row(
            number=number,
            line=line,
            columns=where.columns,
            asked=RowIn.model_validate_json(json.dumps(asked)),
        )
    except ValidationError as error:
        errors = tuple((where.pointer(pointer), code) for pointer, code in _errors(error))
        return Row(number=number, line=line, columns=where.columns, errors=errors)


def _plain(cell: str) -> str:
    """Return what a cell says: the quote that keeps a spreadsheet from computing it is not part of it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _errors(error: ValidationError) -> tuple[tuple[str, str], ...]:
    """Return where and what kind of, by our own names: a member that they made up may be anybody's name."""
    found = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        parts = [str(part) if isinstance(part, int) or part in _NAMES else "*" for part in each["loc"]]
        # A union names its branches as well; what is no name of ours is not one of a place.
        place = "/" + "/".join(part for part in parts if part != "*" or len(parts) == 1)
        found.append((place, str(each["type"]).replace("_", "-")))
    return tuple(dict.fromkeys(found))
