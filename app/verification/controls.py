"""The batch's own controls: sentinels, assay, utility. Rules about a batch, not about a person.

    sentinel   planted, trained, erased with the batch: fails if more than delta of its gap remains
    assay      trained and kept: the candidate must still show at least `assay_min` of their gap
    utility    retained items, paired: what was recalled before must be recalled after

Knows no request, no verdict and no level.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from app.verification.binomial import rate_is_below, t_quantile, upper_bound
from app.verification.cohort import median, spread
from app.verification.conformal import printed
from app.verification.measurements import Answer, BatchEvidence, Control, UtilityItem
from app.verification.policy import Policy

SENTINELS_FOR_A_MEAN = 20
"""Fewest sentinels whose mean ratio has a usable t-bound."""

NOISE_SPREADS = 3
"""Under a weak reference and with fewer, a sentinel fails only this far clear of the cohort's spread."""


def typical_gap(evidence: BatchEvidence, form: str) -> Decimal:
    """Return the usual height of the trained above the cohort's median; 0 if nobody shows it.

    The median over sentinels, else over assay controls, under the baseline.
    """
    shown = evidence.sentinels.get(form) or evidence.assay.get(form) or ()
    return max(Decimal(0), median([control.excess_before for control in shown])) if shown else Decimal(0)


def reference_is_strong(controls: Sequence[Control], gap: Decimal, delta: Decimal) -> bool:
    """Say whether one subject's score resolves delta: sd of the cohort <= delta / 3 of the gap."""
    return bool(controls) and 3 * max(control.after_spread for control in controls) <= delta * gap


def still_remembered(control: Control, delta: Decimal, *, slack: Decimal = Decimal(0)) -> bool:
    """Say whether more than delta of a control's gap remains, by more than the slack.

    Not "p <= .05": that would fail 5 % of perfect erasures, and 59 in a row would hardly ever pass.
    """
    return control.excess_after - slack > delta * control.excess_before


def assay_is_alive(evidence: BatchEvidence, form: str, policy: Policy) -> bool:
    """Say whether the candidate still shows the people it was to keep.

    A collapsed model remembers nobody and would pass everything; so would pure noise.
    """
    controls = evidence.assay.get(form, ())
    if len(controls) < policy.assay_subjects:
        return False
    gap = median([control.excess_before for control in controls])
    return gap > 0 and median([control.excess_after for control in controls]) >= policy.assay_min * gap


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelFindings:
    """What the sentinels say, this batch's and those before it."""

    here: int
    """Sentinels of this batch that could be judged."""
    failures_here: int
    failed: tuple[str, ...]
    total: int
    failures: int
    upper: Decimal
    """Clopper-Pearson 95 % upper bound of the failure rate."""
    within_risk: bool
    enough: bool
    """Whether this batch erased as many as the policy asks for, each measured in every form."""

    @property
    def block(self) -> bool:
        """Say whether this batch may not be published: a failure, and no record that carries it."""
        return self.failures_here > 0 and not self.within_risk


def sentinels(evidence: BatchEvidence, policy: Policy) -> SentinelFindings:
    """Judge the sentinels in every declared form and add them to those of the window.

    One that was never memorised shows nothing and is not counted, unless it was extracted.
    """
    judged: set[str] = set()
    failed: set[str] = set()
    for form in evidence.forms:
        judged_here, failed_here = _sentinels_in(evidence, form, policy)
        judged |= judged_here
        failed |= failed_here
    planted = [{control.id for control in evidence.sentinels.get(form, ())} for form in evidence.forms]
    everywhere = set.intersection(*planted)
    judged = (judged & everywhere) | failed
    failures = evidence.sentinel_failures_before + len(failed)
    total = evidence.sentinels_before + len(judged)
    return SentinelFindings(
        here=len(judged),
        failures_here=len(failed),
        failed=tuple(sorted(failed)),
        total=total,
        failures=failures,
        upper=printed(upper_bound(failures, total), up=True),
        within_risk=rate_is_below(failures, total, risk=policy.sentinel_risk),
        enough=len(judged & everywhere) >= policy.sentinels_per_batch,
    )


