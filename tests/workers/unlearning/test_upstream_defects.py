"""Defects of published code, one test for each: the naive form goes wrong here, and ours does not.

The naive form stands in the test, as the number it gives or as the lines that give it. Where nothing of
ours could be written that way, the test shows what stands in its place. `DEFECTS` lists them all.
"""

import ast
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.fixtures.learning import RECIPE, people, write_base, write_records
from workers.unlearning import checkpoints, objectives, training
from workers.unlearning.adapters import Trained, adapted
from workers.unlearning.checkpoints import Delta, digest
from workers.unlearning.data import epoch_order, read_records
from workers.unlearning.engines import resolve, targets
from workers.unlearning.engines.base import Job, read_job, run_engine
from workers.unlearning.engines.baselines import Rmu, Scrub, _Misdirecting, _Scrubbing
from workers.unlearning.engines.dampening import dampened, importance
from workers.unlearning.engines.descent import Descent, Pace
from workers.unlearning.engines.gradient import Gradient, Sides
from workers.unlearning.engines.influence import Influence, _Step
from workers.unlearning.engines.targets import Prepared, prepare
from workers.unlearning.objectives import Said
from workers.unlearning.spec import UnlearnSpec
from workers.unlearning.task import CausalLM, Task, load
from workers.unlearning.training import adamw, train

DEFECTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "open-unlearning: UNDIAL; RMU": {
        "label -100 indexes from the vocabulary's end; mean over padding": (
            "test_a_label_of_minus_100_is_no_token_of_the_vocabularys_end",
            "test_hidden_states_of_padding_count_for_nothing",
        ),
        "[b] / [b, 1] broadcasts": ("test_sums_over_lengths_are_one_number_a_record",),
    },
    "open-unlearning: GradDiff KL; data": {
        "double forward, unwrapped model, unused reference": (
            "test_a_step_is_one_forward_pass_a_side_and_holds_no_second_model",
        ),
        "padding counted": ("test_a_divergence_counts_no_padding",),
        "retain index unseeded": ("test_which_retained_records_are_due_is_drawn_by_no_global_state",),
    },
    "open-unlearning: PDU; #144 #137 #164; #94 #82": {
        "dual variable per rank": ("test_the_multiplier_is_of_the_whole_probe",),
        "loss unmasked": ("test_a_divergence_counts_no_padding",),
        "results depend on the launcher": ("test_a_step_is_the_same_however_it_is_cut",),
        "the checkpoint evaluated is not the best": (
            "test_what_is_told_is_of_the_model_that_is_handed_over",
            "test_no_epoch_is_better_than_the_last",
        ),
    },
    "data-unlearning-bench: SCRUB; MRP": {
        "the optimiser holds the teacher": ("test_the_student_moves_and_the_teacher_does_not",),
        "a shuffle's result is None": ("test_a_shuffled_order_is_an_order",),
        "zero_grad before step": (
            "test_every_step_is_taken_with_a_gradient",
            "test_a_delta_that_stands_still_is_not_handed_over",
        ),
    },
    "selective-synaptic-dampening; WoodFisher ports": {
        "squared batch means": ("test_importance_does_not_depend_on_how_records_are_batched",),
        "unbound local": ("test_the_importance_of_nothing_is_nought",),
        "retain gradients over the forget loader": (
            "test_what_is_taken_for_the_rest_is_never_of_the_forget_set",
        ),
    },
    "Unlearn-Saliency #32, #15; S3T": {
        "decay and momentum move masked weights; mask never applied": (
            "test_a_masked_weight_is_frozen_against_momentum_and_decay",
        ),
        "layer.1 matches layer.10": ("test_layer_1_is_not_layer_10",),
        "head trained in every slice": ("test_a_head_is_nobodys_slice",),
        "best epoch on test": ("test_no_epoch_is_better_than_the_last",),
    },
    "muse_bench #2; WGA; O3-LLM-UNLEARNING": {
        "NPO and KL on unnormalised logits": ("test_a_loss_is_of_probabilities",),
        "betas=(1.0) is a float": (
            "test_a_configuration_is_checked_before_anything_runs",
            "test_the_optimizer_has_both_its_moments",
        ),
        "thresholds per test set": ("test_a_threshold_comes_from_the_dev_cohort_and_moves_with_it",),
    },
    "IAU; wmdp #25; unturtle #188": {
        "the whole set as one batch": ("test_a_set_goes_through_in_parts_and_is_one_batch",),
        "differs at equal seed; adapter seed ignored": (
            "test_at_equal_seed_runs_are_equal_whatever_ran_before",
        ),
    },
}
"""Where, which defect, and the tests that would fail on it."""

