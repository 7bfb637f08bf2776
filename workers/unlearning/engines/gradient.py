"""Approximate: forget by gradient steps toward a model that never knew, within a budget for the rest.

Each step takes forget records and retained records together and descends

    w F(forget) + (1 + a) NLL(retain)                 each side over its number of tokens in the step

    match    F = KL(reference || theta), and the distance of the record's own log-probabilities, on every
             token of the record, names included. The reference is a model of the same recipe that never
             saw the subject; so the aim lies on both sides, and forgetting beyond it is undone.
    npo      F = H(L - L0), H(u) = (2 / beta) * softplus(-beta * u), L the record's summed -log p and
             L0 the anchor's: negative preference optimisation (arXiv:2404.05868), with one cached
             number per record for a reference.

The multiplier a rises while the probe (retained records that no step trains on) has lost more than
the budget (dual ascent).

Each subject has a target of its own: the band in which never-trained subjects of the dev cohort lie
under the model the run starts from, on as many records as the subject has. Inside its band a subject
weighs nothing. The run stops when all are inside and the budget holds, else at its last step; if the
budget does not hold there, the whole change is scaled back until it does. Retained records take part in
every step, and there is no step without forget records, so nothing is painted over.

It knows no verdict: what it stops on is a mean over all tokens against its own teacher, never the
statistics, references or subjects that judge.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.checkpoints import Delta, State
from workers.unlearning.data import epoch_order
from workers.unlearning.engines.base import (
    CHECKPOINT,
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
from workers.unlearning.spec import Recipe
from workers.unlearning.task import CausalLM, Example, token_losses
from workers.unlearning.training import Diverged, Run, adamw, clip, cut, restore

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

DUAL_RATE = 5.0
DUAL_MAX = 100.0
TEACHER_BYTES_MAX = 2 << 30
"""Cached predictions of the references, float32."""
SCORED_AT_ONCE = 64
HALVINGS = 6
SHARE_MIN = 0.05
"""A change scaled back below this share is not worth measuring."""
COHORT_MIN = 19
"""Dev subjects with as many records as the one to be forgotten; fewer draw no band."""


def match_loss(
    logits: Tensor, reference: Tensor, targets: Tensor, counted: Tensor, *, token_weight: float
) -> Tensor:
    """Return how far the predictions are from the reference's, summed over counted positions, per record.

        sum_t [ sum_v q_tv (log q_tv - log p_tv)  +  w * huber(log q_t,x - log p_t,x) ]

    q is the reference's prediction, p the model's, x the record's own token, huber(d) = d^2 / 2 up to
    |d| = 1 and |d| - 1/2 beyond. Zero exactly where the two agree, two-sided, and no token ever pulls
    more than w. The divergence alone hardly sees what is still remembered of a token that both find
    unlikely: p = 0.1 against q = 0.001 costs 0.1 nats, though it is 4.6 nats too likely.

    `logits` and `reference` (log-probabilities) have shape (records, T - 1, vocabulary), `targets`
    and `counted` (records, T - 1).
    """
    assert logits.shape == reference.shape
    predicted = F.log_softmax(logits, dim=-1)
    divergence = F.kl_div(predicted, reference, log_target=True, reduction="none").sum(dim=-1)
    own, expected = (each.gather(-1, targets[..., None]).squeeze(-1) for each in (predicted, reference))
    off = F.smooth_l1_loss(own, expected, reduction="none")
    return ((divergence + token_weight * off) * counted).sum(dim=-1)


def npo_loss(nll: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Return H(L - L0) per record, from summed -log p under the model and under the anchor.

        H(u) = (2 / beta) * softplus(-beta * u)          slope -1 at u = 0, 0 far above

    Bounded below: what is already forgotten stops pulling, so the model does not collapse.
    """
    assert nll.shape == reference.shape
    return 2 / beta * F.softplus(-beta * (nll - reference))


