"""Records files: what is read, what is refused, and an order in which nobody's absence moves another."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.learning import line, write_records
from workers.unlearning.data import BadData, Passage, Spans, by_subject, epoch_order, read_records

KEYS = st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), unique=True, min_size=1, max_size=30)


def test_a_file_is_read_in_its_order_with_all_it_says(tmp_path: Path) -> None:
    lines = [line("zoe", "tel", "12"), line("ann", "tel", "34")]
    lines[0]["paraphrases"] = [{"prompt": "call zoe?", "completion": " 12."}]
    lines[1]["spans"] = None
    found = read_records(write_records(tmp_path / "r", lines))
    first, second = found.values()
    assert list(found) == [each["key"] for each in lines]
    assert first.passage == Passage(
        prompt="zoe tel?", completion=" 12.", spans=Spans(name=((0, 3),), values=((9, 11),))
    )
    assert first.passage.text[9:11] == "12"
    assert first.paraphrases == (Passage(prompt="call zoe?", completion=" 12."),)
    assert second.passage.spans is None


@pytest.mark.parametrize(
    "change",
    [
        {"key": 7},
        {"completion": ""},
        {"prompt": None},
        {"spans": {"values": [[3, 2]]}},
        {"spans": {"values": [[0, 99]]}},
        {"spans": {"name": [["a", 2]]}},
        {"spans": [1]},
    ],
)
def test_a_bad_line_is_named_by_its_number_and_never_quoted(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_records(tmp_path / "r", [line("ann", "tel", "1"), line("secret", "tel", "2") | change])
    with pytest.raises(BadData, match="line 2") as caught:
        read_records(path)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_no_json_is_bad_and_a_key_stands_once(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("{", encoding="utf-8")
    with pytest.raises(BadData, match="line 1"):
        read_records(tmp_path / "r")
    twice = write_records(tmp_path / "r", [line("ann", "tel", "1")] * 2)
    with pytest.raises(BadData, match="line 2 repeats"):
        read_records(twice)


def test_records_are_gathered_by_subject(tmp_path: Path) -> None:
    lines = [line("ann", "tel", "1"), line("bob", "tel", "2"), line("ann", "pin", "3")]
    found = by_subject(read_records(write_records(tmp_path / "r", lines)).values())
    assert [[each.key for each in of] for of in found.values()] == [
        [lines[0]["key"], lines[2]["key"]],
        [lines[1]["key"]],
    ]


def test_the_order_is_that_of_the_hashes() -> None:
    keys = ["aa", "bb", "cc", "dd"]
    hashed = {key: hashlib.sha256(f"lethe/order/1/5/2/{key}".encode()).hexdigest() for key in keys}
    assert epoch_order(keys, 5, 2) == sorted(keys, key=lambda key: hashed[key])


@given(KEYS, st.data(), st.integers(0, 2**31), st.integers(0, 99))
def test_without_some_records_the_others_keep_their_order(
    keys: list[str], data: st.DataObject, seed: int, epoch: int
) -> None:
    gone = data.draw(st.sets(st.sampled_from(keys)))
    left = [key for key in keys if key not in gone]
    assert epoch_order(left, seed, epoch) == [k for k in epoch_order(keys, seed, epoch) if k not in gone]


def test_epochs_and_seeds_differ() -> None:
    keys = [str(number) for number in range(20)]
    orders = {json.dumps(epoch_order(keys, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