def _sentinels_in(evidence: BatchEvidence, form: str, policy: Policy) -> tuple[set[str], set[str]]:
    """Return who could be judged in one form, and who failed."""
    planted = evidence.sentinels.get(form, ())
    memorised = [control for control in planted if control.excess_before > 0]
    extracted = {control.id for control in planted if control.hits}
    everyone = {control.id for control in memorised} | extracted
    above = {control.id for control in memorised if still_remembered(control, policy.delta)}
    if reference_is_strong(planted, typical_gap(evidence, form), policy.delta):
        return everyone, above | extracted
    if len(memorised) >= SENTINELS_FOR_A_MEAN:
        if mean_ratio_upper(memorised) <= policy.delta:
            return everyone, extracted
        return everyone, (above or {max(memorised, key=_ratio).id}) | extracted
    # One noisy score cannot resolve delta: only a gross failure counts, and nothing as a success.
    gross = {
        control.id
        for control in memorised
        if still_remembered(control, policy.delta, slack=NOISE_SPREADS * control.after_spread)
    }
    return gross | extracted, gross | extracted


def resurfaced(planted: Mapping[str, Sequence[Control]], delta: Decimal) -> frozenset[str]:
    """Return the sentinels of an earlier batch that stand out again, in any form.

    Under a weak reference one score cannot resolve delta: only what is clear of its noise counts.
    """
    found: set[str] = set()
    for controls in planted.values():
        gap = max(Decimal(0), median([each.excess_before for each in controls])) if controls else Decimal(0)
        spreads = 0 if reference_is_strong(controls, gap, delta) else NOISE_SPREADS
        found |= {
            each.id
            for each in controls
            if each.hits
            or (each.excess_before > 0 and still_remembered(each, delta, slack=spreads * each.after_spread))
        }
    return frozenset(found)


def resurfaced_batches(evidence: BatchEvidence, policy: Policy) -> tuple[str, ...]:
    """Return the batches whose bound held when they were published and breaks on this candidate (V45).

    A record too short to hold the bound breaks with the first sentinel that is back, and not before.
    """
    broken = []
    for batch in evidence.earlier:
        there = {form: batch.sentinels[form] for form in evidence.forms if form in batch.sentinels}
        back = resurfaced(there, policy.delta)
        total = batch.others + len({each.id for planted in there.values() for each in planted})
        if back and not rate_is_below(batch.others_failed + len(back), total, risk=policy.sentinel_risk):
            broken.append(batch.job)
    return tuple(broken)


def mean_ratio_upper(controls: Sequence[Control]) -> Decimal:
    """Return the one-sided 95 % t-bound on the mean share of the gap that remains."""
    ratios = [_ratio(control) for control in controls]
    count = len(ratios)
    mean = sum(ratios, Decimal(0)) / count
    # `spread` divides by n, the standard error of a mean by sqrt(n (n - 1)).
    error = spread(ratios) / Decimal(count - 1).sqrt()
    t = Decimal(f"{t_quantile(0.95, count - 1):.9f}")
    return printed(mean + t * error, up=True)


def _ratio(control: Control) -> Decimal:
    return control.excess_after / control.excess_before


DRAWS = 1000
"""Bootstrap resamples of the subjects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The share of items recalled before less the share after, with a 95 % interval by subject."""

    items: int
    drop: Fraction
    low: Fraction
    high: Fraction


def paired_drop(items: Sequence[UtilityItem]) -> Drop:
    """Return the drop on the same items; subjects are drawn whole, for their items go together."""
    return _paired([(item.subject, item.recalled_before - item.recalled_after) for item in items])


def degenerate_rise(answers: Sequence[Answer]) -> Drop:
    """Return the rise of the share of answers that say one thing over and over, as a drop of the others."""
    return _paired([(answer.key, answer.degenerate_after - answer.degenerate_before) for answer in answers])


