"""Gradient restriction: by hand on two parameters, by differences on a language model, and off is off."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.fixtures.learning import RECIPE, people, write_records
from tests.fixtures.sharding import KEY
from workers.unlearning import spec, training
from workers.unlearning.checkpoints import digest
from workers.unlearning.course import Course
from workers.unlearning.data import Record, read_records
from workers.unlearning.recorder import History
from workers.unlearning.replay import assemble, complete, rewound
from workers.unlearning.spec import Layout, Recipe, RestrictedRecipe, TrainSpec, read_recipe
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted, learn, train

PINNED = "9c174a0f5ae0d926644063bb12f3374124bed3f2dcf588eca8d700fd4d1b5b65"
"""Of `Recipe(seed=7)` as JSON with sorted keys."""
CPU = torch.device("cpu")
RESTRICTED = RestrictedRecipe(**asdict(RECIPE) | {"gradient_restriction": "0.05"})


@pytest.fixture
def records(tmp_path: Path) -> dict[str, Record]:
    return read_records(write_records(tmp_path / "records", people(6, seed=1)))


class Line:
    """L(x, y) = (w x - y)^2 / 2 for a record (x, y): the least that `learn` asks of a task."""

    def __init__(self) -> None:
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def collate(self, examples: Sequence[Any]) -> Any:
        return examples

    def nll(self, batch: Any) -> tuple[Tensor, Tensor]:
        off = torch.stack([self.w @ torch.tensor(x, dtype=torch.float64) - y for x, y in batch])
        return off.square() / 2, torch.ones(len(batch))


def test_by_hand() -> None:
    """At w = 0 the record ((3, 4), -1) is off by 1: its gradient is (3, 4), the norm 5 |off|.

    The norm's own gradient is 5 (3, 4) = (15, 20). With ((0, 2), 3), off by -3: gradient (0, -6), norm
    2 |off|, whose gradient is -2 (0, 2) = (0, -4). Over 2 tokens, alpha .005, that is half of
    (3 + .075, 4 - 6 + .1 - .02).
    """
    task: Any = Line()
    part: list[Any] = [((3.0, 4.0), -1.0), ((0.0, 2.0), 3.0)]
    loss = learn(task, {"w": task.w}, part, RestrictedRecipe(seed=0), tokens=2)
    assert loss == pytest.approx(0.5 + 4.5)
    assert task.w.grad.tolist() == pytest.approx([3.075 / 2, -1.92 / 2])


def test_a_record_that_pulls_at_nothing_is_no_division_by_nought() -> None:
    task: Any = Line()
    learn(task, {"w": task.w}, [((3.0, 4.0), 0.0)], RestrictedRecipe(seed=0), tokens=1)  # type: ignore[list-item]
    assert task.w.grad.tolist() == [0.0, 0.0]


def test_the_norms_gradient_is_what_differences_of_gradients_say(
    base: Path, records: dict[str, Record]
) -> None:
    """grad |g| = H g / |g|, and H u is (g(theta + e u) - g(theta - e u)) / 2e: first derivatives alone."""
    task = CausalLM.create(base, 3, device=CPU)
    example = task.encode(next(iter(records.values())), tokens_max=32)
    parameters = task.parameters()

    def slopes() -> list[Tensor]:
        nll, _ = task.nll(task.collate([example]))
        return list(torch.autograd.grad(nll.sum(), list(parameters.values())))

    at = slopes()
    norm = float(torch.cat([each.flatten() for each in at]).norm())
    ahead, behind = (_moved(parameters, at, far / norm, slopes) for far in (1e-3, -1e-3))
    recipe = replace(RESTRICTED, gradient_restriction="1")
    learn(task, parameters, [example], recipe, tokens=1)
    for each, first, more, less in zip(parameters.values(), at, ahead, behind, strict=True):
        assert each.grad is not None
        expected = (more - less) / 2e-3
        off = each.grad - first - expected
        assert float(off.norm()) <= 0.02 * float(expected.norm()) + 1e-3


@torch.no_grad()
def _moved(parameters: Any, along: Sequence[Tensor], far: float, slopes: Any) -> list[Tensor]:
    for each, direction in zip(parameters.values(), along, strict=True):
        each.add_(far * direction)
    with torch.enable_grad():
        found: list[Tensor] = slopes()
    for each, direction in zip(parameters.values(), along, strict=True):
        each.sub_(far * direction)
    return found


def test_how_a_step_is_cut_changes_nothing(
    base: Path, records: dict[str, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The norm of a batch's gradient would: it is of one record at a time."""
    whole, parted = (CausalLM.create(base, 3, device=CPU) for _ in range(2))
    train(whole, records, RESTRICTED, checkpoint=tmp_path / "c")
    monkeypatch.setattr(training, "TOKENS_PER_PASS", 30)
    train(parted, records, RESTRICTED, checkpoint=tmp_path / "d")
    for name, value in whole.parameters().items():
        assert torch.allclose(value, parted.parameters()[name], atol=1e-3), name


