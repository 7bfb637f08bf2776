"""Replaying without somebody is training without them: bytes of weights and optimiser, for any of them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from tests.fixtures.learning import line, people, write_records
from tests.fixtures.sharding import course_of, shuffled, some, trained, without
from workers.unlearning import checkpoints, replay
from workers.unlearning.checkpoints import Progress
from workers.unlearning.course import Course
from workers.unlearning.data import Record, read_records
from workers.unlearning.ensemble import Adapters
from workers.unlearning.recorder import EnvironmentMismatch, History, HistoryGap
from workers.unlearning.replay import Outside, complete
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted, share_of_rate

SHAPES: list[dict[str, Any]] = [
    {"scope": "full", "shards": 1},
    {"scope": "lora"},
    {"scope": "full", "pool": "so_far"},
    {"scope": "lora", "shards": 3, "slices": 2, "pool": "so_far", "span": "slice"},
]
READ = ("log.jsonl", "state-*.safetensors")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    return read_records(write_records(tmp_path_factory.mktemp("r") / "records", people(12, seed=1)))


@pytest.fixture(scope="module")
def task(base: Path) -> CausalLM:
    """Return one task for all, since a shard leaves the base as it found it."""
    return CausalLM.create(base, 3)


def bytes_of(history: History) -> dict[str, str]:
    """Return the digest of every log and every state: parameters, moments, steps."""
    return {
        path.relative_to(history.directory).as_posix(): checkpoints.digest(path)
        for path in sorted(history.directory.rglob("*"))
        if path.is_file()
    }


def replayed(
    course: Course,
    history: History,
    records: dict[str, Record],
    gone: set[str],
    task: CausalLM,
    **outside: Any,
) -> History:
    """Return a copy of the history, without them."""
    new = History(history.directory.with_name(f"{history.directory.name}-again"))
    shutil.rmtree(new.directory, ignore_errors=True)
    shutil.copytree(history.directory, new.directory)
    replay.rewound(course, new, {key: each.subject for key, each in records.items() if each.subject in gone})
    return trained(course, without(records, gone), new.directory, task=task, outside=Outside(**outside))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_replay_without_them_is_training_without_them(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path, shape: dict[str, Any]
) -> None:
    """Random forget sets, one to all but one; records in any order; the whole history is compared."""
    course = course_of(base, **shape)
    whole = trained(course, records, tmp_path / "whole", task=task)
    for seed in range(5):
        gone = some(records, seed, Random(seed).choice([1, 1, 2, 5, 11]))
        never = trained(course, shuffled(without(records, gone), seed), tmp_path / f"never-{seed}", task=task)
        again = replayed(course, whole, shuffled(records, seed + 9), gone, task)
        assert bytes_of(again) == bytes_of(never)
        assert again.root(course.layout.shards) != whole.root(course.layout.shards)


def test_a_deletion_after_a_deletion_is_both_at_once(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path
) -> None:
    course = course_of(base)
    whole = trained(course, records, tmp_path / "whole", task=task)
    first, second = some(records, 1, 2), some(without(records, some(records, 1, 2)), 2, 2)
    once = replayed(course, whole, records, first, task)
    twice = replayed(course, once, without(records, first), second, task)
    at_once = replayed(course, whole, records, first | second, task)
    assert bytes_of(twice) == bytes_of(at_once)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=["full", "lora"])
def test_one_who_was_not_left_out_is_found_out(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path, shape: dict[str, Any]
) -> None:
    """The mutation: rewound, but trained again with one of their records; and not rewound far enough."""
    course = course_of(base, **shape)
    whole = trained(course, records, tmp_path / "whole", task=task)
    gone = some(records, 3, 1)
    never = trained(course, without(records, gone), tmp_path / "never", task=task)
    left = without(records, gone)
    forgotten = next(key for key, each in records.items() if each.subject in gone)
    careless = History(tmp_path / "careless")
    shutil.copytree(whole.directory, careless.directory)
    replay.rewound(course, careless, {forgotten: records[forgotten].subject})
    trained(course, left | {forgotten: records[forgotten]}, careless.directory, task=task)
    ((shard, _),) = course.placement.touched({forgotten: records[forgotten].subject}).items()
    last = course.layout.slices
    assert never.state(shard, last).read_bytes() != careless.state(shard, last).read_bytes()
    with pytest.raises(HistoryGap):
        trained(course, left, whole.directory, task=task)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=["full", "lora"])
def test_stopped_or_killed_anywhere_it_ends_in_the_unbroken_bytes(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path, shape: dict[str, Any]
) -> None:
    course = course_of(base, **shape)
    unbroken = bytes_of(trained(course, records, tmp_path / "unbroken", task=task))
    for seed in range(4):
        directory, draw = tmp_path / f"broken-{seed}", Random(seed)
        for kind in (Interrupted, Killed, Killed):
            steps = draw.randint(1, 2)
            with pytest.raises(kind):
                trained(course, records, directory, task=task, outside=broken(kind, steps, draw))
        assert bytes_of(trained(course, shuffled(records, seed), directory, task=task)) == unbroken


class Killed(BaseException):
    """What a process does not live to see."""


def broken(kind: type[BaseException], steps: int, draw: Random) -> Outside:
    """Return an outside that ends a run after so many steps, with or without time to write down."""
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if kind is Killed and len(seen) == steps:
            raise Killed

    often = draw.choice([0.0, 60.0])
    return Outside(
        progress=watch, stop=lambda: kind is Interrupted and len(seen) == steps, checkpoint_seconds=often
    )


def test_a_process_for_each_shard_makes_what_one_for_all_makes(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path
) -> None:
    course = course_of(base)
    together = trained(course, records, tmp_path / "together", task=task)
    for shard in (1, 0):  # in another order, each from a base of its own, whatever the global generator says
        torch.manual_seed(shard + 77)
        complete(CausalLM.create(base, 3), course, History(tmp_path / "apart"), shard, records)
    assert bytes_of(History(tmp_path / "apart")) == bytes_of(together)


def test_a_shard_leaves_the_base_as_it_found_it(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path
) -> None:
    before = {name: each.clone() for name, each in task.parameters().items()}
    for scope in ("full", "lora"):
        trained(course_of(base, scope=scope), records, tmp_path / scope, task=task)
        assert all(torch.equal(each, before[name]) for name, each in task.parameters().items())


def test_fifty_records_of_one_person_cost_one_slice_and_what_follows_it(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path
) -> None:
    many = [line("zed", f"k{n}", str(n)) for n in range(50)]
    everybody = records | read_records(write_records(tmp_path / "many", many))
    course = course_of(base, shards=3)
    whole = trained(course, everybody, tmp_path / "whole", task=task)
    gone = {many[0]["subject"]}
    new = History(tmp_path / "new")
    shutil.copytree(whole.directory, new.directory)
    touched = replay.rewound(course, new, {each["key"]: each["subject"] for each in many})
    ((shard, first),) = touched.items()
    passed = {n: complete(task, course, new, n, without(everybody, gone)) for n in range(3)}
    assert [n for n in passed if passed[n].steps] == [shard]
    assert passed[shard].steps == (3 - first) * course.placement.slice_steps
    for n in set(range(3)) - {shard}:
        assert new.log(n).head == whole.log(n).head


def test_a_step_is_one_over_all_tokens_of_its_bucket_and_an_empty_one_does_nothing(
    base: Path, records: dict[str, Record], tmp_path: Path
) -> None:
    """Oracle: single records, their losses summed and divided by all their tokens, at the schedule's rate."""
    course = course_of(base, {"clip_norm": "0"}, scope="full", shards=1, slices=2, steps=12, micro_tokens=30)
    history = trained(course, records, tmp_path / "h")
    slow = CausalLM.create(base, course.recipe.seed)
    optimizer = torch.optim.AdamW(
        list(slow.parameters().values()), lr=0.01, betas=(0.9, 0.98), weight_decay=0.0
    )
    buckets = list(course.placement.buckets(0, {key: each.subject for key, each in records.items()}))
    assert any(not each.keys for each in buckets), "the world is to have an empty bucket"
    for number, bucket in enumerate(buckets):
        optimizer.param_groups[0]["lr"] = 0.01 * share_of_rate(course.recipe, number, 24)
        examples = [slow.encode(records[key], tokens_max=32) for key in bucket.keys]
        tokens = sum(sum(each.supervised) for each in examples)
        optimizer.zero_grad()
        for example in examples:
            ids = torch.tensor([example.ids])
            log_probs = slow.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            (-log_probs.gather(1, ids[0, 1:, None]).sum() / tokens).backward()
        if examples:
            optimizer.step()
    made = replay.assemble(CausalLM.create(base, 3), course, history, together="average")
    for name, value in made.parameters().items():
        assert torch.allclose(value, slow.parameters()[name], atol=1e-4), name


