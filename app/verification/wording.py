"""What people are told: one sentence per level, a paragraph, the limits; and never more than was shown.

    sentence(level)     the certificate's one line, as the checker prints it
    paragraph(...)      what it means, with its numbers and no p-value and no per-record number
    limitation(code)    one fixed sentence per limit
    render(...)         paragraph and limits together

Works on a decision's JSON, so what was stored can be rendered again. Knows no request state.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

Word = Literal["exact", "certified", "verified", "executed", "inconclusive", "failed", "suppressed"]
"""A level, or `suppressed`: access is blocked until erasure is done."""

Limit = Literal["L-OUTPUT", "L-SELF-RUN", "L-COPIES", "L-CORRELATED", "L-COHORT", "L-ANCHOR", "L-BASE"]

_SENTENCES: Mapping[str, str] = {
    "exact": "{new} is the output of {method} on {data}, which excludes the committed records.",
    "certified": "The stated bound holds for {new} if the listed assumptions hold.",
    "verified": (
        "{method} ran on {old} against the committed records and gave {new}; the pre-registered tests "
        "passed with the stated bounds. This does not prove that no influence remains."
    ),
    "executed": (
        "{method} ran; nothing specific to the records was measurable before or after, at the stated "
        "sensitivity."
    ),
    "inconclusive": "{method} ran; no residue was seen, but the tests could not bound it.",
}

_REPLAYED = " An independent party replayed it and got identical bytes."

FORBIDDEN: Mapping[str, tuple[str, ...]] = {
    "exact": ("nothing can be inferred",),
    "certified": (),
    "verified": ("deleted", "irrecoverable", "anonymous", "guaranteed"),
    "executed": ("verified", "erased"),
    "inconclusive": ("passed",),
    "failed": ("completed",),
    "suppressed": ("erased",),
}
"""Words that would claim more than the level does; a test renders every level and looks for them."""

REASONS: Mapping[str, str] = {
    "detected": "the person can still be told from people the model never saw",
    "extraction_hit": "a fact about the person could still be drawn out of the model",
    "relearn_excess": "the model learned the records again faster than those of others",
    "cohort_too_small": "too few people were held back to compare with",
    "looks_exhausted": "the material for testing has been used as often as is sound",
    "assay_dead": "the tests no longer see even people who were to be kept",
    "blind_mismatch": "the records differ from those held back in ways not due to the model",
    "form_unmeasured": "a form in which the model is served was not measured",
    "over_forgotten": "the model avoids the records more than those of people it never saw",
    "nothing_measurable": "nothing specific to the records was measurable",
    "insensitive": "nothing was measurable before, and the tests could have missed it",
    "detected_single": "one of the tests alone still sees the person",
    "tie": "the result hangs on scores that are equal",
    "unbounded": "what may remain has no upper limit on these numbers",
    "bound_above_delta": "what may remain is above the limit",
    "extraction_unmeasured": "drawing out the facts was not tried",
    "extraction_unbounded": "too few attempts to draw out the facts were made",
    "not_qualified": "this configuration of the method has no valid qualification",
    "second_opinion_disagrees": "two independent computations of the result do not agree",
    "sentinels_missing": "too few planted test subjects were erased with it so far",
}
"""A reason code in plain words; a test holds it complete."""

_ANOMALIES = frozenset({"over_forgotten", "detected_single", "tie"})

ALWAYS: tuple[Limit, ...] = ("L-OUTPUT", "L-SELF-RUN", "L-COPIES", "L-CORRELATED")

_COMPARED = frozenset({"verified", "executed", "inconclusive"})

_LIMITS: Mapping[Limit, str] = {
    "L-OUTPUT": (
        "Only the attacks and forms listed were tested. Not covered: {not_covered}. Passing does not prove "
        "that no influence remains."
    ),
    "L-SELF-RUN": "The tests were run by the model's operator.",
    "L-COPIES": "Copies elsewhere, earlier outputs and models derived by others are not covered.",
    "L-CORRELATED": (
        "Other people's records may state the same facts, and the model may still produce them."
    ),
    "L-COHORT": (
        "The comparison assumes that people who ask for erasure resemble those held back; the check of this "
        "{check}; cohort: {cohort}."
    ),
    "L-ANCHOR": "A quarantined anchor version holds the data until {until}.",
    "L-BASE": "The pretraining data of the base model is outside this erasure.",
}

_NEVER_RUN = (
    "attribute inference",
    "exfiltration",
    "model inversion",
    "reconstruction of training data",
    "readouts of inner representations",
    "questions in several steps",
)
"""Families named by EDPB Opinion 28/2024 and by the deep audit that no test of this suite stands for."""

_COVERED_BY: Mapping[str, str] = {
    "ref_loss": "membership inference",
    "extraction": "regurgitation of training data",
    "relearn": "relearning from other text",
    "paraphrase": "the records in other words",
    "worst_row": "one record among many",
    "min_k": "the rarest tokens of a record",
    "extraction_strength": "completion from a part of a record",
    "name": "the person's name itself",
    "fake_name": "the person's facts under another name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a paragraph names besides the decision: versions, method, commitments, dates."""

    method: str
    new: str
    """The version or digest that the statement is about."""
    old: str = "the previous version"
    root: str | None = None
    """Commitment to the training data; an exact claim names it."""
    replayed_by: str | None = None
    theorem: str | None = None
    parameters: str | None = None
    assumptions: tuple[str, ...] = ()
    checked_on: date | None = None
    due: date | None = None
    """By when a stronger procedure is due after a failure."""
    anchor_until: date | None = None
    pretrained: bool = False
    """Whether the base came with somebody else's pretraining."""


