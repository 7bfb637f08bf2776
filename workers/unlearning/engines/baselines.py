"""Approximate, baselines: published methods on the same loop, so that only what they descend on differs.

    scrub    away from the anchor's predictions on the forget set, toward them on the rest
             (arXiv:2302.09880); its last steps are for the rest alone, as published
    l1       fine-tuning on what stays with an L1 pull to nought on every weight (arXiv:2304.04934): the
             forget set is not looked at, and no gradient of it is taken
    rmu      hidden states of the forget set toward a random direction, those of the rest held
             (arXiv:2403.03218): a *suppression*, since turning one direction back undoes most of it

They share the budget, the bands and the stop with `gradient`, which knows none of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from workers.unlearning import checkpoints, determinism, objectives
from workers.unlearning.adapters import Trained
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
from workers.unlearning.engines.descent import Descent, Pace, Sides, identity_of
from workers.unlearning.engines.targets import (
    Prepared,
    inspect,
    predictions_of,
    prepare,
    recipe_of,
    refuses,
    start,
)
from workers.unlearning.objectives import Said
from workers.unlearning.task import Batch, Task, TextBatch, kind_of, load

import torch  # isort: skip
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, kw_only=True)
class _Stepping:
    """What the three have in common: fields, and a run on the shared loop."""

    rate_share: Decimal = Decimal("0.075")
    forget_weight: Decimal = Decimal("0.05")
    steps_max: int = 100
    forget_batch: int = 16
    retain_batch: int = 32
    clip_norm: Decimal = Decimal("1.0")
    check_every: int = 5
    retain_rise_max: Decimal = Decimal("0.10")
    forget_share_max: Decimal = Decimal("0.25")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what every approximate engine here refuses."""
        return refuses(job, share_max=float(self.forget_share_max), taught=False)

    def pace(self, job: Job) -> Pace:
        """Return how fast and how far."""
        return Pace(
            rate=float(recipe_of(job).learning_rate) * float(self.rate_share),
            forget_weight=float(self.forget_weight),
            steps_max=self.steps_max,
            forget_batch=self.forget_batch,
            retain_batch=self.retain_batch,
            clip_norm=float(self.clip_norm),
            check_every=self.check_every,
            retain_rise_max=float(self.retain_rise_max),
        )


def _stepped(engine: Any, job: Job, context: Context, make: "type[_Held]") -> Made | Refusal:
    """Run the shared loop on what an engine descends on."""
    with TemporaryDirectory(dir=context.out) as scratch:
        begun = start(job, Path(scratch) / "start")
        task = load(begun)
        prepared = prepare(job, task, predicted=False, teachers_max=4, band=(0.25, 0.75))
        if isinstance(prepared, Refusal):
            return prepared
        sides: Sides = make(engine, job, task, prepared)
        trained = Trained(parameters=task.parameters())
        loop = Descent(job, task, prepared, sides=sides, pace=engine.pace(job), trained=trained)
        if (refusal := loop.run(context, identity_of(engine, job))) is not None:
            return refusal
        task.save(Path(scratch) / "end")
        delta = checkpoints.subtract(Path(scratch) / "end", begun)
    telemetry = loop.numbers() | inspect(delta, job.spec.anchor, moved=False)
    return Made(result=delta, records_processed=loop.gauge.processed, telemetry=telemetry)


def _statement(engine: Any, job: Job, what: str) -> EngineStatement:
    return EngineStatement(
        engine=engine.id,
        version=engine.version,
        guarantee=engine.guarantee,
        aim=engine.aim,
        config=configuration(engine),
        counterfactual=f"the anchor after {what}, for {len(job.forget_keys)} records to be erased",
        assumptions=("the probe's records stand for all that must stay",),
        exclusions=("what the weights still hold and no measurement of the certificate shows",),
    )


class _Held:
    """What stays is held by its own loss; subclasses say what is done to the forget set."""

    def __init__(self, engine: Any, job: Job, task: Task, prepared: Prepared) -> None:
        self.engine, self.job, self.task, self.prepared = engine, job, task, prepared

    def batch(self, keys: Sequence[str]) -> Batch:
        return self.task.collate([self.prepared.examples[key] for key in keys])

    def said(self, keys: Sequence[str]) -> Said:
        batch = self.batch(keys)
        return Said(logits=self.task.logits(batch), targets=batch.targets, counted=batch.counted)

    def forget(self, keys: Sequence[str]) -> Tensor:
        return -self.said(keys).nll

    def retain(self, keys: Sequence[str]) -> Tensor:
        return self.said(keys).nll


