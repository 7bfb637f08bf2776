"""Every approximate engine on one small world: each forgets something, repeats itself, says what it is."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.unlearning import checkpoints
from workers.unlearning.data import read_records
from workers.unlearning.engines import ENGINES, resolve
from workers.unlearning.engines.base import run_engine
from workers.unlearning.engines.dampening import dampened, importance
from workers.unlearning.engines.gradient import salient
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted

LOOSE: dict[str, Any] = {"retain_rise_max": "10", "steps_max": 6, "check_every": 3, "rate_share": "0.3"}
AWAY = LOOSE | {"forget_weight": "1"}
EVERY: list[tuple[str, dict[str, Any]]] = [
    *[("gradient", AWAY | {"mode": mode}) for mode in ("match", "bounded", "npo", "simnpo", "ihl", "max_entropy", "grad_diff", "ga_kl")],
    ("gradient", AWAY | {"scope": "lora", "rank": 4}),
    ("gradient", AWAY | {"scope": "embeddings"}),
    ("gradient", AWAY | {"quant_noise": "int4"}),
    ("gradient", AWAY | {"mask": "saliency"}),
    ("gradient", AWAY | {"skip_forgotten": True}),
    ("gradient", AWAY | {"project": True}),
    ("gradient", AWAY | {"steps": "natural", "stir_every": 4}),
    ("influence", {"refuses_unreached": False, "rank": 4, "divergence_max": "1"}),
    ("influence", {"refuses_unreached": False, "form": "diagonal", "relinearised": 1, "curvature_records": 8}),
    ("influence", {"refuses_unreached": False, "form": "sign", "rate": "0.003"}),
    ("dampening", {"alpha": "1"}),
    ("extrapolate", {"retain_rise_max": "10", "steps": 4}),
    ("extrapolate", {"retain_rise_max": "10", "steps": 4, "kind": "memorise"}),
    ("extrapolate", {"retain_rise_max": "10", "kind": "first_epoch"}),
    ("scrub", AWAY),
    ("l1_sparse", LOOSE),
    ("rmu", AWAY | {"hold": "1"}),
]  # fmt: skip


def run(spec: UnlearnSpec, out: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    given = dataclasses.replace(spec, engine=name, config=config, out=out)
    return run_engine(resolve(name, config), given)


def forget_loss(spec: UnlearnSpec, directory: Path) -> float:
    task, records = CausalLM.load(directory), read_records(spec.records)
    examples = [task.encode(records[key], tokens_max=32) for key in spec.forget[0].keys]
    with torch.no_grad():
        return float(task.nll(task.collate(examples))[0].sum())


@pytest.mark.parametrize(
    ("name", "config"),
    EVERY,
    ids=lambda each: each if isinstance(each, str) else "-".join(map(str, list(each.items())[-1])),
)
def test_what_goes_is_less_known_and_the_candidate_is_anchor_plus_delta(
    small: UnlearnSpec, tmp_path: Path, name: str, config: dict[str, Any]
) -> None:  # fmt: skip
    outcome = run(small, tmp_path / "out", name, config)
    assert outcome["outcome"] == "done", outcome["refusal"]
    assert outcome["guarantee"] == "approximate"
    assert outcome["aim"] == outcome["statement"]["aim"] == ENGINES[name].aim
    assert outcome["records_processed"] > 0
    if name != "l1_sparse":  # it never looks at the forget set
        assert forget_loss(small, tmp_path / "out" / "model") > forget_loss(small, small.anchor)
    checkpoints.compose(small.anchor, [tmp_path / "out" / "delta.safetensors"], tmp_path / "sum")
    composed, made = (path / "model.safetensors" for path in (tmp_path / "sum", tmp_path / "out" / "model"))
    assert checkpoints.digest(composed) == checkpoints.digest(made)


@pytest.mark.parametrize("mode", ["grad_diff", "max_entropy", "ga_kl"])
def test_what_only_pushes_away_stops_on_both_sides(by_heart: UnlearnSpec, tmp_path: Path, mode: str) -> None:
    """Left to itself it goes on once a step has jumped over the band; it ends inside, or just above."""
    harsh = {"mode": mode, "steps_max": 12, "check_every": 4, "rate_share": "1", "forget_weight": "2"}
    outcome = run(by_heart, tmp_path / "out", "gradient", harsh | {"retain_rise_max": "1000"})
    told = outcome["telemetry"]
    assert told["below_band"] == 0
    assert 0 < float(told["share_of_change"]) < 1
    assert float(told["off_band"]) < 0.5
    assert forget_loss(by_heart, tmp_path / "out" / "model") > forget_loss(by_heart, by_heart.anchor)


def test_what_only_hides_says_so() -> None:
    hiding = {name for name, each in ENGINES.items() if each.aim == "suppression"}
    assert hiding == {"rmu", "pseudo_inverse", "redirection", "projection"}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gradient", AWAY | {"scope": "lora", "rank": 4}),
        ("gradient", AWAY | {"mask": "saliency", "quant_noise": "int4"}),
        ("gradient", AWAY | {"project": True}),
        ("gradient", AWAY | {"steps": "natural", "stir_every": 4}),
        ("scrub", AWAY | {"forget_steps": 4}),
        ("rmu", AWAY | {"hold": "1"}),
    ],
)
def test_stopped_and_resumed_is_unbroken(
    small: UnlearnSpec, tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    run(small, tmp_path / "whole", name, config)
    asked = iter([False, False, False, True])
    given = dataclasses.replace(small, engine=name, config=config, out=tmp_path / "broken")
    with pytest.raises(Interrupted):
        run_engine(resolve(name, config), given, stop=lambda: next(asked))
    run_engine(resolve(name, config), given)
    whole, broken = (tmp_path / each / "model" / "model.safetensors" for each in ("whole", "broken"))
    assert checkpoints.digest(whole) == checkpoints.digest(broken)


def test_one_step_is_the_same_step_twice(small: UnlearnSpec, tmp_path: Path) -> None:
    config = {"refuses_unreached": False, "rank": 4}
    for out in ("a", "b"):
        run(small, tmp_path / out, "influence", config)
    first, second = (tmp_path / out / "model" / "model.safetensors" for out in ("a", "b"))
    assert checkpoints.digest(first) == checkpoints.digest(second)


def test_what_a_mask_leaves_out_is_frozen_to_the_bit(small: UnlearnSpec, tmp_path: Path) -> None:
    run(small, tmp_path / "out", "gradient", AWAY | {"mask": "saliency"})
    delta = checkpoints.Delta.load(tmp_path / "out" / "delta.safetensors").tensors
    moved = sum(int((each != 0).sum()) for each in delta.values())
    assert 0 < moved <= sum(each.numel() for each in delta.values()) * 0.5 + 1


def test_a_low_rank_change_is_of_low_rank(small: UnlearnSpec, tmp_path: Path) -> None:
    run(small, tmp_path / "out", "gradient", AWAY | {"scope": "lora", "rank": 2})
    delta = checkpoints.Delta.load(tmp_path / "out" / "delta.safetensors").tensors
    changed = {name: each for name, each in delta.items() if bool(each.any())}
    assert changed
    assert all(int(torch.linalg.matrix_rank(each, rtol=1e-3)) <= 2 for each in changed.values())
    assert not any("wte" in name or "ln" in name for name in changed)


def test_a_saliency_mask_takes_the_larger_half_over_all_tensors() -> None:
    found = salient({"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.1, 3.0])}, share=0.5)
    assert found["a"].tolist() == [False, True]
    assert found["b"].tolist() == [False, True]


def test_dampening_by_hand() -> None:
    """F_S = 8, 8, 1; F_D = 1, .5, 1; alpha 10: only .5 * 10 < 8 is shrunk, to .5 / 8."""
    needs, rest = torch.tensor([8.0, 8.0, 1.0]), torch.tensor([1.0, 0.5, 1.0])
    assert dampened(needs, rest, alpha=10, strength=1).tolist() == pytest.approx([1, 0.0625, 1])
    assert dampened(needs, rest, alpha=10, strength=32).tolist() == pytest.approx([1, 1, 1])


def test_importance_is_of_single_records_however_they_come(small: UnlearnSpec) -> None:
    """The square of a batch's mean gradient would differ; of one record the two agree."""
    task, records = CausalLM.load(small.anchor), read_records(small.records)
    examples = {key: task.encode(records[key], tokens_max=32) for key in small.retain[:2]}
    one, other = ({n: t.double() for n, t in importance(task, examples, [key]).items()} for key in examples)
    both = importance(task, examples, list(examples))
    for name, each in both.items():
        assert torch.allclose(each.double(), (one[name] + other[name]) / 2, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"records_max": 1}, "forget_set_too_large"),
        ({"divergence_max": "0.0000000001", "rank": 4}, "target_unreachable"),
    ],
)
def test_influence_refuses_what_one_step_cannot_do(
    small: UnlearnSpec, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    refused = run(small, tmp_path / "out", "influence", config)
    assert refused["refusal"]["reason"] in {reason, "prediction_off"}
    assert not (tmp_path / "out" / "model").exists()