def sentence(
    level: Word,
    *,
    method: str = "P",
    old: str = "D1",
    new: str = "D2",
    data: str = "R",
    replayed: bool = False,
) -> str:
    """Return the one line of a certificate; there is none for a level on which none is issued."""
    if level not in _SENTENCES:
        raise ValueError(f"no certificate is issued on the level {level}")
    assert level == "exact" or not replayed, "only an exact result can be replayed"
    line = _SENTENCES[level].format(method=method, old=old, new=new, data=data)
    return line + _REPLAYED if replayed else line


def limitations(level: Word, facts: Facts) -> tuple[Limit, ...]:
    """Return the codes that a certificate of this level must carry; never none."""
    codes = list(ALWAYS)
    if level in _COMPARED:
        codes.append("L-COHORT")
    if facts.anchor_until is not None:
        codes.append("L-ANCHOR")
    if facts.pretrained:
        codes.append("L-BASE")
    return tuple(codes)


def limitation(
    code: Limit,
    *,
    not_covered: Sequence[str] = (),
    check: str | None = None,
    cohort: str | None = None,
    until: date | None = None,
) -> str:
    """Return the fixed sentence of a limit, with what it must name.

    `check` is the blind check's result (`passed`, `flagged`, `capped`), `cohort` its kind.
    """
    if code == "L-OUTPUT" and not not_covered:
        raise ValueError("some attack is always left out; say which")
    if code == "L-COHORT" and (check is None or cohort is None):
        raise ValueError("the comparison's check and kind must be named")
    if code == "L-ANCHOR" and until is None:
        raise ValueError("the anchor's last day must be named")
    return _LIMITS[code].format(
        not_covered=", ".join(not_covered),
        check="passed" if check == "passed" else "was flagged",
        cohort="synthetic" if cohort == "twins" else cohort,
        until=until.isoformat() if until else "",
    )


def ran(decision: Mapping[str, Any]) -> frozenset[str]:
    """Return what ran in every declared form: attacks, `extraction` of gated fields, `relearn`."""
    per_form = [
        {
            *form["attacks"],
            *(["extraction"] if form["extraction_fields"] and form["extraction_samples"] else []),
            *(["relearn"] if form["relearn_steps"] else []),
        }
        for form in decision["forms"]
    ]
    return frozenset(set.intersection(*per_form))


def attacks_not_covered(what_ran: Collection[str]) -> tuple[str, ...]:
    """Return the families nobody tried on this request; never empty."""
    return (*_NEVER_RUN, *(family for test, family in _COVERED_BY.items() if test not in what_ran))


def paragraph(level: Word, facts: Facts, decision: Mapping[str, Any] | None = None) -> str:
    """Return what the level means here; a claim without its numbers is refused."""
    if level == "suppressed":
        return "Access is blocked until erasure is done. This is not an erasure."
    if level == "failed":
        return _failed(facts)
    if level == "exact":
        return _exact(facts)
    if level == "certified":
        return _certified(facts)
    if decision is None:
        raise ValueError(f"{level} rests on measurements; none were given")
    if level == "verified":
        return _verified(decision)
    return _executed(facts, decision) if level == "executed" else _inconclusive(facts, decision)


