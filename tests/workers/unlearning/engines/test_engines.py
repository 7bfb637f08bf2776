"""Both engines on a world that is learned in a second: exactness, determinism, resumption, refusals."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.learning import RECIPE as SHORT
from tests.fixtures.learning import keys_by_subject, people, write_records
from workers.unlearning import checkpoints
from workers.unlearning import spec as specs
from workers.unlearning.__main__ import main
from workers.unlearning.data import read_records
from workers.unlearning.engines import descent, resolve
from workers.unlearning.engines.base import read_job, run_engine
from workers.unlearning.engines.gradient import Gradient
from workers.unlearning.kronecker import CURVATURE, Moments
from workers.unlearning.spec import ForgetSubject, PrepareSpec, Recipe, UnlearnSpec
from workers.unlearning.task import CausalLM
from workers.unlearning.training import Interrupted, train

import torch  # isort: skip
from torch.nn import functional

RECIPE = dataclasses.replace(SHORT, epochs=16)
LINES = people(14, seed=1)
DEV = people(24, seed=2)
WHO = keys_by_subject(LINES)
FORGET, *KEPT = WHO


def learned(base: Path, records: Path, out: Path) -> Path:
    task = CausalLM.create(base, RECIPE.seed)
    train(task, read_records(records), RECIPE, checkpoint=out.with_suffix(".state"), checkpoint_seconds=60)
    task.save(out)
    return out


@pytest.fixture(scope="module")
def spec(base: Path, tmp_path_factory: pytest.TempPathFactory) -> UnlearnSpec:
    """Return the spec of one subject's erasure: an anchor, and a reference that never saw them."""
    home = tmp_path_factory.mktemp("world")
    kept = [line for line in LINES if line["subject"] != FORGET]
    anchor = learned(base, write_records(home / "trained.jsonl", LINES), home / "anchor")
    reference = learned(base, write_records(home / "half.jsonl", kept[: len(kept) // 2]), home / "reference")
    keys = [key for subject in KEPT for key in WHO[subject]]
    return UnlearnSpec(
        engine="gradient",
        anchor=anchor,
        base=base,
        recipe=RECIPE,
        references={"0": reference},
        records=write_records(home / "records.jsonl", [*LINES, *DEV]),
        forget=(ForgetSubject(subject=FORGET, keys=WHO[FORGET], teacher="0"),),
        retain=tuple(keys[4:]),
        probe=tuple(keys[:4]),
        dev_cohort=tuple(keys_by_subject(DEV).values()),
        seed=5,
        out=home / "out",
    )


def run(spec: UnlearnSpec, out: Path, name: str = "gradient", **config: Any) -> dict[str, Any]:
    given = dataclasses.replace(spec, engine=name, config=config, out=out)
    return run_engine(resolve(name, config), given)


def digest(out: Path) -> str:
    return checkpoints.digest(out / "model" / "model.safetensors")


def test_retraining_is_never_having_had_the_records(spec: UnlearnSpec, base: Path, tmp_path: Path) -> None:
    outcome = run(spec, tmp_path / "out", "retrain")
    assert (outcome["outcome"], outcome["guarantee"]) == ("done", "exact")
    never = write_records(tmp_path / "never.jsonl", [line for line in LINES if line["subject"] != FORGET])
    oracle = learned(base, never, tmp_path / "oracle")
    assert digest(tmp_path / "out") == checkpoints.digest(oracle / "model.safetensors")
    assert digest(tmp_path / "out") != checkpoints.digest(spec.anchor / "model.safetensors")


def test_the_same_parent_forget_set_and_seed_give_the_same_digest(spec: UnlearnSpec, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"steps_max": 6, "check_every": 3, "retain_rise_max": "10"}
    first, second = (run(spec, tmp_path / name, **quick) for name in ("a", "b"))
    assert first["outcome"] == second["outcome"] == "done"
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    other = dataclasses.replace(spec, seed=6)
    run(other, tmp_path / "c", **quick)
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


@pytest.mark.parametrize("stopped_after", [1, 4])
def test_stopped_and_resumed_is_unbroken(spec: UnlearnSpec, tmp_path: Path, stopped_after: int) -> None:
    quick: dict[str, Any] = {"steps_max": 6, "check_every": 3, "retain_rise_max": "10"}
    run(spec, tmp_path / "whole", **quick)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stopped_after + 1

    given = dataclasses.replace(spec, config=quick, out=tmp_path / "broken")
    with pytest.raises(Interrupted):
        run_engine(resolve("gradient", quick), given, stop=stop)
    run_engine(resolve("gradient", quick), given)
    assert digest(tmp_path / "broken") == digest(tmp_path / "whole")


def test_the_candidate_is_the_anchor_plus_the_delta(spec: UnlearnSpec, tmp_path: Path) -> None:
    run(spec, tmp_path / "out", steps_max=6, check_every=3, retain_rise_max="10")
    checkpoints.compose(spec.anchor, [tmp_path / "out" / "delta.safetensors"], tmp_path / "sum")
    assert checkpoints.digest(tmp_path / "sum" / "model.safetensors") == digest(tmp_path / "out")


def test_what_exceeds_the_budget_is_scaled_back_or_refused(spec: UnlearnSpec, tmp_path: Path) -> None:
    """The change of a few long steps is far above a budget of next to nothing."""
    harsh: dict[str, Any] = {"steps_max": 6, "check_every": 3, "rate_share": "1", "forget_weight": "5"}
    free = run(spec, tmp_path / "free", **harsh, retain_rise_max="1000")
    rise = float(free["telemetry"]["retain_rise"])
    assert rise > 0
    bound = run(spec, tmp_path / "bound", **harsh, retain_rise_max=str(round(rise / 3, 6)))
    assert bound["outcome"] == "done"
    assert float(bound["telemetry"]["retain_rise"]) <= rise / 3
    assert 0 < float(bound["telemetry"]["share_of_change"]) < 1
    nothing = run(spec, tmp_path / "nothing", **harsh, retain_rise_max="-1000")
    assert nothing["refusal"]["reason"] == "budget_exhausted"


def test_nobody_to_forget_is_no_step_and_no_change(spec: UnlearnSpec, tmp_path: Path) -> None:
    """Somebody who was never trained on is in their band from the start."""
    stranger, keys = next(iter(keys_by_subject(DEV).items()))
    never = ForgetSubject(subject=stranger, keys=keys, teacher="0")
    outcome = run(dataclasses.replace(spec, forget=(never,)), tmp_path / "out", band_low="0", band_high="1")
    assert outcome["telemetry"]["steps"] == 0
    assert digest(tmp_path / "out") == checkpoints.digest(spec.anchor / "model.safetensors")


def test_what_the_references_know_as_well_is_not_walked_away_from(
    spec: UnlearnSpec, base: Path, tmp_path: Path
) -> None:
    """Others have said it too: no step brings it where nobody has said it, and each costs those who stay."""
    task = CausalLM.create(base, 4)
    longer = dataclasses.replace(RECIPE, epochs=24)
    train(
        task,
        read_records(write_records(tmp_path / "all.jsonl", LINES)),
        longer,
        checkpoint=tmp_path / "state",
    )
    task.save(tmp_path / "knows")
    shared = dataclasses.replace(spec, references={"0": tmp_path / "knows"})
    outcome = run(shared, tmp_path / "out", band_low="0", band_high="0")
    assert (outcome["telemetry"]["steps"], outcome["telemetry"]["in_band"]) == (0, 0)
    assert digest(tmp_path / "out") == checkpoints.digest(spec.anchor / "model.safetensors")
    assert run(spec, tmp_path / "walked", band_low="0", band_high="0", steps_max=2)["telemetry"]["steps"] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"references": {}}, "references_missing"),
        ({"retain": (), "probe": ()}, "forget_set_too_large"),
        ({"probe": ()}, "retain_unavailable"),
        ({"dev_cohort": ()}, "target_unreachable"),
        ({"forget": tuple(ForgetSubject(subject=s, keys=WHO[s], teacher="0") for s in list(WHO)[:4])}, "forget_set_too_large"),
    ],
)  # fmt: skip
def test_it_refuses_what_it_cannot_do(
    spec: UnlearnSpec, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    refused = run(dataclasses.replace(spec, **change), tmp_path / "out")
    assert refused["outcome"] == "refused"
    assert refused["refusal"]["reason"] == reason
    assert not (tmp_path / "out" / "model").exists()


def test_retraining_needs_the_recipe(spec: UnlearnSpec, tmp_path: Path) -> None:
    refused = run(dataclasses.replace(spec, recipe=None), tmp_path / "out", "retrain")
    assert refused["refusal"]["reason"] == "no_history"


def prepared(spec: UnlearnSpec, out: Path) -> Path:
    """Return the curvature of everybody the anchor was trained on."""
    assert spec.recipe is not None
    trained = write_records(out / "trained.jsonl", LINES)
    given = PrepareSpec(anchor=spec.anchor, recipe=spec.recipe, records=trained, seed=2, out=out)
    (out / "spec.json").write_text(specs.dump(given))
    assert main(["--spec", str(out / "spec.json")]) == specs.EXIT_DONE
    return out / CURVATURE


def test_a_prepared_curvature_is_handed_on_without_the_erased(spec: UnlearnSpec, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"steps_max": 6, "check_every": 3, "retain_rise_max": "10"}
    given = dataclasses.replace(spec, curvature=prepared(spec, tmp_path))
    outcome = run(given, tmp_path / "out", **quick)
    assert outcome["outcome"] == "done"
    (gone,) = spec.forget
    assert given.curvature is not None
    whole, left = Moments.load(given.curvature), Moments.load(tmp_path / "out" / CURVATURE)
    assert set(gone.keys) <= whole.keys
    assert left.keys == whole.keys - set(gone.keys)
    # What is erased left as the anchor knew it, and came back in, without a name, as it is forgotten.
    assert spec.recipe is not None
    records = read_records(spec.records)

    def measured(model: Path) -> Moments:
        task = CausalLM.load(model)
        assert isinstance(spec.recipe, Recipe)
        examples = {key: task.encode(records[key], tokens_max=spec.recipe.tokens_max) for key in gone.keys}
        return Moments.measured(task, examples, seed=whole.seed)

    before, after = measured(spec.anchor), measured(tmp_path / "out" / "model")
    for name, each in left.sums.items():
        wanted = whole.sums[name] - before.sums[name] + Gradient().guard_weight * after.sums[name]
        assert torch.allclose(each, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
    told = [name for name in left.sums if not torch.allclose(before.sums[name], after.sums[name], rtol=1e-2)]
    assert len(told) > len(left.sums) / 2, "before and after can be told apart"


def test_so_many_steps_as_there_is_to_forget_and_to_leave_alone(spec: UnlearnSpec) -> None:
    """By hand: 100 and six for ten records, 180 at most, and where something was erased before; AdamW 190."""
    [person] = spec.forget
    taken, kept = len(person.keys), [each for each in spec.retain if each not in spec.probe]

    def steps(forget: int, engine: Gradient | None = None, *, sealed: bool = False) -> int:
        keys = (*person.keys, *kept)[:forget]
        job = read_job(
            dataclasses.replace(
                spec,
                forget=(dataclasses.replace(person, keys=keys),),
                retain=tuple(each for each in kept if each not in keys),
                sealed=(spec.anchor,) if sealed else (),
            )
        )
        return (engine or Gradient(steps="natural"))._steps(job)

    assert steps(taken) == 100 + taken * 6 // 10
    assert steps(10) == 106
    assert steps(1) == 100
    assert steps(10, sealed=True) == 180
    assert steps(10, Gradient(steps="adam")) == 190
    assert steps(10, Gradient(mode="npo")) == 190
    assert steps(10, Gradient(steps_max=7)) == 7


def test_what_an_earlier_job_erased_stays_where_it_left_it(
    spec: UnlearnSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job moves the forgotten less, by what the curvature says of them that was handed on.

    By that alone: without it steps that are tried out would be shortened more.
    """
    monkeypatch.setattr(descent, "CREDIT", math.inf)
    # Short steps: what long ones do is beyond any curvature.
    quick: dict[str, Any] = {"steps_max": 24, "step_divergence": "0.00001"}
    quick |= {"check_every": 8, "retain_rise_max": "10"}
    first = dataclasses.replace(spec, curvature=prepared(spec, tmp_path))
    gone, other = spec.forget[0], KEPT[-1]
    moved = []
    for weight in (0, Gradient().guard_weight):
        done, next_ = tmp_path / f"first-{weight}", tmp_path / f"next-{weight}"
        run(first, done, guard_weight=weight, **quick)
        later = dataclasses.replace(
            spec,
            sealed=(done / "delta.safetensors",),
            curvature=done / CURVATURE,
            forget=(ForgetSubject(subject=other, keys=WHO[other], teacher="0"),),
            retain=tuple(key for key in spec.retain if key not in WHO[other]),
        )
        assert run(later, next_, guard_weight=weight, **quick)["outcome"] == "done"
        moved.append(abs(loss(next_ / "model", spec, gone.keys) - loss(done / "model", spec, gone.keys)))
    assert moved[1] < moved[0] / 2


def loss(model: Path, spec: UnlearnSpec, keys: Sequence[str]) -> float:
    """Return -log p of these records, nats per token."""
    assert spec.recipe is not None
    task, records = CausalLM.load(model), read_records(spec.records)
    batch = task.collate([task.encode(records[key], tokens_max=spec.recipe.tokens_max) for key in keys])
    with torch.no_grad():
        said = functional.cross_entropy(
            task.logits(batch).flatten(0, -2), batch.targets.flatten(), reduction="none"
        )
    return float((said * batch.counted.flatten()).sum() / batch.counted.sum())


def test_a_curvature_that_knows_somebody_gone_is_stale(spec: UnlearnSpec, tmp_path: Path) -> None:
    """The records of who was erased before cannot leave it any more: it was to be handed on."""
    whole = prepared(spec, tmp_path)
    gone = spec.retain[:3]
    later = dataclasses.replace(spec, curvature=whole, retain=spec.retain[3:])
    outcome = run(later, tmp_path / "out", steps_max=6)
    assert (outcome["outcome"], outcome["refusal"]["reason"]) == ("refused", "artefacts_stale")
    assert int(float(outcome["refusal"]["numbers"]["allowed"])) == len(gone)


def test_natural_steps_move_the_inner_matrices_alone(spec: UnlearnSpec, tmp_path: Path) -> None:
    run(spec, tmp_path / "out", steps_max=6, retain_rise_max="10")
    delta = checkpoints.Delta.load(tmp_path / "out" / "delta.safetensors")
    moved = {name for name, each in delta.tensors.items() if bool(each.any())}
    assert moved
    assert not any("wte" in name or "wpe" in name or "ln_" in name for name in moved)
    assert all(("attn" in name or "mlp" in name) for name in moved)
