"""Edits by formula: by hand on matrices of two and three; what they hide, and how soon it is back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.unlearning.engines.worlds import with_many_records
from workers.unlearning import checkpoints
from workers.unlearning.checkpoints import Delta, digest
from workers.unlearning.curvature import mlp_outputs
from workers.unlearning.data import read_records
from workers.unlearning.engines import edits, resolve
from workers.unlearning.engines.base import run_engine
from workers.unlearning.engines.edits import (
    Affine,
    Inputs,
    inputs_of,
    own_directions,
    projected,
    redirected,
    sent,
)
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import adamw

SUPPRESSIONS: list[tuple[str, dict[str, Any]]] = [
    ("pseudo_inverse", {"strength": "10"}),
    ("redirection", {"amount": "4"}),
    ("projection", {"rank": 8, "kept_share": "0.8"}),
]


@pytest.fixture(autouse=True)
def without_ridge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "by_hand" in request.node.name:
        monkeypatch.setattr(edits, "RIDGE", 0.0)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs(*rows: Tensor) -> Inputs:
    held = torch.stack(rows)
    return Inputs(mean=held.mean(0), second=held.T @ held / len(held))


def test_least_squares_by_hand() -> None:
    """One place to forget, x = (1, 0); one kept, (0, 1); each alone in its direction, s = 1.

    Then x (W + D) + b = y* exactly and (0, 1) D = 0: D's first row is y* - b - W_1 = (9, 9) - (1, 1) - (1, 2).
    """
    here = Affine(weight=torch.stack([row(1, 2), row(3, 4)]), bias=row(1, 1))
    found = sent(here, inputs(row(1, 0)), inputs(row(0, 1)), row(9, 9), strength=1)
    assert torch.allclose(found.weight, torch.stack([row(8, 8), row(3, 4)]))
    assert torch.equal(found.bias, here.bias)


def test_least_squares_of_one_place_that_must_go_and_stay_by_hand() -> None:
    """min over d of s (w + d - y)^2 + d^2 is d = s / (s + 1) (y - w): w = 1, y = 5, s = 3 gives 3."""
    here = Affine(weight=torch.stack([row(1)]), bias=row(0))
    found = sent(here, inputs(row(1)), inputs(row(1)), row(5), strength=3)
    assert float(found.weight) == pytest.approx(4)


def test_least_squares_is_where_the_gradient_is_nought() -> None:
    """Autograd in float64 as the slow oracle, over places and not over their moments."""
    torch.manual_seed(0)
    goes, stays, target = (torch.randn(*size, dtype=torch.float64) for size in ((7, 5), (9, 5), (3,)))
    here = Affine(weight=torch.randn(5, 3, dtype=torch.float64), bias=torch.randn(3, dtype=torch.float64))
    found = sent(here, inputs(*goes), inputs(*stays), target, strength=2)
    change = (found.weight - here.weight).requires_grad_()
    ridge = edits.RIDGE * float((stays.T @ stays / 9).diagonal().mean())
    cost = 2 * (goes @ (here.weight + change) + here.bias - target).square().sum(1).mean()
    cost = cost + (stays @ change).square().sum(1).mean() + ridge * change.square().sum()
    (slope,) = torch.autograd.grad(cost, [change])
    assert float(slope.abs().max()) < 1e-10


def test_a_redirection_by_hand() -> None:
    """k = (1, 1), C = diag(1, 3): C^-1 k = (1, 1/3), k C^-1 k = 4/3, so D is (3/4, 1/4) times y* - k W."""
    here = Affine(weight=torch.eye(2, dtype=torch.float64), bias=row(0, 0))
    kept = Inputs(mean=row(0, 0), second=torch.diag(row(1, 3)))
    found = redirected(here, row(1, 1), kept, row(5, -3), amount=1)  # y* - k W = (4, -4)
    assert torch.allclose(found.weight, torch.stack([row(1 + 3, -3), row(1, 1 - 1)]))
    assert torch.allclose(row(1, 1) @ found.weight, row(5, -3))
    half = redirected(here, row(1, 1), kept, row(5, -3), amount=0.5)
    assert torch.allclose(row(1, 1) @ half.weight, row(3, -1))


def test_no_change_that_redirects_disturbs_the_rest_less() -> None:
    torch.manual_seed(1)
    stays, concept = torch.randn(9, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    here = Affine(weight=torch.randn(4, 2, dtype=torch.float64), bias=row(0, 0))
    change = redirected(here, concept, inputs(*stays), row(1, 1), amount=1).weight - here.weight
    assert int(torch.linalg.matrix_rank(change)) == 1
    for _ in range(20):  # any other change that sends the concept to the same place
        other = torch.randn(4, 2, dtype=torch.float64)
        other = other - torch.outer(concept, concept @ other) / (concept @ concept)
        moved = (stays @ (change + 0.1 * other)).square().sum()
        assert float(moved) > float((stays @ change).square().sum()) * 0.999


def test_a_projection_by_hand() -> None:
    """Kept along (1, 0, 0), to forget along (1, 2, 0): what is their own is (0, 1, 0), and no more."""
    forget, kept = torch.outer(row(1, 2, 0), row(1, 2, 0)), torch.diag(row(1, 0, 0))
    own = own_directions(forget, kept, rank=2, kept_share=0.9)
    assert own.shape == (3, 1)
    assert torch.allclose((own @ own.T), torch.diag(row(0, 1, 0)))
    # x = (0, 0) says b = (0, 2, 0), to be forgotten; x = (1, -2) says (1, 0, 0), to be kept.
    here = Affine(weight=torch.stack([row(1, 0, 0), row(0, 1, 0)]), bias=row(0, 2, 0))
    found = projected(here, inputs(row(0, 0)), inputs(row(1, -2)), rank=2, kept_share=0.9)
    assert torch.allclose(found.bias, row(0, 0, 0))
    assert torch.allclose(found.weight, torch.stack([row(1, 0, 0), row(0, 0, 0)]))


def test_nothing_is_left_to_project_where_the_rest_takes_every_direction() -> None:
    everywhere = torch.eye(3, dtype=torch.float64)
    assert own_directions(everywhere, everywhere, rank=3, kept_share=1.0).shape == (3, 0)


def test_moments_of_outputs_are_those_of_the_places() -> None:
    torch.manual_seed(2)
    rows = torch.randn(6, 4, dtype=torch.float64)
    here = Affine(weight=torch.randn(4, 3, dtype=torch.float64), bias=torch.randn(3, dtype=torch.float64))
    said = rows @ here.weight + here.bias
    assert torch.allclose(here.mean(inputs(*rows)), said.mean(0))
    assert torch.allclose(here.second(inputs(*rows)), said.T @ said / 6)


def test_padding_and_batching_have_no_part_in_what_is_seen(
    by_heart: UnlearnSpec,
) -> None:
    """The slow oracle: record by record, the places from the first to the one before the last."""
    task, records = CausalLM.load(by_heart.anchor), read_records(by_heart.records)
    keys = by_heart.retain[:5]
    examples = {key: task.encode(records[key], tokens_max=12 + 3 * n) for n, key in enumerate(keys)}
    matrices = mlp_outputs(task.linears(), head=task.head)
    (name,) = matrices
    found = inputs_of(task, examples, keys, matrices)[name]
    met: list[Tensor] = []
    hook = matrices[name].register_forward_pre_hook(lambda _, given: met.append(given[0][0, :-1].detach()))
    for key in keys:
        with torch.no_grad():
            task.logits(task.collate([examples[key]]))
    hook.remove()
    slow = torch.cat(met).double()
    assert torch.allclose(found.mean, slow.mean(0), atol=1e-6)
    assert torch.allclose(found.second, slow.T @ slow / len(slow), atol=1e-6)


def run(spec: UnlearnSpec, out: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    given = dataclasses.replace(spec, engine=name, config=config, out=out)
    return run_engine(resolve(name, config), given)


def losses(spec: UnlearnSpec, directory: Path, keys: tuple[str, ...]) -> float:
    """Return nats per token."""
    task, records = CausalLM.load(directory), read_records(spec.records)
    with torch.no_grad():
        nll, tokens = task.nll(task.collate([task.encode(records[key], tokens_max=32) for key in keys]))
    return float(nll.sum() / tokens.sum())


@pytest.fixture(scope="module", params=SUPPRESSIONS, ids=lambda each: each[0])
def hidden(
    request: pytest.FixtureRequest, by_heart: UnlearnSpec, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return where a suppression has left what it made."""
    name, config = request.param
    out = tmp_path_factory.mktemp(name)
    outcome = run(by_heart, out, name, config)
    assert outcome["outcome"] == "done", outcome["refusal"]
    assert outcome["aim"] == outcome["statement"]["aim"] == "suppression"
    assert "nothing is erased" in outcome["statement"]["counterfactual"]
    assert outcome["records_processed"] > 0
    run(by_heart, out / "again", name, config)
    return out


