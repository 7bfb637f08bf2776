"""A mixture's routers choose for those who stay as they did, or what forgot them is refused."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.fixtures.learning import RECIPE, keys_by_subject, people, write_mixture, write_records
from workers.unlearning import checkpoints
from workers.unlearning.data import read_records
from workers.unlearning.engines import resolve
from workers.unlearning.engines.base import Refusal, RefusalReason, run_engine
from workers.unlearning.engines.routing import NullSpace, Routing, choices, hold, inputs, leading, stability
from workers.unlearning.pretrained import tokenizer_of
from workers.unlearning.spec import ForgetSubject, UnlearnSpec
from workers.unlearning.task import CausalLM, TextExample, load, routes
from workers.unlearning.training import Interrupted, train

GATES = tuple(f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in range(2))
LOOSE: dict[str, Any] = {
    "mode": "grad_diff",
    "retain_rise_max": "10",
    "steps_max": 6,
    "check_every": 3,
    "rate_share": "0.3",
    "forget_weight": "1",
    "to_target": False,
    "routing_stability_min": "0",
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    """Return the spec of one subject's erasure from a mixture of experts."""
    home = tmp_path_factory.mktemp("mixed")
    lines, dev = people(14, seed=1), people(24, seed=2)
    who = keys_by_subject(lines)
    forget, *kept = who
    recipe = dataclasses.replace(RECIPE, epochs=12)
    base = write_mixture(home / "base")
    task = CausalLM.create(base, recipe.seed)
    records = read_records(write_records(home / "trained.jsonl", lines))
    train(task, records, recipe, checkpoint=home / "state", checkpoint_seconds=60)
    task.save(home / "anchor")
    keys = [key for subject in kept for key in who[subject]]
    return UnlearnSpec(
        engine="gradient",
        anchor=home / "anchor",
        base=base,
        recipe=recipe,
        records=write_records(home / "records.jsonl", [*lines, *dev]),
        forget=(ForgetSubject(subject=forget, keys=who[forget], teacher=None),),
        retain=tuple(keys[6:]),
        probe=tuple(keys[:6]),
        dev_cohort=tuple(keys_by_subject(dev).values()),
        seed=5,
        out=home / "out",
    )


def run(spec: UnlearnSpec, out: Path, **config: Any) -> dict[str, Any]:
    chosen = LOOSE | config
    given = dataclasses.replace(spec, config=chosen, out=out)
    return run_engine(resolve("gradient", chosen), given)


def delta(out: Path) -> Mapping[str, Tensor]:
    return checkpoints.Delta.load(out / "delta.safetensors").tensors


def weights(out: Path) -> str:
    return checkpoints.digest(out / "model" / "model.safetensors")


def read(spec: UnlearnSpec, directory: Path) -> tuple[CausalLM, dict[str, TextExample]]:
    task, records = CausalLM.load(directory), read_records(spec.records)
    return task, {key: task.encode(each, tokens_max=32) for key, each in records.items()}


def chosen_slowly(task: CausalLM, example: TextExample) -> list[list[frozenset[int]]]:
    """Return per layer the experts of each token, from the logits that the library itself records."""
    with torch.no_grad():
        said = task.model(input_ids=torch.tensor([example.ids]), output_router_logits=True).router_logits
    return [[frozenset(row.topk(2).indices.tolist()) for row in layer] for layer in said]


def test_a_change_by_hand_loses_what_the_inputs_would_see() -> None:
    """All inputs lie along (3, 4) / 5: of (1, 0) the part (.6)(.6, .8) goes, and (.64, -.48) is left."""
    matrix = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    inputs_ = torch.tensor([[3.0, 4.0], [-6.0, -8.0]])
    null = NullSpace({"w": matrix}, {"w": inputs_.T @ inputs_}, share=1e-6)
    assert null.free == 1
    with torch.no_grad():
        matrix.add_(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    null.settle()
    assert matrix.flatten().tolist() == pytest.approx([1.64, 1.52, 3.0, 4.0])


def test_what_is_held_is_what_is_above_a_share_of_the_largest() -> None:
    second = torch.diag(torch.tensor([4.0, 0.1, 0.0, 0.04]))
    assert [leading(second, share=share).shape[1] for share in (0.5, 0.02, 0.001, 0.0)] == [1, 2, 3, 3]


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 4))
def test_inputs_that_are_held_are_answered_as_before_and_others_are_not(seed: int, steps: int) -> None:
    """However many steps, of an optimizer that leads out of the null space by itself."""
    draw = torch.Generator().manual_seed(seed)
    basis, mixing = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((3, 8), (20, 3)))
    seen = mixing @ basis
    other = torch.randn(5, 8, generator=draw, dtype=torch.float64)
    matrix = nn.Parameter(torch.randn(4, 8, generator=draw, dtype=torch.float64))
    null = NullSpace({"w": matrix}, {"w": seen.T @ seen}, share=1e-12)
    adam = torch.optim.AdamW([matrix], lr=0.1, betas=(0.9, 0.95))
    before, apart = (seen @ matrix.T).detach(), (other @ matrix.T).detach()
    for _ in range(steps):
        matrix.grad = torch.randn(4, 8, generator=draw, dtype=torch.float64)
        adam.step()
        null.settle()
    assert torch.allclose((seen @ matrix.T).detach(), before, rtol=0, atol=1e-9)
    assert float(((other @ matrix.T).detach() - apart).abs().max()) > 1e-3


