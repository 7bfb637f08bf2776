"""IAU as released, the residual of an unconverged model, and which matrices a step may move."""

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.unlearning.checkpoints import Delta
from workers.unlearning.curvature import signed
from workers.unlearning.engines import resolve
from workers.unlearning.engines.base import read_job, run_engine
from workers.unlearning.engines.influence import Influence, _Step
from workers.unlearning.engines.targets import Prepared, prepare
from workers.unlearning.kronecker import Factors, Moments
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM, load


def run(spec: UnlearnSpec, out: Path, **config: Any) -> dict[str, Any]:
    chosen = {"refuses_unreached": False} | config
    given = dataclasses.replace(spec, engine="influence", config=chosen, out=out)
    outcome = run_engine(resolve("influence", chosen), given)
    assert outcome["outcome"] == "done", outcome["refusal"]
    return outcome


def step_of(spec: UnlearnSpec, engine: Influence) -> _Step:
    job, task = read_job(spec), load(spec.anchor)
    prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
    assert isinstance(prepared, Prepared)
    return _Step(engine, job, task, prepared)


def test_the_signed_step_by_hand() -> None:
    """q = retain - forget = -.2, 0, 2e-8: -.001 q / (|q| + 1e-8) is .001, 0 and two thirds of -.001."""
    forget, retain = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.3, 0.25, 2e-8])
    found = signed(forget, retain, rate=0.001)
    assert found.tolist() == pytest.approx([0.001, 0.0, -0.002 / 3], abs=1e-9)


def test_it_is_one_fresh_step_of_adam_as_released(by_heart: UnlearnSpec, tmp_path: Path) -> None:
    """Over *all* retained records: torch's own Adam on CE(retain) - CE(forget), each one batch, is the oracle."""
    run(by_heart, tmp_path / "out", form="sign", rate="0.001", curvature_records=2)
    delta = Delta.load(tmp_path / "out" / "delta.safetensors").tensors
    job, task = read_job(by_heart), CausalLM.load(by_heart.anchor)

    def entropy(keys: Sequence[str]) -> Tensor:
        nll, tokens = task.nll(task.collate([task.encode(job.records[key], tokens_max=32) for key in keys]))
        return nll.sum() / tokens.sum()

    before = {name: each.detach().clone() for name, each in task.parameters().items()}
    adam = torch.optim.Adam(list(task.parameters().values()), lr=0.001)
    (entropy(by_heart.retain) - entropy(job.forget_keys)).backward()  # type: ignore[no-untyped-call]
    adam.step()
    for name, each in task.parameters().items():
        moved = each.detach() - before[name]
        assert each.grad is not None
        told = each.grad.abs() > 1e-5  # of less, rounding decides the sign
        assert torch.allclose(delta[name][told], moved[told], atol=1e-6), name


@pytest.mark.parametrize("form", ["diagonal", "projected", "kfac"])
def test_the_residual_is_taken_off_the_gradient_before_the_curvature(
    by_heart: UnlearnSpec, form: Any
) -> None:
    """P^{-1} is linear: what c takes off is P^{-1} c grad J, J over retained and erased, and twice for 2 c."""
    found = []
    for correction in ("0", "0.5", "1"):
        engine = Influence(
            form=form, rank=4, relinearised=1, curvature_records=8, correction=Decimal(correction)
        )
        step = step_of(by_heart, engine)
        if form == "kfac":
            moments = step.moments()
            assert isinstance(moments, Moments)
            step.factors = Factors(step.task, moments)
        found.append(step._path(2.0)[0])
    none, half, whole = found
    assert any(not torch.allclose(none[name], half[name], rtol=1e-3) for name in none)
    for name, each in none.items():
        off = whole[name] - each
        assert torch.allclose(half[name] - each, off / 2, rtol=1e-3, atol=1e-3 * float(off.abs().max())), name


@pytest.mark.parametrize("form", ["projected", "kfac"])
def test_a_step_of_chosen_matrices_moves_no_others(by_heart: UnlearnSpec, tmp_path: Path, form: str) -> None:
    run(by_heart, tmp_path / "out", form=form, rank=4, relinearised=2, matrices="mlp_outputs")
    delta = Delta.load(tmp_path / "out" / "delta.safetensors").tensors
    moved = {name for name, each in delta.items() if bool(each.any())}
    assert any(name.endswith("mlp.c_proj.weight") for name in moved)
    assert all("mlp.c_proj" in name for name in moved)