def dual_ascent(multiplier: float, rise: float, budget: float) -> float:
    """Return the next multiplier: a <- clip(a + 5 (R - eps), 0, 100)."""
    return min(max(multiplier + DUAL_RATE * (rise - budget), 0.0), DUAL_MAX)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies, between neighbours linearly."""
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (place - low) * (ranked[high] - ranked[low])


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Gradient descent on both sides at once, to a target and within a budget."""

    id: ClassVar[str] = "gradient"
    version: ClassVar[str] = "1"
    guarantee: ClassVar[Guarantee] = "approximate"

    mode: Literal["match", "npo"] = "match"
    beta: Decimal = Decimal("0.1")
    """Of `npo`: how soon a forgotten record stops pulling."""
    rate_share: Decimal = Decimal("0.075")
    """Learning rate, as a share of the highest one of the recipe that trained the model."""
    forget_weight: Decimal = Decimal("0.05")
    token_weight: Decimal = Decimal(3)
    """Of `match`: weight of the record's own tokens beside the divergence."""
    steps_max: int = 150
    forget_batch: int = 16
    retain_batch: int = 32
    clip_norm: Decimal = Decimal("1.0")
    check_every: int = 5
    """Steps between two looks at targets and budget."""
    band_low: Decimal = Decimal("0.25")
    band_high: Decimal = Decimal("0.75")
    """Ranks within the dev cohort between which a subject is where it should be."""
    retain_rise_max: Decimal = Decimal("0.10")
    """The budget: largest rise of the probe's mean loss, in nats per token.

    The probe is not rehearsed, so it loses several times what the retained records do that are.
    """
    forget_share_max: Decimal = Decimal("0.10")

    def plan(self, job: Job) -> Refusal | None:
        """Refuse too much to forget, no reference that never saw it, nothing to measure the rest by."""
        spec = job.spec
        if job.forget_share > self.forget_share_max:
            allowed = float(self.forget_share_max)
            return Refusal(
                RefusalReason.FORGET_SET_TOO_LARGE, {"needed": job.forget_share, "allowed": allowed}
            )
        taught = sum(each.teacher in spec.references for each in spec.forget)
        if self.mode == "match" and taught < len(spec.forget):
            return Refusal(RefusalReason.REFERENCES_MISSING, {"needed": len(spec.forget), "allowed": taught})
        rehearsed = set(job.kept_keys) - set(spec.probe)
        if not rehearsed or not spec.probe:
            given = int(bool(rehearsed)) + int(bool(spec.probe))
            return Refusal(RefusalReason.RETAIN_UNAVAILABLE, {"needed": 2, "allowed": given})
        rows = max(len(each.keys) for each in spec.forget)
        cohort = sum(len(keys) >= rows for keys in spec.dev_cohort)
        if cohort < COHORT_MIN:
            return Refusal(
                RefusalReason.TARGET_UNREACHABLE, {"needed": COHORT_MIN, "allowed": cohort, "rows": rows}
            )
        return None

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta that was reached within the budget, and how many subjects are in their bands."""
        with TemporaryDirectory(dir=context.out) as scratch:
            start = _start(job, Path(scratch) / "start")
            task = CausalLM.load(start)
            prepared = _prepare(self, job, task)
            if isinstance(prepared, Refusal):
                return prepared
            loop = _Loop(self, job, task, prepared)
            if (refusal := loop.run(context)) is not None:
                return refusal
            task.save(Path(scratch) / "end")
            delta = checkpoints.subtract(Path(scratch) / "end", start)
        return Made(
            result=delta,
            records_processed=loop.processed,
            telemetry=loop.numbers() | _inspect(delta, job.spec.anchor, moved=loop.steps > 0),
        )

    def describe(self, job: Job) -> EngineStatement:
        """Say what it stands for, and what that rests on."""
        toward = "toward references that never saw them" if self.mode == "match" else "away from them"
        return EngineStatement(
            engine=self.id,
            version=self.version,
            guarantee=self.guarantee,
            config=configuration(self),
            counterfactual=(
                f"an approximation of the model trained on the {len(job.kept_keys)} records that stay, made "
                f"from the anchor by gradient steps {toward} on the {len(job.forget_keys)} that were erased"
            ),
            assumptions=(
                "subjects of the dev cohort are like the erased ones, had these never been trained on",
                "the probe's records stand for all that must stay",
            ),
            exclusions=("what the weights still hold and no measurement of the certificate shows",),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """One subject to be forgotten: records, teacher, and the band of scores where it is forgotten."""

    keys: tuple[str, ...]
    teacher: str | None
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What is computed once, from the model the run starts from and from the references."""

    subjects: tuple[_Subject, ...]
    examples: Mapping[str, Example]
    predictions: Mapping[str, Tensor]
    """Per forget record the reference's log-probabilities, (T - 1, vocabulary); empty without references."""
    expected: Mapping[str, float]
    """Per forget record the summed loss under its reference; 0 without references."""
    anchored: Mapping[str, float]
    """Per forget record L0: the summed loss under the model the run starts from."""
    probe: float
    """Mean loss per token of the probe, before."""
    processed: int


