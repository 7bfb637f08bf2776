"""What is trained, and through which glasses: no change at the start, plain weights at the end."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from workers.unlearning.adapters import Rounded, Scope, adapted, int4
from workers.unlearning.data import Passage
from workers.unlearning.task import CausalLM
from workers.unlearning.verification import quantisation


@pytest.fixture
def task(base: Path) -> CausalLM:
    return CausalLM.create(base, 3)


def weights(task: CausalLM) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in task.model.named_parameters()}


@pytest.mark.parametrize("scope", ["full", "lora", "embeddings"])
@pytest.mark.parametrize("noise", [False, True])
def test_in_and_out_again_is_no_change(task: CausalLM, scope: Scope, noise: bool) -> None:  # noqa: FBT001
    before = weights(task)
    with adapted(task, scope, seed=1, noise=noise) as trained:
        assert trained.parameters
    after = weights(task)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(each.requires_grad for each in task.model.parameters())


def test_an_adapter_is_drawn_by_its_own_seed_and_merged_at_the_end(task: CausalLM) -> None:
    before = weights(task)
    torch.manual_seed(99)
    with adapted(task, "lora", seed=1, rank=2) as trained:
        drawn = {
            name: each.detach().clone() for name, each in trained.parameters.items() if name.endswith("a")
        }
        with torch.no_grad():
            for name, each in trained.parameters.items():
                each.add_(0.01 if name.endswith(".b") else 0.0)
    moved = {name for name, each in weights(task).items() if not torch.equal(each, before[name])}
    assert moved == {f"{name}.weight" for name in task.linears()}
    torch.manual_seed(7)
    with adapted(task, "lora", seed=1, rank=2) as again:
        assert all(torch.equal(drawn[name], again.parameters[name]) for name in drawn)


@pytest.mark.parametrize("scope", get_args(Scope))
@pytest.mark.parametrize("noise", [False, True])
def test_what_stands_still_to_begin_with_is_trained_in_no_scope(
    task: CausalLM,
    scope: Scope,
    noise: bool,  # noqa: FBT001
) -> None:
    name, module = next(iter(task.linears().items()))
    still = module.get_parameter("weight")
    still.requires_grad = False
    before = still.detach().clone()
    with adapted(task, scope, seed=1, rank=2, noise=noise) as trained, torch.no_grad():
        assert trained.parameters
        for each in trained.parameters.values():
            each.add_(0.01)
    assert torch.equal(module.get_parameter("weight"), before)
    assert {n for n, each in task.model.named_parameters() if not each.requires_grad} == {f"{name}.weight"}


def test_rounding_is_the_examiners_and_its_gradient_passes_straight_through() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 200, requires_grad=True)
    assert torch.equal(int4(weight.detach()), quantisation.int4(weight.detach()))
    held = Rounded(turned=False)(weight)
    assert torch.allclose(held, quantisation.int4(weight.detach()), atol=1e-6)
    assert not torch.allclose(held, weight)
    slope = torch.randn(4, 200)
    (held * slope).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, slope)


def test_noise_is_seen_by_the_steps_and_not_by_a_look(task: CausalLM) -> None:
    batch = task.collate([task.encode(_passage(), tokens_max=16)])
    with torch.no_grad():
        plain = task.logits(batch)
        with adapted(task, "full", seed=1, noise=True) as trained:
            assert not torch.equal(task.logits(batch), plain)
            with trained.plain():
                assert torch.equal(task.logits(batch), plain)


def _passage() -> Passage:
    return Passage(prompt="ann tel?", completion=" 123.")
