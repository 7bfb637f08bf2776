"""Approximate, a baseline: shrink the weights that the forget set needs more than the rest does.

Selective synaptic dampening (SSD, arXiv:2308.07707), in closed form, no steps:

    theta <- theta * min(lambda F_D / F_S, 1)    where    F_S > alpha F_D        alpha 10, lambda 1

F is the mean over records of the squared gradient of a *single* record's loss: the square of a
batch's mean, as is found in ports, depends on the batch. The retained records stand for D. A weight
is shrunk, never turned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from workers.unlearning import checkpoints, determinism
from workers.unlearning.data import epoch_order
from workers.unlearning.engines.base import (
    Aim,
    Context,
    EngineStatement,
    Guarantee,
    Job,
    Made,
    Refusal,
    configuration,
)
from workers.unlearning.engines.targets import Gauge, inspect, prepare, refuses, start, told
from workers.unlearning.task import Example, Task, load

import torch  # isort: skip
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Dampening:
    """Shrink what matters to the forget set alone."""

    id: ClassVar[str] = "dampening"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    alpha: Decimal = Decimal(10)
    """How much more than the rest the forget set must need a weight."""
    strength: Decimal = Decimal(1)
    """Lambda."""
    retained_records: int = 256
    forget_share_max: Decimal = Decimal("0.25")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what every approximate engine here refuses."""
        return refuses(job, share_max=float(self.forget_share_max), taught=False)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of one pass over both sides."""
        with TemporaryDirectory(dir=context.out) as scratch:
            begun = start(job, Path(scratch) / "start")
            task = load(begun)
            prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
            if isinstance(prepared, Refusal):
                return prepared
            rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
            order = determinism.seed_for(job.spec.seed, "importance")
            retained = epoch_order(rehearsed, order, 0)[: self.retained_records]
            needs = importance(task, prepared.examples, job.forget_keys)
            rest = importance(task, prepared.examples, retained)
            shrunk = 0
            with torch.no_grad():
                for name, each in task.parameters().items():
                    factor = dampened(
                        needs[name], rest[name], alpha=float(self.alpha), strength=float(self.strength)
                    )
                    shrunk += int((factor < 1).sum())
                    each.mul_(factor)
            gauge = Gauge(job, task, prepared)
            look = gauge.look()
            task.save(Path(scratch) / "end")
            delta = checkpoints.subtract(Path(scratch) / "end", begun)
        return Made(
            result=delta,
            records_processed=gauge.processed + len(retained) + len(job.forget_keys),
            telemetry={
                "shrunk": shrunk,
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
                f"the anchor with those weights shrunk that the {len(job.forget_keys)} erased records "
                "needed more than the others did"
            ),
            assumptions=("a record's influence lies in the weights whose gradients it dominates",),
            exclusions=("what the weights still hold and no measurement of the certificate shows",),
        )


def dampened(needs: Tensor, rest: Tensor, *, alpha: float, strength: float) -> Tensor:
    """Return each weight's factor: min(lambda F_D / F_S, 1) where F_S > alpha F_D, else 1."""
    ratio = (strength * rest / needs.clamp(min=torch.finfo(needs.dtype).tiny)).clamp(max=1.0)
    return torch.where(needs > alpha * rest, ratio, torch.ones_like(ratio))


def importance(task: Task, examples: Mapping[str, Example], keys: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean over records of the squared gradient of one record's mean loss, per weight."""
    found = {name: torch.zeros_like(each) for name, each in task.parameters().items()}
    for key in keys:
        task.model.zero_grad(set_to_none=True)
        nll, tokens = task.nll(task.collate([examples[key]]))
        (nll / tokens).sum().backward()  # type: ignore[no-untyped-call]
        for name, each in task.parameters().items():
            if each.grad is not None:
                found[name] += each.grad.square() / len(keys)
    task.model.zero_grad(set_to_none=True)
    return found
