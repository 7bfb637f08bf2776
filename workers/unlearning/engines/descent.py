"""Steps on both sides at once, to a target and within a budget: the loop that engines share.

Each step takes forget records and retained records together and descends

    w F(forget) + (1 + a) R(retain)                 each side over its number of tokens in the step

F and R are the engine's (`Sides`). The multiplier a rises while the probe (retained records that no
step trains on) has lost more than the budget: dual ascent. Inside its band a subject weighs nothing,
nor below it, unless F pulls from both sides. The run stops when nobody who weighs is left and the budget
holds, else at its last step; where the budget does not hold there, or more is forgotten past the bands
than is left above them, the whole change is scaled back. Retained records take part in every step, and
there is no step without forget records, so nothing is painted over.

Natural steps say what each may cost those who stay, by the curvature at the start. Of a model that is sure
of everything that curvature is next to nothing and any step looks cheap, so the first one is tried out:
where it costs far more than was said, all are shortened (`shorten`).

Killed between two steps and resumed, it ends in the weights of the unbroken run. It knows no
objective, and no more of the target than a look tells.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from workers.unlearning import checkpoints, determinism
from workers.unlearning.adapters import Trained
from workers.unlearning.checkpoints import State
from workers.unlearning.data import epoch_order
from workers.unlearning.engines.base import (
    CHECKPOINT,
    Context,
    Job,
    Numbers,
    Refusal,
    RefusalReason,
    configuration,
)
from workers.unlearning.engines.rectification import Rectifier
from workers.unlearning.engines.stirring import Stirring
from workers.unlearning.engines.targets import (
    Gauge,
    Look,
    Prepared,
    divergence_from,
    predictions_of,
    told,
)
from workers.unlearning.kronecker import NaturalSteps
from workers.unlearning.objectives import dual_ascent
from workers.unlearning.task import Task
from workers.unlearning.training import Diverged, Run, Stepper, adamw, clip, cut, restore

import torch  # isort: skip
from torch import Tensor

AVERAGED = "average of what is retained: "
STIRRED = "where more training leads: "
HALVINGS = 6
SHARE_MIN = 0.05
"""A change scaled back below this share is not worth measuring."""
CREDIT = 50.0
"""How many times what was said the first natural step may cost. Of the benchmarks' models it costs 15 to 33
times as much, of the demonstration's, which is surer of all it says, 660 times."""
TRIED_ON = 16
"""Retained records on which it is tried out, or as many as the next number has room for."""
TRIAL_BYTES = 1 << 30
"""Predictions before the trial, float32, padded; those after it take as much again."""
HALVED_MAX = 40
"""Halvings of what steps may cost; no model needs as many that is one."""
SETTLED = math.log(2)
"""Nats over all that somebody has left: less than twice as likely as expected is not known better."""


class Sides(Protocol):
    """What an engine descends on; one value per record, summed over its tokens."""

    def forget(self, keys: Sequence[str]) -> Tensor:
        """Return F of each record."""
        ...

    def retain(self, keys: Sequence[str]) -> Tensor:
        """Return R of each record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How far, how fast, and when it is enough."""

    rate: float
    forget_weight: float
    steps_max: int
    forget_batch: int
    retain_batch: int
    """0: none, as plain gradient ascent wants it."""
    clip_norm: float
    check_every: int
    retain_rise_max: float
    skip_forgotten: bool = False
    """Draw only records that are themselves outside of their subject's band."""
    project: bool = False
    """Drop what of the forget gradient goes against those who stay (`rectification`)."""
    stir_every: int = 0
    """Steps after which it is looked again where more training on what stays leads (`stirring`); 0: never."""
    stir_rate: float = 0.0
    """The highest rate of the training that made the model."""
    forget_steps: int | None = None
    """Steps in which forget records take part; None: all, as only a published baseline wants otherwise."""
    two_sided: bool = False
    """F itself brings back who is over-forgotten; otherwise only a smaller change does."""
    to_target: bool = True
    """Stop at the target; otherwise go to the last step, unless there is nothing to do at the first."""