PACE = Pace(
    rate=0.001,
    forget_weight=0.5,
    steps_max=4,
    forget_batch=2,
    retain_batch=6,
    clip_norm=1.0,
    check_every=99,
    retain_rise_max=10.0,
)
Opened = tuple[Job, Task, Prepared]


@pytest.fixture
def opened(by_heart: UnlearnSpec) -> Opened:
    """Return a job, the model it starts from, and what was prepared for it."""
    job, task = read_job(by_heart), load(by_heart.anchor)
    prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
    assert isinstance(prepared, Prepared)
    return job, task, prepared


def descent(opened: Opened, *, mode: str = "npo", **other: Any) -> Descent:
    job, task, prepared = opened
    sides = Sides(Gradient(mode=mode), job, task, prepared)  # type: ignore[arg-type]
    trained = Trained(parameters=task.parameters())
    return Descent(job, task, prepared, sides=sides, pace=PACE, trained=trained, **other)


def slopes(parameters: Any) -> Tensor:
    return torch.cat([each.grad.flatten() for each in parameters.values()])


def test_every_defect_has_its_tests_and_every_test_its_defect() -> None:
    named = [test for defects in DEFECTS.values() for tests in defects.values() for test in tests]
    there = [
        each.name
        for each in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    ]
    assert all(tests for defects in DEFECTS.values() for tests in defects.values())
    assert {*named} == {*there} - {"test_every_defect_has_its_tests_and_every_test_its_defect"}


# open-unlearning: UNDIAL; RMU


def test_a_label_of_minus_100_is_no_token_of_the_vocabularys_end() -> None:
    """UNDIAL: V = 200, so row[-100] is token 100; and a mean over padding shrinks what is real by half."""
    logits = torch.zeros(1, 2, 200, requires_grad=True)
    labels = torch.tensor([[7, -100]])
    naive = torch.zeros(1, 2, 200)
    for place, label in enumerate(labels[0].tolist()):
        naive[0, place, label] = 1.0
    assert int(naive[0, 1].argmax()) == 100
    (-(naive * logits.log_softmax(-1)).sum(-1)).mean().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad[0, 1].abs().sum()) > 0
    assert float(logits.grad[0, 0, 7]) == pytest.approx((1 / 200 - 1) / 2)

    ours = torch.zeros(1, 2, 200, requires_grad=True)
    said = Said(logits=ours, targets=labels.clamp(min=0), counted=labels != -100)
    (said.nll.sum() / said.tokens.sum()).backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert float(ours.grad[0, 1].abs().sum()) == 0
    assert float(ours.grad[0, 0, 7]) == pytest.approx(1 / 200 - 1)


def test_sums_over_lengths_are_one_number_a_record() -> None:
    """Sums (10, 100), lengths (1, 10): both records are at 10 a token; [b] / [b, 1] makes 30.25 of it."""
    sums, lengths = torch.tensor([10.0, 100.0]), torch.tensor([1.0, 10.0])
    assert float((sums / lengths[:, None]).mean()) == pytest.approx(30.25)
    examples: Any = {"a": SimpleNamespace(tokens=1), "b": SimpleNamespace(tokens=10)}
    assert targets.score({"a": 10.0, "b": 100.0}, {}, examples, ("a", "b")) == pytest.approx(-10.0)
    found = objectives.simnpo_loss(sums, lengths, beta=1e-6)  # T (H(l) - H(0)) is -T l as beta goes to nought
    nothing = objectives.simnpo_loss(torch.zeros(2), lengths, beta=1e-6)
    assert found.shape == (2,)
    assert ((found - nothing) / lengths).tolist() == pytest.approx([-10.0, -10.0], abs=0.5)


