"""Approximate, baselines, all of them *suppressions*: change what an MLP says of the forget set, by formula.

With x the neurons of an MLP at one place of a record, and y = x W + b what it says there (rows; W is
inputs x outputs), in float64:

    pseudo_inverse   min over D of  s E_S |x (W + D) + b - y*|^2 + E_D |x D|^2 + ridge |D|^2
                     STAMP (arXiv:2604.12820): what goes is sent to one neutral answer, by least squares
    redirection      D = C^-1 k (y* - k W - b) / (k C^-1 k),     C = E_D x'x + ridge
                     ROCR (arXiv:2506.07795): one direction per person, k = E_S x, is sent to y*; of all
                     changes that do so this one disturbs what stays least
    projection       y -> y (I - Q Q'), folded into W and b; Q leads what the forget set says outside of
                     the directions in which most of the rest is said: MRP (arXiv:2508.15449)

E_S is over the places of the forget set on which any loss hangs, E_D over those of retained records, and
y* is what the MLP says of never-trained people on average. The papers send to a refusal or to another
concept; a stranger is what somebody forgotten should look like. MRP trains Q further; here it stays as
it is first set.

What these hide is still known to all that lies before the edited matrices: take the edit off, or train
a little, and it is back. So none of them is ever the ground of a certificate of erasure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.curvature import mlp_outputs, turned, watched
from workers.unlearning.data import epoch_order
from workers.unlearning.engines.base import (
    Aim,
    Context,
    EngineStatement,
    Guarantee,
    Job,
    Made,
    Refusal,
    RefusalReason,
    configuration,
)
from workers.unlearning.engines.targets import (
    Gauge,
    Prepared,
    inspect,
    prepare,
    refuses,
    start,
    told,
)
from workers.unlearning.task import Example, Task, load
from workers.unlearning.training import cut

import torch  # isort: skip
from torch import Tensor, nn

RIDGE = 1e-3
"""Added to every second moment, as a share of its mean eigenvalue: few records span few directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What came to a matrix: means over places, float64."""

    mean: Tensor
    """(inputs,)"""
    second: Tensor
    """E x'x, (inputs, inputs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """y = x W + b, float64."""

    weight: Tensor
    """(inputs, outputs)"""
    bias: Tensor
    """(outputs,)"""

    def mean(self, inputs: Inputs) -> Tensor:
        """Return E y."""
        return inputs.mean @ self.weight + self.bias

    def second(self, inputs: Inputs) -> Tensor:
        """Return E y'y."""
        crossed = torch.outer(inputs.mean @ self.weight, self.bias)
        return (
            self.weight.T @ inputs.second @ self.weight
            + crossed
            + crossed.T
            + torch.outer(self.bias, self.bias)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came to one matrix, by whom it was about."""

    people: tuple[Inputs, ...]
    """Each subject to be forgotten."""
    forget: Inputs
    kept: Inputs
    strangers: Inputs


def sent(here: Affine, forget: Inputs, kept: Inputs, target: Tensor, *, strength: float) -> Affine:
    """Return the least-squares edit that sends the forget set's outputs to a target and leaves the rest."""
    normal = strength * forget.second + _ridged(kept.second)
    off = torch.outer(forget.mean, target - here.bias) - forget.second @ here.weight
    return Affine(weight=here.weight + strength * torch.linalg.solve(normal, off), bias=here.bias)


def redirected(here: Affine, concept: Tensor, kept: Inputs, target: Tensor, *, amount: float) -> Affine:
    """Return the edit of rank one that takes a direction's output so far toward a target; 1 is there."""
    along = torch.linalg.solve(_ridged(kept.second), concept)
    off = target - concept @ here.weight - here.bias
    return Affine(weight=here.weight + amount * torch.outer(along, off) / (concept @ along), bias=here.bias)


def projected(here: Affine, forget: Inputs, kept: Inputs, *, rank: int, kept_share: float) -> Affine:
    """Return the edit after which nothing is said in the directions that are the forget set's own."""
    own = own_directions(here.second(forget), here.second(kept), rank=rank, kept_share=kept_share)
    return Affine(weight=here.weight - here.weight @ own @ own.T, bias=here.bias - here.bias @ own @ own.T)


def own_directions(forget: Tensor, kept: Tensor, *, rank: int, kept_share: float) -> Tensor:
    """Return the leading directions of one second moment outside of another's, as columns.

    Left alone are those directions, the largest first, that together hold `kept_share` of what is kept.
    """
    values, vectors = torch.linalg.eigh(kept)
    held = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    taken = int((held < kept_share).sum()) + 1
    theirs = vectors.flip(1)[:, :taken]
    rest = torch.eye(len(forget), dtype=forget.dtype) - theirs @ theirs.T
    values, vectors = torch.linalg.eigh(rest @ forget @ rest)
    leading = vectors.flip(1)[:, : min(rank, len(forget) - taken)]
    found: Tensor = leading[:, values.flip(0)[: leading.shape[1]] > forget.diagonal().sum() * 1e-12]
    return found


def _ridged(second: Tensor) -> Tensor:
    return second + RIDGE * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype)


