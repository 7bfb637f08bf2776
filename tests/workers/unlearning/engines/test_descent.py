"""What a step costs those who stay: tried out before the first, and where it is far more than was said, less."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.unlearning import checkpoints
from workers.unlearning.data import read_records
from workers.unlearning.engines import descent
from workers.unlearning.engines.base import run_engine
from workers.unlearning.engines.descent import CREDIT, TRIED_ON, Descent
from workers.unlearning.engines.gradient import Gradient
from workers.unlearning.engines.targets import divergence_from, predictions_of
from workers.unlearning.kronecker import NaturalSteps
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Diverged, Interrupted

NATURAL = Gradient(mode="grad_diff", steps="natural", steps_max=6)


@pytest.fixture
def sure(by_heart: UnlearnSpec, tmp_path: Path) -> UnlearnSpec:
    """Return a job on a model that is certain of all it says."""
    return spread(by_heart, 12, tmp_path)


def spread(spec: UnlearnSpec, factor: float, home: Path) -> UnlearnSpec:
    """Return the job on a model whose logits are so many times as far apart."""
    task = CausalLM.load(spec.anchor)
    with torch.no_grad():
        for each in task.model.get_submodule("transformer.ln_f").parameters():
            each.mul_(factor)
    task.save(home / "spread")
    return dataclasses.replace(spec, engine="gradient", anchor=home / "spread", out=home / "out")


@dataclasses.dataclass
class Trial:
    """What was found when the first step was tried out, and what it cost when it was taken."""

    said: float
    halvings: int
    cost: float
    untouched: bool


def tried(spec: UnlearnSpec, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Run an engine and look on: the slow oracle takes the logits of all that is rehearsed, record by record."""
    found: list[Trial] = []
    real = Descent.shorten

    def watched(loop: Descent, steps: NaturalSteps) -> None:
        before = {name: each.detach().clone() for name, each in loop.parameters.items()}
        slopes = [None if each.grad is None else each.grad.clone() for each in loop.parameters.values()]
        told = log_probs(spec, loop.task, loop.rehearsed)
        real(loop, steps)
        after = loop.parameters
        untouched = steps.taken == 0 and all(torch.equal(after[name], before[name]) for name in before)
        for slope, each in zip(slopes, after.values(), strict=True):
            untouched &= (slope is None) == (each.grad is None)
            untouched &= slope is None or each.grad is None or torch.equal(slope, each.grad)
        with steps.on_trial():
            steps.step()
        now = log_probs(spec, loop.task, loop.rehearsed)
        loop.move(loop.start)
        found.append(Trial(steps.said, steps.halvings, divergence(told, now), untouched))

    monkeypatch.setattr(Descent, "shorten", watched)
    outcome = run_engine(NATURAL, spec)
    [trial] = found
    assert outcome["telemetry"]["halvings"] == trial.halvings
    return trial


def log_probs(spec: UnlearnSpec, task: Any, keys: list[str]) -> list[torch.Tensor]:
    records = read_records(spec.records)
    with torch.no_grad():
        encoded = [task.collate([task.encode(records[key], tokens_max=32)]) for key in keys]
        return [task.logits(each)[0].double().log_softmax(-1) for each in encoded]


def divergence(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    total = sum(float((a.exp() * (a - b)).sum()) for a, b in zip(before, after, strict=True))
    return total / sum(len(each) for each in before)


def test_where_a_step_costs_what_it_may_nothing_is_shortened(
    by_heart: UnlearnSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubtful = spread(by_heart, 0.3, tmp_path)
    trial = tried(doubtful, monkeypatch)
    assert trial.halvings == 0
    assert 0 < trial.cost < CREDIT * trial.said
    assert trial.untouched


def test_of_a_model_that_is_sure_of_everything_steps_are_shortened_until_one_costs_what_it_may(
    sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tried(sure, monkeypatch)
    assert trial.halvings > 0
    assert trial.untouched
    # All that is rehearsed, where the trial takes sixteen: near what it may cost, on either side.
    assert CREDIT * trial.said / 20 < trial.cost < 2 * CREDIT * trial.said


def test_steps_that_cost_too_much_however_short_are_a_failure(
    sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "CREDIT", -1.0)
    with pytest.raises(Diverged):
        run_engine(NATURAL, sure)


def test_what_a_recipe_does_not_train_on_has_no_part_in_what_a_step_costs(by_heart: UnlearnSpec) -> None:
    """By hand: the mean over the tokens of the answers of what two models say of them."""
    one, other = (CausalLM.load(each) for each in (by_heart.anchor, by_heart.anchor))
    with torch.no_grad():
        other.model.get_submodule("transformer.ln_f").weight.mul_(0.5)
    records = read_records(by_heart.records)
    examples = {
        key: one.encode(records[key], tokens_max=32, supervise="completion") for key in by_heart.retain[:3]
    }
    said = [predictions_of(task, examples, list(examples)) for task in (one, other)]
    total = count = 0.0
    for key, each in examples.items():
        for place, counts in enumerate(each.supervised[1:]):
            a, b = (of[key][place].double() for of in said)
            total += float((a.exp() * (a - b)).sum()) * counts
            count += counts
    assert count == sum(each.tokens for each in examples.values()) < sum(map(len, said[0].values()))
    assert divergence_from(other, examples, said[0]) == pytest.approx(total / count, rel=1e-4)


def test_what_was_shortened_is_so_after_an_interruption(sure: UnlearnSpec, tmp_path: Path) -> None:
    whole = dataclasses.replace(sure, out=tmp_path / "whole")
    run_engine(NATURAL, whole)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        run_engine(NATURAL, sure, stop=lambda: next(asked))
    run_engine(NATURAL, sure)
    first, second = (each.out / "model" / "model.safetensors" for each in (whole, sure))
    assert checkpoints.digest(first) == checkpoints.digest(second)


@pytest.mark.parametrize(("room", "taken"), [(1 << 30, 16), (0, 1), (3, 3), (4, 4)])
def test_the_trial_takes_as_many_records_as_there_is_room_for(
    sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch, room: int, taken: int
) -> None:
    """Of few it is said how many of the longest find room: the byte that is missing to one more is missed."""
    looks: list[int] = []
    real = Descent.tried_on

    def watched(loop: Descent) -> list[str]:
        longest = max(len(loop.prepared.examples[key].targets) for key in loop.rehearsed)
        least = min(len(loop.prepared.examples[key].targets) for key in loop.rehearsed)
        assert longest == least, "all are as long"
        few = room <= TRIED_ON
        bytes_ = 4 * loop.task.classes * longest * (room + 1) - 1 if few else room
        monkeypatch.setattr(descent, "TRIAL_BYTES", bytes_)
        looks.append(len(real(loop)))
        return real(loop)

    monkeypatch.setattr(Descent, "tried_on", watched)
    run_engine(NATURAL, sure)
    assert looks == [taken]


def test_the_trial_is_counted(sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass before and one for each time that it is looked at."""
    passes: list[int] = []
    real = Descent.shorten

    def counted(loop: Descent, steps: NaturalSteps) -> None:
        processed = loop.gauge.processed
        real(loop, steps)
        passes.append(loop.gauge.processed - processed)
        assert passes == [min(len(loop.rehearsed), TRIED_ON) * (2 + steps.halvings)]

    monkeypatch.setattr(Descent, "shorten", counted)
    run_engine(NATURAL, sure)
    assert passes