def test_hidden_states_of_padding_count_for_nothing(opened: Opened) -> None:
    """RMU's mean over a padded batch: beside a long record, a short one is pulled by what it does not say."""
    job, task, prepared = opened
    short, long = job.spec.retain[:2]
    cut_off = task.encode(job.records[short], tokens_max=6)
    prepared = replace(prepared, examples={**prepared.examples, short: cut_off})
    assert cut_off.length == 6 < prepared.examples[long].length
    sides = _Misdirecting(Rmu(), job, task, prepared)
    alone, beside = sides.forget([short]), sides.forget([short, long])
    assert torch.allclose(alone[0], beside[0], rtol=1e-4)
    hidden = sides._hidden(sides.batch([short, long]))
    naive = (hidden - sides.direction).square().mean(dim=-1).sum(dim=1)
    assert float(naive[0].detach()) > 1.05 * float(alone[0].detach())
    hidden = hidden.detach().requires_grad_()
    sides._hidden = lambda batch: hidden  # type: ignore[method-assign]  # noqa: ARG005  the name is the method's
    sides.forget([short, long]).sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert not hidden.grad[0, cut_off.length :].any()
    assert bool(hidden.grad[0, : cut_off.length].any())


# open-unlearning: GradDiff KL; data


@pytest.mark.parametrize("mode", ["npo", "ga_kl", "grad_diff"])
def test_a_step_is_one_forward_pass_a_side_and_holds_no_second_model(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The naive KL runs the model twice on what stays, and a whole reference model beside it."""
    loaded: list[Path] = []
    monkeypatch.setattr(targets, "load", lambda directory, **_: loaded.append(directory))
    loop = descent(opened, mode=mode)
    passes: Counter[int] = Counter()
    _, task, _ = opened
    hook = task.model.register_forward_hook(lambda *_: passes.update([0]))
    loop.step(0)
    hook.remove()
    assert passes[0] == 2
    assert loaded == []


@pytest.mark.parametrize("loss", ["divergence", "match"])
def test_a_divergence_counts_no_padding(loss: str) -> None:
    """Over the batch's mean, a record beside one three times as long would weigh a third."""
    torch.manual_seed(0)
    logits, reference = torch.randn(1, 2, 5), torch.randn(1, 2, 5).log_softmax(-1)
    kinds: dict[str, Callable[[Said, Tensor], Tensor]] = {
        "divergence": objectives.divergence_loss,
        "match": lambda said, q: objectives.match_loss(
            said.logits, q, said.targets, said.counted, token_weight=1.0
        ),
    }
    alone = Said(logits=logits, targets=torch.tensor([[1, 2]]), counted=torch.ones(1, 2, dtype=torch.bool))
    wide = F.pad(logits, (0, 0, 0, 4), value=3.0).requires_grad_()
    padded = Said(logits=wide, targets=F.pad(alone.targets, (0, 4)), counted=F.pad(alone.counted, (0, 4)))
    found = kinds[loss](padded, F.pad(reference, (0, 0, 0, 4)))
    assert torch.allclose(found, kinds[loss](alone, reference))
    naive, right = (
        F.kl_div(each.log_softmax(-1), q, log_target=True, reduction="none").mean()
        for each, q in ((wide, F.pad(reference, (0, 0, 0, 4))), (logits, reference))
    )
    assert not torch.allclose(naive, right)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert wide.grad is not None
    assert not wide.grad[0, 2:].any()


def test_which_retained_records_are_due_is_drawn_by_no_global_state(opened: Opened) -> None:
    """A plain `random.randint` in the data set gives others in every process, and at every resumption."""
    drawn = []
    for disturbed in (1, 2):
        random.seed(disturbed)
        torch.manual_seed(disturbed)
        drawn.append([descent(opened).due(step) for step in (3, 0, 7)])
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]
    job, task, prepared = opened
    other = descent((replace(job, spec=replace(job.spec, seed=6)), task, prepared))
    assert other.due(3) != drawn[0][0]


# open-unlearning: PDU; #144, #137, #164; #94, #82


