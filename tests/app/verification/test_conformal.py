"""Ranks and what they bound: hand vectors, and properties that hold for any distribution."""

import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.verification.conformal import (
    detectable_shift,
    fires,
    p_high,
    p_low,
    p_strict,
    p_two_sided,
    printed,
    residue,
    threshold_rank,
)

ONE_TO_19 = [Decimal(i) for i in range(1, 20)]
SCORES = st.integers(-(10**6), 10**6).map(lambda i: Decimal(i).scaleb(-3))
FEW = st.integers(0, 4).map(Decimal)
"""Few values, so that ties are the rule."""
TAILS = st.sampled_from([Decimal("0.05"), Decimal("0.1"), Decimal("0.2"), Decimal("0.5")])


def test_the_worked_example() -> None:
    assert p_high(Decimal("19.5"), ONE_TO_19) == Fraction(1, 20)
    assert p_high(Decimal(10), ONE_TO_19) == Fraction(11, 20)
    assert p_low(Decimal(10), ONE_TO_19) == Fraction(11, 20)
    bound = residue(
        before=Decimal(25),
        cohort_before=ONE_TO_19,
        after=Decimal(3),
        cohort_after=ONE_TO_19,
        tail=Decimal("0.05"),
    )
    assert bound is not None
    # k = floor(.05 x 20) = 1: L = C_(1) = 1, U = C_(19) = 19; (3 - 1) / (25 - 19)
    assert (bound.excess_upper, bound.gap_lower) == (Decimal(2), Decimal(6))
    assert bound.ratio_upper == Fraction(1, 3)
    # C_(19) - C_(4)
    assert detectable_shift(ONE_TO_19, Decimal("0.05")) == Decimal(15)


def test_a_rank_is_not_lost_to_a_float() -> None:
    assert int(0.29 * 100) == 28
    assert threshold_rank(Decimal("0.29"), 99) == 29


def test_ties_count_against_in_one_direction_only() -> None:
    cohort = [Decimal(1)] * 19
    assert p_high(Decimal(1), cohort) == 1
    assert p_low(Decimal(1), cohort) == 1
    assert p_strict(Decimal(1), cohort) == Fraction(1, 20)


@pytest.mark.parametrize("cohort", [ONE_TO_19[:14], []])
def test_impossible_ranks_give_no_bound(cohort: list[Decimal]) -> None:
    nine, tail = Decimal(9), Decimal("0.05")
    assert residue(before=nine, cohort_before=cohort, after=nine, cohort_after=cohort, tail=tail) is None
    assert detectable_shift(cohort, tail) is None


def test_a_gap_that_may_be_nothing_bounds_nothing() -> None:
    bound = residue(
        before=Decimal(19),
        cohort_before=ONE_TO_19,
        after=Decimal(0),
        cohort_after=ONE_TO_19,
        tail=Decimal("0.05"),
    )
    assert bound is not None
    assert bound.gap_lower == 0
    assert bound.ratio_upper is None


def test_two_sided_ranks() -> None:
    assert p_two_sided(Decimal(0), ONE_TO_19) == Fraction(1, 10)
    assert p_two_sided(Decimal(20), ONE_TO_19) == Fraction(1, 10)
    assert p_two_sided(Decimal(10), ONE_TO_19) == 1


@pytest.mark.parametrize(
    ("value", "even", "up"),
    [
        (Fraction(1, 3), "0.333333", "0.333334"),
        (Fraction(1, 5), "0.200000", "0.200000"),
        (Fraction(5, 10**7), "0.000000", "0.000001"),
        (Fraction(-1, 3), "-0.333333", "-0.333333"),
    ],
)
def test_bounds_are_rounded_up_and_other_numbers_half_even(value: Fraction, even: str, up: str) -> None:
    assert printed(value) == Decimal(even)
    assert printed(value, up=True) == Decimal(up)


@given(st.lists(SCORES, min_size=2, max_size=60, unique=True))
def test_among_equals_every_p_value_is_equally_likely(scores: list[Decimal]) -> None:
    """Leave each one out in turn: the p-values are 1/n, 2/n, ... n/n, each once."""
    p_values = [p_high(s, [other for other in scores if other != s]) for s in scores]
    assert sorted(p_values) == [Fraction(k, len(scores)) for k in range(1, len(scores) + 1)]


@given(st.lists(FEW | SCORES, min_size=2, max_size=60), TAILS)
def test_among_equals_at_most_alpha_are_detected(scores: list[Decimal], alpha: Decimal) -> None:
    """Ties included: of everyone left out in turn, at most the share alpha."""
    detected = sum(fires(p_high(s, scores[:i] + scores[i + 1 :]), alpha) for i, s in enumerate(scores))
    assert detected <= alpha * len(scores)


@given(st.lists(SCORES, min_size=1, max_size=60), SCORES, TAILS)
def test_firing_is_the_rank_within_the_threshold(
    cohort: list[Decimal], score: Decimal, alpha: Decimal
) -> None:
    rank = 1 + sum(other >= score for other in cohort)
    assert fires(p_high(score, cohort), alpha) == (rank <= threshold_rank(alpha, len(cohort)))


@given(
    st.integers(0, 2**32),
    st.integers(0, 3000).map(lambda i: Decimal(i).scaleb(-3)),
    TAILS,
)
@settings(max_examples=40)
def test_the_bound_holds_as_often_as_it_says(seed: int, share: Decimal, tail: Decimal) -> None:
    """Each member in turn is trained (a gap is added) and erased but for a share of it.

    Of all who could have been the subject, at most 2a may have a true share above the bound.
    """
    source = random.Random(seed)
    grain = source.choice([1, 400])  # coarse scores tie
    before, after = (
        [Decimal(round(source.gauss(0, 800) / grain) * grain) for _ in range(40)] for _ in range(2)
    )
    pool = list(zip(before, after, strict=True))
    gap = Decimal(2500)
    wrong = 0
    for i, (untrained_before, untrained_after) in enumerate(pool):
        rest = pool[:i] + pool[i + 1 :]
        bound = residue(
            before=untrained_before + gap,
            cohort_before=[each for each, _ in rest],
            after=untrained_after + share * gap,
            cohort_after=[each for _, each in rest],
            tail=tail,
        )
        if bound is None or bound.ratio_upper is None:
            continue
        wrong += Fraction(share) > bound.ratio_upper
    assert wrong <= 2 * tail * len(pool)
