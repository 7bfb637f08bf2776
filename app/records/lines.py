"""What one line of a dataset may say, JSONL and Parquet alike.

    {"id": "r-17", "subject": {"type": "email", "value": "..."}, "text": "..."}
    {"id": "r-18", "subject": [{...}, {...}], "prompt": "...", "completion": "...",
     "spans": {"name": [[0, 3]], "values": [[17, 25]]}, "paraphrases": [{"prompt", "completion"}],
     "fake": [{"prompt", "completion", "spans"}], "role": "sentinel"}

Spans count characters of prompt + completion. Other columns are not read. A refusal says what is
wrong and where, by code and JSON pointer, and never what stands there. Knows no file and no key.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from app.records.content import TYPE_PATTERN

LINE_BYTES_MAX = 1024 * 1024
SUBJECTS_MAX = 64
PARAPHRASES_MAX = 32
FAKES_MAX = 16
SPANS_MAX = 256
VALUE_CHARACTERS_MAX = 1024

RecordId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A record's own id. No control characters: tabs and line ends separate ids in the record-set hash."""

Span = Annotated[list[int], Field(min_length=2, max_length=2)]
Spans = Annotated[list[Span], Field(max_length=SPANS_MAX)]


class BadLine(Exception):  # noqa: N818  it is named for what is bad
    """A line that cannot be registered: which, where in it, and why; never its content."""

    def __init__(
        self, code: str, *, pointer: str = "", line: int | None = None, other: int | None = None
    ) -> None:
        """Carry the code, the JSON pointer, the line's number, and the line it contradicts."""
        super().__init__(f"line {line}: {code} at {pointer or '/'}" if line else code)
        self.code = code
        self.pointer = pointer
        self.line = line
        self.other = other


class _Part(BaseModel):
    """Strict, blind to other columns, and silent about its content wherever it is printed."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    __str__ = __repr__


class Subject(_Part):
    """An identifier of a person."""

    type: Annotated[str, Field(pattern=TYPE_PATTERN)]
    value: Annotated[str, Field(min_length=1, max_length=VALUE_CHARACTERS_MAX)]


class SpanSets(_Part):
    """Which characters name the person, and which tell something about them."""

    name: Spans = Field(default_factory=list)
    values: Spans = Field(default_factory=list)


class Passage(_Part):
    """A prompt and what follows it."""

    prompt: str = ""
    completion: Annotated[str, Field(min_length=1)]


class FakePassage(Passage):
    """The same record under the name of nobody."""

    spans: SpanSets | None = None

    @model_validator(mode="after")
    def spans_lie_inside(self) -> Self:
        """Refuse a span outside of the text."""
        _check_spans(self.spans, len(self.prompt) + len(self.completion))
        return self


class Line(_Part):
    """One record as it stands in the file."""

    id: RecordId
    subject: Annotated[list[Subject], Field(min_length=1, max_length=SUBJECTS_MAX)]
    text: Annotated[str, Field(min_length=1)] | None = None
    prompt: str | None = None
    completion: Annotated[str, Field(min_length=1)] | None = None
    spans: SpanSets | None = None
    paraphrases: Annotated[list[Passage], Field(max_length=PARAPHRASES_MAX, default_factory=list)]
    fake: Annotated[list[FakePassage], Field(max_length=FAKES_MAX, default_factory=list)]
    role: Literal["person", "sentinel"] = "person"

    @field_validator("subject", mode="before")
    @classmethod
    def one_is_a_list_of_one(cls, value: Any) -> Any:
        """Let a single subject stand without brackets."""
        return [value] if isinstance(value, dict) else value

    @field_validator("paraphrases", "fake", mode="before")
    @classmethod
    def none_is_empty(cls, value: Any) -> Any:
        """Let an explicit null stand for "none of these"."""
        return [] if value is None else value

    @model_validator(mode="after")
    def one_shape(self) -> Self:
        """Refuse a line that is both a text and a prompt with completion, or neither."""
        if (self.text is None) == (self.completion is None) or (self.text and self.prompt is not None):
            raise PydanticCustomError("content-shape", "text, or prompt and completion")
        _check_spans(self.spans, len(self.text or "") + len(self.prompt or "") + len(self.completion or ""))
        return self

    @property
    def passage(self) -> Passage:
        """Return what is trained on: a plain text is a completion of nothing."""
        return Passage(prompt=self.prompt or "", completion=self.text or self.completion or "")

    @property
    def said(self) -> str:
        """Return all that it says as one text, to be compared with others."""
        return f"{self.prompt or ''}\n{self.text or self.completion or ''}"

    @property
    def content(self) -> dict[str, str]:
        """Return the fields that are the record's content; ids and annotations are not."""
        if self.text is not None:
            return {"text": self.text}
        assert self.completion is not None
        return {"prompt": self.prompt or "", "completion": self.completion}


def _check_spans(spans: SpanSets | None, characters: int) -> None:
    if spans is None:
        return
    for start, end in [*spans.name, *spans.values]:
        if not 0 <= start < end <= characters:
            raise PydanticCustomError("span-outside", "a span lies outside of the text")


def parse(line: bytes) -> Line:
    """Return the line's record; BadLine without its number, which only the reader knows."""
    try:
        return Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadLine(first["type"].replace("_", "-"), pointer=_pointer(first["loc"])) from None


def parse_row(row: Mapping[str, Any]) -> Line:
    """Return the record of a Parquet row, by the same rules: absent and null are the same there."""
    try:
        line = json.dumps(_without_nulls(row), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError):
        raise BadLine("column-type") from None
    if len(line) > LINE_BYTES_MAX:
        raise BadLine("line-too-long")
    return parse(line)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def _pointer(location: tuple[int | str, ...]) -> str:
    """Return the JSON pointer; all names in it are ours, since other columns are not read."""
    return "".join(f"/{part}" for part in location)
