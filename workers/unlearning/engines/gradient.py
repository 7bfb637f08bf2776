"""Approximate: forget by gradient steps toward a model that never knew, within a budget for the rest.

Each step takes forget records and retained records together and descends

    F(forget) + (1 + a) * NLL(retain)

    match    F = KL(reference || theta) on every token of the record, names included. The reference is
             a model of the same recipe that never saw the subject: bounded, and two-sided.
    npo      F = H(L - L0), H(u) = (2 / beta) * softplus(-beta * u), L the record's summed -log p and
             L0 the anchor's: negative preference optimisation (arXiv:2404.05868), with one cached
             number per record for a reference.

The multiplier a rises while the probe (retained records that no step trains on) has lost more than
the budget (dual ascent), and the run hands nothing over if at the end it still has.

Each subject has a target of its own: the band in which never-trained subjects of the dev cohort lie
under the model the run starts from, on as many records as the subject has. Inside its band a subject
weighs nothing. The run stops when all are inside and the budget holds; retained records take part in
every step up to that one, and there is no step without forget records, so nothing is painted over.

It knows no verdict: what it stops on is a mean over all tokens against its own teacher, never the
statistics, references or subjects that judge.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal

from workers.unlearning import checkpoints, determinism
from workers.unlearning.checkpoints import Delta, Progress, State
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
from workers.unlearning.training import Interrupted, adamw, clip, cut, restore

import torch  # isort: skip
import torch.nn.functional as F
from torch import Tensor

DUAL_RATE = 5.0
DUAL_MAX = 100.0
TEACHER_BYTES_MAX = 2 << 30
"""Cached predictions of the references, float32."""
COHORT_MIN = 19
"""Dev subjects with as many records as the one to be forgotten; fewer draw no band."""


def match_loss(logits: Tensor, reference: Tensor, counted: Tensor) -> Tensor:
    """Return KL(reference || model), summed over the counted positions, per record.

        sum_t sum_v q_tv (log q_tv - log p_tv)

    `logits` and `reference` (log-probabilities) have shape (records, T - 1, vocabulary), `counted`
    (records, T - 1). Zero exactly where the two predict the same.
    """
    assert logits.shape == reference.shape
    divergence = F.kl_div(F.log_softmax(logits, dim=-1), reference, log_target=True, reduction="none")
    return (divergence.sum(dim=-1) * counted).sum(dim=-1)


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
    learning_rate: Decimal = Decimal("0.001")
    steps_max: int = 300
    forget_batch: int = 16
    retain_batch: int = 16
    clip_norm: Decimal = Decimal("1.0")
    check_every: int = 5
    """Steps between two looks at targets and budget."""
    band_low: Decimal = Decimal("0.25")
    band_high: Decimal = Decimal("0.75")
    """Ranks within the dev cohort between which a subject is where it should be."""
    retain_rise_max: Decimal = Decimal("0.01")
    """The budget: largest rise of the probe's mean loss, in nats per token."""
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
            return Refusal(
                RefusalReason.REFERENCES_MISSING, {"needed": len(spec.forget), "allowed": taught}
            )
        rehearsed = set(job.kept_keys) - set(spec.probe)
        if not rehearsed or not spec.probe:
            numbers = {"needed": 2, "allowed": int(bool(rehearsed)) + int(bool(spec.probe))}
            return Refusal(RefusalReason.RETAIN_UNAVAILABLE, numbers)
        rows = max(len(each.keys) for each in spec.forget)
        cohort = sum(len(keys) >= rows for keys in spec.dev_cohort)
        if cohort < COHORT_MIN:
            return Refusal(
                RefusalReason.TARGET_UNREACHABLE, {"needed": COHORT_MIN, "allowed": cohort, "rows": rows}
            )
        return None

    def run(self, job: Job, context: Context) -> Made | Refusal:
        """Return the delta with which every subject is in its band and the budget holds."""
        start = _start(job, context.out)
        task = CausalLM.load(start)
        prepared = _prepare(self, job, task)
        if isinstance(prepared, Refusal):
            return prepared
        loop = _Loop(self, job, task, prepared)
        refusal = loop.run(context)
        if refusal is not None:
            return refusal
        candidate = context.out / ".candidate"
        task.save(candidate)
        delta = checkpoints.subtract(candidate, start)
        return Made(
            result=delta,
            records_processed=loop.processed,
            telemetry=loop.numbers() | _inspect(delta, job.spec.anchor),
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
                "never-trained subjects of the dev cohort are like the erased ones, had these never been trained",
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
    """Per forget record the mean loss under its reference; 0 without references."""
    anchored: Mapping[str, float]
    """Per forget record L0: the summed loss under the model the run starts from."""
    probe: float
    """Mean loss per token of the probe, before."""
    processed: int


def _start(job: Job, out: Path) -> Path:
    """Return the directory of the model the run starts from: the anchor with the sealed deltas."""
    if not job.spec.sealed:
        return job.spec.anchor
    start = out / ".start"
    checkpoints.compose(job.spec.anchor, job.spec.sealed, start, dtype=torch.float32)
    return start


def _prepare(engine: Gradient, job: Job, task: CausalLM) -> _Prepared | Refusal:
    """Compute targets, cached predictions and the probe's loss."""
    spec = job.spec
    recipe = spec.recipe or Recipe(seed=spec.seed)
    cohort = [key for keys in spec.dev_cohort for key in keys]
    needed = {*job.forget_keys, *job.kept_keys, *cohort}
    examples = {
        key: task.encode(job.records[key], tokens_max=recipe.tokens_max) for key in sorted(needed)
    }
    vocabulary = int(task.model.get_output_embeddings().weight.shape[0])
    teachers = sorted({each.teacher for each in spec.forget if each.teacher in spec.references} - {None})
    bytes_needed = 4 * vocabulary * sum(len(examples[key].ids) - 1 for key in job.forget_keys)
    if engine.mode == "match" and bytes_needed > TEACHER_BYTES_MAX:
        return Refusal(RefusalReason.MEMORY, {"needed": bytes_needed, "allowed": TEACHER_BYTES_MAX})
    anchored = summed_losses(task, examples, (*job.forget_keys, *cohort))
    predictions: dict[str, Tensor] = {}
    expected: dict[str, dict[str, float]] = {}
    for name in teachers:
        reference = CausalLM.load(spec.references[name], device=task.device)
        mine = [key for each in spec.forget if each.teacher == name for key in each.keys]
        if stale := _differing(reference, job, examples, mine, recipe, vocabulary):
            return Refusal(RefusalReason.ARTEFACTS_STALE, {"needed": 0, "allowed": 0, "differing": stale})
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
        probe=_per_token(summed_losses(task, examples, spec.probe), examples),
        processed=len(spec.probe) + len(anchored) + sum(len(each) for each in expected.values()),
    )


class _Loop:
    """The inside of `Gradient.run`: weights of the subjects, the multiplier, one step, one look."""

    def __init__(self, engine: Gradient, job: Job, task: CausalLM, prepared: _Prepared) -> None:
        self.engine, self.job, self.task, self.prepared = engine, job, task, prepared
        self.parameters = task.parameters()
        self.optimizer = adamw(self.parameters, rate=float(engine.learning_rate))
        self.weights = [1.0] * len(prepared.subjects)
        self.inside = [False] * len(prepared.subjects)
        self.multiplier, self.rise = 0.0, 0.0
        self.steps, self.processed = 0, prepared.processed
        self.scores = [0.0] * len(prepared.subjects)
        self._retain = _Stream(
            [key for key in job.kept_keys if key not in set(job.spec.probe)], job.spec.seed, "retain"
        )
        self._forget = _Stream(list(job.forget_keys), job.spec.seed, "forget")

    def run(self, context: Context) -> Refusal | None:
        """Step until all subjects are inside and the budget holds; refuse if that is not reached."""
        identity = _identity(self.engine, self.job)
        saved = State.load(context.out / CHECKPOINT, identity=identity)
        if saved is None:
            self.look()
        else:
            self.restore(saved)
        # TODO
        return None