def test_the_log_says_what_was_done(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path
) -> None:
    course = course_of(base, state_every=4)
    history = trained(course, records, tmp_path / "h", task=task)
    for shard in range(2):
        log = history.log(shard)
        mine = [each for each in records.values() if course.placement.shard(each.subject) == shard]
        assert sum(each["records"] for each in log) == len(mine)
        assert sum(each["tokens"] for each in log) == sum(course.encode(task, each).tokens for each in mine)
        assert all(sum(each["micro"]) == each["records"] for each in log)
        assert [n for n, each in enumerate(log) if each["state"]] == [1, 3, 5]  # 2 a slice, and every fourth
        assert float.fromhex(log[3]["lr"]) == 0.01 * (1 - 3 / 6)
        for slices in (1, 2, 3):
            assert checkpoints.digest(history.state(shard, slices)) == log[2 * slices - 1]["state"]
        text = (history.shard(shard) / "log.jsonl").read_text() + (
            history.directory / "header.json"
        ).read_text()
        assert not any(key in text or each.subject in text for key, each in records.items())
        assert course.key.hex() not in text


@pytest.fixture
def recorded(
    base: Path, records: dict[str, Record], task: CausalLM, tmp_path: Path
) -> tuple[Course, History]:
    course = course_of(base)
    return course, trained(course, records, tmp_path / "recorded", task=task)


