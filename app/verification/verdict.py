"""From numbers to a verdict, a level and their reasons; first for one request, then for the batch.

    decide        one subject:  every declared form is judged, the worst counts
    doubted       one subject of whom the second opinion says otherwise
    worst         one request with several subjects
    decide_batch  publish, retry or block; and who leaves the batch for a stronger engine

Total and deterministic: every input that could be read gets a decision, every decision but **V**
names its reasons, and no path yields a level above the ceiling of the method's class.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from app.errors import Conflict
from app.verification import controls
from app.verification.cohort import Kind, Resemblance, blind_rank, resemblance
from app.verification.combination import benjamini_hochberg
from app.verification.conformal import printed
from app.verification.forms import FormDecision, Verdict, judge, largest
from app.verification.measurements import BatchEvidence, Guarantee, MethodFacts, RequestMeasurements
from app.verification.policy import Policy
from app.verification.qualification import Admission

Level = Literal["exact", "certified", "verified", "executed", "inconclusive", "failed"]
Action = Literal["publish", "retry", "block"]

LEVELS: tuple[Level, ...] = ("failed", "inconclusive", "executed", "verified", "certified", "exact")
"""From least to most. `assurance_min` of a model is one of these."""

CEILING: Mapping[Guarantee, Level] = {"exact": "exact", "bounded": "certified", "approximate": "verified"}

_SEVERITY: Mapping[Verdict, int] = {"V": 0, "N": 1, "I": 2, "F": 3}


DOUBTED = "second_opinion_disagrees"


class NotRegistered(Conflict):
    """The policy is not the one registered before the engine ran: thresholds were chosen afterwards."""

    code = "policy-not-registered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A bound as the certificate carries it."""

    name: Literal["residual_ratio_upper", "extraction_upper", "detectable_shift_nats"]
    value: Decimal
    limit: Decimal
    confidence: Decimal
    form: str
    m: int | None = None
    """Cohort subjects it rests on."""
    n: int | None = None
    """Extraction samples it rests on."""

    def to_json(self) -> dict[str, Any]:
        """Return it in the certificate's shape: `m` or `n`, never an empty one."""
        members = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is said of one request, and all that it rests on."""

    verdict: Verdict
    level: Level
    reasons: tuple[str, ...]
    attention: str | None
    """Why a person must look before this may be issued."""
    p0: Fraction | None
    p1: Fraction | None
    p1_over: Fraction | None
    p1_combined: Fraction | None
    """Least over subjects and forms, times their number (Bonferroni): what steers retries."""
    residual_upper: Decimal | None
    mde: Decimal | None
    mde_ratio: Decimal | None
    confidence: Decimal
    m: int
    rows: int
    look: int
    form: str
    """The form that decided; p0, p1, p1_over, mde and mde_ratio are its."""
    forms: tuple[FormDecision, ...]
    """One per declared form, for each subject in turn."""
    bounds: tuple[Bound, ...]
    """Those that the level's sentence needs, and no others: a certificate says no more than it must."""
    blind: Resemblance
    blind_p: Fraction
    cohort_kind: Kind
    guarantee: Guarantee
    engine: str
    attempts: int
    delta: Decimal
    policy: str
    admission: Admission | None = None
    """The qualification under which the method certifies, and its risk bound."""

    def __post_init__(self) -> None:
        assert LEVELS.index(self.level) <= LEVELS.index(CEILING[self.guarantee]), "a level above its ceiling"
        assert self.reasons or (self.verdict == "V" and self.level not in {"inconclusive", "failed"})

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON: integers, and decimal strings for every other number."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def decide(
    measured: RequestMeasurements, evidence: BatchEvidence, method: MethodFacts, policy: Policy
) -> Decision:
    """Return the decision on one subject."""
    if measured.digests.get("policy", policy.digest) != policy.digest:
        raise NotRegistered("the policy is not the one that was registered before the engine ran")
    blind_p = blind_rank(measured.blind.score, measured.blind.cohort)
    blind = resemblance(blind_p, kind=measured.cohort_kind, flag_at=policy.blind, cap_at=policy.blind_cap)
    forms = tuple(judge(form, measured, evidence, policy, blind) for form in evidence.forms)
    verdict, reasons = _overall([(form.verdict, form.reasons) for form in forms])
    deciding = max(forms, key=_weight)
    level, lowered, attention = _level(verdict, reasons, evidence, method, policy)
    return Decision(
        verdict=verdict,
        level=level,
        reasons=(*reasons, *lowered),
        attention=attention,
        p0=deciding.p0,
        p1=deciding.p1,
        p1_over=deciding.p1_over,
        p1_combined=_any_of([form.p1_combined for form in forms]),
        residual_upper=largest([form.residual_upper for form in forms]),
        mde=deciding.mde,
        mde_ratio=deciding.mde_ratio,
        confidence=policy.confidence,
        m=min(form.m for form in forms),
        rows=measured.rows,
        look=measured.look,
        form=deciding.form,
        forms=forms,
        bounds=_needed(level, [bound for form in forms for bound in _bounds(form, policy)]),
        blind=blind,
        blind_p=blind_p,
        cohort_kind=measured.cohort_kind,
        guarantee=method.guarantee,
        engine=method.engine,
        attempts=method.attempts,
        delta=policy.delta,
        policy=policy.digest,
        admission=method.admission,
    )


