"""Curvature in two factors per matrix: what it foretells, how records leave it, how far steps go."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.fixtures.learning import people, write_records
from workers.unlearning.data import read_records
from workers.unlearning.kronecker import Factor, Factors, Moments, NaturalSteps
from workers.unlearning.task import CausalLM, Example

LINES = people(6, seed=3)


@pytest.fixture(scope="module")
def task(base: Path) -> CausalLM:
    return CausalLM.create(base, 1)


@pytest.fixture(scope="module")
def examples(task: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    records = read_records(write_records(tmp_path_factory.mktemp("records") / "records.jsonl", LINES))
    return {key: task.encode(record, tokens_max=64) for key, record in records.items()}


def factor(inner: list[float], outer: list[float], module: nn.Module) -> Factor:
    """Return a matrix whose curvature is diagonal."""
    a, g = (torch.tensor(each, dtype=torch.float64) for each in (inner, outer))
    return Factor(
        module=module,
        turned=False,
        inner=torch.eye(len(a), dtype=torch.float64),
        outer=torch.eye(len(g), dtype=torch.float64),
        values=a[:, None] * g,
    )


def test_a_step_is_solved_by_hand() -> None:
    """Curvature (1, 3) x (2, 4): values 2 4 6 12, mean 6; damped by half of it: 5 7 9 15."""
    found = factor([1, 3], [2, 4], nn.Linear(2, 2, bias=False))
    gradient = torch.tensor([[5.0, 7.0], [9.0, 15.0]], dtype=torch.float64)
    step, cost = found.solve(gradient, damping=0.5)
    assert torch.allclose(step, torch.ones(2, 2, dtype=torch.float64))
    assert cost == pytest.approx(0.5 * (2 + 4 + 6 + 12))


def test_solving_is_the_inverse_of_the_kronecker_product() -> None:
    """Against the whole matrix: (A (x) G + lam I)^{-1}, with rows of weights side by side."""
    generator = torch.Generator().manual_seed(0)

    def positive(size: int) -> Tensor:
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        return root @ root.T

    a, g = positive(3), positive(2)
    (va, ua), (vg, ug) = torch.linalg.eigh(a), torch.linalg.eigh(g)
    found = Factor(module=nn.Linear(2, 2), turned=False, inner=ua, outer=ug, values=va[:, None] * vg)
    gradient = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    whole = torch.kron(a, g)
    damped = whole + 0.1 * torch.linalg.eigvalsh(whole).mean() * torch.eye(6, dtype=torch.float64)
    wanted = torch.linalg.solve(damped, gradient.flatten())
    step, cost = found.solve(gradient, damping=0.1)
    assert torch.allclose(step.flatten(), wanted)
    assert cost == pytest.approx(float(0.5 * wanted @ whole @ wanted))


def test_weight_and_bias_move_as_one_matrix() -> None:
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
    factor([1, 1, 1], [1], module).move(torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64))
    assert module.weight.tolist() == [[1.0, 2.0]]
    assert module.bias.tolist() == [3.0]


class _OneLayer:
    """A classifier that is one matrix: its Fisher information is known in closed form."""

    def __init__(self, module: nn.Linear, given: Tensor) -> None:
        self.model, self.given = module, given

    def linears(self) -> dict[str, nn.Module]:
        return {"it": self.model}

    def collate(self, examples: list[Any]) -> Any:
        return type("Batch", (), {"counted": torch.ones(len(examples), 1, dtype=torch.bool)})

    def logits(self, batch: Any) -> Tensor:
        out: Tensor = self.model(self.given.expand(len(batch.counted), 1, -1))
        return out


class _Row:
    length = 1


def test_the_cost_of_a_step_is_the_divergence_it_causes() -> None:
    """One input, one matrix: the factors are exact but for the labels' draw, and 0.5 d'F d is the KL."""
    torch.manual_seed(0)
    module = nn.Linear(3, 4)
    given = torch.tensor([0.5, -1.0, 2.0])
    task: Any = _OneLayer(module, given)
    rows: Any = {f"{n:05d}": _Row() for n in range(4000)}
    found = Factors(task, Moments.measured(task, rows, seed=0)).matrices["it"]
    before = module(given).log_softmax(-1).detach()
    step = 0.01 * torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turned = found.inner.T @ step @ found.outer
    cost = 0.5 * float((found.values * turned.square()).sum())
    found.move(step)
    after = module(given).log_softmax(-1).detach()
    divergence = float((before.exp() * (before - after)).sum())
    assert cost == pytest.approx(divergence, rel=0.08)


def test_records_leave_as_they_came(task: CausalLM, examples: dict[str, Example]) -> None:
    """What is left is what would have been measured without them, whatever they were batched with."""
    gone = dict(list(examples.items())[:5])
    rest = {key: each for key, each in examples.items() if key not in gone}
    whole = Moments.measured(task, examples, seed=3)
    left = whole.less(Moments.measured(task, gone, seed=3))
    wanted = Moments.measured(task, rest, seed=3)
    assert (left.keys, left.tokens, left.positions) == (wanted.keys, wanted.tokens, wanted.positions)
    for name, each in left.sums.items():
        assert torch.allclose(
            each, wanted.sums[name], rtol=1e-4, atol=1e-6 * float(wanted.sums[name].abs().max())
        )
    with pytest.raises(AssertionError, match="cannot leave"):
        left.less(Moments.measured(task, gone, seed=3))
    with pytest.raises(AssertionError, match="other labels"):
        whole.less(Moments.measured(task, gone, seed=4))


def test_what_was_forgotten_guards_itself_so_many_times_and_namelessly(
    task: CausalLM, examples: dict[str, Example]
) -> None:
    gone = Moments.measured(task, dict(list(examples.items())[:2]), seed=3)
    rest = Moments.measured(task, dict(list(examples.items())[2:]), seed=3)
    guarded = rest.guarding(gone, 3)
    assert guarded.keys == rest.keys
    assert guarded.tokens == rest.tokens + 3 * gone.tokens
    for name, each in guarded.sums.items():
        assert torch.equal(each, rest.sums[name] + 3 * gone.sums[name])
    assert all(guarded.positions[name] == n + 3 * gone.positions[name] for name, n in rest.positions.items())


def test_moments_are_read_as_they_were_written(
    task: CausalLM, examples: dict[str, Example], tmp_path: Path
) -> None:
    first = Moments.measured(task, examples, seed=3)
    first.save(tmp_path / "a")
    again = Moments.load(tmp_path / "a")
    assert (again.keys, again.tokens, again.positions, again.seed) == (
        first.keys,
        first.tokens,
        first.positions,
        first.seed,
    )
    assert all(torch.equal(each, again.sums[name]) for name, each in first.sums.items())
    Moments.measured(task, examples, seed=3).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_measuring_leaves_nothing_behind(task: CausalLM, examples: dict[str, Example]) -> None:
    before = {name: each.detach().clone() for name, each in task.parameters().items()}
    Moments.measured(task, examples, seed=3)
    assert all(each.grad is None for each in task.parameters().values())
    assert all(torch.equal(each, before[name]) for name, each in task.parameters().items())
    assert not any(module._forward_hooks for module in task.model.modules())


def test_each_step_costs_what_it_may_and_less_to_the_end() -> None:
    """The n-th of N costs (1 - n/N)^2 of the first; a gradient of nothing moves nothing."""
    module = nn.Linear(2, 2, bias=False)
    found = factor([1, 3], [2, 4], module)
    factors: Any = Factors.__new__(Factors)
    factors.matrices = {"it": found}
    steps = NaturalSteps(factors, damping=0.1, divergence=1e-4, steps=4)
    costs = []
    for _ in range(5):
        before = module.weight.detach().clone()
        steps.zero_grad()
        module.weight.grad = torch.tensor([[100.0, -50.0], [20.0, 300.0]])
        steps.step()
        moved = (module.weight.detach() - before).T.double()
        costs.append(0.5 * float((found.values * moved.square()).sum()))
    wanted = [1e-4 * max(1 - n / 4, 0.0) ** 2 for n in range(5)]
    # The weights are float32, and a step is a thousandth of them.
    assert costs == pytest.approx(wanted, rel=1e-3, abs=1e-12)
    steps.zero_grad()
    before = module.weight.detach().clone()
    steps.step()
    assert torch.equal(module.weight, before)


def test_a_step_goes_where_those_who_stay_are_flat() -> None:
    """Equal pull on two inputs, one of them used a million times as much: nearly all goes to the other."""
    module = nn.Linear(2, 1, bias=False)
    found = factor([1e6, 1.0], [1.0], module)
    step, _ = found.solve(torch.ones(2, 1, dtype=torch.float64), damping=1e-6)
    assert float(step[1] / step[0]) > 1e5 * math.sqrt(0.1)


def test_steps_go_on_where_they_were() -> None:
    factors: Any = Factors.__new__(Factors)
    factors.matrices = {}
    first = NaturalSteps(factors, damping=0.1, divergence=1e-4, steps=4)
    first.step()
    first.halvings = 3
    second = NaturalSteps(factors, damping=0.1, divergence=1e-4, steps=4)
    second.load_state_dict(first.state_dict())
    assert (second.taken, second.divergence) == (1, 1e-4 / 8)
    with second.on_trial():
        second.step()
    assert second.taken == 1