@dataclass(frozen=True, kw_only=True)
class _Editing:
    """What the three have in common."""

    layers: Literal["all", "first", "last"] = "all"
    """Of the MLPs."""
    retained_records: int = 256
    forget_share_max: Decimal = Decimal("0.25")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what every approximate engine here refuses."""
        return refuses(job, share_max=float(self.forget_share_max), taught=False)


@dataclass(frozen=True, kw_only=True)
class PseudoInverse(_Editing):
    """Send what goes to a neutral answer, by least squares."""

    id: ClassVar[str] = "pseudo_inverse"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "suppression"

    strength: Decimal = Decimal(1)
    """What a place of the forget set weighs beside one of the rest."""

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta that sends what goes to what is said of strangers."""

        def change(here: Affine, seen: Seen) -> Affine:
            target = here.mean(seen.strangers)
            return sent(here, seen.forget, seen.kept, target, strength=float(self.strength))

        return _edited(self, job, context, change)

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done, and that it is no erasure."""
        return _statement(self, job, "its MLPs' answers about them sent to a neutral one")


@dataclass(frozen=True, kw_only=True)
class Redirection(_Editing):
    """Send one direction per person to what is said of strangers."""

    id: ClassVar[str] = "redirection"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "suppression"

    amount: Decimal = Decimal(1)
    """Of the way; 1 is there, more is past it."""

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of one redirection for each person, in their order."""

        def change(here: Affine, seen: Seen) -> Affine:
            target = here.mean(seen.strangers)
            for each in seen.people:
                here = redirected(here, each.mean, seen.kept, target, amount=float(self.amount))
            return here

        return _edited(self, job, context, change)

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done, and that it is no erasure."""
        return _statement(self, job, "the direction in which its MLPs see each of them redirected")


@dataclass(frozen=True, kw_only=True)
class Projecting(_Editing):
    """Say nothing in the directions that are the forget set's own."""

    id: ClassVar[str] = "projection"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "suppression"

    rank: int = 4
    """Directions taken out, at most."""
    kept_share: Decimal = Decimal("0.9")
    """Of what is said of the rest: the directions that hold it are left alone."""

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta that takes these directions out."""

        def change(here: Affine, seen: Seen) -> Affine:
            share = float(self.kept_share)
            return projected(here, seen.forget, seen.kept, rank=self.rank, kept_share=share)

        return _edited(self, job, context, change)

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done, and that it is no erasure."""
        return _statement(self, job, "the directions in which its MLPs speak of them projected out")