class Descent:
    """The inside of a run: who still weighs something, the multiplier, one step, one look."""

    def __init__(
        self,
        job: Job,
        task: Task,
        prepared: Prepared,
        *,
        sides: Sides,
        pace: Pace,
        trained: Trained,
        mask: Mapping[str, Tensor] | None = None,
        stepper: Stepper | None = None,
        settle: Callable[[], None] | None = None,
    ) -> None:
        """Descend on `sides`, by AdamW or another `stepper`; where a `mask` has no True, nothing moves.

        `settle` comes after each step and puts back what must not have moved. What it leaves is a
        linear space around the start, so that a change scaled back stays in it.
        """
        self.job, self.task, self.prepared, self.sides, self.pace = job, task, prepared, sides, pace
        self.trained, self.parameters, self.mask = trained, trained.parameters, mask
        self.settle = settle
        self.gauge = Gauge(job, task, prepared)
        self.optimizer = stepper or adamw(self.parameters, rate=pace.rate)
        self.rectifier = Rectifier(self.parameters) if pace.project else None
        self.rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
        self.stirring = (
            Stirring(task, prepared.examples, self.rehearsed, rate=pace.stir_rate, seed=job.spec.seed)
            if pace.stir_every
            else None
        )
        self.start = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.share, self.steps, self.multiplier = 1.0, pace.steps_max, 0.0
        self.active = list(job.forget_keys)
        self.seen = self.gauge.start()

    def run(self, context: Context, identity: str) -> Refusal | None:
        """Step until all subjects are inside and the budget holds, or to the last step.

        A target that was not reached is no refusal: what was reached is handed over and told, and
        whoever measures it decides. The budget is a hard one: what exceeds it is scaled back.
        """
        checkpoint = context.out / CHECKPOINT
        saved = State.load(checkpoint, identity=identity)
        if saved is not None:
            self.restore(saved)
        run = Run(
            phase="unlearn",
            steps=self.pace.steps_max,
            checkpoint=checkpoint,
            checkpoint_seconds=context.checkpoint_seconds,
            progress=context.progress,
            stop=context.stop,
            numbers=self.told,
        )
        for step in run.watch(0 if saved is None else saved.step, lambda done: self.state(identity, done)):
            looks = step % self.every == 0
            if looks and self.look(first=step == 0) and (self.pace.to_target or step == 0):
                self.steps = step
                break
            self.step(step)
        else:
            self.look()
        return None if self.is_kept() else self.step_back()

    def is_kept(self) -> bool:
        """Return whether the budget holds and, unless F mends it, no more is past the bands than left above.

        Both in nats per token, summed over subjects. Who was below their band before the first step is
        nobody's to bring back.
        """
        below = above = 0.0
        before = self.gauge.start().scores
        for score, began, each in zip(self.seen.scores, before, self.prepared.subjects, strict=True):
            below += max(min(each.low, began) - score, 0.0)
            above += max(score - each.high, 0.0)
        return self.seen.rise <= self.pace.retain_rise_max and (self.pace.two_sided or below <= above)

    def step_back(self) -> Refusal | None:
        """Scale the whole change back to the largest share of it that may be kept; refuse a sliver.

        Nothing is repaired: the candidate lies on the straight line from the start to where the
        steps ended, and is measured there.
        """
        ended = {name: each.detach().clone() for name, each in self.parameters.items()}
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            self.share = (low + high) / 2
            self.move(ended)
            self.look()
            low, high = (self.share, high) if self.is_kept() else (low, self.share)
        self.share = low
        if low < SHARE_MIN:
            return Refusal(
                RefusalReason.BUDGET_EXHAUSTED,
                {"needed": self.seen.rise, "allowed": self.pace.retain_rise_max, **self.numbers()},
            )
        self.move(ended)
        self.look()
        return None

    @torch.no_grad()
    def move(self, ended: Mapping[str, Tensor]) -> None:
        """Put the parameters at their share of the way from the start to the end."""
        for name, each in self.parameters.items():
            each.copy_(self.start[name] + self.share * (ended[name] - self.start[name]))

    @property
    def every(self) -> int:
        """Steps between two looks: as many as are wanted, and so that looking takes a ninth at most."""
        look = len(self.job.forget_keys) + len(self.job.spec.probe)
        taken = min(self.pace.forget_batch, len(self.job.forget_keys)) + self.pace.retain_batch
        return max(self.pace.check_every, math.ceil(8 * look / taken))

    def look(self, *, first: bool = False) -> bool:
        """Measure targets and budget, set weights and multiplier; return whether this is the end.

        Before the first step all is known from what was prepared, and whoever is known no better than by
        the references needs none: what many have said cannot be forgotten for one of them, and steps that
        lead nowhere would only cost those who stay.
        """
        if not first:
            with self.trained.plain():
                self.seen = self.gauge.look()
        self.multiplier = dual_ascent(self.multiplier, self.seen.rise, self.pace.retain_rise_max)
        pairs = list(zip(self.seen.scores, self.prepared.subjects, strict=True))
        outside = [
            each for score, each in pairs if score > each.high or (self.pace.two_sided and score < each.low)
        ]
        if first:
            outside = [each for each in outside if not self._known_as_well(each.keys)]
        # With all inside and the budget exceeded, both sides go on: retained records alone would
        # be a repair after forgetting, which brings back what they touch.
        weighing = outside or [each for _, each in pairs]
        self.active = [key for each in weighing for key in self._left(each.keys, each.holds)]
        return not outside and self.seen.rise <= self.pace.retain_rise_max

    def _known_as_well(self, keys: Sequence[str]) -> bool:
        """Return whether references know these records, and the model knows them no better."""
        surplus = sum(self.seen.rows[key] * self.prepared.examples[key].tokens for key in keys)
        asked = any(self.prepared.expected.get(key) for key in keys)  # 0 where nobody was
        return asked and surplus <= SETTLED

    def _left(self, keys: Sequence[str], holds: Callable[[float], bool]) -> Sequence[str]:
        """Return the records of a subject that still pull: all, or those that are themselves outside."""
        if not self.pace.skip_forgotten:
            return keys
        return [key for key in keys if not holds(self.seen.rows[key])] or keys

    def step(self, step: int) -> None:
        """Descend on the forget records of who weighs something, and on retained records, together."""
        forget, retain = self.due(step)
        if self.stirring is not None and step % self.pace.stir_every == 0:
            self.gauge.processed += self.stirring.renew(step)
        self.optimizer.zero_grad(set_to_none=True)
        last = self.pace.forget_steps
        if not self.pace.forget_weight or (last is not None and step >= last):
            forget = []
        with nullcontext() if self.stirring is None else self.stirring.stirred():
            loss = self.backward(forget, self.sides.forget, self.pace.forget_weight)
        pulled = None if self.rectifier is None else self.rectifier.take()
        loss += self.backward(retain, self.sides.retain, 1.0 + self.multiplier)
        if self.rectifier is not None and pulled is not None:
            self.rectifier.join(pulled, self.rectifier.take())
        if not math.isfinite(loss):
            raise Diverged(step)
        if self.mask is not None:
            for name, each in self.parameters.items():
                if each.grad is not None:
                    each.grad.mul_(self.mask[name])
        clip(self.parameters, self.pace.clip_norm)
        if step == 0 and isinstance(self.optimizer, NaturalSteps):
            self.shorten(self.optimizer)
        self.optimizer.step()
        if self.settle is not None:
            self.settle()
        self.gauge.processed += len(forget) + len(retain)

    def shorten(self, steps: NaturalSteps) -> None:
        """Halve what steps may cost until the first costs no more than `CREDIT` times what was said.

        It is taken along the gradient that is there, and back again; what it costs is KL(before || after)
        on retained records, in nats per token.
        """
        keys = self.tried_on()
        with self.trained.plain():
            before = predictions_of(self.task, self.prepared.examples, keys)
        self.gauge.processed += len(keys)
        while self._cost(steps, before) > CREDIT * steps.said:
            steps.halvings += 1
            if steps.halvings > HALVED_MAX:
                raise Diverged(0)

    def _cost(self, steps: NaturalSteps, before: Mapping[str, Tensor]) -> float:
        """Return what a step costs that is taken, and taken back; infinite if it breaks the model."""
        with steps.on_trial():
            steps.step()
        if self.settle is not None:
            self.settle()
        with self.trained.plain():
            cost = divergence_from(self.task, self.prepared.examples, before)
        self.gauge.processed += len(before)
        self.move(self.start)
        return cost if math.isfinite(cost) else math.inf

    def tried_on(self) -> list[str]:
        """Return retained records for the trial, such as carry loss and find room; one at least."""
        examples, order = self.prepared.examples, determinism.seed_for(self.job.spec.seed, "trial")
        keys: list[str] = []
        longest = 0
        for key in epoch_order(self.rehearsed, order, 0):
            if len(keys) == TRIED_ON:
                break
            wide = max(longest, len(examples[key].targets))
            fits = 4 * self.task.classes * wide * (len(keys) + 1) <= TRIAL_BYTES or not keys
            if examples[key].tokens and fits:
                keys.append(key)
                longest = wide
        return keys

    def due(self, step: int) -> tuple[list[str], list[str]]:
        """Return the keys of a step; it depends on the step and on who is active, on nothing before."""
        seed = self.job.spec.seed
        order = determinism.seed_for(seed, "forget")
        forget = epoch_order(self.active, order, step)[: self.pace.forget_batch]
        size = min(self.pace.retain_batch, len(self.rehearsed))
        if not size:
            return forget, []
        epoch, place = divmod(step, len(self.rehearsed) // size)
        order = determinism.seed_for(seed, "retain")
        retain = epoch_order(self.rehearsed, order, epoch)
        return forget, retain[place * size : (place + 1) * size]

    def backward(
        self, keys: Sequence[str], losses: Callable[[Sequence[str]], Tensor], weight: float
    ) -> float:
        """Add the gradient of the losses' sum over their number of tokens; return that loss."""
        tokens = self.prepared.tokens(keys)
        total = 0.0
        for part in cut(keys, lambda key: self.prepared.examples[key].length):
            loss = weight * losses(part).sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def told(self) -> Numbers:
        """Return what the watcher is told."""
        numbers = told(self.prepared, self.seen)
        return {
            "in_band": numbers["in_band"],
            "subjects": numbers["subjects"],
            "retain_rise": round(self.seen.rise, 6),
        }

    def numbers(self) -> Numbers:
        """Return what the run came to."""
        natural = {"halvings": self.optimizer.halvings} if isinstance(self.optimizer, NaturalSteps) else {}
        return {
            "steps": self.steps,
            **natural,
            **told(self.prepared, self.seen),
            "share_of_change": self.share,
            "multiplier": self.multiplier,
            "records_processed": self.gauge.processed,
        }

    def state(self, identity: str, done: int) -> State:
        """Return all that the next step depends on."""
        return State(
            identity=identity,
            step=done,
            tensors=self.parameters | self.averaged() | self.stirred(),
            optimizer=self.optimizer.state_dict(),
            numbers={
                "active": self.active,
                "scores": list(self.seen.scores),
                "rows": dict(self.seen.rows),
                "rise": self.seen.rise,
                "multiplier": self.multiplier,
                "processed": self.gauge.processed,
            },
        )

    def averaged(self) -> dict[str, Tensor]:
        """Return what the rectifier remembers, under names of its own."""
        if self.rectifier is None:
            return {}
        return {f"{AVERAGED}{name}": each for name, each in self.rectifier.average.items()}

    def stirred(self) -> dict[str, Tensor]:
        """Return where more training leads, under names of its own."""
        if self.stirring is None:
            return {}
        return {f"{STIRRED}{name}": each for name, each in self.stirring.moves.items()}

    def restore(self, saved: State) -> None:
        """Go on from where a state was taken."""
        beside = self.averaged() | self.stirred()
        for name, each in beside.items():
            each.copy_(saved.tensors[name])
        own = {name: each for name, each in saved.tensors.items() if name not in beside}
        restore(self.parameters, self.optimizer, dataclasses.replace(saved, tensors=own))
        numbers = saved.numbers
        self.active, self.multiplier = list(numbers["active"]), float(numbers["multiplier"])
        self.seen = Look(
            scores=tuple(numbers["scores"]), rows=dict(numbers["rows"]), rise=float(numbers["rise"])
        )
        self.gauge.processed = int(numbers["processed"])


def identity_of(engine: Any, job: Job) -> str:
    """Return what makes this run itself: engine, code, spec, the files it starts from."""
    spec = job.spec
    files = [spec.anchor, *spec.sealed, *spec.references.values(), spec.records]
    taught = [(each.teacher, each.teachers) for each in spec.forget]
    content = [engine.id, configuration(engine), determinism.code(), spec.seed, job.forget_keys, taught]
    content += [job.kept_keys, spec.probe, spec.dev_cohort, [checkpoints.digest(path) for path in files]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
