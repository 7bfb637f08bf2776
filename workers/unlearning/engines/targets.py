"""Where a subject is to end, and how far the rest may move: computed once, then looked at again and again.

    prepare(job, task, ...)  -> Prepared      bands, predictions of the references, the probe's loss
    Gauge(job, task, prepared).look() -> Look  where every subject is, and what the rest has lost

A subject's *score* is how much better than expected they are known, in nats per token, mean over their
records; expected is what the references say that never saw them, or 0 without references. Their *band*
are the scores of never-trained subjects of the dev cohort under the model the run starts from, on as
many records each, up to eight. Above it they are remembered, below it over-forgotten: who was never
there is not strikingly unknown either. What the references say of a record's own tokens is stretched out to
the middle of the band, so that who descends toward them ends there. Nobody is led nearer than the references
stand: where the cohort does, the band of who descends toward them is moved out to it.

Several engines stop on this, and none knows another. Of verdicts, judges and the audit's cohort
nothing is known here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.unlearning import checkpoints
from workers.unlearning.checkpoints import Delta
from workers.unlearning.engines.base import Job, Numbers, Refusal, RefusalReason
from workers.unlearning.objectives import averaged, quantile
from workers.unlearning.spec import ForgetSubject, Recipe, UnlearnSpec
from workers.unlearning.task import Example, Task, load

import torch  # isort: skip
import torch.nn.functional as F  # noqa: N812  the name everybody reads
from torch import Tensor

TEACHER_BYTES_MAX = 2 << 30
"""Cached predictions of the references, float32."""
SCORED_AT_ONCE = 64
STRETCH_MAX = 2.0
"""What the cohort says of everybody decides no more than this of one."""
COHORT_MIN = 19
"""Dev subjects with as many records as count of the one to be forgotten; fewer draw no band."""
COHORT_MAX = 20
"""Dev subjects that are scored: enough for quartiles, and each costs as much as one that is forgotten."""
COHORT_ROWS = 8
"""Records of each that are scored. With more of their own, somebody is held to a wider band than need be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One subject to be forgotten, and the band of scores where they are forgotten."""

    keys: tuple[str, ...]
    low: float
    high: float

    def holds(self, score: float) -> bool:
        """Return whether a score lies in the band."""
        return self.low <= score <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is computed once, from the model the run starts from and from the references."""

    subjects: tuple[Subject, ...]
    cohort: tuple[str, ...]
    """The records of the dev cohort that are scored."""
    examples: Mapping[str, Example]
    predictions: Mapping[str, Tensor]
    """Per forget record the references' mean prediction as log-probabilities, (targets, classes)."""
    owns: Mapping[str, Tensor]
    """Per forget record the log-probability of its own targets in the middle of its subject's band, or as
    near to it as a factor of `STRETCH_MAX` on what the references say leads."""
    expected: Mapping[str, float]
    """Per forget record the summed loss under its references, their mean; 0 without references."""
    anchored: Mapping[str, float]
    """Per forget record L0: the summed loss under the model the run starts from."""
    untrained: float
    """Loss per token of the dev cohort under the model the run starts from: what never-trained costs."""
    probe: float
    """Mean loss per token of the probe, before."""
    processed: int

    def tokens(self, keys: Iterable[str]) -> int:
        """Return how many tokens of these records carry loss."""
        return sum(self.examples[key].tokens for key in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look: where each subject is, and what the probe has lost since the start."""

    scores: tuple[float, ...]
    rows: Mapping[str, float]
    """Score per forget record."""
    rise: float
    """Rise of the probe's loss, nats per token."""


def refuses(job: Job, *, share_max: float, taught: bool) -> Refusal | None:
    """Refuse too much to forget, no reference that never saw it, nothing to measure the rest by."""
    spec = job.spec
    if job.forget_share > share_max:
        numbers: Numbers = {"needed": job.forget_share, "allowed": share_max}
        return Refusal(RefusalReason.FORGET_SET_TOO_LARGE, numbers)
    known = sum(bool(teachers(job, each)) for each in spec.forget)
    if taught and known < len(spec.forget):
        return Refusal(RefusalReason.REFERENCES_MISSING, {"needed": len(spec.forget), "allowed": known})
    rehearsed = set(job.kept_keys) - set(spec.probe)
    if not rehearsed or not spec.probe:
        given = int(bool(rehearsed)) + int(bool(spec.probe))
        return Refusal(RefusalReason.RETAIN_UNAVAILABLE, {"needed": 2, "allowed": given})
    rows, cohort = _compared(spec)
    if len(cohort) < COHORT_MIN:
        numbers = {"needed": COHORT_MIN, "allowed": len(cohort), "rows": rows}
        return Refusal(RefusalReason.TARGET_UNREACHABLE, numbers)
    return None


def _compared(spec: UnlearnSpec) -> tuple[int, list[tuple[str, ...]]]:
    """Return how many records of one count at most, and those of all of the cohort who have as many."""
    rows = min(max(len(each.keys) for each in spec.forget), COHORT_ROWS)
    return rows, [keys[:rows] for keys in spec.dev_cohort if len(keys) >= rows]


def teachers(job: Job, subject: ForgetSubject) -> tuple[str, ...]:
    """Return the references at hand that never saw a subject."""
    named = dict.fromkeys((*((subject.teacher,) if subject.teacher else ()), *subject.teachers))
    return tuple(name for name in named if name in job.spec.references)


def recipe_of(job: Job) -> Recipe:
    """Return how the anchor was trained, or the defaults if nobody knows."""
    return job.spec.recipe or Recipe(seed=job.spec.seed)


def start(job: Job, out: Path) -> Path:
    """Return the directory of the model the run starts from: the anchor with the sealed deltas."""
    if not job.spec.sealed:
        return job.spec.anchor
    checkpoints.compose(job.spec.anchor, job.spec.sealed, out, dtype=torch.float32)
    return out


def prepare(
    job: Job, task: Task, *, predicted: bool, teachers_max: int, band: tuple[float, float]
) -> Prepared | Refusal:
    """Compute bands, the probe's loss and, if wanted, the references' predictions.

    At most `teachers_max` references teach a subject; without any, losses are compared with nothing,
    and the band is that of the cohort's losses themselves.
    """
    spec, recipe = job.spec, recipe_of(job)
    rows, dev = _compared(spec)
    dev = dev[:COHORT_MAX]
    cohort = [key for keys in dev for key in keys]
    kept = set(job.kept_keys)
    examples = {
        key: task.encode(
            job.records[key],
            tokens_max=recipe.tokens_max,
            supervise=recipe.supervise if key in kept else "all",
        )
        for key in sorted({*job.forget_keys, *kept, *cohort})
    }
    taught = {each.subject: teachers(job, each)[:teachers_max] for each in spec.forget}
    anchored = summed_losses(task, examples, (*job.forget_keys, *cohort))
    told = _told(job, task, examples, taught, cohort, predicted=predicted)
    if isinstance(told, Refusal):
        return told
    expected, said = told
    subjects, means, owns = [], dict[str, float](), dict[str, Tensor]()
    for each in spec.forget:
        by = [expected[name] for name in taught[each.subject]]
        wanted = {key: sum(of[key] for of in by) / len(by) if by else 0.0 for key in (*each.keys, *cohort)}
        counted = min(len(each.keys), rows)
        scores = [score(anchored, wanted, examples, keys[:counted]) for keys in dev]
        low, high = (quantile(scores, share) for share in band)
        if predicted:  # what is a little too far drifts back in later jobs; what is too near is known again
            nearer = max((low + high) / 2, 0.0)
            low, high = low - nearer, high - nearer
        subject = Subject(keys=each.keys, low=low, high=high)
        subjects.append(subject)
        means |= {key: wanted[key] for key in each.keys}
        if predicted:
            stretch = _stretch(subject, wanted, examples)
            owns |= {key: stretch * _own(said[key], examples[key]) for key in each.keys}
    return Prepared(
        subjects=tuple(subjects),
        cohort=tuple(cohort),
        examples=examples,
        predictions={key: averaged(several) for key, several in said.items()},
        owns=owns,
        expected=means,
        anchored={key: anchored[key] for key in job.forget_keys},
        untrained=per_token(anchored, examples, cohort),
        probe=per_token(summed_losses(task, examples, spec.probe), examples, spec.probe),
        processed=len(spec.probe) + len(anchored) + sum(len(each) for each in expected.values()),
    )


def _told(
    job: Job,
    task: Task,
    examples: Mapping[str, Example],
    taught: Mapping[str, Sequence[str]],
    cohort: Sequence[str],
    *,
    predicted: bool,
) -> tuple[dict[str, dict[str, float]], dict[str, list[Tensor]]] | Refusal:
    """Return per reference the losses of its subjects and the cohort, and per record the predictions."""
    needed = 4 * task.classes * sum(len(examples[key].targets) for key in job.forget_keys)
    if predicted and needed > TEACHER_BYTES_MAX:
        return Refusal(RefusalReason.MEMORY, {"needed": needed, "allowed": TEACHER_BYTES_MAX})
    losses: dict[str, dict[str, float]] = {}
    said: dict[str, list[Tensor]] = {}
    for name in sorted({name for names in taught.values() for name in names}):
        reference = load(job.spec.references[name], device=task.device)
        mine = [key for each in job.spec.forget if name in taught[each.subject] for key in each.keys]
        tokens_max = recipe_of(job).tokens_max
        agreeing = sum(
            reference.encode(job.records[key], tokens_max=tokens_max) == examples[key] for key in mine
        )
        if agreeing < len(mine):  # another tokenizer, or other labels
            return Refusal(RefusalReason.ARTEFACTS_STALE, {"needed": len(mine), "allowed": agreeing})
        if not predicted:
            losses[name] = summed_losses(reference, examples, (*mine, *cohort))
            continue
        # One pass: every target of what is to be forgotten counts, so its loss is in the predictions.
        losses[name] = summed_losses(reference, examples, cohort)
        for key, each in predictions_of(reference, examples, mine).items():
            said.setdefault(key, []).append(each)
            losses[name][key] = -float(_own([each], examples[key]).sum())
    return losses, said


def _own(several: Sequence[Tensor], example: Example) -> Tensor:
    """Return the mean log-probability of a record's own tokens."""
    targets = torch.tensor(example.targets)[:, None]
    return torch.stack([each.gather(-1, targets)[:, 0] for each in several]).mean(dim=0)


def _stretch(subject: Subject, expected: Mapping[str, float], examples: Mapping[str, Example]) -> float:
    """Return by what the references' losses become those in the middle of the band.

    A reference has seen a part of what the model has seen, so it may find somebody never trained on less
    unlikely than the model does; by how much is what the cohort's scores say. In the logarithm it is a
    factor, so that what is certain stays certain.
    """
    told = score(dict.fromkeys(subject.keys, 0.0), expected, examples, subject.keys)
    middle = (subject.low + subject.high) / 2
    return min((told - middle) / told, STRETCH_MAX) if told > 0 else 1.0


class Gauge:
    """Measures a model that is being changed against what was prepared."""

    def __init__(self, job: Job, task: Task, prepared: Prepared) -> None:
        """Look at `task`, whose weights others change."""
        self.job, self.task, self.prepared = job, task, prepared
        self.processed = prepared.processed

    def start(self) -> Look:
        """Return the look at the model as it was prepared: nothing has been lost."""
        return self._look(self.prepared.anchored, rise=0.0)

    def look(self) -> Look:
        """Measure every subject and the probe once."""
        prepared, probe = self.prepared, self.job.spec.probe
        found = summed_losses(self.task, prepared.examples, (*self.job.forget_keys, *probe))
        self.processed += len(found)
        return self._look(found, rise=per_token(found, prepared.examples, probe) - prepared.probe)

    def _look(self, found: Mapping[str, float], *, rise: float) -> Look:
        prepared = self.prepared
        return Look(
            scores=tuple(
                score(found, prepared.expected, prepared.examples, each.keys) for each in prepared.subjects
            ),
            rows={
                key: score(found, prepared.expected, prepared.examples, (key,))
                for key in self.job.forget_keys
            },
            rise=rise,
        )


def told(prepared: Prepared, look: Look) -> Numbers:
    """Return what a look came to; `off_band` is the mean distance from the bands, nats per token."""
    pairs = list(zip(look.scores, prepared.subjects, strict=True))
    return {
        "subjects": len(pairs),
        "in_band": sum(each.holds(score_) for score_, each in pairs),
        "above_band": sum(score_ > each.high for score_, each in pairs),
        "below_band": sum(score_ < each.low for score_, each in pairs),
        "off_band": sum(max(each.low - score_, score_ - each.high, 0.0) for score_, each in pairs)
        / len(pairs),
        "retain_rise": look.rise,
    }


def summed_losses(task: Task, examples: Mapping[str, Example], keys: Iterable[str]) -> dict[str, float]:
    """Return each record's summed -log p over its supervised tokens, nats."""
    named = list(dict.fromkeys(keys))
    found = [0.0] * len(named)
    with torch.no_grad():
        for places, batch in task.batches([examples[key] for key in named], size=SCORED_AT_ONCE):
            for place, loss in zip(places, task.nll(batch)[0].tolist(), strict=True):
                found[place] = loss
    return dict(zip(named, found, strict=True))


def predictions_of(task: Task, examples: Mapping[str, Example], keys: Sequence[str]) -> dict[str, Tensor]:
    """Return a model's log-probabilities for every record, (targets, classes), on the CPU."""
    found = {}
    with torch.no_grad():
        for places, batch in task.batches([examples[key] for key in keys], size=SCORED_AT_ONCE):
            log_probs = F.log_softmax(task.logits(batch), dim=-1).cpu()
            for row, place in enumerate(places):
                found[keys[place]] = log_probs[row, : len(examples[keys[place]].targets)].clone()
    return found


def divergence_from(task: Task, examples: Mapping[str, Example], before: Mapping[str, Tensor]) -> float:
    """Return KL(before || now) over the tokens of these records that carry loss, nats per token."""
    now = predictions_of(task, examples, list(before))
    total = 0.0
    for key, told in before.items():
        counted = task.collate([examples[key]]).counted[0, : len(told)].cpu()
        total += float(F.kl_div(now[key][counted], told[counted], log_target=True, reduction="sum"))
    return total / sum(examples[key].tokens for key in before)


def score(
    losses: Mapping[str, float],
    expected: Mapping[str, float],
    examples: Mapping[str, Example],
    keys: Sequence[str],
) -> float:
    """Return how much better than expected a subject is known: mean over rows, nats per token."""
    rows = [(expected.get(key, 0.0) - losses[key]) / max(examples[key].tokens, 1) for key in keys]
    return sum(rows) / len(rows)


def per_token(losses: Mapping[str, float], examples: Mapping[str, Example], keys: Sequence[str]) -> float:
    """Return the mean loss over all tokens of the records."""
    return sum(losses[key] for key in keys) / sum(examples[key].tokens for key in keys)


def inspect(delta: Delta, anchor: Path, *, moved: bool, still: Collection[str] = ()) -> Numbers:
    """Return what a delta must show before it is handed over.

    With `moved` no tensor may stand still but those of `still`: buffers, which nothing trains.
    """
    for name, tensor in delta.tensors.items():
        assert bool(torch.isfinite(tensor).all()), f"{name} is not finite"
        assert bool(tensor.any()) or not moved or name in still, f"{name} did not move"
    shares = checkpoints.changed_shares(anchor, delta, {"float32": torch.float32, "bfloat16": torch.bfloat16})
    return {"delta_norm": delta.norm, **{f"changed_{form}": share for form, share in shares.items()}}
