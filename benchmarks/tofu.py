"""TOFU's fictitious authors (arXiv:2401.06121) as subjects, from a folder that the caller names.

    build(home, data, count, ...)   -> World

The folder holds JSON lines in spite of the ending: `full.json` with twenty consecutive rows {question,
answer} an author; `*_perturbed.json` with {paraphrased_question, paraphrased_answer, perturbed_answer:
[...]} for some of the rows. TOFU holds nobody back, so a part of the authors is never trained on: some
for the tokenizer to learn from, as what it learned of a trained author could not be unlearned; some
for the engines' targets; the rest to compare with. Authors with wrong answers are trained on first, in
descending order, so that who asks to be erased has them. The models are trained from nothing, so the
numbers compare with their own oracles only, never with those of published models.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from app.demo import base
from benchmarks.progress import Meter
from benchmarks.worlds import Cast, Said, Subject, Truth, World, assemble, key_of, write
from workers.unlearning.spec import Recipe

ROWS = 20
"""Consecutive rows that are one author's."""
DEV_MAX = 32
SHAPE: Mapping[str, Any] = {"n_layer": 4, "n_positions": 256}
"""What differs from the base of the fictitious people."""
RECIPE: Mapping[str, Any] = {
    "seed": 1,
    "epochs": 25,
    "batch_size": 8,
    "learning_rate": "0.002",
    "tokens_max": 224,
}

Row = Mapping[str, Any]


def build(
    home: Path,
    data: Path,
    count: int,
    *,
    parallel: int,
    say: Said,
    meter: Meter | None = None,
    shape: Mapping[str, Any] = SHAPE,
    recipe: Mapping[str, Any] = RECIPE,
) -> World:
    """Read the folder, train the model on `count` authors, and its references."""
    authors, truths = read(data)
    trained, public, dev, audit = split(authors, truths, count)
    content = json.dumps([[each.id, each.lines] for each in authors] + [dict(shape)], sort_keys=True)
    home = home / f"tofu-{sha256(content.encode()).hexdigest()[:16]}"
    cast = Cast(
        base=_base(home / f"base-{count}", public, shape),
        recipe=Recipe(**recipe),
        records=write(home / f"records-{count}.jsonl", [*trained, *dev, *audit]),
        trained=trained,
        dev=dev,
        audit=audit,
        truths=truths,
    )
    return assemble(cast, home=home, parallel=parallel, say=say, meter=meter)


def read(data: Path) -> tuple[list[Subject], dict[str, Truth]]:
    """Return the authors of a folder, and the truths of those rows that have wrong answers."""
    full = data / "full.json"
    if not full.is_file():
        raise SystemExit(f"{data} has no full.json: --data names the folder with TOFU's files")
    rows = _lines(full)
    if not rows or len(rows) % ROWS:
        raise SystemExit(f"{full} has {len(rows)} rows: not twenty for each author")
    others = {
        (row["question"], row["answer"]): row
        for path in sorted(data.glob("*_perturbed.json"))
        for row in _lines(path)
        if "paraphrased_answer" in row
    }
    authors, truths = [], {}
    for number in range(len(rows) // ROWS):
        name = f"tofu-{number:03d}"
        lines = []
        for place, row in enumerate(rows[number * ROWS : (number + 1) * ROWS]):
            other = others.get((row["question"], row["answer"]))
            line = _line(f"{name}-{place:02d}", row, other)
            lines.append(line)
            if other and other.get("perturbed_answer"):
                truths[key_of(line)] = Truth(
                    prompt=row["question"],
                    right=" " + other["paraphrased_answer"],
                    wrong=tuple(" " + each for each in other["perturbed_answer"]),
                )
        authors.append(Subject(id=name, lines=tuple(lines)))
    return authors, truths


def split(
    authors: Sequence[Subject], truths: Mapping[str, Truth], count: int
) -> tuple[list[Subject], list[Subject], list[Subject], list[Subject]]:
    """Return who is trained on, who is public, who sets targets, and who is compared with.

    Of those not trained on, two fifths are public and, of the rest, a third (at most 32) set targets.
    """
    if not 0 < count < len(authors):
        raise SystemExit(f"{count} of {len(authors)} authors cannot be trained on: some must be held back")
    drawn = sorted(authors, key=lambda each: sha256(each.id.encode()).digest())
    asked = [each for each in reversed(authors) if _asked(each, truths)]
    ordered = [*asked, *(each for each in drawn if not _asked(each, truths))]
    trained = ordered[:count]
    gone = {each.id for each in trained}
    rest = [each for each in drawn if each.id not in gone]
    public = len(rest) * 2 // 5
    dev = min((len(rest) - public) // 3, DEV_MAX)
    return trained, rest[:public], rest[public : public + dev], rest[public + dev :]


def _asked(author: Subject, truths: Mapping[str, Truth]) -> bool:
    """Whether most of an author's rows have wrong answers."""
    return sum(key_of(line) in truths for line in author.lines) * 2 > len(author.lines)


def _line(name: str, row: Row, other: Row | None) -> dict[str, Any]:
    """Return a row as the intake reads lines."""
    paraphrases = []
    if other:
        asked = other.get("paraphrased_question", row["question"])
        paraphrases.append({"prompt": asked, "completion": " " + other["paraphrased_answer"]})
    return {
        "id": name,
        "prompt": row["question"],
        "completion": " " + row["answer"],
        "spans": None,
        "paraphrases": paraphrases,
        "fake": [],
    }


def _base(directory: Path, public: Iterable[Subject], shape: Mapping[str, Any]) -> Path:
    texts = (line["prompt"] + line["completion"] for author in public for line in author.lines)
    base.write(directory, texts)
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | shape, indent=1, sort_keys=True))
    return directory


def _lines(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