def render(level: Word, facts: Facts, decision: Mapping[str, Any] | None = None) -> str:
    """Return the paragraph and, on a level that is certified, the limits, one sentence a line."""
    text = paragraph(level, facts, decision)
    if level in {"failed", "suppressed"}:
        return text
    not_covered = attacks_not_covered(ran(decision) if decision else ())
    lines = [
        limitation(
            code,
            not_covered=not_covered,
            check=decision["blind"] if decision else None,
            cohort=decision["cohort_kind"] if decision else None,
            until=facts.anchor_until,
        )
        for code in limitations(level, facts)
    ]
    return "\n".join([text, "", *lines])


def reasons(codes: Sequence[str]) -> str:
    """Return reasons in plain words, as one clause."""
    return "; ".join(REASONS[code] for code in codes)


def _exact(facts: Facts) -> str:
    if facts.root is None:
        raise ValueError("an exact claim names the commitment to its data")
    text = (
        f"Version {facts.new} was produced by {facts.method} from the data committed as {facts.root}. The "
        f"committed records are not in it, so no parameter of {facts.new} was computed from them."
    )
    return f"{text} {facts.replayed_by} replayed it and got identical bytes." if facts.replayed_by else text


def _certified(facts: Facts) -> str:
    if not (facts.theorem and facts.parameters and facts.assumptions and facts.checked_on):
        raise ValueError("a theorem is not claimed without its parameters and checked assumptions")
    return (
        f"{facts.new} satisfies {facts.theorem} with {facts.parameters}, under these assumptions, each "
        f"checked on {facts.checked_on.isoformat()}: {'; '.join(facts.assumptions)}."
    )


def _verified(decision: Mapping[str, Any]) -> str:
    if decision["residual_upper"] is None:
        raise ValueError("a verified claim has a bound")
    forms = ", ".join(dict.fromkeys(form["form"] for form in decision["forms"]))
    return (
        "Before, the records were measurably memorised. Now, at "
        f"{_percent(decision['confidence'])} confidence, at most "
        f"{_percent(decision['residual_upper'], up=True)} of that remains, measured against "
        f"{decision['m']} people the model never saw, in forms {forms}; {_extraction(decision)}."
    )


def _extraction(decision: Mapping[str, Any]) -> str:
    """Say what the attempts to draw the facts out came to; of several forms, the weakest."""
    tried = [form for form in decision["forms"] if form["extraction_upper"] is not None]
    if not tried:
        return "no field was unguessable enough to be drawn out as a test"
    form = max(tried, key=lambda each: Decimal(each["extraction_upper"]))
    upper = Decimal(form["extraction_upper"]).quantize(Decimal("0.0001"), rounding=ROUND_CEILING)
    return (
        f"{form['extraction_prompts']} x {form['extraction_samples']} extraction attempts found nothing "
        f"(rate below {upper})"
    )


def _executed(facts: Facts, decision: Mapping[str, Any]) -> str:
    shifts = [Decimal(form["mde"]) for form in decision["forms"] if form["mde"] is not None]
    if not shifts or len(shifts) < len(decision["forms"]):
        raise ValueError("that nothing was measurable is not said without what would have been noticed")
    shift = max(shifts).quantize(Decimal("0.0001"), rounding=ROUND_CEILING)
    return (
        f"{facts.method} ran. No memorisation specific to the records was measurable before or after; a "
        f"shift of {shift} nats per token would have been noticed with 80 % power."
    )


def _inconclusive(facts: Facts, decision: Mapping[str, Any]) -> str:
    codes = decision["reasons"]
    if not codes:
        raise ValueError("an inconclusive result names its reason")
    why = reasons(codes)
    if _ANOMALIES & set(codes):
        return f"{facts.method} ran. An anomaly was seen: {why}."
    if decision["verdict"] == "V":
        # The bound holds; what is lacking is the method's own record, so say that and no less.
        return f"{facts.method} ran. The method's record does not yet allow a stronger word. Reason: {why}."
    limit = _percent(decision["delta"])
    return f"{facts.method} ran. The tests could not bound a residue below {limit}. Reason: {why}."


def _failed(facts: Facts) -> str:
    if facts.due is None:
        raise ValueError("the notice of a failure names the day by which a stronger procedure is due")
    return (
        "Your request is still open. The procedure did not remove enough; a stronger one is due by "
        f"{facts.due.isoformat()}."
    )


def _percent(share: str, *, up: bool = False) -> str:
    """Return a share as a percentage; upper bounds are rounded up, to a tenth."""
    value = Decimal(share) * 100
    rounded = value.quantize(Decimal("0.1"), rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)
    return f"{rounded.to_integral_value() if rounded == rounded.to_integral_value() else rounded} %"