class _Scrubbing(_Held):
    def __init__(self, engine: Any, job: Job, task: Task, prepared: Prepared) -> None:
        super().__init__(engine, job, task, prepared)
        rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
        wanted = [*job.forget_keys, *rehearsed]
        self.teacher: Mapping[str, Tensor] = predictions_of(task, prepared.examples, wanted)

    def forget(self, keys: Sequence[str]) -> Tensor:
        return -self._divergence(keys)

    def retain(self, keys: Sequence[str]) -> Tensor:
        return self._divergence(keys) + super().retain(keys)

    def _divergence(self, keys: Sequence[str]) -> Tensor:
        said = self.said(keys)
        teacher = pad_sequence([self.teacher[key] for key in keys], batch_first=True)
        return objectives.divergence_loss(said, teacher.to(said.logits.device))


class _Sparse(_Held):
    def retain(self, keys: Sequence[str]) -> Tensor:
        """Return -log p and each record's share of the L1 norm."""
        said = self.said(keys)
        norm = sum(each.abs().sum() for each in self.task.parameters().values())
        return said.nll + float(self.engine.sparsity) * said.tokens * norm


class _Misdirecting(_Held):
    def __init__(self, engine: Any, job: Job, task: Task, prepared: Prepared) -> None:
        super().__init__(engine, job, task, prepared)
        width = int(task.model.get_input_embeddings().weight.shape[1])
        generator = torch.Generator().manual_seed(determinism.seed_for(job.spec.seed, "direction"))
        drawn = torch.rand(width, generator=generator).to(task.device)
        self.direction = float(engine.length) * drawn / drawn.norm()
        rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
        self.held: dict[str, Tensor] = {}
        with torch.no_grad():
            for places, batch in task.batches([prepared.examples[key] for key in rehearsed], size=64):
                for row, place in zip(self._hidden(batch), places, strict=True):
                    key = rehearsed[place]
                    self.held[key] = row[: prepared.examples[key].length].clone()

    def _hidden(self, batch: Batch) -> Tensor:
        assert isinstance(batch, TextBatch), "a job that was not planned"
        out = self.task.model(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
        found: Tensor = out.hidden_states[self.engine.layer]
        return found

    def _apart(self, batch: Batch, wanted: Tensor) -> Tensor:
        """Return the squared distance of a record's hidden states from others, summed over its tokens."""
        assert isinstance(batch, TextBatch), "a job that was not planned"
        off = (self._hidden(batch) - wanted).square().mean(dim=-1)
        found: Tensor = (off * batch.real).sum(dim=1)
        return found

    def forget(self, keys: Sequence[str]) -> Tensor:
        batch = self.batch(keys)
        return self._apart(batch, self.direction)

    def retain(self, keys: Sequence[str]) -> Tensor:
        batch = self.batch(keys)
        held = pad_sequence([self.held[key] for key in keys], batch_first=True)
        return float(self.engine.hold) * self._apart(batch, held)


@dataclass(frozen=True, kw_only=True)
class Scrub(_Stepping):
    """A student that leaves its teacher on the forget set alone."""

    id: ClassVar[str] = "scrub"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    forget_steps: int = 60
    """Steps in which the forget set takes part; the rest repair, as published."""

    def pace(self, job: Job) -> Pace:
        """Return a pace whose last steps are for what stays."""
        return replace(super().pace(job), forget_steps=self.forget_steps)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of the steps."""
        return _stepped(self, job, context, _Scrubbing)

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done."""
        return _statement(
            self, job, "steps away from its own predictions on what goes, toward them elsewhere"
        )


@dataclass(frozen=True, kw_only=True)
class SparseTuning(_Stepping):
    """More training on what stays, with an L1 pull."""

    id: ClassVar[str] = "l1_sparse"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "erasure"

    sparsity: Decimal = Decimal("0.00001")
    """Of the sum of all absolute weights, beside a token's loss."""

    def pace(self, job: Job) -> Pace:
        """Return a pace that looks at no forget record."""
        return replace(super().pace(job), forget_weight=0.0)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of the steps."""
        return _stepped(self, job, context, _Sparse)

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done."""
        return _statement(self, job, "training on what stays alone, with an L1 pull on its weights")


@dataclass(frozen=True, kw_only=True)
class Rmu(_Stepping):
    """Misdirect the hidden states of what goes; keeps it from showing, takes nothing out."""

    id: ClassVar[str] = "rmu"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"
    aim: ClassVar[Aim] = "suppression"

    layer: int = 1
    """Whose output is misdirected, 1 for the first block's."""
    length: Decimal = Decimal(20)
    """Of the random direction."""
    hold: Decimal = Decimal(100)
    """Weight of holding the rest."""

    def plan(self, job: Job) -> Refusal | None:
        """Refuse what has no hidden state per token, and what every approximate engine here refuses."""
        if kind_of(job.spec.anchor) != "causal_lm":
            return Refusal(RefusalReason.KIND_UNSUPPORTED, {"needed": 1, "allowed": 0})
        return super().plan(job)

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta of the steps."""
        return _stepped(self, job, context, _Misdirecting)

    def describe(self, job: Job) -> EngineStatement:
        """Say what was done, and that it is no erasure."""
        return _statement(self, job, "misdirecting its hidden states: access is hindered, nothing is erased")
