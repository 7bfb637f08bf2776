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
from workers.unlearning.engines.descent import CREDIT, Descent
from workers.unlearning.engines.gradient import Gradient
from workers.unlearning.kronecker import NaturalSteps
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted

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
    kept: float
    cost: float
    untouched: bool


def tried(spec: UnlearnSpec, out: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """Run an engine and look on: the slow oracle takes the logits of all that is rehearsed, record by record."""
    found: list[Trial] = []
    real = Descent.shorten

    def watched(loop: Descent, steps: NaturalSteps) -> None:
        before = {name: each.detach().clone() for name, each in loop.parameters.items()}
        slopes = [None if each.grad is None else each.grad.clone() for each in loop.parameters.values()]
        said, told = steps.divergence, log_probs(spec, loop.task, loop.rehearsed)
        real(loop, steps)
        after = loop.parameters
        untouched = steps.taken == 0 and all(torch.equal(after[name], before[name]) for name in before)
        for slope, each in zip(slopes, after.values(), strict=True):
            untouched &= (slope is None) == (each.grad is None)
            untouched &= slope is None or each.grad is None or torch.equal(slope, each.grad)
        steps.step()
        now = log_probs(spec, loop.task, loop.rehearsed)
        loop.move(loop.start)
        steps.taken = 0
        found.append(Trial(said, steps.divergence, divergence(told, now), untouched))

    monkeypatch.setattr(Descent, "shorten", watched)
    run_engine(NATURAL, dataclasses.replace(spec, out=out))
    [trial] = found
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
    trial = tried(doubtful, doubtful.out, monkeypatch)
    assert trial.kept == trial.said
    assert 0 < trial.cost < CREDIT * trial.said
    assert trial.untouched


def test_of_a_model_that_is_sure_of_everything_steps_are_shortened_until_one_costs_what_it_may(
    sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tried(sure, sure.out, monkeypatch)
    assert trial.kept < trial.said
    assert trial.untouched
    # All that is rehearsed, where the trial takes sixteen: near it, and far below what it was.
    assert 0 < trial.cost < 2 * CREDIT * trial.said


def test_what_was_shortened_is_so_after_an_interruption(sure: UnlearnSpec, tmp_path: Path) -> None:
    whole = dataclasses.replace(sure, out=tmp_path / "whole")
    run_engine(NATURAL, whole)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        run_engine(NATURAL, sure, stop=lambda: next(asked))
    run_engine(NATURAL, sure)
    first, second = (each.out / "model" / "model.safetensors" for each in (whole, sure))
    assert checkpoints.digest(first) == checkpoints.digest(second)


@pytest.mark.parametrize(("room", "taken"), [(descent.TRIAL_BYTES, 16), (0, 1)])
def test_the_trial_takes_as_many_records_as_there_is_room_for(
    sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch, room: int, taken: int
) -> None:
    looks: list[int] = []
    real = Descent.tried_on

    def watched(loop: Descent) -> list[str]:
        looks.append(len(real(loop)))
        return real(loop)

    monkeypatch.setattr(descent, "TRIAL_BYTES", room)
    monkeypatch.setattr(Descent, "tried_on", watched)
    run_engine(NATURAL, sure)
    assert looks == [taken]


def test_the_trial_is_counted(sure: UnlearnSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One pass before and one for each time that it is looked at, of no more than the records there are."""
    passes: list[int] = []
    real = Descent.shorten

    def counted(loop: Descent, steps: NaturalSteps) -> None:
        said, processed = steps.divergence, loop.gauge.processed
        real(loop, steps)
        halvings = round(float(torch.log2(torch.tensor(said / steps.divergence))))
        passes.append(loop.gauge.processed - processed)
        assert passes == [min(len(loop.rehearsed), 16) * (2 + halvings)]

    monkeypatch.setattr(Descent, "shorten", counted)
    run_engine(NATURAL, dataclasses.replace(sure, out=tmp_path / "out"))
    assert passes
