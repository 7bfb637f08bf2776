"""One declared form of one subject: its numbers, and the first row of the table that holds.

    row  verdict  reasons
    1    F        detected, extraction_hit, relearn_excess
    2    I        cohort_too_small, looks_exhausted, assay_dead, blind_mismatch, form_unmeasured
    3    I        over_forgotten
    4    N / I    nothing_measurable / insensitive, unbounded
    5    I        detected_single, tie
    6    I        unbounded, bound_above_delta, extraction_unmeasured, extraction_unbounded
    7    V        the control fired, nothing is detected, and what may remain is at most delta

Knows no method and no level; those are of the request (`verdict`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from app.verification import controls
from app.verification.cohort import Resemblance, median
from app.verification.combination import max_rank
from app.verification.conformal import (
    MISS,
    Residue,
    detectable_shift,
    fires,
    p_high,
    p_low,
    p_strict,
    printed,
    residue,
    threshold_rank,
)
from app.verification.measurements import BatchEvidence, FormReadings, Reading, RequestMeasurements
from app.verification.policy import Policy

Verdict = Literal["V", "I", "N", "F"]

MAIN = "ref_loss"
"""The score that carries control, sensitivity and bound; every form must have it."""

ADDITIVE = (MAIN, "paraphrase", "name", "fake_name")
"""Means over tokens, in nats: scores whose residue is a share of a gap. The others only detect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFindings:
    """One additive score in one form."""

    attack: str
    p0: Fraction
    p1: Fraction
    fired: bool
    """Whether its own control fired: only then does a bound on it mean anything."""
    excess_upper: Decimal | None
    gap_lower: Decimal | None
    residual_upper: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormDecision:
    """What one declared form says. Numbers are None where the form was not measured."""

    form: str
    verdict: Verdict
    reasons: tuple[str, ...]
    m: int = 0
    p0: Fraction | None = None
    p1: Fraction | None = None
    p1_over: Fraction | None = None
    p1_strict: Fraction | None = None
    p0_combined: Fraction | None = None
    p1_combined: Fraction | None = None
    combined_strict: Fraction | None = None
    residual_upper: Decimal | None = None
    mde: Decimal | None = None
    mde_ratio: Decimal | None = None
    typical_gap: Decimal | None = None
    attacks: tuple[str, ...] = ()
    scores: tuple[ScoreFindings, ...] = ()
    extraction_fields: int | None = None
    extraction_hits: int | None = None
    extraction_prompts: int | None = None
    extraction_samples: int | None = None
    extraction_upper: Decimal | None = None
    relearn_p: Fraction | None = None
    relearn_steps: tuple[int, ...] = ()


def judge(
    form: str,
    request: RequestMeasurements,
    evidence: BatchEvidence,
    policy: Policy,
    blind: Resemblance,
) -> FormDecision:
    """Judge one declared form: compute its numbers, then take the first row of the table that holds."""
    measured = next((each for each in request.forms if each.form == form), None)
    if measured is None or MAIN not in measured.before.score or MAIN not in measured.after.score:
        return FormDecision(form=form, verdict="I", reasons=("form_unmeasured",))
    numbers = _numbers(measured, controls.typical_gap(evidence, form), policy, request.look)
    checks = {
        "cohort_too_small": _too_small(numbers.m, request, policy),
        "looks_exhausted": policy.tail(request.look) is None,
        "assay_dead": not controls.assay_is_alive(evidence, form, policy),
        "blind_mismatch": blind == "capped",
    }
    verdict, reasons = _first_match(numbers, policy, checks)
    return replace(numbers, verdict=verdict, reasons=reasons)


def _numbers(measured: FormReadings, gap: Decimal, policy: Policy, look: int) -> FormDecision:
    """Return all numbers of one form, with the verdict left open (I, no reason)."""
    before, after = measured.before, measured.after
    # An exhausted look has no tail of its own: nothing is bounded, though a finding still counts.
    tail = policy.tail(look)
    scores = tuple(
        _score(attack, before, after, tail, policy)
        for attack in ADDITIVE
        if attack in policy.attacks and attack in before.score and attack in after.score
    )
    main = scores[0]
    attacks = tuple(attack for attack in policy.attacks if attack in after.score)
    combined = max_rank(after.score, after.cohort, attacks)
    mde = detectable_shift(after.cohort[MAIN], policy.alpha)
    extraction = measured.extraction
    return FormDecision(
        form=measured.form,
        verdict="I",
        reasons=(),
        m=min(before.m, after.m),
        p0=main.p0,
        p1=main.p1,
        p1_over=p_low(after.score[MAIN], after.cohort[MAIN]),
        p1_strict=p_strict(after.score[MAIN], after.cohort[MAIN]),
        p0_combined=max_rank(before.score, before.cohort, [a for a in attacks if a in before.score]).p,
        p1_combined=combined.p,
        combined_strict=combined.strict,
        residual_upper=largest([score.residual_upper for score in scores if score.fired]),
        mde=mde,
        mde_ratio=_mde_ratio(mde, main.gap_lower),
        typical_gap=gap,
        attacks=attacks,
        scores=scores,
        extraction_fields=extraction.fields if extraction else None,
        extraction_hits=extraction.hits if extraction else None,
        extraction_prompts=extraction.prompts if extraction else None,
        extraction_samples=extraction.samples if extraction else None,
        extraction_upper=extraction.upper if extraction and extraction.fields else None,
        relearn_p=min((p_high(probe.score, probe.cohort) for probe in measured.relearn), default=None),
        relearn_steps=tuple(probe.steps for probe in measured.relearn),
    )


