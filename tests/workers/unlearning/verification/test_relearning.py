"""The relearning probe trains a copy, on retained text only, and changes nothing else."""

from collections.abc import Callable

import pytest

from app.demo.people import Person
from workers.unlearning.spec import Recipe
from workers.unlearning.task import CausalLM
from workers.unlearning.verification.relearning import relearned

import torch  # isort: skip

from tests.workers.unlearning.verification.conftest import records_of

RECIPE = Recipe(seed=1, learning_rate="0.02", batch_size=4, tokens_max=96)


def test_a_copy_learns_and_the_model_is_left_alone(
    blank: CausalLM, crowd: list[Person], nobody: Callable[[int], None]
) -> None:
    retained = {record.key: record for record in records_of(crowd[0])}
    before = {name: value.clone() for name, value in blank.model.state_dict().items()}
    students = [
        relearned(blank, retained, recipe=RECIPE, steps=4, seed=seed, done=nobody) for seed in (1, 1, 2)
    ]
    assert all(torch.equal(value, before[name]) for name, value in blank.model.state_dict().items())
    batch = blank.collate([blank.encode(record, tokens_max=96) for record in retained.values()])
    with torch.no_grad():
        first, *after = (float(task.nll(batch)[0].sum()) for task in (blank, *students))
    assert after[0] < first
    assert after[0] == after[1] != after[2]
    assert not students[0].model.training


def test_a_smaller_set_than_a_batch_is_gone_through_again(
    blank: CausalLM, crowd: list[Person], nobody: Callable[[int], None]
) -> None:
    record = records_of(crowd[0])[0]
    student = relearned(blank, {record.key: record}, recipe=None, steps=2, seed=1, done=nobody)
    assert isinstance(student, CausalLM)
    with pytest.raises(AssertionError, match="no retained text"):
        relearned(blank, {}, recipe=None, steps=2, seed=1, done=nobody)
