"""The point where more training leads: a slow oracle, and what is left of it in the model."""

import copy

import pytest
import torch
from torch import Tensor

from workers.unlearning.data import epoch_order, read_records
from workers.unlearning.determinism import seed_for
from workers.unlearning.engines.stirring import BATCH, STEPS, Stirring
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM, TextExample

RATE = 0.05


@pytest.fixture
def task(small: UnlearnSpec) -> CausalLM:
    return CausalLM.load(small.anchor)


@pytest.fixture
def examples(small: UnlearnSpec, task: CausalLM) -> dict[str, TextExample]:
    records = read_records(small.records)
    return {key: task.encode(records[key], tokens_max=32) for key in small.retain}


def weights(task: CausalLM) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in task.model.named_parameters()}


def test_it_leads_where_training_on_what_stays_does(task: CausalLM, examples: dict[str, TextExample]) -> None:
    """The oracle is torch's own AdamW, with a loss of its own, over every parameter."""
    retained = sorted(examples)
    stirring = Stirring(task, examples, retained, rate=RATE, seed=3)
    # As in a run of natural steps: what does not move for them is moved by whoever trains on.
    task.model.transformer.wte.weight.requires_grad_(requires_grad=False)
    assert stirring.renew(7) == STEPS * BATCH

    seed = seed_for(seed_for(3, "stir"), "7")
    order = [key for epoch in range(20) for key in epoch_order(retained, seed, epoch)]
    model = copy.deepcopy(task.model)
    model.requires_grad_(requires_grad=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE / 10, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(STEPS):
        losses, tokens = [], 0
        for key in order[step * BATCH : (step + 1) * BATCH]:
            ids = torch.tensor([examples[key].ids], device=task.device)
            said = model(ids).logits[0, :-1].log_softmax(-1)
            losses.append(-said.gather(-1, ids[0, 1:, None]).sum())
            tokens += ids.shape[1] - 1
        optimizer.zero_grad()
        (sum(losses) / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    began = weights(task)
    for name, each in model.named_parameters():
        if name.endswith("c_attn.bias"):
            continue  # a third of it, the keys', has no gradient but rounding, of which AdamW keeps the sign
        torch.testing.assert_close(stirring.moves[name], each.detach() - began[name], atol=2e-4, rtol=2e-3)
    assert all(bool(each.any()) for each in stirring.moves.values())


def test_gradients_are_of_there_and_the_weights_are_as_before(
    task: CausalLM, examples: dict[str, TextExample]
) -> None:
    stirring = Stirring(task, examples, sorted(examples), rate=RATE, seed=3)
    stirring.renew(0)
    before, batch = weights(task), task.collate(list(examples.values())[:3])
    with stirring.stirred():
        torch.autograd.backward(task.nll(batch)[0].sum())
    there = {name: each.grad for name, each in task.model.named_parameters()}
    assert all(torch.equal(each, before[name]) for name, each in weights(task).items())

    moved = task.twin()
    with torch.no_grad():
        for name, each in moved.model.named_parameters():
            each.copy_(before[name] + stirring.moves[name])
            each.grad = None
    torch.autograd.backward(moved.nll(batch)[0].sum())
    for name, each in moved.model.named_parameters():
        assert each.grad is not None
        gradient = there[name]
        assert gradient is not None
        assert torch.equal(each.grad, gradient)


def test_a_failure_inside_leaves_the_weights_as_before(
    task: CausalLM, examples: dict[str, TextExample]
) -> None:
    stirring = Stirring(task, examples, sorted(examples), rate=RATE, seed=3)
    stirring.renew(0)
    before = weights(task)
    with pytest.raises(RuntimeError, match="no memory"), stirring.stirred():
        raise RuntimeError("no memory")
    assert all(torch.equal(each, before[name]) for name, each in weights(task).items())


def test_before_the_first_training_it_is_where_the_model_is(
    task: CausalLM, examples: dict[str, TextExample]
) -> None:
    stirring = Stirring(task, examples, sorted(examples), rate=RATE, seed=3)
    before = weights(task)
    with stirring.stirred():
        assert all(torch.equal(each, before[name]) for name, each in weights(task).items())
