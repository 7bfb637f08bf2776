"""Which neurons speak for whom: completeness, a ranking by hand, and what silence costs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.fixtures.kinds import WORLDS, write_convolutions
from tests.fixtures.learning import keys_by_subject, write_records
from workers.unlearning import task as tasks
from workers.unlearning.checkpoints import Delta, digest
from workers.unlearning.curvature import mlp_outputs
from workers.unlearning.data import read_records
from workers.unlearning.engines import resolve
from workers.unlearning.engines.ablation import attributions, first, gated, silence
from workers.unlearning.engines.base import run_engine
from workers.unlearning.spec import ForgetSubject, UnlearnSpec
from workers.unlearning.task import CausalLM, Kind

TURNED = Conv1D(2, 3)  # type: ignore[no-untyped-call]


def run(spec: UnlearnSpec, out: Path, **config: Any) -> dict[str, Any]:
    given = dataclasses.replace(spec, engine="ablation", config=config, out=out)
    return run_engine(resolve("ablation", config), given)


def losses(spec: UnlearnSpec, directory: Path, keys: tuple[str, ...]) -> float:
    """Return nats per token."""
    task, records = CausalLM.load(directory), read_records(spec.records)
    with torch.no_grad():
        nll, tokens = task.nll(task.collate([task.encode(records[key], tokens_max=32) for key in keys]))
    return float(nll.sum() / tokens.sum())


def test_what_an_mlp_ends_in_is_told_by_shape() -> None:
    matrices = {
        "attention": nn.Linear(4, 4),
        "narrow key": nn.Linear(4, 2),
        "up": nn.Linear(4, 16),
        "down": nn.Linear(16, 4),
    }
    assert list(mlp_outputs(matrices, head=None)) == ["down"]
    assert not mlp_outputs({"square": nn.Linear(4, 4)}, head=None)
    head = nn.Sequential(nn.Flatten(), nn.Linear(99, 2))
    assert list(mlp_outputs(matrices | {"head.1": head[1]}, head=head)) == ["down"]
    assert not mlp_outputs({}, head=None)


def test_the_first_neurons_by_hand() -> None:
    """Of six, at most half; and none that does not speak for who goes more than for who stays."""
    scores = {"a": torch.tensor([0.5, -1.0, 3.0]), "b": torch.tensor([0.0, 2.0, -4.0])}
    half = first(scores, share=0.5)
    assert half["a"].tolist() == [True, False, True]
    assert half["b"].tolist() == [False, True, False]
    everything = first(scores, share=1.0)
    assert everything["a"].tolist() == [True, False, True]
    assert everything["b"].tolist() == [False, True, False]
    assert not first(scores, share=0.1)["a"].any()


@pytest.mark.parametrize("points", [1, 48])
def test_attributions_add_up_to_what_all_neurons_give(by_heart: UnlearnSpec, points: int) -> None:
    """Completeness, exact in the limit of many points; one point is the gradient times the activation."""
    task, records = CausalLM.load(by_heart.anchor), read_records(by_heart.records)
    keys = [*by_heart.forget[0].keys, *by_heart.retain[:2]]
    examples = {key: task.encode(records[key], tokens_max=20 + n) for n, key in enumerate(keys)}
    matrices = mlp_outputs(task.linears(), head=task.head)
    (name,) = matrices
    found = attributions(task, examples, keys, matrices, points=points)[name]
    assert found.shape == (len(keys), 128)
    if points == 1:
        for row, key in enumerate(keys):
            kept: list[torch.Tensor] = []
            hook = matrices[name].register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0]))
            nll, tokens = task.nll(task.collate([examples[key]]))
            hook.remove()
            (slope,) = torch.autograd.grad(-(nll / tokens).sum(), kept)
            slow = (slope * kept[0]).sum((0, 1)).double()
            assert torch.allclose(found[row], slow, atol=1e-5)
        return
    batch = task.collate([examples[key] for key in keys])
    with torch.no_grad():
        whole, tokens = task.nll(batch)
        with gated(matrices, {name: torch.zeros(len(keys), 128)}):
            without, _ = task.nll(batch)
    gives = ((without - whole) / tokens).double()
    assert torch.allclose(found.sum(1), gives, atol=0.02 * float(gives.abs().max()))


@pytest.mark.parametrize("module", [nn.Linear(3, 2), TURNED], ids=["plain", "turned"])
def test_silence_is_a_gate_that_is_shut(module: nn.Module) -> None:
    torch.manual_seed(0)
    inputs, shut = torch.randn(5, 3), torch.tensor([False, True, False])
    with gated({"m": module}, {"m": (~shut).float().expand(5, 3)}):
        expected = module(inputs)
    silence(module, shut)
    assert torch.allclose(module(inputs), expected)


def test_what_goes_is_less_known_by_neurons_that_others_need_less(
    by_heart: UnlearnSpec, tmp_path: Path
) -> None:
    outcome = run(by_heart, tmp_path / "a", share="0.3")
    assert outcome["outcome"] == "done"
    assert outcome["aim"] == outcome["statement"]["aim"] == "erasure"
    assert 0 < int(outcome["telemetry"]["silenced"]) <= 0.3 * int(outcome["telemetry"]["neurons"])
    made, gone, kept = tmp_path / "a" / "model", by_heart.forget[0].keys, by_heart.retain
    rise = losses(by_heart, made, gone) - losses(by_heart, by_heart.anchor, gone)
    cost = losses(by_heart, made, kept) - losses(by_heart, by_heart.anchor, kept)
    assert rise > 0.3
    assert cost < 0.6 * rise
    run(by_heart, tmp_path / "b", share="0.3")
    assert digest(made / "model.safetensors") == digest(tmp_path / "b" / "model" / "model.safetensors")
    delta = Delta.load(tmp_path / "a" / "delta.safetensors").tensors
    moved = {name: each for name, each in delta.items() if bool(each.any())}
    assert [name.endswith("mlp.c_proj.weight") for name in moved] == [True]
    (rows,) = moved.values()
    assert int(rows.any(1).sum()) == int(outcome["telemetry"]["silenced"])


def untrained(kind: Kind, home: Path, **other: Any) -> UnlearnSpec:
    """Return the spec of one subject's erasure from a model that has learned nothing."""
    world = dataclasses.replace(WORLDS[kind], **other)
    base = world.write_base(home / "base")
    tasks.create(base, 3).save(home / "anchor")
    lines, dev = world.people(8, 1, True), world.people(20, 2, False)  # noqa: FBT003
    (subject, gone), *kept = keys_by_subject(lines).items()
    keys = [key for _, each in kept for key in each]
    return UnlearnSpec(
        engine="ablation",
        anchor=home / "anchor",
        base=base,
        recipe=world.recipe,
        records=write_records(home / "records.jsonl", [*lines, *dev]),
        forget=(ForgetSubject(subject=subject, keys=gone, teacher=None),),
        retain=tuple(keys[4:]),
        probe=tuple(keys[:4]),
        dev_cohort=tuple(keys_by_subject(dev).values()),
        seed=5,
        out=home / "out",
    )


def test_a_model_without_such_neurons_is_refused(tmp_path: Path) -> None:
    """The head of a residual network is its only matrix, and ends no MLP."""
    spec = untrained("image_classifier", tmp_path, write_base=write_convolutions)
    for name in ("ablation", "projection"):
        given = dataclasses.replace(spec, engine=name, out=tmp_path / name)
        outcome = run_engine(resolve(name, {}), given)
        assert outcome["refusal"]["reason"] == "kind_unsupported"


@pytest.mark.parametrize("kind", ["sequence_classifier", "image_classifier"])
def test_any_kind_with_mlps_can_be_ablated_and_edited(tmp_path: Path, kind: Kind) -> None:
    spec = untrained(kind, tmp_path)
    for name in ("ablation", "pseudo_inverse", "redirection", "projection"):
        config: dict[str, Any] = {"share": "0.2"} if name == "ablation" else {}
        given = dataclasses.replace(spec, engine=name, config=config, out=tmp_path / name)
        outcome = run_engine(resolve(name, config), given)
        assert outcome["outcome"] == "done", outcome["refusal"]
        assert float(outcome["telemetry"]["delta_norm"]) > 0