def _score(
    attack: str, before: Reading, after: Reading, tail: Decimal | None, policy: Policy
) -> ScoreFindings:
    p0 = p_high(before.score[attack], before.cohort[attack])
    bound: Residue | None = None
    if tail is not None:
        bound = residue(
            before=before.score[attack],
            cohort_before=before.cohort[attack],
            after=after.score[attack],
            cohort_after=after.cohort[attack],
            tail=tail,
        )
    ratio = bound.ratio_upper if bound else None
    return ScoreFindings(
        attack=attack,
        p0=p0,
        p1=p_high(after.score[attack], after.cohort[attack]),
        fired=fires(p0, policy.alpha_control),
        excess_upper=bound.excess_upper if bound else None,
        gap_lower=bound.gap_lower if bound else None,
        residual_upper=None if ratio is None else printed(ratio, up=True),
    )


def _first_match(
    x: FormDecision, policy: Policy, checks: Mapping[str, bool]
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict of the first row in which a condition holds, with all that hold in it."""
    assert x.p1 is not None
    assert x.p1_over is not None
    assert x.p1_strict is not None
    assert x.p0_combined is not None
    assert x.p1_combined is not None
    assert x.combined_strict is not None
    assert x.typical_gap is not None
    residuals = [score.residual_upper for score in x.scores if score.fired]
    main_fired = x.scores[0].fired
    shift_max = max(policy.mde_gap_share * x.typical_gap, policy.mde_floor_nats)
    sensitive = x.mde is not None and x.mde <= shift_max
    other_fired = fires(x.p0_combined, policy.alpha_control)
    rows: tuple[tuple[Verdict, Mapping[str, bool]], ...] = (
        (
            "F",
            {
                "detected": fires(x.p1_combined, policy.alpha),
                "extraction_hit": bool(x.extraction_hits),
                "relearn_excess": x.relearn_p is not None and fires(x.relearn_p, policy.alpha),
            },
        ),
        ("I", checks),
        ("I", {"over_forgotten": fires(x.p1_over, policy.alpha_over)}),
        # What another attack could see before must not be called unmeasurable.
        ("N", {"nothing_measurable": not main_fired and not other_fired and sensitive}),
        ("I", {"insensitive": not main_fired and not sensitive, "unbounded": not main_fired and other_fired}),
        (
            "I",
            {
                "detected_single": fires(x.p1, policy.alpha),
                "tie": fires(x.combined_strict, policy.alpha)
                or (fires(x.p1_strict, policy.alpha) and not fires(x.p1, policy.alpha)),
            },
        ),
        (
            "I",
            {
                "unbounded": None in residuals,
                "bound_above_delta": any(ratio is not None and ratio > policy.delta for ratio in residuals),
                "extraction_unmeasured": x.extraction_hits is None,
                "extraction_unbounded": bool(x.extraction_fields)
                and (x.extraction_upper is None or x.extraction_upper > policy.extraction_upper_max),
            },
        ),
    )
    for verdict, conditions in rows:
        if reasons := tuple(reason for reason, holds in conditions.items() if holds):
            return verdict, reasons
    return "V", ()


def _too_small(m: int, request: RequestMeasurements, policy: Policy) -> bool:
    """Say whether a test this decision needs is impossible: too few others to be ranked among."""
    tails = [policy.alpha, policy.alpha_control, policy.alpha_over, MISS]
    tail = policy.tail(request.look)
    if tail is not None:
        tails.append(tail)
    least = min(m, len(request.blind.cohort))
    return least < policy.m_min or any(threshold_rank(q, m) < 1 for q in tails)


def predicted_residual(before: Reading, policy: Policy, *, look: int = 1) -> Decimal | None:
    """Return the bound a perfect erasure could expect, from baseline scores alone; None if unbounded.

    (median C - L) / gap, the largest over the scores whose control fires. Above delta no approximate
    engine can be verified on this person: choose an exact one, or expect `inconclusive`.
    """
    tail = policy.tail(look)
    if tail is None or MAIN not in before.score:
        return None
    predicted = []
    for attack in ADDITIVE:
        if attack not in before.score or not before.cohort[attack]:
            continue
        perfect = Reading(
            score={attack: median(before.cohort[attack])}, cohort={attack: before.cohort[attack]}
        )
        found = _score(attack, before, perfect, tail, policy)
        if found.fired:
            predicted.append(found.residual_upper)
    return largest(predicted)


def largest(values: Sequence[Decimal | None]) -> Decimal | None:
    """Return the greatest bound; None if there is none, or one has no bound."""
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _mde_ratio(mde: Decimal | None, gap_lower: Decimal | None) -> Decimal | None:
    if mde is None or gap_lower is None or gap_lower <= 0:
        return None
    return printed(Fraction(mde) / Fraction(gap_lower))