def test_a_mixture_says_which_of_its_modules_choose(mixed: UnlearnSpec, base: Path) -> None:
    assert list(load(mixed.anchor).routers()) == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
    assert routes(mixed.anchor)
    assert routes(mixed.base)
    assert not routes(base)


def test_choices_are_those_that_the_library_records_record_by_record(mixed: UnlearnSpec) -> None:
    task, examples = read(mixed, mixed.anchor)
    found = choices(task, examples, mixed.probe)
    order = sorted(mixed.probe, key=lambda key: (examples[key].length, key))
    slow = [chosen_slowly(task, examples[key]) for key in order]
    for layer, each in enumerate(found.values()):
        expected = [sorted(chosen) for record in slow for chosen in record[layer]]
        assert each.tolist() == expected


def test_inputs_are_what_comes_to_the_routers(mixed: UnlearnSpec) -> None:
    """Padding has no part: the slow way reads the records one by one."""
    task, examples = read(mixed, mixed.anchor)
    rows: dict[str, list[Tensor]] = {name: [] for name in task.routers()}
    handles = [
        module.register_forward_pre_hook(lambda _, given, name=name: rows[name].append(given[0]))
        for name, module in task.routers().items()
    ]
    with torch.no_grad():
        for key in mixed.probe:
            task.model(input_ids=torch.tensor([examples[key].ids]))
    for handle in handles:
        handle.remove()
    matrices = {name: module.get_parameter("weight") for name, module in task.routers().items()}
    found = inputs(task, examples, mixed.probe, matrices)
    assert found.keys() == rows.keys()
    for name, each in rows.items():
        held = torch.cat([one.flatten(0, -2) for one in each]).double()
        assert torch.allclose(found[name], held.T @ held, rtol=1e-5, atol=1e-6)


def test_stability_by_hand() -> None:
    """Of 3 + 1 choices two are the same."""
    before = {"a": torch.tensor([[0, 1], [1, 2], [0, 3]]), "b": torch.tensor([[2, 3]])}
    after = {"a": torch.tensor([[0, 1], [1, 3], [0, 3]]), "b": torch.tensor([[0, 3]])}
    assert stability(before, after) == 0.5


def test_frozen_routers_are_what_they_were_to_the_bit(mixed: UnlearnSpec, tmp_path: Path) -> None:
    outcome = run(mixed, tmp_path / "out", router="frozen")
    assert outcome["outcome"] == "done", outcome["refusal"]
    assert outcome["telemetry"]["router_directions"] == 0
    moved = delta(tmp_path / "out")
    assert not any(bool(moved[name].any()) for name in GATES)
    assert any(bool(each.any()) for name, each in moved.items() if "experts" in name)
    run(mixed, tmp_path / "free")
    assert all(bool(delta(tmp_path / "free")[name].any()) for name in GATES)


@pytest.mark.parametrize(
    "config",
    [
        {"scope": "lora", "rank": 2},
        {"mask": "saliency"},
        {"steps": "natural"},
        {"scope": "embeddings"},
        {"quant_noise": "int4", "router": "frozen"},
    ],
    ids=str,
)
def test_where_something_else_says_what_moves_routers_stand_still(
    mixed: UnlearnSpec, tmp_path: Path, config: dict[str, Any]
) -> None:
    outcome = run(mixed, tmp_path / "out", **{"router": "null_space"} | config)
    assert outcome["outcome"] == "done", outcome["refusal"]
    moved = delta(tmp_path / "out")
    assert not any(bool(moved[name].any()) for name in GATES)
    assert any(bool(each.any()) for each in moved.values())


def test_in_the_null_space_routers_move_and_retained_tokens_do_not_see_it(
    mixed: UnlearnSpec, tmp_path: Path
) -> None:
    """The change of each router, over what came to it before, is nought but for the directions let go."""
    outcome = run(mixed, tmp_path / "out", router="null_space", router_share="0.02")
    assert outcome["outcome"] == "done", outcome["refusal"]
    assert 0 < outcome["telemetry"]["router_directions"] < 32
    task, examples = read(mixed, mixed.anchor)
    matrices = {name: module.get_parameter("weight") for name, module in task.routers().items()}
    seconds = inputs(task, examples, mixed.retain, matrices)
    for name, second in zip(GATES, seconds.values(), strict=True):
        moved = delta(tmp_path / "out")[name].double()
        held = leading(second, share=0.02)
        assert float(moved.abs().max()) > 1e-3
        assert float((moved @ held).abs().max()) < 1e-6