def test_a_step_is_the_same_however_it_is_cut(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses 1 over 1 token and 9 over 3: 10 / 4 a token; the mean of two parts' means is 2."""
    assert (1 / 1 + 9 / 3) / 2 != (1 + 9) / (1 + 3)
    found: list[Tensor] = []
    job, task, _ = opened
    for room in (16_384, 20):
        monkeypatch.setattr(training, "TOKENS_PER_PASS", room)
        loop = descent(opened, mode="grad_diff")
        task.model.zero_grad()
        loop.backward(job.spec.retain[:6], loop.sides.retain, 1.0)
        found.append(slopes(loop.parameters))
    whole, parted = found
    assert torch.allclose(whole, parted, atol=1e-5)


def test_the_multiplier_is_of_the_whole_probe(opened: Opened) -> None:
    """Kept per process, two that have seen rises of 0 and .4 would go on with 0 and 1.5; the rise is .2."""
    naive = [objectives.dual_ascent(0.0, rise, 0.1) for rise in (0.0, 0.4)]
    assert naive == pytest.approx([0.0, 1.5])
    job, task, prepared = opened
    loop = descent(opened)
    with torch.no_grad():
        for each in task.parameters().values():
            each.mul_(0.9)
    loop.look()
    records = [prepared.examples[key] for key in job.spec.probe]
    with torch.no_grad():
        nll, tokens = task.nll(task.collate(records))
    rise = float(nll.sum() / tokens.sum()) - prepared.probe
    assert loop.seen.rise == pytest.approx(rise, abs=1e-5)
    assert loop.multiplier == pytest.approx(objectives.dual_ascent(0.0, rise, PACE.retain_rise_max))


def test_what_is_told_is_of_the_model_that_is_handed_over(by_heart: UnlearnSpec, tmp_path: Path) -> None:
    """Not of the last step's, not of the best one on the way: the change was scaled back after them."""
    config: dict[str, Any] = {"mode": "grad_diff", "steps_max": 6, "rate_share": "2", "forget_weight": "1"}
    free = run(by_heart, tmp_path / "free", config | {"retain_rise_max": "1000"})
    budget = float(free["telemetry"]["retain_rise"]) / 3
    told = run(by_heart, tmp_path / "out", config | {"retain_rise_max": f"{budget:.6f}"})["telemetry"]
    assert 0 < float(told["share_of_change"]) < 1
    before, after = (
        loss(by_heart, each, by_heart.probe) for each in (by_heart.anchor, tmp_path / "out" / "model")
    )
    assert after - before == pytest.approx(float(told["retain_rise"]), abs=1e-4)
    assert float(free["telemetry"]["retain_rise"]) > 2 * float(told["retain_rise"])


def run(spec: UnlearnSpec, out: Path, config: dict[str, Any], engine: str = "gradient") -> dict[str, Any]:
    given = replace(spec, engine=engine, config=config, out=out)
    outcome = run_engine(resolve(engine, config), given)
    assert outcome["outcome"] == "done", outcome["refusal"]
    return outcome


def loss(spec: UnlearnSpec, directory: Path, keys: Sequence[str]) -> float:
    task, records = CausalLM.load(directory), read_records(spec.records)
    with torch.no_grad():
        nll, tokens = task.nll(task.collate([task.encode(records[key], tokens_max=32) for key in keys]))
    return float(nll.sum() / tokens.sum())


# data-unlearning-bench: SCRUB; MRP


def test_the_student_moves_and_the_teacher_does_not(opened: Opened) -> None:
    """With the teacher's parameters in the optimiser, the student stays where it is."""
    job, task, prepared = opened
    before = {name: each.detach().clone() for name, each in task.parameters().items()}
    sides = _Scrubbing(Scrub(), job, task, prepared)
    said = {key: each.clone() for key, each in sides.teacher.items()}
    trained = Trained(parameters=task.parameters())
    loop = Descent(job, task, prepared, sides=sides, pace=PACE, trained=trained)
    assert isinstance(loop.optimizer, torch.optim.Optimizer)
    held = {id(each) for group in loop.optimizer.param_groups for each in group["params"]}
    assert held == {id(each) for each in task.model.parameters()}
    for step in range(2):
        loop.step(step)
    assert all(not torch.equal(before[name], each) for name, each in task.parameters().items())
    assert said.keys() == sides.teacher.keys()
    assert all(torch.equal(said[key], each) and not each.requires_grad for key, each in sides.teacher.items())


def test_a_shuffled_order_is_an_order() -> None:
    assert random.Random(0).shuffle(["a", "b"]) is None  # type: ignore[func-returns-value]
    assert sorted(epoch_order(["a", "b", "c"], 1, 2)) == ["a", "b", "c"]


class Noting:
    """An optimizer that notes what it was given, and takes plain steps."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters, self.given = parameters, list[float]()

    @torch.no_grad()
    def step(self) -> None:
        self.given.append(float(slopes(self.parameters).norm()))
        for each in self.parameters.values():
            each.sub_(0.01 * each.grad)  # type: ignore[operator]

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        for each in self.parameters.values():
            each.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        del state


def test_every_step_is_taken_with_a_gradient(opened: Opened) -> None:
    """MRP empties the gradients between backward and step: the optimizer is given nothing."""
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    (3 * parameter).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
    optimizer.step()
    assert parameter.tolist() == [1.0]

    _, task, _ = opened
    noting = Noting(task.parameters())
    before = {name: each.detach().clone() for name, each in task.parameters().items()}
    loop = descent(opened, stepper=noting)
    for step in range(3):
        loop.step(step)
    assert len(noting.given) == 3
    assert all(each > 0 for each in noting.given)
    assert all(not torch.equal(before[name], each) for name, each in task.parameters().items())


def test_a_delta_that_stands_still_is_not_handed_over(by_heart: UnlearnSpec) -> None:
    anchor = by_heart.anchor
    delta = checkpoints.subtract(anchor, anchor)
    with pytest.raises(AssertionError, match="did not move"):
        targets.inspect(delta, anchor, moved=True)


# selective-synaptic-dampening; WoodFisher ports


def test_importance_does_not_depend_on_how_records_are_batched(opened: Opened) -> None:
    """Two records that pull against each other, gradients 1 and -1: their mean is 0, its square too; F is 1."""
    assert float(torch.tensor([1.0, -1.0]).mean().square()) == 0
    assert float(torch.tensor([1.0, -1.0]).square().mean()) == 1
    job, task, prepared = opened
    keys = job.spec.retain[:2]
    found = importance(task, prepared.examples, keys)
    task.model.zero_grad()
    nll, tokens = task.nll(task.collate([prepared.examples[key] for key in keys]))
    (nll / tokens).mean().backward()  # type: ignore[no-untyped-call]
    naive = {name: each.grad.square() for name, each in task.parameters().items() if each.grad is not None}
    assert sum(float(each.sum()) for each in naive.values()) < 0.9 * sum(
        float(each.sum()) for each in found.values()
    )
    halves = [importance(task, prepared.examples, [key]) for key in keys]
    for name, each in found.items():
        assert torch.allclose(each, (halves[0][name] + halves[1][name]) / 2, rtol=1e-3, atol=1e-9)


def test_the_importance_of_nothing_is_nought(opened: Opened) -> None:
    """SSD's loop leaves a name unbound where a loader is empty; who needs no weight shrinks none."""
    _, task, prepared = opened
    found = importance(task, prepared.examples, [])
    assert found.keys() == task.parameters().keys()
    assert not any(bool(each.any()) for each in found.values())
    assert dampened(torch.zeros(2), torch.ones(2), alpha=10, strength=1).tolist() == [1, 1]


def test_what_is_taken_for_the_rest_is_never_of_the_forget_set(by_heart: UnlearnSpec) -> None:
    """WoodFisher ports take "retain" gradients over the forget loader; here even a caller's slip does not."""
    gone = by_heart.forget[0].keys
    job = read_job(replace(by_heart, retain=(*by_heart.retain, *gone), probe=(*by_heart.probe, gone[0])))
    assert not {*job.kept_keys} & {*gone}
    task = load(by_heart.anchor)
    prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
    assert isinstance(prepared, Prepared)
    step = _Step(Influence(), job, task, prepared)
    assert {*step.retained} == {*by_heart.retain}
    assert {*descent((job, task, prepared)).rehearsed} == {*by_heart.retain}


# Unlearn-Saliency #32, #15; S3T


def test_a_masked_weight_is_frozen_against_momentum_and_decay(opened: Opened) -> None:
    """A masked gradient alone is not enough: with decay the naive optimizer moves what has none."""
    parameter = nn.Parameter(torch.ones(2))
    naive = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.1)
    parameter.grad = torch.tensor([1.0, 0.0])
    naive.step()
    assert float(parameter.detach()[1]) == pytest.approx(0.99)

    _, task, _ = opened
    generator = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(p.shape, generator=generator) < 0.5 for n, p in task.parameters().items()}
    before = {name: each.detach().clone() for name, each in task.parameters().items()}
    loop = descent(opened, mask=mask)
    for step in range(3):
        loop.step(step)
    for name, each in task.parameters().items():
        assert torch.equal(each[~mask[name]], before[name][~mask[name]]), name
        assert not torch.equal(each[mask[name]], before[name][mask[name]]), name