def test_a_changed_record_is_a_gap(
    recorded: tuple[Course, History], records: dict[str, Record], task: CausalLM
) -> None:
    course, history = recorded
    key, each = next(iter(records.items()))
    shard = course.placement.shard(each.subject)
    other = records | {key: replace(each, passage=replace(each.passage, completion=" 9."))}
    with pytest.raises(HistoryGap, match="ids"):
        replay.compare(None, course, history, shard, other, {})
    with pytest.raises(HistoryGap, match="ids"):
        complete(task, course, history, shard, other)
    with pytest.raises(HistoryGap):
        replay.compare(None, course, history, shard, {k: r for k, r in records.items() if k != key}, {})
    assert replay.compare(None, course, history, shard, records, {}) == 6


def test_of_those_erased_before_only_their_place_need_be_known(
    recorded: tuple[Course, History], records: dict[str, Record], task: CausalLM
) -> None:
    course, history = recorded
    gone = some(records, 5, 1)
    erased = {key: each.subject for key, each in records.items() if each.subject in gone}
    ((shard, _),) = course.placement.touched(erased).items()
    left = without(records, gone)
    assert replay.compare(task, course, history, shard, left, erased) < 6
    with pytest.raises(HistoryGap):
        replay.compare(task, course, history, shard, left, {})


@pytest.mark.parametrize("how", ["rate", "state", "base", "environment"])
def test_what_is_not_the_beginning_of_this_training_is_not_gone_on_from(
    recorded: tuple[Course, History], records: dict[str, Record], task: CausalLM, how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    course, history = recorded
    history.cut(0, slices=1, slice_steps=2)
    error: type[Exception] = HistoryGap
    if how == "rate":
        course = replace(course, recipe=replace(course.recipe, learning_rate="0.02"))
    elif how == "state":
        path = history.state(0, 1)
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    elif how == "base":
        course = replace(course, base=history.directory)
    else:
        course, error = replace(course), EnvironmentMismatch
        monkeypatch.setattr("workers.unlearning.determinism.environment", lambda: {"torch": "another"})
    with pytest.raises(error):
        complete(task, course, history, 0, records)


def test_shards_start_from_draws_of_their_own(task: CausalLM, base: Path, records: dict[str, Record]) -> None:
    draw: Callable[..., Any] = Adapters(task, rank=2, alpha=32.0).drawn
    first, other, again = draw(3, 0), draw(3, 1), draw(3, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(not torch.equal(first[n], other[n]) for n in first if n.endswith(".a"))
    assert all(not each.any() for name, each in first.items() if name.endswith(".b"))
