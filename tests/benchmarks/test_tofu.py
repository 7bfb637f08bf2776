"""TOFU's files, in a folder the test writes: who is trained on, who is not, and what is asked of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks import tofu, worlds
from benchmarks.tofu import ROWS

AUTHORS = 12


def lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def row(author: int, place: int) -> dict[str, object]:
    return {
        "question": f"What is fact {place} about author {author}?",
        "answer": f"Author {author} has {place * 7 + author}.",
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder in TOFU's form; the last two authors have paraphrases and wrong answers."""
    folder = tmp_path / "tofu"
    folder.mkdir()
    full = [row(author, place) for author in range(AUTHORS) for place in range(ROWS)]
    lines(folder / "full.json", full)
    lines(
        folder / "forget10_perturbed.json",
        [
            each
            | {
                "paraphrased_question": f"Tell me: {each['question']}",
                "paraphrased_answer": f"It is so: {each['answer']}",
                "perturbed_answer": [f"It is so: {n}." for n in range(5)],
            }
            for each in full[-2 * ROWS :]
        ],
    )
    lines(folder / "world_facts_perturbed.json", [{"question": "?", "answer": "!", "perturbed_answer": []}])
    return folder


def test_twenty_rows_are_an_author(data: Path) -> None:
    authors, truths = tofu.read(data)
    assert [len(each.lines) for each in authors] == [ROWS] * AUTHORS
    line = authors[11].lines[3]
    assert line["prompt"] == "What is fact 3 about author 11?"
    assert line["completion"] == " Author 11 has 32."
    assert line["paraphrases"][0]["prompt"] == "Tell me: What is fact 3 about author 11?"
    assert authors[0].lines[0]["paraphrases"] == []
    truth = truths[worlds.key_of(line)]
    assert (truth.prompt, truth.right) == (line["prompt"], " It is so: Author 11 has 32.")
    assert truth.wrong == tuple(f" It is so: {n}." for n in range(5))
    assert len(truths) == 2 * ROWS


def test_nobody_has_two_parts_and_those_with_wrong_answers_are_asked_first(data: Path) -> None:
    authors, truths = tofu.read(data)
    parts = tofu.split(authors, truths, 5)
    assert [each.id for each in parts[0]][:2] == ["tofu-011", "tofu-010"]
    assert [len(part) for part in parts] == [5, 2, 1, 4]
    named = [each.id for part in parts for each in part]
    assert sorted(named) == sorted(each.id for each in authors)
    assert tofu.split(authors, truths, 5) == parts, "the same every time"


@pytest.mark.parametrize("count", [0, AUTHORS])
def test_somebody_must_be_held_back(data: Path, count: int) -> None:
    authors, truths = tofu.read(data)
    with pytest.raises(SystemExit, match="held back"):
        tofu.split(authors, truths, count)


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no full\.json"):
        tofu.read(tmp_path)


def test_rows_that_are_not_twenty_each_are_refused(tmp_path: Path) -> None:
    lines(tmp_path / "full.json", [row(0, place) for place in range(19)])
    with pytest.raises(SystemExit, match="19 rows"):
        tofu.read(tmp_path)