def test_layer_1_is_not_layer_10(tmp_path: Path) -> None:
    task = CausalLM.create(write_base(tmp_path / "base", width=8, layers=11), 1)
    names = [name for name in task.linears() if "mlp.c_proj" in name]
    assert sum("h.1" in name for name in names) == 2  # the naive match: h.1 and h.10
    task.save(tmp_path / "anchor")
    chosen = "transformer.h.1.mlp.c_proj.weight"
    Delta({chosen: torch.ones(32, 8)}).save(tmp_path / "delta")
    checkpoints.compose(tmp_path / "anchor", [tmp_path / "delta"], tmp_path / "sum")
    moved = checkpoints.subtract(tmp_path / "sum", tmp_path / "anchor").tensors
    assert [name for name, each in moved.items() if bool(each.any())] == [chosen]


def test_a_head_is_nobodys_slice(tmp_path: Path) -> None:
    """S3T trains one head in every slice: who is only in the third has changed what the first one says."""
    task = CausalLM.create(write_base(tmp_path / "base", layers=2), 1)
    before = {name: each.detach().clone() for name, each in task.model.named_parameters()}
    with adapted(task, "lora", seed=1, rank=2) as trained:
        touched = set(trained.parameters)
    assert touched
    assert all("parametrizations.weight" in name for name in touched)
    assert all(torch.equal(before[name], each) for name, each in task.model.named_parameters())