def _edited(
    engine: PseudoInverse | Redirection | Projecting,
    job: Job,
    context: Context,
    change: Callable[[Affine, Seen], Affine],
) -> Made | Refusal:
    """Return the delta of an edit of each matrix; all are worked out on the model as it was."""
    with TemporaryDirectory(dir=context.out) as scratch:
        begun = start(job, Path(scratch) / "start")
        task = load(begun)
        found = list(mlp_outputs(task.linears(), head=task.head).items())
        matrices = dict({"all": found, "first": found[:1], "last": found[-1:]}[engine.layers])
        if not matrices:
            return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
        prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
        if isinstance(prepared, Refusal):
            return prepared
        seen, passes = _seen(engine, job, task, prepared, matrices)
        for name, module in matrices.items():
            _put(module, change(_affine(module), seen[name]))
        gauge = Gauge(job, task, prepared)
        look = gauge.look()
        task.save(Path(scratch) / "end")
        delta = checkpoints.subtract(Path(scratch) / "end", begun)
    return Made(
        result=delta,
        records_processed=gauge.processed + passes,
        telemetry={
            "matrices": len(matrices),
            **told(prepared, look),
            **inspect(delta, job.spec.anchor, moved=False),
        },
    )


def _statement(engine: PseudoInverse | Redirection | Projecting, job: Job, what: str) -> EngineStatement:
    return EngineStatement(
        engine=engine.id,
        version=engine.version,
        guarantee=engine.guarantee,
        aim=engine.aim,
        config=configuration(engine),
        counterfactual=(
            f"the anchor with {what}, for {len(job.forget_keys)} records to be erased: access is hindered, "
            "nothing is erased"
        ),
        assumptions=("the retained records that were looked at stand for all that must stay",),
        exclusions=("what the weights still hold and no measurement of the certificate shows",),
    )


def _seen(
    engine: _Editing, job: Job, task: Task, prepared: Prepared, matrices: Mapping[str, nn.Module]
) -> tuple[dict[str, Seen], int]:
    """Return what comes to each matrix from everybody, and how many passes of a record that took."""
    rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
    order = determinism.seed_for(job.spec.seed, "edit")
    retained = epoch_order(rehearsed, order, 0)[: engine.retained_records]
    groups = [*(each.keys for each in job.spec.forget), job.forget_keys, retained, prepared.cohort]
    inputs = [inputs_of(task, prepared.examples, keys, matrices) for keys in groups]
    *people, forget, kept, others = inputs
    seen = {
        name: Seen(
            people=tuple(each[name] for each in people),
            forget=forget[name],
            kept=kept[name],
            strangers=others[name],
        )
        for name in matrices
    }
    return seen, sum(map(len, groups))


def inputs_of(
    task: Task, examples: Mapping[str, Example], keys: Sequence[str], matrices: Mapping[str, nn.Module]
) -> dict[str, Inputs]:
    """Return the means over all places on which a loss of these records hangs: padding is none of them."""
    rows, totals, seconds = dict.fromkeys(matrices, 0), dict[str, Tensor](), dict[str, Tensor]()
    task.model.zero_grad(set_to_none=True)
    with watched(matrices) as met:
        for part in cut(keys, lambda key: examples[key].length):
            nll, _ = task.nll(task.collate([examples[key] for key in part]))
            nll.sum().backward()  # type: ignore[no-untyped-call]
            for name, (inputs, slopes) in met.items():
                held = inputs[slopes.abs().sum(-1) > 0].double().cpu()
                rows[name] += len(held)
                totals[name] = totals.get(name, torch.zeros(())) + held.sum(0)
                seconds[name] = seconds.get(name, torch.zeros(())) + held.T @ held
    task.model.zero_grad(set_to_none=True)
    return {
        name: Inputs(mean=totals[name] / rows[name], second=seconds[name] / rows[name]) for name in matrices
    }


def _affine(module: nn.Module) -> Affine:
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    rows = (weight if turned(module) else weight.T).detach().double().cpu()
    held = torch.zeros(rows.shape[1]) if bias is None else bias
    assert isinstance(held, Tensor)
    return Affine(weight=rows, bias=held.detach().double().cpu())


@torch.no_grad()
def _put(module: nn.Module, edited: Affine) -> None:
    """Write an edit; a matrix without a bias has none afterwards, for no edit gives it one."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    weight.copy_(edited.weight if turned(module) else edited.weight.T)
    if isinstance(bias, Tensor):
        bias.copy_(edited.bias)