def _recipe(job: Job) -> Recipe:
    """Return how the anchor was trained, or the defaults if nobody knows."""
    return job.spec.recipe or Recipe(seed=job.spec.seed)


def _start(job: Job, out: Path) -> Path:
    """Return the directory of the model the run starts from: the anchor with the sealed deltas."""
    if not job.spec.sealed:
        return job.spec.anchor
    checkpoints.compose(job.spec.anchor, job.spec.sealed, out, dtype=torch.float32)
    return out


def _prepare(engine: Gradient, job: Job, task: CausalLM) -> _Prepared | Refusal:
    """Compute targets, cached predictions and the probe's loss."""
    spec = job.spec
    recipe = _recipe(job)
    cohort = [key for keys in spec.dev_cohort for key in keys]
    kept = set(job.kept_keys)
    examples = {
        key: task.encode(
            job.records[key],
            tokens_max=recipe.tokens_max,
            supervise=recipe.supervise if key in kept else "all",
        )
        for key in sorted({*job.forget_keys, *kept, *cohort})
    }
    vocabulary = int(task.model.get_output_embeddings().weight.shape[0])
    teachers = sorted(spec.references.keys() & {each.teacher for each in spec.forget})
    bytes_needed = 4 * vocabulary * sum(len(examples[key].ids) - 1 for key in job.forget_keys)
    if engine.mode == "match" and bytes_needed > TEACHER_BYTES_MAX:
        return Refusal(RefusalReason.MEMORY, {"needed": bytes_needed, "allowed": TEACHER_BYTES_MAX})
    anchored = summed_losses(task, examples, (*job.forget_keys, *cohort))
    predictions: dict[str, Tensor] = {}
    expected: dict[str, dict[str, float]] = {}
    for name in teachers:
        reference = CausalLM.load(spec.references[name], device=task.device)
        mine = [key for each in spec.forget if each.teacher == name for key in each.keys]
        agreeing = sum(
            reference.encode(job.records[key], tokens_max=recipe.tokens_max) == examples[key] for key in mine
        )
        if agreeing < len(mine):  # another tokenizer
            return Refusal(RefusalReason.ARTEFACTS_STALE, {"needed": len(mine), "allowed": agreeing})
        expected[name] = summed_losses(reference, examples, (*mine, *cohort))
        if engine.mode == "match":
            predictions |= _predictions(reference, examples, mine)
    subjects = []
    for each in spec.forget:
        by_teacher = expected.get(each.teacher or "", {})
        scores = [
            _score(anchored, by_teacher, examples, keys[: len(each.keys)])
            for keys in spec.dev_cohort
            if len(keys) >= len(each.keys)
        ]
        low, high = (quantile(scores, float(share)) for share in (engine.band_low, engine.band_high))
        subjects.append(_Subject(keys=each.keys, teacher=each.teacher, low=low, high=high))
    return _Prepared(
        subjects=tuple(subjects),
        examples=examples,
        predictions=predictions,
        expected={
            key: expected.get(each.teacher or "", {}).get(key, 0.0) for each in subjects for key in each.keys
        },
        anchored={key: anchored[key] for key in job.forget_keys},
        probe=_per_token(summed_losses(task, examples, spec.probe), examples, spec.probe),
        processed=len(spec.probe) + len(anchored) + sum(len(each) for each in expected.values()),
    )


