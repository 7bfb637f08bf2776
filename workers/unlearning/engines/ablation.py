"""Approximate, a baseline: silence the neurons that the forget set needs and the rest does not.

A neuron is one input of the matrix that an MLP ends in. Every neuron gets a gate g, 1 as the model is,
and what a neuron gives to F = log p per token is its share of the way from no neuron to all of them:

    A_j = integral over a in [0, 1] of  dF/dg_j at g = a 1          sum_j A_j = F(1) - F(0)

that is integrated gradients (arXiv:1703.01365) taken at the gates, all at once, as a mean over
midpoints; with one point it is gradient times activation, at the model as it is. Neurons are ranked by

    score_j = mean over forget records of A_j  -  keep * mean over retained records of |A_j|

and the first of them, none that scores nought or less, are taken out for good: their outgoing weights
become 0. Attribution over single neurons is that of DEPN (arXiv:2310.20138), subtracting what others
need that of KLUE (arXiv:2502.19207). What led to a neuron stays in the weights; nothing is trained.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from workers.unlearning import checkpoints, determinism
from workers.unlearning.curvature import mlp_outputs, turned
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
from workers.unlearning.engines.targets import Gauge, inspect, prepare, refuses, start, told
from workers.unlearning.task import Example, Task, load
from workers.unlearning.training import cut

import torch  # isort: skip
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Take out the neurons that speak for the forget set alone."""

    id: ClassVar[str] = "ablation"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    share: Decimal = Decimal("0.01")
    """Of all neurons, at most."""
    keep: Decimal = Decimal(1)
    """What a retained record's need weighs beside a forgotten one's."""
    points: int = 8
    """On the way from no neuron to all of them; 1: gradient times activation."""
    retained_records: int = 256
    forget_share_max: Decimal = Decimal("0.25")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what every approximate engine here refuses."""
        return refuses(job, share_max=float(self.forget_share_max), taught=False)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta that takes the first neurons of the ranking out."""
        with TemporaryDirectory(dir=context.out) as scratch:
            begun = start(job, Path(scratch) / "start")
            task = load(begun)
            matrices = mlp_outputs(task.linears(), head=task.head)
            if not matrices:
                return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
            prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
            if isinstance(prepared, Refusal):
                return prepared
            rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
            order = determinism.seed_for(job.spec.seed, "attribution")
            retained = epoch_order(rehearsed, order, 0)[: self.retained_records]
            goes, stays = (
                attributions(task, prepared.examples, keys, matrices, points=self.points)
                for keys in (job.forget_keys, retained)
            )
            scores = {
                name: goes[name].mean(0) - float(self.keep) * stays[name].abs().mean(0) for name in matrices
            }
            chosen = first(scores, share=float(self.share))
            for name, neurons in chosen.items():
                silence(matrices[name], neurons)
            gauge = Gauge(job, task, prepared)
            look = gauge.look()
            task.save(Path(scratch) / "end")
            delta = checkpoints.subtract(Path(scratch) / "end", begun)
        return Made(
            result=delta,
            records_processed=gauge.processed + self.points * (len(retained) + len(job.forget_keys)),
            telemetry={
                "neurons": sum(len(each) for each in scores.values()),
                "silenced": sum(int(each.sum()) for each in chosen.values()),
                **told(prepared, look),
                **inspect(delta, job.spec.anchor, moved=False),
            },
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say what it stands for, and what that rests on."""
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            aim=self.aim,
            config=configuration(self),
            counterfactual=(
                f"the anchor without those neurons that spoke for the {len(job.forget_keys)} erased records "
                "more than for the others"
            ),
            assumptions=("what is known of a record lies in neurons of its own",),
            exclusions=("what the weights still hold and no measurement of the certificate shows",),
        )


def attributions(
    task: Task,
    examples: Mapping[str, Example],
    keys: Sequence[str],
    matrices: Mapping[str, nn.Module],
    *,
    points: int,
) -> dict[str, Tensor]:
    """Return per matrix what each neuron gives each record's log p per token, (records, neurons), float64."""
    order = {key: row for row, key in enumerate(keys)}
    found = {
        name: torch.zeros(len(keys), width, dtype=torch.float64)
        for name, width in ((name, _width(each)) for name, each in matrices.items())
    }
    places = [1.0] if points == 1 else [(each + 0.5) / points for each in range(points)]
    for part in cut(keys, lambda key: examples[key].length):
        batch = task.collate([examples[key] for key in part])
        rows = [order[key] for key in part]
        for place in places:
            gates = {
                name: torch.full((len(part), _width(each)), place, device=task.device, requires_grad=True)
                for name, each in matrices.items()
            }
            with gated(matrices, gates):
                nll, tokens = task.nll(batch)
            said = -(nll / tokens.clamp(min=1)).sum()
            for name, each in zip(gates, torch.autograd.grad(said, list(gates.values())), strict=True):
                found[name][rows] += each.double().cpu() / points
    return found


def first(scores: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Return which neurons score highest over all matrices, and above nought: at most a share of them."""
    ranked = torch.cat(list(scores.values()))
    best = ranked.argsort(descending=True, stable=True)[: int(share * len(ranked))]
    taken = torch.zeros(len(ranked), dtype=torch.bool)
    taken[best] = ranked[best] > 0
    parts = torch.split(taken, [len(each) for each in scores.values()])
    return dict(zip(scores, parts, strict=True))


@torch.no_grad()
def silence(module: nn.Module, neurons: Tensor) -> None:
    """Set the outgoing weights of neurons to nought."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    (weight if turned(module) else weight.T)[neurons.to(weight.device)] = 0.0


@contextlib.contextmanager
def gated(matrices: Mapping[str, nn.Module], gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply what goes into each matrix by its gates, (records, neurons), at all places of a record."""

    def opened(gate: Tensor) -> Callable[..., tuple[Tensor, ...]]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            held, *rest = given
            return (held * (gate if held.dim() == 2 else gate[:, None]), *rest)

        return hook

    handles = [each.register_forward_pre_hook(opened(gates[name])) for name, each in matrices.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _width(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0 if turned(module) else 1]
