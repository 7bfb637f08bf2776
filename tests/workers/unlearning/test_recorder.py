"""A log that cannot be rewritten unseen: the line's bytes, its chain, and what is found out."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from workers.unlearning.placement import Bucket
from workers.unlearning.recorder import (
    EnvironmentMismatch,
    History,
    HistoryGap,
    Log,
    differs,
    expected,
)

HEADER = {"arithmetic": "a", "environment": {"torch": "1"}, "recipe": {"seed": 1}}


@pytest.fixture
def history(tmp_path: Path) -> History:
    found = History(tmp_path / "history")
    found.begin(HEADER)
    return found


def line(step: int, *keys: str) -> dict[str, object]:
    return expected(
        Bucket(slice=1, epoch=0, step=step, keys=keys),
        shard=2,
        macs={"r1": b"\x01" * 32, "r2": b"\x02" * 32},
        tokens=9,
        micro=[2],
        rate=0.0002,
    )


def test_a_line_is_these_bytes(history: History) -> None:
    log = history.log(2)
    log.append(line(4, "r2", "r1"), state=None)
    ids = sha256(b"\x02" * 32 + b"\x01" * 32).hexdigest()
    assert (history.shard(2) / "log.jsonl").read_text() == (
        f'{{"epoch":0,"ids":"{ids}","lr":"0x1.a36e2eb1c432dp-13","micro":[2],"prev":"{history.genesis}",'
        '"records":2,"shard":2,"slice":1,"state":null,"step":4,"tokens":9,"v":1}\n'
    )
    assert float.fromhex("0x1.a36e2eb1c432dp-13") == 0.0002


def test_each_line_follows_the_digest_of_the_one_before(history: History) -> None:
    log = history.log(2)
    assert log.head == history.genesis
    for step in range(3):
        log.append(line(step, "r1"), state="00")
    raw = (history.shard(2) / "log.jsonl").read_bytes().splitlines()
    assert [json.loads(each)["prev"] for each in raw[1:]] == [sha256(each).hexdigest() for each in raw[:-1]]
    again = history.log(2)
    assert (again.head, len(again)) == (sha256(raw[-1]).hexdigest(), 3)
    assert again[1]["step"] == 1


@pytest.mark.parametrize("rewritten", [0, 1])
def test_a_line_that_was_rewritten_left_out_or_moved_breaks_the_chain(
    history: History, rewritten: int
) -> None:
    log, path = history.log(2), history.shard(2) / "log.jsonl"
    for step in range(4):
        log.append(line(step, "r1"), state=None)
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join(whole[:rewritten])
        + whole[rewritten].replace(b'"tokens":9', b'"tokens":8')
        + b"".join(whole[rewritten + 1 :])
    )
    with pytest.raises(HistoryGap) as told:
        history.log(2)
    assert (told.value.shard, told.value.step) == (2, rewritten + 1)
    path.write_bytes(b"".join(whole[:rewritten] + whole[rewritten + 1 :]))
    with pytest.raises(HistoryGap):
        history.log(2)
    path.write_bytes(b"".join([whole[1], whole[0], *whole[2:]]))
    with pytest.raises(HistoryGap):
        history.log(2)


def test_a_line_cut_off_by_a_kill_is_no_line(history: History) -> None:
    log, path = history.log(2), history.shard(2) / "log.jsonl"
    for step in range(2):
        log.append(line(step), state=None)
    path.write_bytes(path.read_bytes()[:-5])
    assert len(history.log(2)) == 1


def test_cutting_leaves_what_came_before(history: History) -> None:
    log = history.log(2)
    heads = []
    for step in range(4):
        log.append(line(step), state=None)
        heads.append(log.head)
    log.cut(2)
    assert history.log(2).head == log.head == heads[1]
    log.append(line(2), state=None)
    assert history.log(2).head == heads[2]


def test_a_history_is_cut_with_its_states(history: History) -> None:
    log = history.log(2)
    for step in range(6):
        log.append(line(step), state=None)
    for slices in (1, 2, 3):
        history.state(2, slices).write_bytes(b"")
    (history.shard(2) / "resume.pt").write_bytes(b"")
    with (history.shard(2) / "log.jsonl").open("ab") as file:
        file.write(b'{"torn')
    history.cut(2, slices=1, slice_steps=2)
    assert b"torn" not in (history.shard(2) / "log.jsonl").read_bytes()
    assert sorted(path.name for path in history.shard(2).iterdir()) == ["log.jsonl", "state-01.safetensors"]
    assert len(history.log(2)) == 2


def test_a_line_differs_in_the_first_field_that_does() -> None:
    wanted = line(0, "r1")
    assert differs({**wanted, "state": None, "prev": "x"}, wanted) is None
    assert differs({**wanted, "state": None, "prev": "x", "lr": "0x0p+0"}, wanted) == "lr"
    assert differs({**wanted, "prev": "x"}, wanted) == "fields"


def test_a_history_goes_on_only_as_it_began(history: History) -> None:
    history.begin(HEADER)
    with pytest.raises(HistoryGap, match="recipe"):
        history.begin(HEADER | {"recipe": {"seed": 2}})
    with pytest.raises(EnvironmentMismatch):
        history.begin(HEADER | {"environment": {"torch": "2"}})


def test_the_root_stands_for_every_head(history: History, tmp_path: Path) -> None:
    before = history.root(3)
    history.log(1).append(line(0), state=None)
    after = history.root(3)
    assert before != after
    assert history.heads(3) == (history.genesis, history.log(1).head, history.genesis)


def test_only_the_owner_may_read_a_log(history: History) -> None:
    history.log(0).append(line(0), state=None)
    assert (history.shard(0) / "log.jsonl").stat().st_mode & 0o077 == 0
    assert isinstance(history.log(0), Log)