def doubted(decision: Decision) -> Decision:
    """Return what is left of a decision that the second opinion contradicts (`recheck`).

    Which of the two is wrong is not known, so nothing is claimed: a pass becomes **I**, and the batch is
    blocked. What an exact engine did, it did whatever was measured of it, so its level stands.
    """
    claims_nothing = decision.level in {"exact", "failed"}
    return replace(
        decision,
        verdict="F" if decision.verdict == "F" else "I",
        level=decision.level if claims_nothing else "inconclusive",
        reasons=(*decision.reasons, DOUBTED),
        bounds=(),
    )


def worst(decisions: Sequence[Decision]) -> Decision:
    """Return the decision on a request that concerns several subjects: nobody may be left behind.

    It is the worst subject's, with the weakest number of all subjects in each place that is printed.
    """
    assert decisions, "a request concerns somebody"
    verdict, reasons = _overall([(decision.verdict, decision.reasons) for decision in decisions])
    lead = max(
        decisions,
        key=lambda each: (
            -LEVELS.index(each.level),
            _SEVERITY[each.verdict],
            _or_unbounded(each.residual_upper),
        ),
    )
    # A contradiction is of the judge, not of one subject: a worse verdict beside it does not settle it.
    doubts = [DOUBTED] if any(DOUBTED in each.reasons for each in decisions) else []
    level = lead.level
    if verdict != lead.verdict and level not in {"exact", "certified"}:
        level = "inconclusive"  # V beside N: see `_overall`
    return replace(
        lead,
        verdict=verdict,
        level=level,
        reasons=tuple(dict.fromkeys([*reasons, *lead.reasons, *doubts])),
        attention=next((each.attention for each in decisions if each.attention), None),
        p1_combined=_any_of([each.p1_combined for each in decisions]),
        residual_upper=largest([each.residual_upper for each in decisions]),
        m=min(each.m for each in decisions),
        rows=sum(each.rows for each in decisions),
        look=max(each.look for each in decisions),
        forms=tuple(form for each in decisions for form in each.forms),
        bounds=_needed(level, _weakest([bound for each in decisions for bound in each.bounds])),
        blind=max((each.blind for each in decisions), key=("passed", "flagged", "capped").index),
        blind_p=min(each.blind_p for each in decisions),
    )


