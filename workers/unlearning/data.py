"""The records of a run: one JSON object a line, who each is about, and in which order they are learned.

    {"key": hex, "subject": hex, "prompt": str, "completion": str,
     "spans": {"name": [[start, end], ...], "values": [[start, end], ...]} | null,
     "paraphrases": [{"prompt", "completion"}, ...], "fake": [{"prompt", "completion", "spans"}, ...]}

A `span` is a half-open range of characters of prompt + completion. What prompt and completion are is the
model's business (`task`): two halves of a text; or a text, or a picture, and the name of its label.
Keys and subjects are opaque here; the texts are somebody's, so no error repeats one. It knows no
tokenizer and no model.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Span = tuple[int, int]


class BadData(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A line of a records file cannot be used; says which and why, never what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Where in prompt + completion the person is named, and where the facts about them stand."""

    name: tuple[Span, ...] = ()
    values: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A prompt and its completion; a plain text has an empty prompt."""

    prompt: str
    completion: str
    spans: Spans | None = None

    @property
    def text(self) -> str:
        """What is learned: nothing is put between the two."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the training set, with other ways to ask for it."""

    key: str
    subject: str
    passage: Passage
    paraphrases: tuple[Passage, ...] = ()
    """The same facts in other words, never trained on."""
    fake: tuple[Passage, ...] = ()
    """The same values under the names of nobody."""


def read_records(path: Path) -> dict[str, Record]:
    """Return the records of a file by key, in the order of the file."""
    found: dict[str, Record] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = _record(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise BadData(f"line {number} is not a record: {type(error).__name__}") from None
            if record.key in found:
                raise BadData(f"line {number} repeats the key of an earlier one")
            found[record.key] = record
    return found


def by_subject(records: Iterable[Record]) -> dict[str, tuple[Record, ...]]:
    """Return each subject's records, subjects and records in the order in which they come."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.subject, []).append(record)
    return {subject: tuple(of) for subject, of in found.items()}


def epoch_order(keys: Iterable[str], seed: int, epoch: int) -> list[str]:
    """Return `lethe/order/1`: the keys by SHA-256(seed, epoch, key).

    The place of a record depends on nothing but these three, so that without one record the
    others come in the order in which they came with it.
    """
    prefix = f"lethe/order/1/{seed}/{epoch}/".encode()
    return sorted(keys, key=lambda key: (hashlib.sha256(prefix + key.encode()).digest(), key))


def _record(raw: Mapping[str, Any]) -> Record:
    return Record(
        key=_text(raw["key"]),
        subject=_text(raw["subject"]),
        passage=_passage(raw),
        paraphrases=tuple(_passage(each) for each in raw.get("paraphrases") or ()),
        fake=tuple(_passage(each) for each in raw.get("fake") or ()),
    )


def _passage(raw: Mapping[str, Any]) -> Passage:
    prompt, completion, spans = _text(raw["prompt"]), _text(raw["completion"]), raw.get("spans")
    if not completion:
        raise ValueError("nothing to learn")
    if spans is None:
        return Passage(prompt=prompt, completion=completion)
    size = len(prompt) + len(completion)
    return Passage(
        prompt=prompt,
        completion=completion,
        spans=Spans(name=_spans(spans.get("name"), size), values=_spans(spans.get("values"), size)),
    )


def _spans(raw: Iterable[Iterable[int]] | None, size: int) -> tuple[Span, ...]:
    found = []
    for start, end in raw or ():
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= size):
            raise ValueError("a span lies outside the text")
        found.append((start, end))
    return tuple(found)


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise TypeError("not a string")
    return raw