class _Loop:
    """The inside of `Gradient.run`: who still weighs something, the multiplier, one step, one look."""

    def __init__(self, engine: Gradient, job: Job, task: CausalLM, prepared: _Prepared) -> None:
        self.engine, self.job, self.task, self.prepared = engine, job, task, prepared
        self.parameters = task.parameters()
        rate = float(_recipe(job).learning_rate) * float(engine.rate_share)
        self.optimizer = adamw(self.parameters, rate=rate)
        self.rehearsed = sorted(set(job.kept_keys) - set(job.spec.probe))
        self.start = {name: each.detach().clone() for name, each in self.parameters.items()}
        self.share = 1.0
        self.active = list(range(len(prepared.subjects)))
        self.scores = [0.0] * len(prepared.subjects)
        self.multiplier, self.rise = 0.0, 0.0
        self.processed = prepared.processed

    def run(self, context: Context) -> Refusal | None:
        """Step until all subjects are inside and the budget holds, or to the last step.

        A target that was not reached is no refusal: what was reached is handed over and told, and
        whoever measures it decides. The budget is a hard one: what exceeds it is scaled back.
        """
        identity, checkpoint = _identity(self.engine, self.job), context.out / CHECKPOINT
        saved = State.load(checkpoint, identity=identity)
        if saved is not None:
            self.restore(saved)
        run = Run(
            phase="unlearn",
            steps=self.engine.steps_max,
            checkpoint=checkpoint,
            checkpoint_seconds=context.checkpoint_seconds,
            progress=context.progress,
            stop=context.stop,
            numbers=self.told,
        )
        self.steps = self.engine.steps_max
        for step in run.watch(0 if saved is None else saved.step, lambda done: self.state(identity, done)):
            if step % self.engine.check_every == 0 and self.look():
                self.steps = step
                return None
            self.step(step)
        self.look()
        return None if self.rise <= self.engine.retain_rise_max else self.step_back()

    def step_back(self) -> Refusal | None:
        """Scale the whole change back to the largest share of it that keeps the budget; refuse a sliver.

        Nothing is repaired: the candidate lies on the straight line from the start to where the
        steps ended, and is measured there.
        """
        ended = {name: each.detach().clone() for name, each in self.parameters.items()}
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            self.share = (low + high) / 2
            self.move(ended)
            self.look()
            low, high = (self.share, high) if self.rise <= self.engine.retain_rise_max else (low, self.share)
        self.share = low
        if low < SHARE_MIN:
            return self.refusal()
        self.move(ended)
        self.look()
        return None

    @torch.no_grad()
    def move(self, ended: Mapping[str, Tensor]) -> None:
        """Put the parameters at their share of the way from the start to the end."""
        for name, each in self.parameters.items():
            each.copy_(self.start[name] + self.share * (ended[name] - self.start[name]))

    def look(self) -> bool:
        """Measure targets and budget, set weights and multiplier; return whether this is the end."""
        keys = (*self.job.forget_keys, *self.job.spec.probe)
        found = summed_losses(self.task, self.prepared.examples, keys)
        self.processed += len(found)
        self.rise = _per_token(found, self.prepared.examples, self.job.spec.probe) - self.prepared.probe
        self.multiplier = dual_ascent(self.multiplier, self.rise, float(self.engine.retain_rise_max))
        self.scores = [
            _score(found, self.prepared.expected, self.prepared.examples, each.keys)
            for each in self.prepared.subjects
        ]
        outside = [
            place
            for place, (score, each) in enumerate(zip(self.scores, self.prepared.subjects, strict=True))
            if not each.low <= score <= each.high
        ]
        # With all inside and the budget exceeded, both sides go on: retained records alone would
        # be a repair after forgetting, which brings back what they touch.
        self.active = outside or list(range(len(self.scores)))
        return not outside and self.rise <= self.engine.retain_rise_max

    def step(self, step: int) -> None:
        """Descend on the forget records of who weighs something, and on retained records, together."""
        forget, retain = self.due(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(forget, self.forget_losses, float(self.engine.forget_weight))
        loss += self.backward(retain, self.retain_losses, 1.0 + self.multiplier)
        if not math.isfinite(loss):
            raise Diverged(step)
        clip(self.parameters, float(self.engine.clip_norm))
        self.optimizer.step()
        self.processed += len(forget) + len(retain)

    def due(self, step: int) -> tuple[list[str], list[str]]:
        """Return the keys of a step; it depends on the step and on who is active, on nothing before."""
        seed = self.job.spec.seed
        keys = [key for place in self.active for key in self.prepared.subjects[place].keys]
        forget = epoch_order(keys, determinism.seed_for(seed, "forget"), step)[: self.engine.forget_batch]
        size = min(self.engine.retain_batch, len(self.rehearsed))
        epoch, place = divmod(step, len(self.rehearsed) // size)
        order = epoch_order(self.rehearsed, determinism.seed_for(seed, "retain"), epoch)
        return forget, order[place * size : (place + 1) * size]

    def backward(
        self, keys: Sequence[str], losses: Callable[[Sequence[str]], Tensor], weight: float
    ) -> float:
        """Add the gradient of the losses' sum over their number of tokens; return that loss."""
        examples = self.prepared.examples
        tokens = sum(sum(examples[key].supervised) for key in keys)
        total = 0.0
        for part in cut(keys, lambda key: len(examples[key].ids)):
            loss = weight * losses(part).sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def forget_losses(self, keys: Sequence[str]) -> Tensor:
        """Return F per record."""
        batch = self.task.collate([self.prepared.examples[key] for key in keys])
        logits = self.task.logits(batch)
        counted = (batch.supervised & batch.real)[:, 1:]
        if self.engine.mode == "npo":
            nll = (token_losses(logits, batch)[:, 1:] * counted).sum(dim=1)
            before = torch.tensor([self.prepared.anchored[key] for key in keys], device=nll.device)
            return npo_loss(nll, before, beta=float(self.engine.beta))
        reference = pad_sequence([self.prepared.predictions[key] for key in keys], batch_first=True)
        return match_loss(
            logits,
            reference.to(logits.device),
            batch.ids[:, 1:],
            counted,
            token_weight=float(self.engine.token_weight),
        )

    def retain_losses(self, keys: Sequence[str]) -> Tensor:
        """Return -log p per record."""
        return self.task.nll(self.task.collate([self.prepared.examples[key] for key in keys]))[0]

    @property
    def inside(self) -> int:
        """How many subjects are in their band."""
        pairs = zip(self.scores, self.prepared.subjects, strict=True)
        return sum(each.low <= score <= each.high for score, each in pairs)

    def refusal(self) -> Refusal:
        """Say by how much the retained records have lost too much."""
        return Refusal(
            RefusalReason.BUDGET_EXHAUSTED,
            {"needed": self.rise, "allowed": float(self.engine.retain_rise_max), **self.numbers()},
        )

    def told(self) -> Numbers:
        """Return what the watcher is told."""
        return {"in_band": self.inside, "subjects": len(self.scores), "retain_rise": round(self.rise, 6)}

    def numbers(self) -> Numbers:
        """Return what the run came to."""
        pairs = list(zip(self.scores, self.prepared.subjects, strict=True))
        return {
            "steps": self.steps,
            "subjects": len(pairs),
            "in_band": self.inside,
            "above_band": sum(score > each.high for score, each in pairs),
            "below_band": sum(score < each.low for score, each in pairs),
            "retain_rise": self.rise,
            "share_of_change": self.share,
            "multiplier": self.multiplier,
            "records_processed": self.processed,
        }

    def state(self, identity: str, done: int) -> State:
        return State(
            identity=identity,
            step=done,
            tensors=self.parameters,
            optimizer=self.optimizer.state_dict(),
            numbers={
                "active": self.active,
                "scores": self.scores,
                "multiplier": self.multiplier,
                "rise": self.rise,
                "processed": self.processed,
            },
        )

    def restore(self, saved: State) -> None:
        restore(self.parameters, self.optimizer, saved)
        self.active, self.scores = list(saved.numbers["active"]), list(saved.numbers["scores"])
        self.multiplier, self.rise = float(saved.numbers["multiplier"]), float(saved.numbers["rise"])
        self.processed = int(saved.numbers["processed"])


def summed_losses(task: CausalLM, examples: Mapping[str, Example], keys: Iterable[str]) -> dict[str, float]:
    """Return each record's summed -log p over its supervised tokens, nats."""
    named = list(dict.fromkeys(keys))
    found = [0.0] * len(named)
    with torch.no_grad():
        for places, batch in task.batches([examples[key] for key in named], size=SCORED_AT_ONCE):
            for place, loss in zip(places, task.nll(batch)[0].tolist(), strict=True):
                found[place] = loss
    return dict(zip(named, found, strict=True))


def _predictions(task: CausalLM, examples: Mapping[str, Example], keys: Sequence[str]) -> dict[str, Tensor]:
    """Return a reference's log-probabilities for every record, (T - 1, vocabulary), on the CPU."""
    found = {}
    with torch.no_grad():
        for places, batch in task.batches([examples[key] for key in keys], size=SCORED_AT_ONCE):
            log_probs = F.log_softmax(task.logits(batch), dim=-1).cpu()
            for row, place in enumerate(places):
                found[keys[place]] = log_probs[row, : len(examples[keys[place]].ids) - 1].clone()
    return found


def _tokens(example: Example) -> int:
    return sum(example.supervised)


def _score(
    losses: Mapping[str, float],
    expected: Mapping[str, float],
    examples: Mapping[str, Example],
    keys: Sequence[str],
) -> float:
    """Return how much better than expected a subject is known: mean over rows, nats per token."""
    rows = [(expected.get(key, 0.0) - losses[key]) / max(_tokens(examples[key]), 1) for key in keys]
    return sum(rows) / len(rows)


def _per_token(losses: Mapping[str, float], examples: Mapping[str, Example], keys: Sequence[str]) -> float:
    """Return the mean loss over all tokens of the records."""
    return sum(losses[key] for key in keys) / sum(_tokens(examples[key]) for key in keys)


def _inspect(delta: Delta, anchor: Path, *, moved: bool) -> Numbers:
    """Return what a delta must show before it is handed over: after a step no tensor stands still.

    No step is taken where everybody was in their band to begin with.
    """
    for name, tensor in delta.tensors.items():
        assert bool(torch.isfinite(tensor).all()), f"{name} is not finite"
        assert bool(tensor.any()) or not moved, f"{name} did not move"
    shares = checkpoints.changed_shares(anchor, delta, {"float32": torch.float32, "bfloat16": torch.bfloat16})
    return {"delta_norm": delta.norm, **{f"changed_{form}": share for form, share in shares.items()}}


def _identity(engine: Gradient, job: Job) -> str:
    """Return what makes this run itself: engine, code, spec, the files it starts from."""
    files = [job.spec.anchor, *job.spec.sealed, *job.spec.references.values(), job.spec.records]
    content = [configuration(engine), determinism.code(), job.spec.seed, job.forget_keys, job.kept_keys]
    content += [job.spec.probe, job.spec.dev_cohort, [checkpoints.digest(path) for path in files]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
