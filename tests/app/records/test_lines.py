"""What a line may say, and that a refusal names the place and never the content."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.records.lines import BadLine, Line, parse, parse_row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SUBJECT = {"type": "email", "value": "canary@example.org"}


def line(**changes: Any) -> dict[str, Any]:
    """Return a good line with something changed; None leaves a field out."""
    good = {"id": "r-1", "subject": SUBJECT, "prompt": "Who?", "completion": " Canary."}
    return {name: value for name, value in (good | changes).items() if value is not None}


def parsed(**changes: Any) -> Line:
    return parse(json.dumps(line(**changes)).encode())


def test_a_plain_text_is_a_completion_of_nothing() -> None:
    record = parsed(prompt=None, completion=None, text="Canary.")
    assert (record.passage.prompt, record.passage.completion) == ("", "Canary.")
    assert record.content == {"text": "Canary."}
    assert record.role == "person"


def test_content_is_what_is_said_and_nothing_else() -> None:
    plain = parsed()
    annotated = parsed(
        id="r-2", role="sentinel", spans={"name": [], "values": [[4, 11]]}, column_of_theirs={"x": [1]}
    )
    assert plain.content == annotated.content == {"prompt": "Who?", "completion": " Canary."}


def test_one_subject_is_a_list_of_one() -> None:
    assert parsed(subject=[SUBJECT]).subject == parsed().subject


def test_null_is_absent() -> None:
    text = json.dumps(line() | {"spans": None, "paraphrases": None, "fake": None, "text": None})
    assert parse(text.encode()) == parsed()


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"id": None}, "missing", "/id"),
        ({"id": 7}, "string-type", "/id"),
        ({"id": "a\tb"}, "string-pattern-mismatch", "/id"),
        ({"id": "x" * 201}, "string-too-long", "/id"),
        ({"subject": []}, "too-short", "/subject"),
        ({"subject": [SUBJECT] * 65}, "too-long", "/subject"),
        ({"subject": {"type": "E-Mail", "value": "canary"}}, "string-pattern-mismatch", "/subject/0/type"),
        ({"subject": {"type": "email"}}, "missing", "/subject/0/value"),
        ({"subject": "canary@example.org"}, "list-type", "/subject"),
        ({"text": "canary"}, "content-shape", ""),
        ({"completion": None}, "content-shape", ""),
        ({"completion": ""}, "string-too-short", "/completion"),
        ({"role": "canary"}, "literal-error", "/role"),
        ({"spans": {"values": [[0, 13]]}}, "span-outside", ""),
        ({"spans": {"values": [[3, 3]]}}, "span-outside", ""),
        ({"spans": {"values": [[-1, 3]]}}, "span-outside", ""),
        ({"spans": {"values": [[1, 2, 3]]}}, "too-long", "/spans/values/0"),
        ({"paraphrases": [{"prompt": "canary"}]}, "missing", "/paraphrases/0/completion"),
        ({"fake": [{"completion": "c", "spans": {"name": [[0, 2]]}}]}, "span-outside", "/fake/0"),
    ],
)
def test_a_bad_line_is_told_by_code_and_pointer(changes: dict[str, Any], code: str, pointer: str) -> None:
    with pytest.raises(BadLine) as bad:
        parsed(**changes)
    assert (bad.value.code, bad.value.pointer) == (code, pointer)
    assert "canary" not in str(bad.value).lower()


@pytest.mark.parametrize(
    "text",
    [b"", b"canary", b"[]", b'{"id": "r", "canary', b'{"id": "\xff"}', b'{"id": "\\ud800"}', b"[" * 10_000],
)
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(BadLine) as bad:
        parse(text)
    assert "canary" not in str(bad.value)


def test_a_line_does_not_show_what_it_says() -> None:
    record = parsed()
    assert "anary" not in f"{record!r}{record}{record.subject!r}"


@given(TEXT, TEXT.filter(bool))
def test_any_text_survives(prompt: str, completion: str) -> None:
    record = parsed(prompt=prompt, completion=completion)
    assert (record.passage.prompt, record.passage.completion) == (prompt, completion)


def test_a_row_is_read_like_a_line() -> None:
    row = line() | {"spans": None, "fake": [{"completion": "x", "prompt": None, "spans": None}]}
    assert parse_row(row) == parsed(fake=[{"completion": "x"}])
    with pytest.raises(BadLine) as bad:
        parse_row(line(id=b"canary"))
    assert bad.value.code == "column-type"
