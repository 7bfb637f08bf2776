"""Approximate, baselines: one direction in weight space, and how far to go along it.

    task_vector    fine-tune on the forget set alone, subtract what that did (arXiv:2212.04089)
    memorise       the same, with what stays held beside it while it is learned (MOX, arXiv:2602.06441)
    first_epoch    add up, over one epoch of the recorded recipe from its base, what the forget set's
                   gradients did to the embeddings, and take it back (arXiv:2406.09391)

    theta(a) = theta - a * direction          a by halving: no subject below their band, budget kept

Void for `first_epoch` where the embeddings were frozen. Knows no objective but -log p.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.data import epoch_order
from workers.unlearning.engines.base import (
    Aim,
    Context,
    EngineStatement,
    Guarantee,
    Job,
    Made,
    Numbers,
    Refusal,
    RefusalReason,
    configuration,
)
from workers.unlearning.engines.targets import (
    Gauge,
    Look,
    Prepared,
    inspect,
    prepare,
    recipe_of,
    refuses,
    start,
    told,
)
from workers.unlearning.task import Task, create, kind_of, load
from workers.unlearning.training import adamw, clip, cut, set_rate, share_of_rate

import torch  # isort: skip
from torch import Tensor

HALVINGS = 6
FIRST_EPOCH_REACH = 64.0
"""How many times the first epoch's own change is tried at most: later epochs changed more."""


@dataclass(frozen=True, kw_only=True)
class Extrapolate:
    """Go back along what learning them does."""

    id: ClassVar[str] = "extrapolate"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    kind: Literal["task_vector", "memorise", "first_epoch"] = "task_vector"
    steps: int = 20
    rate_share: Decimal = Decimal("0.1")
    reach: Decimal = Decimal(8)
    """The largest a that is tried, times the direction itself; of `first_epoch` more."""
    retain_batch: int = 24
    retain_rise_max: Decimal = Decimal("0.10")
    forget_share_max: Decimal = Decimal("0.25")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what every approximate engine here refuses, and a first epoch that nobody recorded."""
        if self.kind == "first_epoch" and (job.spec.recipe is None or not job.spec.base.is_dir()):
            return Refusal(RefusalReason.NO_HISTORY, {"needed": 1, "allowed": 0})
        if self.kind == "first_epoch" and kind_of(job.spec.anchor) == "image_classifier":
            return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
        return refuses(job, share_max=float(self.forget_share_max), taught=False)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of the farthest step that is neither too far nor too dear."""
        with TemporaryDirectory(dir=context.out) as scratch:
            begun = start(job, Path(scratch) / "start")
            task = load(begun)
            prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
            if isinstance(prepared, Refusal):
                return prepared
            search = _Search(self, job, task, prepared)
            if self.kind == "first_epoch":
                direction, reach = search.first_epoch(), FIRST_EPOCH_REACH
            else:
                direction, reach = search.learned(), float(self.reach)
            look, share = search.along(direction, reach)
            task.save(Path(scratch) / "end")
            delta = checkpoints.subtract(Path(scratch) / "end", begun)
        numbers: Numbers = {"share": share, **told(prepared, look)}
        return Made(
            result=delta,
            records_processed=search.gauge.processed,
            telemetry=numbers | inspect(delta, job.spec.anchor, moved=False),
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done."""
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            aim=self.aim,
            config=configuration(self),
            counterfactual=(
                f"the anchor less what learning the {len(job.forget_keys)} erased records does to its weights"
            ),
            assumptions=("what learning adds to the weights, subtracting takes away",),
            exclusions=("what the weights still hold and no measurement of the certificate shows",),
        )


class _Search:
    """A direction, and how far along it."""

    def __init__(self, engine: Extrapolate, job: Job, task: Task, prepared: Prepared) -> None:
        self.engine, self.job, self.task, self.prepared = engine, job, task, prepared
        self.gauge = Gauge(job, task, prepared)
        self.parameters = task.parameters()
        self.start = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))

    def learned(self) -> dict[str, Tensor]:
        """Return what a few more steps on the forget set change; `memorise` holds what stays beside it."""
        rate = float(recipe_of(self.job).learning_rate) * float(self.engine.rate_share)
        optimizer = adamw(self.parameters, rate=rate)
        order = determinism.seed_for(self.job.spec.seed, "retain")
        for step in range(self.engine.steps):
            keys = list(self.job.forget_keys)
            if self.engine.kind == "memorise":
                keys += epoch_order(self.rehearsed, order, step)[: self.engine.retain_batch]
            optimizer.zero_grad(set_to_none=True)
            self.backward(self.task, keys)
            clip(self.parameters, 1.0)
            optimizer.step()
        return {name: each.detach() - self.start[name] for name, each in self.parameters.items()}

    def first_epoch(self) -> dict[str, Tensor]:
        """Return what the forget set did to the embeddings in the recipe's first epoch, replayed."""
        recipe = recipe_of(self.job)
        task = create(self.job.spec.base, recipe.seed, device=self.task.device)
        parameters = task.parameters()
        optimizer = adamw(parameters, rate=float(recipe.learning_rate), decay=float(recipe.weight_decay))
        gone, everybody = (
            set(self.job.forget_keys),
            [*self.rehearsed, *self.job.spec.probe, *self.job.forget_keys],
        )
        order = epoch_order(everybody, recipe.seed, 0)
        steps = recipe.epochs * math.ceil(len(order) / recipe.batch_size)
        embeddings = task.model.get_input_embeddings().weight
        name = next(name for name, each in parameters.items() if each is embeddings)
        total = torch.zeros_like(embeddings)
        for step in range(math.ceil(len(order) / recipe.batch_size)):
            due = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            rate = float(recipe.learning_rate) * share_of_rate(recipe, step, steps)
            set_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            if theirs := [key for key in due if key in gone]:
                self.backward(task, theirs, of=due)
                assert embeddings.grad is not None, "the embeddings are frozen"
                total -= rate * embeddings.grad
            self.backward(task, [key for key in due if key not in gone], of=due)
            clip(parameters, float(recipe.clip_norm))
            optimizer.step()
        found = {each: torch.zeros_like(tensor) for each, tensor in self.start.items()}
        found[name] = total
        return found

    def backward(self, task: Task, keys: Sequence[str], *, of: Sequence[str] = ()) -> None:
        """Add the gradient of -log p of these records, over the tokens of the whole step."""
        tokens = self.prepared.tokens(of or keys)
        self.gauge.processed += len(keys)
        for part in cut(keys, lambda key: self.prepared.examples[key].length):
            batch = task.collate([self.prepared.examples[key] for key in part])
            (task.nll(batch)[0].sum() / tokens).backward()  # type: ignore[no-untyped-call]

    def along(self, direction: Mapping[str, Tensor], reach: float) -> tuple[Look, float]:
        """Go as far as no subject falls below their band and the budget holds."""
        low, high = 0.0, reach
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            self.move(direction, middle)
            low, high = (low, middle) if self.is_too_far(self.gauge.look()) else (middle, high)
        self.move(direction, low)
        return self.gauge.look(), low

    def is_too_far(self, look: Look) -> bool:
        """Return whether somebody is over-forgotten, or the rest has lost too much."""
        pairs = zip(look.scores, self.prepared.subjects, strict=True)
        below = any(score < each.low for score, each in pairs)
        return below or not look.rise <= float(self.engine.retain_rise_max)

    @torch.no_grad()
    def move(self, direction: Mapping[str, Tensor], share: float) -> None:
        """Put the weights at the start less a share of the direction."""
        for name, each in self.parameters.items():
            each.copy_(self.start[name] - share * direction[name])