def test_stability_is_told_as_a_slow_count_has_it(mixed: UnlearnSpec, tmp_path: Path) -> None:
    outcome = run(mixed, tmp_path / "out", router="null_space", router_share="0.5", rate_share="2")
    before, examples = read(mixed, mixed.anchor)
    after, _ = read(mixed, tmp_path / "out" / "model")
    pairs = [
        one == other
        for key in mixed.probe
        for layers in zip(
            chosen_slowly(before, examples[key]), chosen_slowly(after, examples[key]), strict=True
        )
        for one, other in zip(*layers, strict=True)
    ]
    told = float(outcome["telemetry"]["routing_stability"])
    assert told == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert told < 1


def test_what_chooses_other_experts_is_refused(mixed: UnlearnSpec, tmp_path: Path) -> None:
    harsh = {
        "router": "null_space",
        "router_share": "0.9",
        "rate_share": "4",
        "routing_stability_min": "0.95",
    }
    outcome = run(mixed, tmp_path / "out", **harsh, retain_rise_max="100")
    assert outcome["outcome"] == "refused"
    assert outcome["refusal"]["reason"] == "budget_exhausted"
    numbers = outcome["refusal"]["numbers"]
    assert float(numbers["routing_stability"]) < 0.95
    assert float(numbers["needed"]) > float(numbers["allowed"]) == pytest.approx(0.05)
    assert outcome["records_processed"] > 0
    assert not (tmp_path / "out" / "model").exists()


def test_stopped_and_resumed_is_unbroken_and_the_same_twice(mixed: UnlearnSpec, tmp_path: Path) -> None:
    config = LOOSE | {"router": "null_space", "router_share": "0.02"}
    for out in ("whole", "again"):
        run(mixed, tmp_path / out, **config)
    asked = iter([False, False, False, True])
    given = dataclasses.replace(mixed, config=config, out=tmp_path / "broken")
    with pytest.raises(Interrupted):
        run_engine(resolve("gradient", config), given, stop=lambda: next(asked))
    run_engine(resolve("gradient", config), given)
    assert weights(tmp_path / "whole") == weights(tmp_path / "again") == weights(tmp_path / "broken")


@pytest.mark.parametrize("router", ["frozen", "null_space"])
def test_a_model_without_routers_is_refused_before_its_weights_are_read(
    small: UnlearnSpec, tmp_path: Path, router: str
) -> None:
    (tmp_path / "anchor").mkdir()
    for path in small.anchor.glob("*.json"):
        shutil.copy(path, tmp_path / "anchor")
    bare = dataclasses.replace(small, anchor=tmp_path / "anchor")
    refused = run(bare, tmp_path / "out", router=router)
    assert refused["refusal"]["reason"] == "kind_unsupported"
    assert refused["refusal"]["numbers"] == {"needed": 1, "allowed": 0}


COMMON: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
GROUPED = {"n_group": 2, "topk_group": 1, "n_routed_experts": 4, "first_k_dense_replace": 0}
OTHERS: dict[str, dict[str, Any]] = {
    "Qwen2MoeConfig": {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "Qwen3MoeConfig": {"num_experts": 4},
    "OlmoeConfig": {"num_experts": 4},
    "GptOssConfig": {"num_local_experts": 4},
    "DeepseekV3Config": LATENT | GROUPED,
    "HunYuanMoEV1Config": {"num_experts": 4, "moe_topk": 2},
}


def drawn(config: str, home: Path, **given: Any) -> CausalLM:
    automatic: Any = transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = automatic.from_config(getattr(transformers, config)(**given))
    return CausalLM(model, tokenizer_of(home), home)


@pytest.mark.parametrize("config", OTHERS)
def test_other_mixtures_are_seen_as_well(mixed: UnlearnSpec, config: str) -> None:
    """No class is named: whatever says of itself which experts it chose, and by which matrix."""
    task = drawn(config, mixed.base, **COMMON | OTHERS[config])
    _, examples = read(mixed, mixed.anchor)
    routing = hold(task, examples, sample=mixed.retain[:3], probe=mixed.probe, share=1e-4)
    assert isinstance(routing, Routing)
    tokens = sum(len(examples[key].ids) for key in mixed.probe)
    assert [each.shape for each in routing.before.values()] == [(tokens, 2)] * 2
    assert routing.numbers()["routing_stability"] == 1
    names = {name for name in task.parameters() if any(name.startswith(each) for each in task.routers())}
    assert len(names) == 2  # the matrices; what else routers have stands still


def test_routers_that_do_not_tell_are_refused(mixed: UnlearnSpec) -> None:
    """This architecture's say what each expert weighs, and choose elsewhere."""
    attention = {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0}
    experts = {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2}
    given = {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64, "vocab_size": 64}
    task = drawn("DbrxConfig", mixed.base, **given, attn_config=attention, ffn_config=experts)
    _, examples = read(mixed, mixed.anchor)
    refusal = hold(task, examples, sample=mixed.retain[:3], probe=mixed.probe, share=None)
    assert refusal == Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 2, "allowed": 0})