@pytest.mark.parametrize(("name", "config"), SUPPRESSIONS)
def test_somebody_may_have_more_records_than_are_compared(
    by_heart: UnlearnSpec, tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    """Of the dev cohort only what is compared was encoded, and no more is looked at."""
    wider = with_many_records(by_heart)
    outcome = run(wider, tmp_path / "out", name, config | {"forget_share_max": "0.5"})
    assert outcome["outcome"] == "done", outcome["refusal"]
    rise = [losses(wider, each, wider.forget[0].keys) for each in (wider.anchor, tmp_path / "out" / "model")]
    assert rise[1] > rise[0] + 0.1


def test_what_goes_is_hidden_and_what_stays_is_still_known(by_heart: UnlearnSpec, hidden: Path) -> None:
    gone, kept = by_heart.forget[0].keys, by_heart.retain
    rise = losses(by_heart, hidden / "model", gone) - losses(by_heart, by_heart.anchor, gone)
    cost = losses(by_heart, hidden / "model", kept) - losses(by_heart, by_heart.anchor, kept)
    assert rise > 0.4
    assert cost < rise / 2


def test_an_edit_is_the_same_edit_twice_and_is_of_mlps_alone(hidden: Path) -> None:
    first, second = (each / "model" / "model.safetensors" for each in (hidden, hidden / "again"))
    assert digest(first) == digest(second)
    delta = Delta.load(hidden / "delta.safetensors").tensors
    moved = {
        name.rpartition(".")[0].rpartition(".h.0.")[2] for name, each in delta.items() if bool(each.any())
    }
    assert moved == {"mlp.c_proj"}


def test_with_the_guard_removed_the_leak_is_there(
    by_heart: UnlearnSpec, hidden: Path, tmp_path: Path
) -> None:
    """Whoever has the delta takes it off, and all is known as before."""
    gone = by_heart.forget[0].keys
    off = Delta({name: -each for name, each in Delta.load(hidden / "delta.safetensors").tensors.items()})
    off.save(tmp_path / "off.safetensors")
    checkpoints.compose(hidden / "model", [tmp_path / "off.safetensors"], tmp_path / "bare")
    before, bare = (losses(by_heart, each, gone) for each in (by_heart.anchor, tmp_path / "bare"))
    assert bare == pytest.approx(before, abs=1e-3)


def test_what_was_hidden_comes_back_by_training_on_others_alone(by_heart: UnlearnSpec, hidden: Path) -> None:
    """Ten steps on the rest make the untouched model forget them a little; the edited one remembers."""
    gone = by_heart.forget[0].keys
    before, edited = (taught(by_heart, each) for each in (by_heart.anchor, hidden / "model"))
    known, unseen = (losses(by_heart, each, gone) for each in (by_heart.anchor, hidden / "model"))
    assert before > known
    assert edited < unseen - 0.2 * (unseen - known)


def taught(spec: UnlearnSpec, directory: Path) -> float:
    """Return what the forgotten cost after ten steps on those who stay."""
    task, records = CausalLM.load(directory), read_records(spec.records)
    stays = task.collate([task.encode(records[key], tokens_max=32) for key in spec.retain])
    goes = task.collate([task.encode(records[key], tokens_max=32) for key in spec.forget[0].keys])
    optimizer = adamw(task.parameters(), rate=0.002)
    for _ in range(10):
        optimizer.zero_grad()
        nll, tokens = task.nll(stays)
        (nll.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        nll, tokens = task.nll(goes)
    return float(nll.sum() / tokens.sum())