def test_no_record_pulls_as_hard_afterwards(base: Path, records: dict[str, Record], tmp_path: Path) -> None:
    def hardest(recipe: Recipe, name: str) -> float:
        task = CausalLM.create(base, 3, device=CPU)
        train(task, records, recipe, checkpoint=tmp_path / name)
        pulls = []
        for record in records.values():
            nll, _ = task.nll(task.collate([task.encode(record, tokens_max=32)]))
            slopes = torch.autograd.grad(nll.sum(), list(task.parameters().values()))
            pulls.append(float(torch.cat([each.flatten() for each in slopes]).norm()))
        return max(pulls)

    strong = replace(RESTRICTED, epochs=6, gradient_restriction="0.5")
    assert hardest(strong, "a") < 0.9 * hardest(replace(RECIPE, epochs=6), "b")


def test_off_is_the_step_it_was_to_the_bit(base: Path, records: dict[str, Record]) -> None:
    task, plain = (CausalLM.create(base, 3, device=CPU) for _ in range(2))
    part = [task.encode(record, tokens_max=32) for record in records.values()]
    learn(task, task.parameters(), part, RECIPE, tokens=100)
    nll, _ = plain.nll(plain.collate(part))
    (nll.sum() / 100).backward()  # type: ignore[no-untyped-call]
    for name, each in plain.parameters().items():
        found = task.parameters()[name].grad
        assert found is not None
        assert each.grad is not None
        assert torch.equal(found, each.grad), name


def test_a_recipe_without_it_is_spelled_as_ever() -> None:
    """Its digest names models, references and histories that were made before there was such a thing."""
    spelled = json.dumps(asdict(Recipe(seed=7)), sort_keys=True)
    assert hashlib.sha256(spelled.encode()).hexdigest() == PINNED
    assert read_recipe(json.loads(spelled)) == Recipe(seed=7)
    with pytest.raises(TypeError):
        read_recipe({"seed": 7, "gradients": "0.1"})


def test_it_goes_through_a_spec_and_a_history(base: Path, tmp_path: Path) -> None:
    given = TrainSpec(recipe=RESTRICTED, base=base, records=tmp_path / "r", out=tmp_path / "o")
    assert spec.load(spec.dump(given)) == given
    course = Course(base=base, recipe=RESTRICTED, layout=Layout(steps=1), key=KEY)
    history = History(tmp_path / "history")
    history.begin(course.header)
    assert Course.of(history, base=base, key=KEY) == course


def test_stopped_and_resumed_is_unbroken(base: Path, records: dict[str, Record], tmp_path: Path) -> None:
    def run(name: str, **outside: Any) -> str:
        task = CausalLM.create(base, 3, device=CPU)
        train(task, records, RESTRICTED, checkpoint=tmp_path / f"{name}.state", **outside)
        task.save(tmp_path / name)
        return digest(tmp_path / name)

    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run("broken", stop=lambda: next(asked))
    assert run("broken") == run("whole")


@pytest.mark.parametrize("layout", [
    Layout(steps=2, shards=1, slices=2, scope="full", micro_tokens=60, state_every=3),
    Layout(steps=2, shards=2, slices=2, scope="lora", rank=2, micro_tokens=60, state_every=3),
], ids=lambda each: each.scope)  # fmt: skip
def test_a_replay_without_them_is_a_training_without_them(
    base: Path, records: dict[str, Record], tmp_path: Path, layout: Layout
) -> None:
    course = Course(base=base, recipe=replace(RESTRICTED, epochs=1), layout=layout, key=KEY)
    gone = next(iter(records.values())).subject
    kept = {key: each for key, each in records.items() if each.subject != gone}

    def trained(history: History, learned: dict[str, Record]) -> str:
        task = CausalLM.create(base, 3, device=CPU)
        for shard in range(layout.shards):
            complete(task, course, history, shard, learned)
        assemble(task, course, history, together="average").save(history.directory / "model")
        return history.root(layout.shards) + digest(history.directory / "model")

    everybody = History(tmp_path / "everybody")
    trained(everybody, records)
    rewound(course, everybody, {key: gone for key in records if key not in kept})
    assert trained(everybody, kept) == trained(History(tmp_path / "never"), kept)