def _overall(judged: Sequence[tuple[Verdict, tuple[str, ...]]]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the worst verdict and the reasons of all who share it.

    **V** beside **N** is neither: "nothing was measurable" is false of the one, and the other has no
    bound. Together they are **I**, `unbounded`.
    """
    verdicts = {verdict for verdict, _ in judged}
    if verdicts == {"V", "N"}:
        return "I", ("unbounded",)
    verdict = max(verdicts, key=lambda each: _SEVERITY[each])
    shared = [reason for each, reasons in judged if each == verdict for reason in reasons]
    return verdict, tuple(dict.fromkeys(shared))


def _level(
    verdict: Verdict,
    reasons: tuple[str, ...],
    evidence: BatchEvidence,
    method: MethodFacts,
    policy: Policy,
) -> tuple[Level, tuple[str, ...], str | None]:
    """Return the level, the reasons that lowered it, and why a person must look.

    The ceiling is the class's; evidence lowers it and never raises it.
    """
    sentinels = controls.sentinels(evidence, policy)
    if method.guarantee == "exact":
        held = "extraction_hit" in reasons or sentinels.failures_here > 0
        return "exact", (), "exact_but_detected" if held else None
    if verdict == "F":
        return "failed", (), None
    if method.guarantee == "bounded" and method.assumptions_checked:
        return "certified", (), None
    if verdict == "N":
        return "executed", (), None
    if verdict == "I":
        return "inconclusive", (), None
    lacking = {
        "not_qualified": not method.qualified,
        "sentinels_missing": not sentinels.enough or not sentinels.within_risk,
    }
    lowered = tuple(reason for reason, holds in lacking.items() if holds)
    return ("inconclusive" if lowered else "verified"), lowered, None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDecision:
    """What becomes of the candidate, and of each request in it."""

    action: Action
    leaving: tuple[str, ...]
    """Requests that this candidate cannot settle; all of them when it is blocked."""
    staying: tuple[str, ...]
    """Requests that are certified on this candidate; if there are none, there is nothing to publish."""
    reasons: tuple[str, ...]
    selected: tuple[str, ...]
    """Whom Benjamini-Hochberg picked: they steer a retry, never a verdict."""
    attention: Mapping[str, str]
    """Per leaving request of an exact engine: why a person must look."""
    released: tuple[str, ...]
    """Requests that would have been held, had a second person not looked and released them."""
    not_run: tuple[str, ...]
    """Checks of the page that nothing here has measured; they weigh neither for nor against."""
    sentinels: controls.SentinelFindings
    utility: controls.UtilityFindings

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON: integers, and decimal strings for every other number."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        return plain


def decide_batch(
    decisions: Mapping[str, Decision],
    evidence: BatchEvidence,
    method: MethodFacts,
    policy: Policy,
    *,
    released: Collection[str] = (),
    assurance_min: Level = "executed",
) -> BatchDecision:
    """Return what becomes of a candidate: block, else retry, else publish without those who leave.

    One unlucky p-value must not stop everyone: with m = 224, a lone 1/225 among 40 is not selected.
    A retry is another setting of the same engine, so an exact one has none.
    """
    sentinels, utility = controls.sentinels(evidence, policy), controls.utility(evidence, policy)
    combined = {key: d.p1_combined for key, d in decisions.items() if d.p1_combined is not None}
    selected = benjamini_hochberg(combined, policy.bh_q)
    extracted = {key for key, d in decisions.items() if "extraction_hit" in d.reasons}
    detected = _attention(decisions, selected if method.guarantee == "exact" else frozenset())
    attention = {key: reason for key, reason in detected.items() if key not in released}
    below = {
        key
        for key, decision in decisions.items()
        if decision.level == "failed" or LEVELS.index(decision.level) < LEVELS.index(assurance_min)
    }
    # In an exact engine a sentinel that survives is a defect of the replay, whatever the record.
    survived = sentinels.failures_here > 0 if method.guarantee == "exact" else sentinels.block
    blocking = (*_blocking(decisions.values(), evidence, policy, survived=survived), *utility.reasons)
    look_left = all(decision.look < len(policy.alpha_spend) for decision in decisions.values())
    action: Action = "publish"
    leaving: set[str] = below | attention.keys()
    if blocking:
        action, leaving = "block", set(decisions)
    elif (selected or extracted) and look_left and method.guarantee != "exact":
        action, leaving = "retry", set()
    return BatchDecision(
        action=action,
        leaving=tuple(key for key in decisions if key in leaving),
        staying=tuple(key for key in decisions if key not in leaving),
        reasons=(*blocking, *_steering(selected, extracted, below, attention)),
        selected=tuple(key for key in decisions if key in selected),
        attention=attention,
        released=tuple(key for key in detected if key in released),
        not_run=_not_run(evidence),
        sentinels=sentinels,
        utility=utility,
    )


def _blocking(
    decisions: Collection[Decision], evidence: BatchEvidence, policy: Policy, *, survived: bool
) -> tuple[str, ...]:
    """Return why nothing of this candidate may be published, its utility aside."""
    judged = [form for decision in decisions for form in decision.forms]
    conditions = {
        "sentinel_failed": survived,
        "assay_dead": not all(controls.assay_is_alive(evidence, form, policy) for form in evidence.forms),
        "form_unmeasured": any("form_unmeasured" in form.reasons for form in judged),
        "second_opinion_disagrees": any(DOUBTED in decision.reasons for decision in decisions),
        "earlier_resurfaced": bool(controls.resurfaced_batches(evidence, policy)),
    }
    return tuple(reason for reason, holds in conditions.items() if holds)


def _not_run(evidence: BatchEvidence) -> tuple[str, ...]:
    checks = (
        ("neighbour_rise", evidence.neighbour_rise),
        ("degenerate_rise", evidence.answers or None),
        ("utility_from_anchor", evidence.utility_from_anchor or None),
    )
    return tuple(name for name, measured in checks if measured is None)


def _attention(decisions: Mapping[str, Decision], selected: frozenset[str]) -> dict[str, str]:
    held = {key: decision.attention for key, decision in decisions.items() if decision.attention}
    return held | dict.fromkeys(sorted(selected - held.keys()), "exact_but_detected")


def _steering(
    selected: frozenset[str], extracted: set[str], below: set[str], attention: Mapping[str, str]
) -> tuple[str, ...]:
    conditions = {
        "selected": bool(selected),
        "extraction_hit": bool(extracted),
        "below_assurance_min": bool(below),
        "exact_but_detected": bool(attention),
    }
    return tuple(reason for reason, holds in conditions.items() if holds)


def _bounds(form: FormDecision, policy: Policy) -> tuple[Bound, ...]:
    """Return what may be printed of one form: only bounds whose control fired or whose count stands."""
    bounds = []
    if form.residual_upper is not None:
        bounds.append(
            Bound(
                name="residual_ratio_upper",
                value=form.residual_upper,
                limit=policy.delta,
                confidence=policy.confidence,
                form=form.form,
                m=form.m,
            )
        )
    if form.extraction_upper is not None and form.extraction_samples is not None:
        bounds.append(
            Bound(
                name="extraction_upper",
                value=printed(form.extraction_upper, up=True),
                limit=policy.extraction_upper_max,
                confidence=Decimal("0.95"),
                form=form.form,
                n=form.extraction_samples,
            )
        )
    if form.verdict == "N" and form.mde is not None and form.typical_gap is not None:
        bounds.append(
            Bound(
                name="detectable_shift_nats",
                value=printed(form.mde, up=True),
                limit=printed(max(policy.mde_gap_share * form.typical_gap, policy.mde_floor_nats)),
                confidence=Decimal("0.8"),
                form=form.form,
                m=form.m,
            )
        )
    return tuple(bounds)


_NEEDED: Mapping[Level, tuple[str, ...]] = {
    "verified": ("residual_ratio_upper", "extraction_upper"),
    "executed": ("detectable_shift_nats",),
}


def _needed(level: Level, bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    """Keep the bounds without which the level's sentence would be an empty claim."""
    return tuple(bound for bound in bounds if bound.name in _NEEDED.get(level, ()))


def _weakest(bounds: Sequence[Bound]) -> tuple[Bound, ...]:
    """Keep, of each name and form, the bound that promises least."""
    kept: dict[tuple[str, str], Bound] = {}
    for bound in bounds:
        held = kept.setdefault((bound.name, bound.form), bound)
        if bound.value > held.value:
            kept[bound.name, bound.form] = bound
    return tuple(kept.values())


def _weight(form: FormDecision) -> tuple[int, Decimal]:
    """Order forms by how much they decide: the verdict first, then what may remain."""
    return _SEVERITY[form.verdict], _or_unbounded(form.residual_upper)


def _or_unbounded(bound: Decimal | None) -> Decimal:
    """Order what has no bound above everything that has one."""
    return Decimal("Infinity") if bound is None else bound


def _any_of(p_values: Sequence[Fraction | None]) -> Fraction | None:
    """Return a valid p-value for "any of these": the least, times how many there are."""
    known = [p for p in p_values if p is not None]
    return min(Fraction(1), len(known) * min(known)) if known else None


def _plain(value: object) -> object:
    """Return JSON of dataclasses and mappings: decimals as strings, ranks with six decimals."""
    plain = value
    if isinstance(value, Fraction):
        plain = str(printed(value))
    elif isinstance(value, Decimal):
        plain = f"{value:f}"
    elif isinstance(value, Bound):
        plain = value.to_json()
    elif is_dataclass(value) and not isinstance(value, type):
        plain = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    elif isinstance(value, Mapping):
        plain = {str(key): _plain(member) for key, member in value.items()}
    elif isinstance(value, list | tuple):
        plain = [_plain(member) for member in value]
    return plain