def test_no_epoch_is_better_than_the_last(base: Path, tmp_path: Path) -> None:
    """Kept by its loss on a test set, a checkpoint would depend on that set; here the last one stands."""
    records = read_records(write_records(tmp_path / "records", people(4, seed=1)))
    recipe = replace(RECIPE, epochs=3, learning_rate="0.5", schedule="constant", warmup_share="0")
    task, seen = CausalLM.create(base, 3), list[dict[str, Tensor]]()

    def watch(_: Any) -> None:
        seen.append({name: each.detach().clone() for name, each in task.parameters().items()})

    train(task, records, recipe, checkpoint=tmp_path / "state", progress=watch)
    assert all(torch.equal(seen[-1][name], each) for name, each in task.parameters().items())
    assert len(seen) == 6


# muse_bench #2; WGA; O3-LLM-UNLEARNING


def shifted(logits: Tensor, by: float) -> Said:
    return Said(
        logits=logits + by,
        targets=torch.tensor([[1, 2], [0, 3]]),
        counted=torch.tensor([[True, True], [True, False]]),
    )


LOSSES: dict[str, Callable[[Said], Tensor]] = {
    "npo": lambda said: objectives.npo_loss(said.nll, torch.tensor([2.0, 1.0]), beta=0.1),
    "simnpo": lambda said: objectives.simnpo_loss(said.nll, said.tokens, beta=4.5),
    "bounded": lambda said: objectives.bounded_loss(said.nll, said.tokens, torch.ones(2), beta=4.5),
    "ihl": objectives.hinge_loss,
    "max_entropy": objectives.max_entropy_loss,
    "divergence": lambda said: objectives.divergence_loss(said, torch.full((2, 2, 4), 0.25).log()),
    "match": lambda said: objectives.match_loss(
        said.logits, torch.full((2, 2, 4), 0.25).log(), said.targets, said.counted, token_weight=1.0
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_of_probabilities(name: str) -> None:
    """Logits may be shifted by any constant; taken for log-probabilities, they move the loss with them."""
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 4)
    assert torch.allclose(LOSSES[name](shifted(logits, 0)), LOSSES[name](shifted(logits, 5)), atol=1e-4)
    raw = [-(logits + by).gather(-1, shifted(logits, 0).targets[..., None]).sum() for by in (0, 5)]
    assert abs(float(raw[0] - raw[1])) > 10


@pytest.mark.parametrize(
    ("engine", "config"),
    [
        ("gradient", {"mode": "nonsense"}),
        ("gradient", {"betas": 1.0}),
        ("gradient", {"steps_max": "many"}),
        ("gradient", {"steps_max": 1.0}),
        ("gradient", {"steps_max": True}),
        ("gradient", {"skip_forgotten": 1}),
        ("gradient", {"rate_share": "fast"}),
        ("gradient", {"rate_share": "nan"}),
        ("gradient", {"rate_share": (1.0,)}),
        ("influence", {"form": "fisher"}),
        ("nonsense", {}),
    ],
)
def test_a_configuration_is_checked_before_anything_runs(engine: str, config: dict[str, Any]) -> None:
    """O3's `betas=(1.0)` is a number where a pair is meant, and nobody says so."""
    with pytest.raises(ValueError, match=r"there is no|has no field|is one of|is of type|finite decimal"):
        resolve(engine, config)


def test_the_optimizer_has_both_its_moments() -> None:
    optimizer = adamw({"w": nn.Parameter(torch.ones(1))}, rate=0.1)
    assert optimizer.defaults["betas"] == (0.9, 0.98)


def test_a_threshold_comes_from_the_dev_cohort_and_moves_with_it(by_heart: UnlearnSpec) -> None:
    """Fitted to each test set, it would know what it is judged by; the judges are in no job at all."""
    task = load(by_heart.anchor)

    def band(spec: UnlearnSpec) -> tuple[float, float]:
        found = prepare(read_job(spec), task, predicted=False, teachers_max=4, band=(0.25, 0.75))
        assert isinstance(found, Prepared)
        return found.subjects[0].low, found.subjects[0].high

    cohort = by_heart.dev_cohort
    assert band(by_heart) == band(replace(by_heart, retain=by_heart.retain[:4]))
    assert band(by_heart) != band(replace(by_heart, dev_cohort=cohort[4:]))
    assert not {"cohort", "judges", "controls"} & {*UnlearnSpec.__dataclass_fields__}


# IAU; wmdp #25; unturtle #188


def test_a_set_goes_through_in_parts_and_is_one_batch(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As released, all of a set is one batch: what it asks of the memory grows with the set."""
    job, task, prepared = opened
    whole = gradient_of(task, prepared, job.spec.retain)
    widest: list[int] = []
    hook = task.model.register_forward_pre_hook(
        lambda _, __, given: widest.append(given["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(training, "TOKENS_PER_PASS", 64)
    step = _Step(Influence(form="sign"), job, task, prepared)
    widest.clear()
    step._backward(job.spec.retain, drawn=False)
    hook.remove()
    tokens = prepared.tokens(job.spec.retain)
    assert torch.allclose(slopes(step.parameters) / tokens, whole, atol=1e-5)
    assert max(widest) <= 64
    assert len(widest) > 4


def gradient_of(task: Task, prepared: Prepared, keys: Sequence[str]) -> Tensor:
    task.model.zero_grad()
    nll, tokens = task.nll(task.collate([prepared.examples[key] for key in keys]))
    (nll.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
    return slopes(task.parameters())


@pytest.mark.parametrize(
    ("engine", "config"),
    [
        ("rmu", {"steps_max": 2, "retain_rise_max": "1000"}),
        ("gradient", {"mode": "npo", "scope": "lora", "rank": 2, "steps_max": 2}),
        ("influence", {"form": "kfac", "relinearised": 1, "refuses_unreached": False}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_at_equal_seed_runs_are_equal_whatever_ran_before(
    by_heart: UnlearnSpec, tmp_path: Path, engine: str, config: dict[str, Any]
) -> None:
    """Adapters, directions and labels drawn from the global generator hang on all that drew before."""
    torch.manual_seed(0)
    drawn = torch.randn(2)
    torch.manual_seed(1)
    assert not torch.equal(torch.randn(2), drawn)
    found = []
    for disturbed in (0, 1):
        torch.manual_seed(disturbed)
        random.seed(disturbed)
        run(by_heart, tmp_path / str(disturbed), config, engine)
        found.append(digest(tmp_path / str(disturbed) / "model"))
    assert found[0] == found[1]
    run(replace(by_heart, seed=6), tmp_path / "other", config, engine)
    assert digest(tmp_path / "other" / "model") != found[0]
