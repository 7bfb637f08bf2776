"""Shards together: each rule against a loop that applies it by hand, and files that keep them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.fixtures.learning import line, write_records
from workers.unlearning import ensemble
from workers.unlearning.checkpoints import digest
from workers.unlearning.data import read_records
from workers.unlearning.ensemble import Adapters, ShardedLM, assembled
from workers.unlearning.task import CausalLM, Task, TextBatch

RANK, ALPHA = 2, 4.0


@pytest.fixture
def batch(base: Path, tmp_path: Path) -> TextBatch:
    lines = [line("ann", "tel", "123"), line("bobby", "pin", "4")]
    lines.append(line("c", "k", "1") | {"prompt": "", "completion": "a plain text", "spans": None})
    records = read_records(write_records(tmp_path / "r", lines))
    task = CausalLM.create(base, 1)
    return task.collate([task.encode(each, tokens_max=32) for each in records.values()])


def full(base: Path, seed: int) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in CausalLM.create(base, seed).parameters().items()}


def thin(base: Path, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = Adapters(CausalLM.create(base, 1), rank=RANK, alpha=ALPHA).drawn(seed)
    return {name: torch.randn(each.shape, generator=generator) * 0.3 for name, each in drawn.items()}


def alone(base: Path, shard: dict[str, Tensor], scope: Any, batch: TextBatch) -> Tensor:
    """Return one shard's log-probabilities, by plain weights of its own."""
    made = assembled(CausalLM.create(base, 1), [shard], scope=scope, together="route", rank=RANK, alpha=ALPHA)
    assert not isinstance(made, ShardedLM), "one shard is plain weights"
    with torch.no_grad():
        return made.logits(batch).log_softmax(-1)


def shards_of(base: Path, scope: str) -> list[dict[str, Tensor]]:
    return [full(base, seed) if scope == "full" else thin(base, seed) for seed in (5, 6, 7)]


def sharded(base: Path, scope: Any, together: Any) -> Task:
    shards = shards_of(base, scope)
    return assembled(CausalLM.create(base, 1), shards, scope=scope, together=together, rank=RANK, alpha=ALPHA)


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_the_posterior_is_the_mixture_of_whole_texts(base: Path, batch: TextBatch, scope: str) -> None:
    """P(x) = (1/m) sum_k P_k(x): the losses of a text sum up to the mixture's, whatever the tokens between."""
    each = [alone(base, shard, scope, batch) for shard in shards_of(base, scope)]
    nll, _ = sharded(base, scope, "posterior").nll(batch)
    for row in range(3):
        length = int(batch.lengths[row])
        told = [math.fsum(float(p[row, t - 1, batch.ids[row, t]]) for t in range(1, length)) for p in each]
        assert float(nll[row]) == pytest.approx(-math.log(math.fsum(math.exp(t) for t in told) / 3), abs=1e-3)


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_a_text_is_routed_to_whom_its_prompt_costs_least(base: Path, batch: TextBatch, scope: str) -> None:
    each = [alone(base, shard, scope, batch) for shard in shards_of(base, scope)]
    said = sharded(base, scope, "route").logits(batch)
    for row, prompt in ((0, len("ann tel?")), (1, len("bobby pin?"))):
        costs = [-sum(float(p[row, t - 1, batch.ids[row, t]]) for t in range(1, prompt)) for p in each]
        best = costs.index(min(costs))
        assert torch.allclose(said[row], each[best][row], atol=1e-4)
    mean = torch.stack(each)[:, 2].exp().mean(dim=0).log()
    assert torch.allclose(said[2], mean, atol=1e-4), "no prompt: the mixture"


def test_logits_are_the_geometric_mean(base: Path, batch: TextBatch) -> None:
    each = torch.stack([alone(base, shard, "full", batch) for shard in shards_of(base, "full")])
    wanted = each.mean(dim=0).log_softmax(-1)
    assert torch.allclose(sharded(base, "full", "logits").logits(batch), wanted, atol=1e-4)


@pytest.mark.parametrize("together", ["average", "sum"])
def test_merged_shards_are_plain_weights(base: Path, batch: TextBatch, together: str) -> None:
    shards = shards_of(base, "lora")
    made = sharded(base, "lora", together)
    assert not isinstance(made, ShardedLM)
    plain = CausalLM.create(base, 1)
    for name, module in plain.model.named_modules():
        if f"{name}.a" in shards[0]:
            share = (1 if together == "sum" else 1 / 3) * ALPHA / RANK
            with torch.no_grad():  # GPT-2 holds its matrices as (in, out)
                module.weight += share * sum(s[f"{name}.a"].T @ s[f"{name}.b"].T for s in shards)
    for name, value in made.parameters().items():
        assert torch.allclose(value, plain.parameters()[name], atol=1e-5), name


def test_the_sum_of_loras_is_their_concatenation(base: Path, batch: TextBatch) -> None:
    shards = shards_of(base, "lora")
    wide = {
        name: torch.cat([s[name] for s in shards], dim=0 if name.endswith(".a") else 1) for name in shards[0]
    }
    task = CausalLM.create(base, 1)
    adapters = Adapters(task, rank=3 * RANK, alpha=3 * ALPHA)
    with adapters.attached(), torch.no_grad():
        adapters.now = wide
        said = task.logits(batch)
    assert torch.allclose(said, sharded(base, "lora", "sum").logits(batch), atol=1e-4)


def test_the_average_of_full_shards_is_theirs(base: Path) -> None:
    shards = shards_of(base, "full")
    for name, value in sharded(base, "full", "average").parameters().items():
        assert torch.allclose(value, torch.stack([s[name] for s in shards]).mean(dim=0), atol=1e-6)


def test_adapters_leave_nothing_behind(base: Path, batch: TextBatch) -> None:
    task = CausalLM.create(base, 1)
    before = task.logits(batch)
    adapters = Adapters(task, rank=RANK, alpha=ALPHA)
    with adapters.attached():
        assert torch.equal(task.logits(batch), before), "attached and empty"
        assert not task.parameters()
        adapters.now = thin(base, 5)
        assert not torch.equal(task.logits(batch), before)
    assert torch.equal(task.logits(batch), before)
    assert all(each.requires_grad for each in task.model.parameters())


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_shards_are_kept_beside_the_base(base: Path, batch: TextBatch, tmp_path: Path, scope: str) -> None:
    made = sharded(base, scope, "posterior")
    made.save(tmp_path / "a")
    again = ensemble.load(tmp_path / "a")
    assert isinstance(again, ShardedLM)
    assert torch.equal(again.logits(batch), made.logits(batch))
    again.save(tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    CausalLM.create(base, 1).save(tmp_path / "plain")
    assert not isinstance(ensemble.load(tmp_path / "plain"), ShardedLM)
