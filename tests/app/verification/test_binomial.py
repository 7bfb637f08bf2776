"""Bounds from counts, against scipy and against published tables."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from app.verification.binomial import (
    beta_binomial_tail,
    cdf,
    cdf_exact,
    false_alarm_upper,
    rate_is_below,
    t_quantile,
    upper_bound,
)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    trials = draw(st.integers(1, 300))
    return draw(st.integers(0, min(trials, 12))), trials


@given(counts(), st.integers(1, 999).map(lambda i: Decimal(i).scaleb(-3)))
@settings(max_examples=50)
def test_the_binomial_agrees_with_scipy(count: tuple[int, int], risk: Decimal) -> None:
    successes, trials = count
    expected = stats.binom.cdf(successes, trials, float(risk))
    assert float(cdf(successes, trials, risk)) == pytest.approx(expected, abs=1e-9)
    assert float(cdf_exact(successes, trials, Fraction(risk))) == pytest.approx(expected, abs=1e-9)


@given(counts())
@settings(max_examples=40)
def test_clopper_pearson_agrees_with_scipy(count: tuple[int, int]) -> None:
    successes, trials = count
    expected = 1.0 if successes == trials else stats.beta.ppf(0.95, successes + 1, trials - successes)
    assert float(upper_bound(successes, trials)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("trials", "bound"), [(20, "0.139"), (59, "0.0495"), (100, "0.0295"), (299, "0.0100"), (300, "0.0099")]
)
def test_none_of_n(trials: int, bound: str) -> None:
    assert upper_bound(0, trials).quantize(Decimal(bound)) == Decimal(bound)


def test_nothing_tried_bounds_nothing() -> None:
    assert upper_bound(0, 0) == 1
    assert not rate_is_below(0, 0, risk=Decimal("0.05"))


@pytest.mark.parametrize(("failures", "trials"), [(0, 59), (1, 93), (2, 124)])
def test_how_many_sentinels_are_enough(failures: int, trials: int) -> None:
    assert rate_is_below(failures, trials, risk=Decimal("0.05"))
    assert not rate_is_below(failures, trials - 1, risk=Decimal("0.05"))
    assert not rate_is_below(failures + 1, trials, risk=Decimal("0.05"))


@pytest.mark.parametrize(
    ("sizes", "configurations"), [((59, 93, 124), 1), ((86, 125, 160), 4), ((99, 141, 177), 8)]
)
def test_how_many_more_when_configurations_are_chosen_from(
    sizes: tuple[int, ...], configurations: int
) -> None:
    confidence = 1 - Decimal("0.05") / configurations
    for failures, trials in enumerate(sizes):
        assert rate_is_below(failures, trials, risk=Decimal("0.05"), confidence=confidence)
        assert not rate_is_below(failures, trials - 1, risk=Decimal("0.05"), confidence=confidence)


def test_one_of_ninety_three() -> None:
    assert float(cdf_exact(1, 93, Fraction(1, 20))) == pytest.approx(0.04998, abs=5e-6)


@pytest.mark.parametrize(("above", "requests", "expected"), [(6, 40, 0.00792), (12, 100, 0.00936)])
def test_requests_that_share_a_cohort_are_not_binomial(above: int, requests: int, expected: float) -> None:
    found = beta_binomial_tail(above, requests, rank=10, m=199)
    assert float(found) == pytest.approx(expected, abs=5e-6)
    assert float(found) == pytest.approx(stats.betabinom.sf(above, requests, 10, 190), abs=1e-9)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        ("0.05", {99: "0.0901", 199: "0.0776", 299: "0.0722", 999: "0.0618"}),
        ("0.01", {99: "0.0298", 199: "0.0236", 299: "0.0209", 999: "0.0157"}),
    ],
)
def test_the_real_false_alarm_rate_given_a_cohort(alpha: str, expected: dict[int, str]) -> None:
    for m, rate in expected.items():
        rank = int(Decimal(alpha) * (m + 1))
        found = false_alarm_upper(rank, m)
        assert found.quantize(Decimal("0.0001")) == Decimal(rate)
        assert float(found) == pytest.approx(stats.beta.ppf(0.95, rank, m + 1 - rank), abs=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 19, 20, 59, 239])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.99])
def test_student_agrees_with_scipy(probability: float, freedom: int) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-9)