def _paired(lost_of: Sequence[tuple[str, int]], *, seed: int = 0) -> Drop:
    assert lost_of, "a drop needs items"
    by_subject: dict[str, list[int]] = {}
    for subject, lost in lost_of:
        by_subject.setdefault(subject, []).append(lost)
    groups = [(sum(lost), len(lost)) for _, lost in sorted(by_subject.items())]
    source = random.Random(seed)  # noqa: S311  no secret: it must give the same interval again
    draws = sorted(_resampled(groups, source) for _ in range(DRAWS))
    edge = DRAWS * 25 // 1000
    drop = Fraction(sum(lost for lost, _ in groups), len(lost_of))
    return Drop(items=len(lost_of), drop=drop, low=draws[edge], high=draws[DRAWS - 1 - edge])


def _resampled(groups: Sequence[tuple[int, int]], source: random.Random) -> Fraction:
    drawn = source.choices(groups, k=len(groups))
    return Fraction(sum(lost for lost, _ in drawn), sum(size for _, size in drawn))


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilityFindings:
    """Whether the candidate is still good for what it was; None where nothing was measured."""

    drop: Drop | None
    """Of the worst declared form."""
    anchor_drop: Drop | None
    loss_rise: Decimal | None
    """Worst form's mean rise over all retained items, nats per token."""
    neighbour_rise: Decimal | None
    degenerate_rise: Drop | None
    """Of the worst declared form."""
    reasons: tuple[str, ...]
    """Empty if the gate is passed."""


def utility(evidence: BatchEvidence, policy: Policy) -> UtilityFindings:
    """Hold the utility gate over the declared forms.

    The limit on neighbours, who suffer first, holds for the mean over all retained items too.
    """
    measured = [items for form in evidence.forms if (items := evidence.utility.get(form))]
    drop = _worst(evidence.utility, evidence.forms)
    anchor_drop = _worst(evidence.utility_from_anchor, evidence.forms)
    rise = max((_loss_rise(items) for items in measured), default=None)
    limit = policy.neighbour_rise_nats
    neighbours = evidence.neighbour_rise
    spoken = [degenerate_rise(found) for form in evidence.forms if (found := evidence.answers.get(form))]
    degenerate = max(spoken, key=lambda each: each.drop, default=None)
    conditions = {
        "utility_unmeasured": len(measured) < len(evidence.forms),
        "utility_drop": drop is not None and _exceeds(drop, policy.utility_drop_job, policy),
        "utility_drop_anchor": anchor_drop is not None
        and _exceeds(anchor_drop, policy.utility_drop_anchor, policy),
        "retain_rise": rise is not None and rise > limit,
        "neighbour_rise": neighbours is not None and neighbours > limit,
        "degenerate_rise": degenerate is not None and _exceeds(degenerate, policy.degenerate_rise, policy),
    }
    return UtilityFindings(
        drop=drop,
        anchor_drop=anchor_drop,
        loss_rise=None if rise is None else printed(rise),
        neighbour_rise=None if neighbours is None else printed(neighbours),
        degenerate_rise=degenerate,
        reasons=tuple(reason for reason, holds in conditions.items() if holds),
    )


def _worst(by_form: Mapping[str, tuple[UtilityItem, ...]], forms: Sequence[str]) -> Drop | None:
    drops = [paired_drop(items) for form in forms if (items := by_form.get(form))]
    return max(drops, key=lambda drop: drop.drop, default=None)


def _exceeds(drop: Drop, limit: Decimal, policy: Policy) -> bool:
    """Say whether a drop is too large; on few items, only if it stands clear of its own noise."""
    noisy = drop.items < policy.utility_items_noisy_below
    return (drop.low if noisy else drop.drop) > Fraction(limit)


def _loss_rise(items: Sequence[UtilityItem]) -> Decimal:
    return sum((item.loss_after - item.loss_before for item in items), Decimal(0)) / len(items)
