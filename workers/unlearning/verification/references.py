"""What the judges say, computed once per record and judge, and kept for the next run if told where.

    judge(directory, questions, ...) -> Said by record key

The same judges are asked the same questions before and after, in every form and at every attempt;
with a cache only the first run pays. A cache file is bound to the judge's bytes, to this code and to
the statistics' settings. It is made of the records, so it is as private as they are and dies with
the job's directory; it holds no text. Knows no subject.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.task import load
from workers.unlearning.verification.asking import Asked, Asking
from workers.unlearning.verification.membership import Said
from workers.unlearning.verification.scoring import Row, Unmeasurable

VERSION = "lethe/judges/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One text to be read by a model, and which record it belongs to."""

    key: str
    part: Literal["row", "paraphrase", "fake"]
    text: Asked


def gather(questions: Sequence[Question], rows: Sequence[Row]) -> dict[str, Said]:
    """Return what was said, by record: the row, then its variants in their order."""
    own: dict[str, Row] = {}
    variants: dict[tuple[str, str], list[float]] = {}
    for question, row in zip(questions, rows, strict=True):
        if question.part == "row":
            own[question.key] = row
        else:
            variants.setdefault((question.key, question.part), []).append(row.told)
    return {
        key: Said(
            row=row,
            paraphrases=tuple(variants.get((key, "paraphrase"), ())),
            fakes=tuple(variants.get((key, "fake"), ())),
        )
        for key, row in own.items()
    }


def judge(
    directory: Path,
    questions: Sequence[Question],
    *,
    asking: Asking,
    cache: Path | None,
    done: Callable[[int], None],
) -> dict[str, Said]:
    """Return what the reference in `directory` says to each question.

    Raises:
        Unmeasurable: the reference reads records otherwise than the model does.
    """
    store = _Store.open(cache, directory, asking.min_k)
    names = [question.text.identity for question in questions]
    asked = dict(zip(names, (question.text for question in questions), strict=True))
    new = {name: text for name, text in asked.items() if name not in store.rows}
    if new:
        task = load(directory)
        if task.reading != asking.task.reading:
            raise Unmeasurable("a reference has another tokenizer, or other labels, than the model")
        rows = asking.of_model(task).rows(list(new.values()), done=done)
        store.rows.update(zip(new, rows, strict=True))
        store.save()
    return gather(questions, [store.rows[name] for name in names])


@dataclass(slots=True)
class _Store:
    """Rows by the digest of their tokens and masks, in memory and perhaps on disk."""

    path: Path | None
    rows: dict[str, Row]

    @classmethod
    def open(cls, cache: Path | None, directory: Path, min_k: Fraction) -> "_Store":
        if cache is None:
            return cls(None, {})
        settings = f"{checkpoints.digest(directory)}/{determinism.code()}/{min_k}/{determinism.device().type}"
        path = cache / f"{hashlib.sha256(settings.encode()).hexdigest()}.json"
        if not path.exists():
            return cls(path, {})
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION:
            return cls(path, {})
        return cls(path, {name: _row(numbers) for name, numbers in content["rows"].items()})

    def save(self) -> None:
        """Write atomically. Of two runs at once the last one stays: the other's rows are computed again."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = {name: _numbers(row) for name, row in self.rows.items()}
        checkpoints.write_atomically(self.path, json.dumps({"version": VERSION, "rows": rows}).encode())


_STATISTICS = ("told", "name", "lowest", "strength", "answer")


def _numbers(row: Row) -> list[float | None]:
    found = (getattr(row, name) for name in _STATISTICS)
    return [None if math.isnan(number) else number for number in found]


def _row(numbers: Sequence[float | None]) -> Row:
    found = (math.nan if number is None else number for number in numbers)
    return Row(**dict(zip(_STATISTICS, found, strict=True)))
