"""Verdicts: each row of the table, the ceiling of a class, sabotage, and properties."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.signing import canonical
from app.verification.forms import predicted_residual
from app.verification.measurements import (
    BatchEvidence,
    Blind,
    EarlierBatch,
    FormReadings,
    Guarantee,
    MethodFacts,
    Reading,
    Relearn,
    RequestMeasurements,
)
from app.verification.policy import Policy
from app.verification.verdict import (
    CEILING,
    LEVELS,
    Decision,
    NotRegistered,
    decide,
    decide_batch,
    worst,
)
from tests.app.verification import builders
from tests.app.verification.builders import CLEAN, FORM, form, reading, request

POLICY = builders.policy()
EVIDENCE = builders.evidence(utility=builders.items(20))
COHORT = [Decimal(i).scaleb(-3) for i in range(-112, 113)]
"""225 people, an even spread of .001 around 0; a trained person stands at 2."""


def shifted(cohort: Sequence[Decimal], by: str) -> list[Decimal]:
    return [score + Decimal(by) for score in cohort]


def trained(before: str = "2", cohort: Sequence[Decimal] = COHORT) -> Reading:
    return reading(Decimal(before), cohort)


def judged(
    before: Reading,
    after: Reading,
    *,
    evidence: BatchEvidence = EVIDENCE,
    method: MethodFacts | None = None,
    policy: Policy = POLICY,
    look: int = 1,
    blind: Blind | None = None,
    **more: Any,
) -> Decision:
    measured = request(form(before, after, **more), look=look, blind=blind)
    return decide(measured, evidence, method or builders.method(), policy)


def outcome(decision: Decision) -> tuple[str, str, tuple[str, ...]]:
    return decision.verdict, decision.level, decision.reasons


CLEARED = reading(Decimal("0.0005"), COHORT)


def test_erased_and_bounded() -> None:
    found = judged(trained(), CLEARED)
    assert outcome(found) == ("V", "verified", ())
    # k(.02) = floor(.02 x 226) = 4: L = C_(4) = -.109, U = C_(222) = .109; (.0005 + .109) / (2 - .109)
    assert found.residual_upper == Decimal("0.057906")
    assert found.confidence == Decimal("0.95")
    assert (found.p0, found.p1, found.p1_over) == (Fraction(1, 226), Fraction(113, 226), Fraction(114, 226))
    assert [bound.to_json() for bound in found.bounds] == [
        {
            "name": "residual_ratio_upper",
            "value": "0.057906",
            "limit": "0.2",
            "confidence": "0.95",
            "form": FORM,
            "m": 225,
        },
        {
            "name": "extraction_upper",
            "value": "0.009900",
            "limit": "0.01",
            "confidence": "0.95",
            "form": FORM,
            "n": 300,
        },
    ]


def test_the_second_look_costs_confidence_on_each_side_and_a_third_bounds_nothing() -> None:
    second = judged(trained(), CLEARED, look=2)
    # k(.005) = 1: L = -.112, U = .112; .1125 / 1.888
    assert second.residual_upper == Decimal("0.059587")
    assert outcome(second) == ("V", "verified", ())
    assert outcome(judged(trained(), CLEARED, look=3)) == ("I", "inconclusive", ("looks_exhausted",))
    assert judged(trained(), trained(), look=3).verdict == "F"


ROWS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("F", {"after": trained()}, ("detected",)),
    ("F", {"extraction": replace(CLEAN, hits=1)}, ("extraction_hit",)),
    (
        "F",
        {"relearn": (Relearn(steps=20, score=Decimal(1), cohort=(Decimal(0),) * 19),)},
        ("relearn_excess",),
    ),
    ("F", {"after": trained(), "extraction": replace(CLEAN, hits=2)}, ("detected", "extraction_hit")),
    (
        "I",
        {"before": trained(cohort=COHORT[:150]), "after": reading(Decimal(0), COHORT[:150])},
        ("cohort_too_small",),
    ),
    ("I", {"blind": Blind(score=Decimal(9), cohort=(Decimal(0),) * 225)}, ("blind_mismatch",)),
    ("I", {"blind": Blind(score=Decimal(0), cohort=(Decimal(0),) * 20)}, ("cohort_too_small",)),
    ("I", {"evidence": builders.evidence(controls=builders.assay(kept=Decimal(0)))}, ("assay_dead",)),
    ("I", {"after": reading(Decimal(-5), COHORT)}, ("over_forgotten",)),
    ("N", {"before": trained("0.05")}, ("nothing_measurable",)),
    (
        "I",
        {"before": trained("0.05"), "after": reading(Decimal(0), [c * 20 for c in COHORT])},
        ("insensitive",),
    ),
    ("I", {"after": reading(Decimal(0), [Decimal(0)] * 225)}, ("tie",)),
    ("I", {"after": reading(Decimal("0.095"), COHORT), "before": trained("0.3")}, ("bound_above_delta",)),
    ("I", {"extraction": None}, ("extraction_unmeasured",)),
    ("I", {"extraction": replace(CLEAN, upper=Decimal("0.011"))}, ("extraction_unbounded",)),
    ("I", {"extraction": replace(CLEAN, upper=None)}, ("extraction_unbounded",)),
    ("V", {"extraction": replace(CLEAN, fields=0, upper=None)}, ()),
    ("V", {"relearn": (Relearn(steps=20, score=Decimal(0), cohort=(Decimal(1),) * 19),)}, ()),
]


@pytest.mark.parametrize(
    ("verdict", "changes", "reasons"),
    ROWS,
    ids=[f"{i}-{v}-{'-'.join(r)}" for i, (v, _, r) in enumerate(ROWS)],
)
def test_each_row_of_the_table(verdict: str, changes: dict[str, Any], reasons: tuple[str, ...]) -> None:
    arguments = {"before": trained(), "after": CLEARED} | changes
    found = judged(**arguments)
    assert (found.verdict, found.reasons) == (verdict, reasons)


def test_a_form_that_was_declared_and_not_measured() -> None:
    found = judged(trained(), CLEARED, evidence=builders.evidence(forms=(FORM, "int8")))
    assert outcome(found) == ("I", "inconclusive", ("form_unmeasured",))
    assert found.residual_upper is None


def test_the_worst_form_counts_and_may_be_withdrawn() -> None:
    measured = request(form(trained(), CLEARED), form(trained(), trained(), name="int4"))
    both = builders.evidence(forms=(FORM, "int4"))
    hidden = decide(measured, both, builders.method(), POLICY)
    assert (hidden.verdict, hidden.level, hidden.form, hidden.reasons) == (
        "F",
        "failed",
        "int4",
        ("detected",),
    )
    narrower = decide(measured, replace(both, forms=(FORM,)), builders.method(), POLICY)
    assert outcome(narrower) == ("V", "verified", ())


def test_verified_in_one_form_and_unmeasurable_in_another_is_neither() -> None:
    measured = request(form(trained(), CLEARED), form(trained("0.05"), CLEARED, name="int4"))
    found = decide(measured, builders.evidence(forms=(FORM, "int4")), builders.method(), POLICY)
    assert outcome(found) == ("I", "inconclusive", ("unbounded",))


def test_one_attack_alone_may_see_what_all_together_do_not() -> None:
    """The subject is the eleventh of 226 by loss; two other attacks rank others above it."""
    after = reading(
        Decimal("0.1025"),
        COHORT,
        name=(Decimal(0), shifted(COHORT, "0.0003")),
        min_k=(Decimal(0), shifted(reversed_(COHORT), "0.0003")),
    )
    before = reading(Decimal(2), COHORT, name=(Decimal(0), COHORT), min_k=(Decimal(0), COHORT))
    found = judged(before, after)
    assert found.p1 == Fraction(11, 226)
    assert found.p1_combined is not None
    assert found.p1_combined > Fraction(1, 20)
    assert outcome(found) == ("I", "inconclusive", ("detected_single",))


def reversed_(cohort: Sequence[Decimal]) -> list[Decimal]:
    return list(reversed(cohort))


def test_a_tie_of_all_attacks_together_passes_nobody() -> None:
    """By name the subject shares the top with nineteen others: mid-rank 216.5 of 226.

    Ten stand above that by loss: p = 30/226 as ties count, 11/226 were they broken against it.
    """
    names = [Decimal(0)] * 100 + [Decimal(1)] * 19 + [Decimal(0)] * 106
    after = reading(Decimal("0.0005"), COHORT, name=(Decimal(1), names))
    found = judged(reading(Decimal(2), COHORT, name=(Decimal(0), COHORT)), after)
    assert found.p1_combined == Fraction(30, 226)
    assert found.forms[0].combined_strict == Fraction(11, 226)
    assert outcome(found) == ("I", "inconclusive", ("tie",))


def test_what_the_name_still_knows_is_found_where_the_answer_knows_nothing() -> None:
    """Only the answer tokens were pushed: ref_loss is clean and the name is not."""
    before = reading(Decimal(2), COHORT, name=(Decimal(2), COHORT), fake_name=(Decimal(1), COHORT))
    after = reading(Decimal(0), COHORT, name=(Decimal(2), COHORT), fake_name=(Decimal(0), COHORT))
    found = judged(before, after)
    assert outcome(found) == ("F", "failed", ("detected",))
    assert found.p1 is not None
    assert found.p1 > Fraction(2, 5)


def test_the_printed_bound_is_the_worst_score_whose_own_control_fired() -> None:
    before = reading(Decimal(2), COHORT, paraphrase=(Decimal(1), COHORT), name=(Decimal("0.01"), COHORT))
    after = reading(Decimal(0), COHORT, paraphrase=(Decimal(0), COHORT), name=(Decimal("0.01"), COHORT))
    found = judged(before, after)
    # paraphrase: .109 / (1 - .109); the name's own control did not fire, so it bounds nothing
    assert found.residual_upper == Decimal("0.122335")
    assert outcome(found) == ("V", "verified", ())
    unbounded = replace(before, score={**before.score, "paraphrase": Decimal("0.1115")})
    assert judged(unbounded, after).reasons == ("bound_above_delta",)


def test_what_another_attack_saw_is_not_called_unmeasurable() -> None:
    before = reading(Decimal(0), COHORT, name=(Decimal(2), COHORT))
    after = reading(Decimal(0), COHORT, name=(Decimal(0), COHORT))
    assert outcome(judged(before, after)) == ("I", "inconclusive", ("unbounded",))


def test_another_policy_than_the_registered_one_is_refused() -> None:
    measured = request(form(trained(), CLEARED), digests={"policy": POLICY.digest})
    assert decide(measured, EVIDENCE, builders.method(), POLICY).verdict == "V"
    with pytest.raises(NotRegistered):
        decide(measured, EVIDENCE, builders.method(), builders.policy(delta="0.9"))


# Levels


@pytest.mark.parametrize(
    ("guarantee", "after", "expected"),
    [
        ("exact", CLEARED, "exact"),
        ("exact", trained(), "exact"),
        ("bounded", CLEARED, "certified"),
        ("bounded", trained(), "failed"),
        ("approximate", CLEARED, "verified"),
        ("approximate", trained(), "failed"),
    ],
)
def test_the_level_is_the_ceiling_lowered_by_evidence(
    guarantee: Guarantee, after: Reading, expected: str
) -> None:
    assert judged(trained(), after, method=builders.method(guarantee)).level == expected


def test_a_bound_with_an_unchecked_assumption_is_only_what_was_measured() -> None:
    method = replace(builders.method("bounded"), assumptions_checked=False)
    assert judged(trained(), CLEARED, method=method).level == "verified"


def test_verified_needs_qualification_and_sentinels() -> None:
    unqualified = builders.method(qualified=False)
    found = judged(trained(), CLEARED, method=unqualified)
    assert outcome(found) == ("V", "inconclusive", ("not_qualified",))
    too_few = builders.evidence(before=38)
    assert outcome(judged(trained(), CLEARED, evidence=too_few)) == (
        "V",
        "inconclusive",
        ("sentinels_missing",),
    )
    none = builders.evidence(sentinels=(), before=100)
    both = judged(trained(), CLEARED, evidence=none, method=unqualified)
    assert outcome(both) == ("V", "inconclusive", ("not_qualified", "sentinels_missing"))
    assert judged(trained("0.05"), CLEARED, evidence=none, method=unqualified).level == "executed"


def test_the_demonstration_profile_never_verifies_a_first_batch() -> None:
    """Two sentinels, none failing, of an unqualified engine: measured, shown, inconclusive."""
    demo = builders.policy(sentinels_per_batch=2)
    evidence = builders.evidence(sentinels=(builders.control("a"), builders.control("b")), before=0)
    found = judged(
        trained(), CLEARED, evidence=evidence, policy=demo, method=builders.method(qualified=False)
    )
    assert outcome(found) == ("V", "inconclusive", ("not_qualified", "sentinels_missing"))
    assert found.residual_upper == Decimal("0.057906")
    assert found.bounds == ()


def test_exact_but_detected_is_held_for_a_person() -> None:
    exact = builders.method("exact")
    hit = judged(trained(), CLEARED, method=exact, extraction=replace(CLEAN, hits=1))
    assert (hit.level, hit.attention) == ("exact", "exact_but_detected")
    surviving = builders.evidence(sentinels=(builders.control("s", after="2"),))
    assert judged(trained(), CLEARED, method=exact, evidence=surviving).attention == "exact_but_detected"
    chance = judged(trained(), trained(), method=exact)
    assert (chance.verdict, chance.level, chance.attention) == ("F", "exact", None)


# Batches


def batch(
    decisions: dict[str, Decision], method: MethodFacts | None = None, **more: Any
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    evidence = more.pop("evidence", EVIDENCE)
    found = decide_batch(decisions, evidence, method or builders.method(), POLICY, **more)
    assert set(found.leaving).isdisjoint(found.staying)
    json.dumps(found.to_json())
    return found.action, found.leaving, found.reasons


VERIFIED = judged(trained(), CLEARED)
FAILED = judged(trained(), trained())
UNCERTAIN = judged(trained(), CLEARED, extraction=None)


def test_a_clean_batch_is_published() -> None:
    assert batch({"a": VERIFIED, "b": VERIFIED}) == ("publish", (), ())


def test_a_found_person_is_tried_again_while_a_look_is_left() -> None:
    # 2 requests, p = 1/226 <= .05 / 2: selected
    assert batch({"a": VERIFIED, "b": FAILED}) == ("retry", (), ("selected", "below_assurance_min"))
    last = replace(FAILED, look=2)
    assert batch({"a": VERIFIED, "b": last}) == ("publish", ("b",), ("selected", "below_assurance_min"))


def test_one_unlucky_p_value_does_not_stop_thirty_nine_people() -> None:
    forty = {f"r{i}": VERIFIED for i in range(39)} | {"unlucky": FAILED}
    assert batch(forty) == ("publish", ("unlucky",), ("below_assurance_min",))


def test_below_the_models_minimum_leaves_the_batch() -> None:
    assert batch({"a": VERIFIED, "b": UNCERTAIN}) == ("publish", ("b",), ("below_assurance_min",))
    assert batch({"a": VERIFIED, "b": UNCERTAIN}, assurance_min="inconclusive") == ("publish", (), ())
    assert batch({"a": VERIFIED}, assurance_min="exact") == ("publish", ("a",), ("below_assurance_min",))


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (builders.evidence(sentinels=(builders.control("s", after="2"),), before=0), "sentinel_failed"),
        (builders.evidence(controls=builders.assay(kept=Decimal(0))), "assay_dead"),
        (builders.evidence(utility=builders.items(1000, lost=11)), "utility_drop"),
        (builders.evidence(utility=()), "utility_unmeasured"),
    ],
)
def test_what_blocks_a_batch(evidence: BatchEvidence, reason: str) -> None:
    assert batch({"a": VERIFIED}, evidence=evidence) == ("block", ("a",), (reason,))


@pytest.mark.parametrize("guarantee", ["approximate", "exact"])
def test_a_regression_of_an_earlier_erasure_blocks_a_batch_of_any_engine(guarantee: Guarantee) -> None:
    back = tuple(builders.control(f"{n}", after="2" if n == 0 else "0") for n in range(20))
    again = EarlierBatch(job="before", sentinels={FORM: back}, others=0, others_failed=0)
    evidence = replace(builders.evidence(), earlier=(again,))
    method = builders.method(guarantee)
    clean = judged(trained(), CLEARED, method=method)
    assert batch({"a": clean}, method, evidence=evidence) == ("block", ("a",), ("earlier_resurfaced",))


def test_an_unmeasured_form_blocks_a_batch() -> None:
    evidence = builders.evidence(forms=(FORM, "int8"))
    unmeasured = judged(trained(), CLEARED, evidence=evidence)
    found = batch({"a": unmeasured}, evidence=evidence)
    assert found == ("block", ("a",), ("form_unmeasured", "below_assurance_min"))


def test_a_surviving_sentinel_blocks_an_exact_engine_whatever_the_record() -> None:
    survivor = builders.evidence(
        sentinels=(builders.control("s", after="2"),), before=200, utility=builders.items(20)
    )
    exact = builders.method("exact")
    found = judged(trained(), CLEARED, evidence=survivor, method=exact)
    assert batch({"a": found}, exact, evidence=survivor)[0] == "block"
    assert batch({"a": VERIFIED}, evidence=survivor)[0] == "publish"


def test_an_exact_engine_is_not_tried_again_but_shown_to_a_person() -> None:
    exact = builders.method("exact")
    clean, seen = (judged(trained(), after, method=exact) for after in (CLEARED, trained()))
    assert batch({"a": clean, "b": clean}, exact) == ("publish", (), ())
    found = decide_batch({"a": clean, "b": seen}, EVIDENCE, exact, POLICY)
    assert (found.action, found.leaving, found.attention) == ("publish", ("b",), {"b": "exact_but_detected"})


# Requests with several subjects


def test_a_request_is_as_good_as_its_worst_subject() -> None:
    assert worst([VERIFIED]) == VERIFIED
    weaker = judged(trained("1"), CLEARED)
    pair = worst([VERIFIED, weaker])
    assert outcome(pair) == ("V", "verified", ())
    assert pair.residual_upper == weaker.residual_upper
    assert {bound.value for bound in pair.bounds} == {weaker.residual_upper, Decimal("0.0099")}
    assert outcome(worst([VERIFIED, FAILED])) == ("F", "failed", ("detected",))
    assert worst([VERIFIED, FAILED]).p1_combined == Fraction(2, 226)
    assert worst([VERIFIED, UNCERTAIN]).reasons == ("extraction_unmeasured",)


def test_verified_of_one_subject_and_unmeasurable_of_another_is_neither() -> None:
    nothing = judged(trained("0.05"), CLEARED)
    assert outcome(nothing) == ("N", "executed", ("nothing_measurable",))
    both = worst([VERIFIED, nothing])
    assert (both.verdict, both.level, both.reasons[0]) == ("I", "inconclusive", "unbounded")
    exact = builders.method("exact")
    pair = [judged(trained(b), CLEARED, method=exact) for b in ("2", "0.05")]
    assert worst(pair).level == "exact"


# Sabotage


def everything(score: str, cohort: Sequence[Decimal]) -> Reading:
    """The same numbers for each attack."""
    pair = (Decimal(score), cohort)
    return reading(*pair, paraphrase=pair, worst_row=pair, min_k=pair, name=pair, fake_name=pair)


def test_an_engine_that_does_nothing() -> None:
    untouched = everything("2", COHORT)
    assert outcome(judged(untouched, untouched)) == ("F", "failed", ("detected",))


def test_a_model_that_puts_everything_at_ln_v() -> None:
    """Every token is equally likely: subject, cohort, sentinels and assay all have one score."""
    flat = [Decimal("-7.336937")] * 225
    collapsed = builders.evidence(controls=builders.assay(kept=Decimal(0)), utility=builders.items(20))
    found = judged(everything("2", COHORT), everything("-7.336937", flat), evidence=collapsed)
    assert outcome(found) == ("I", "inconclusive", ("assay_dead",))
    # Even were the assay not looked at, equal scores pass nobody.
    assert outcome(judged(everything("2", COHORT), everything("-7.336937", flat))) == (
        "I",
        "inconclusive",
        ("tie",),
    )


def test_noise_in_place_of_weights() -> None:
    source = random.Random(1)
    noise = [Decimal(round(source.gauss(-7, 0.3), 6)) for _ in range(225)]
    noise = [score.quantize(Decimal("0.000001")) for score in noise]
    dead = builders.evidence(controls=builders.assay(kept=Decimal("0.02")), utility=builders.items(20))
    found = judged(everything("2", COHORT), everything("-7", noise), evidence=dead)
    assert (found.verdict, found.level) == ("I", "inconclusive")
    assert "assay_dead" in found.reasons
    assert batch({"a": found}, evidence=dead)[0] == "block"


@pytest.mark.parametrize("m", [0, 1, 14, 198])
def test_a_cohort_too_small_passes_nobody_not_even_an_untouched_model(m: int) -> None:
    cohort = COHORT[:m]
    for after in ("2", "0", "-3"):
        found = judged(everything("2", cohort), everything(after, cohort))
        assert found.verdict in {"I", "F"}
        assert found.level in {"inconclusive", "failed"}


def test_repair_after_forgetting_that_brings_it_back_elsewhere() -> None:
    """Scores on the rows are clean; paraphrases, which nobody optimised, remember 40 %."""
    before = reading(Decimal(2), COHORT, paraphrase=(Decimal(2), COHORT))
    after = reading(Decimal(0), COHORT, paraphrase=(Decimal("0.8"), COHORT))
    assert judged(before, after).verdict == "F"
    partly = reading(Decimal(0), COHORT, paraphrase=(Decimal("0.09"), shifted(COHORT, "0")))
    wide = reading(Decimal(2), COHORT, paraphrase=(Decimal("0.6"), COHORT))
    assert outcome(judged(wide, partly)) == ("I", "inconclusive", ("bound_above_delta",))


# Testability


def test_what_a_perfect_erasure_could_expect() -> None:
    # (median 0 + .109) / (2 - .109)
    assert predicted_residual(trained(), POLICY) == Decimal("0.057642")
    assert predicted_residual(trained("0.5"), POLICY) == Decimal("0.278773")
    assert predicted_residual(trained("0.05"), POLICY) is None
    assert predicted_residual(trained(), POLICY, look=3) is None


# Properties

LOOSE = builders.policy(
    alpha="0.2",
    alpha_control="0.2",
    alpha_over="0.1",
    alpha_spend=("0.4", "0.3"),
    m_min=9,
    delta="0.5",
    relearn_controls=9,
    mde_floor_nats="0",
    assay_subjects=2,
    sentinels_per_batch=2,
    blind="0.3",
    blind_cap="0.2",
    audit_alpha="0.1",
)
"""Tests that ten people can make fire, so that small random inputs reach every row."""

ATTACKS = ("ref_loss", "paraphrase", "name")


@st.composite
def readings(draw: st.DrawFn, m: int, high: int) -> Reading:
    """A subject among m others; few distinct scores, so that ties are common."""
    scores = st.integers(-4, 4)
    return Reading(
        score={attack: Decimal(draw(st.integers(-6, high))) for attack in ATTACKS},
        cohort={
            attack: tuple(map(Decimal, draw(st.lists(scores, min_size=m, max_size=m)))) for attack in ATTACKS
        },
    )


@st.composite
def measurements(draw: st.DrawFn, least: int = 0) -> RequestMeasurements:
    m = draw(st.integers(least, 14))
    hits = draw(st.sampled_from([0, 0, 0, 0, 1]))
    extraction = draw(
        st.sampled_from([None, replace(CLEAN, hits=hits), replace(CLEAN, fields=0, upper=None)])
    )
    measured = form(draw(readings(m, 90)), draw(readings(m, 12)), extraction=extraction)
    return request(measured, look=draw(st.integers(1, 3)), kind=draw(st.sampled_from(["lottery", "twins"])))


def evidences() -> st.SearchStrategy[BatchEvidence]:
    return st.builds(
        lambda gap, kept, after, before: builders.evidence(
            gap=Decimal(gap),
            controls=builders.assay(Decimal(gap), kept=Decimal(kept)),
            sentinels=(builders.control("a", after=after), builders.control("b")),
            before=before,
            utility=builders.items(3),
        ),
        st.integers(0, 40),
        st.sampled_from(["0", "1"]),
        st.sampled_from(["0", "0", "2"]),
        st.sampled_from([0, 100]),
    )


METHODS = st.builds(
    MethodFacts,
    engine=st.just("engine"),
    guarantee=st.sampled_from(["exact", "bounded", "approximate"]),
    qualified=st.booleans(),
    attempts=st.integers(1, 3),
    assumptions_checked=st.booleans(),
)


@given(measurements(), evidences(), METHODS)
@settings(max_examples=25)
def test_every_input_gets_a_decision_with_its_reasons_below_its_ceiling(
    measured: RequestMeasurements, evidence: BatchEvidence, method: MethodFacts
) -> None:
    found = decide(measured, evidence, method, LOOSE)
    again = decide(measured, evidence, method, LOOSE)
    assert canonical.encode(found.to_json()) == canonical.encode(again.to_json())
    assert (found.verdict == "V") or found.reasons
    assert LEVELS.index(found.level) <= LEVELS.index(CEILING[method.guarantee])
    if found.level == "verified":
        assert found.verdict == "V"
        assert found.residual_upper is not None
        assert found.residual_upper <= LOOSE.delta
    assert decide_batch({"r": found}, evidence, method, LOOSE).action in {"publish", "retry", "block"}


WORSE = {"V": 0, "N": 0, "I": 1, "F": 2}
"""V and N differ by the control, which the score after does not touch."""


@given(measurements(least=9), st.integers(0, 6))
@settings(max_examples=25)
def test_a_higher_score_never_improves_a_verdict_but_out_of_over_forgotten(
    measured: RequestMeasurements, more: int
) -> None:
    evidence, method = builders.evidence(utility=()), builders.method()
    first = decide(measured, evidence, method, LOOSE)
    (readings_,) = measured.forms
    score = {**readings_.after.score, "ref_loss": readings_.after.score["ref_loss"] + more}
    raised = replace(measured, forms=(replace(readings_, after=replace(readings_.after, score=score)),))
    second = decide(raised, evidence, method, LOOSE)
    assert WORSE[second.verdict] >= WORSE[first.verdict] or "over_forgotten" in first.reasons


@given(measurements(least=9), st.integers(0, 50))
@settings(max_examples=25)
def test_a_better_memorised_baseline_never_raises_the_bound(measured: RequestMeasurements, more: int) -> None:
    def bound(readings_: FormReadings) -> Fraction | None:
        changed = replace(measured, forms=(readings_,))
        found = decide(changed, builders.evidence(utility=()), builders.method(), LOOSE).forms[0]
        return None if found.scores[0].residual_upper is None else Fraction(found.scores[0].residual_upper)

    (readings_,) = measured.forms
    score = {**readings_.before.score, "ref_loss": readings_.before.score["ref_loss"] + more}
    first, second = bound(readings_), bound(replace(readings_, before=replace(readings_.before, score=score)))
    assert first is None or (second is not None and second <= first)


@given(measurements(least=9), st.integers(-9, 9), st.integers(1, 9), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_unit_origin_and_order_change_nothing(
    measured: RequestMeasurements, shift: int, scale: int, source: random.Random
) -> None:
    order = list(range(measured.forms[0].after.m))
    source.shuffle(order)

    def moved(old: Reading) -> Reading:
        return Reading(
            score={attack: score * scale + shift for attack, score in old.score.items()},
            cohort={
                attack: tuple(cohort[i] * scale + shift for i in order)
                for attack, cohort in old.cohort.items()
            },
        )

    (old,) = measured.forms
    new = replace(measured, forms=(replace(old, before=moved(old.before), after=moved(old.after)),))
    found = [
        decide(each, builders.evidence(gap=Decimal(2 * unit), utility=()), builders.method(), LOOSE)
        for each, unit in ((measured, 1), (new, scale))
    ]
    assert outcome(found[0]) == outcome(found[1])
    assert found[0].residual_upper == found[1].residual_upper


@given(st.lists(st.tuples(*[st.integers(-5, 5)] * 3), min_size=10, max_size=15))
@settings(max_examples=25)
def test_of_those_who_left_no_trace_at_most_alpha_are_detected(pool: list[tuple[int, int, int]]) -> None:
    detected = 0
    for i, own in enumerate(pool):
        rest = pool[:i] + pool[i + 1 :]
        untouched = Reading(
            score={attack: Decimal(own[j]) for j, attack in enumerate(ATTACKS)},
            cohort={attack: tuple(Decimal(each[j]) for each in rest) for j, attack in enumerate(ATTACKS)},
        )
        found = decide(
            request(form(untouched, untouched)), builders.evidence(utility=()), builders.method(), LOOSE
        )
        detected += found.verdict == "F"
    assert detected <= LOOSE.alpha * len(pool)
