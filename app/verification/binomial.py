"""Bounds from counts: Clopper-Pearson, the beta-binomial tail, and Student's t.

Binomial sums are in decimals of forty digits, so a bound has the same digits on every machine;
tests of a count against a risk are exact rationals. Knows no sentinel and no policy.
"""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

_DIGITS = 40
_HALVINGS = 110
"""Enough for the forty digits: 2^-110 < 10^-33."""


def cdf_exact(successes: int, trials: int, risk: Fraction) -> Fraction:
    """Return P(Bin(n, r) <= h) as a rational."""
    assert 0 <= successes <= trials
    return sum(
        (math.comb(trials, i) * risk**i * (1 - risk) ** (trials - i) for i in range(successes + 1)),
        Fraction(0),
    )


def cdf(successes: int, trials: int, risk: Decimal) -> Decimal:
    """Return P(Bin(n, r) <= h) in forty digits."""
    assert 0 <= successes <= trials
    if successes == trials:
        return Decimal(1)
    with localcontext(prec=_DIGITS):
        kept = 1 - risk
        return sum(
            (math.comb(trials, i) * risk**i * kept ** (trials - i) for i in range(successes + 1)), Decimal(0)
        )


def upper_bound(successes: int, trials: int, *, confidence: Decimal = Decimal("0.95")) -> Decimal:
    """Return the one-sided Clopper-Pearson upper bound of a rate.

    The r at which P(Bin(n, r) <= h) = 1 - confidence: 0 of 59 gives .0495, 0 of 300 .0099. With no
    trials, or nothing but successes, it is 1.
    """
    if successes == trials:
        return Decimal(1)
    return _falling_root(lambda risk: cdf(successes, trials, risk), 1 - confidence)


def false_alarm_upper(rank: int, m: int, *, confidence: Decimal = Decimal("0.95")) -> Decimal:
    """Return how large the real false-alarm rate may be, given the cohort that was drawn.

    Given the cohort, the rate of a test at rank k is Beta(k, m + 1 - k); this is its quantile at
    `confidence`. At m = 199 a nominal 5 % test may really fire in up to 7.8 %.
    """
    assert 1 <= rank <= m
    # P(Beta(k, m+1-k) > r) = P(Bin(m, r) <= k - 1)
    return _falling_root(lambda risk: cdf(rank - 1, m, risk), 1 - confidence)


def rate_is_below(
    failures: int, trials: int, *, risk: Decimal, confidence: Decimal = Decimal("0.95")
) -> bool:
    """Say whether the Clopper-Pearson upper bound is at most the risk; decided exactly.

    At risk .05: 0 of 59, 1 of 93, 2 of 124.
    """
    return cdf_exact(failures, trials, Fraction(risk)) <= 1 - Fraction(confidence)


def beta_binomial_tail(above: int, requests: int, *, rank: int, m: int) -> Fraction:
    """Return P(X > above) for X ~ Beta-binomial(B; k, m + 1 - k), exactly.

    X is how many of B perfectly erased requests that share one cohort have a rank p-value of at
    most k / (m + 1). They are not binomial: a cohort drawn low makes all of them look high.
    """
    a, b = rank, m + 1 - rank
    ways = math.comb(requests + a + b - 1, requests)
    hits = range(above + 1, requests + 1)
    favourable = sum(math.comb(x + a - 1, x) * math.comb(requests - x + b - 1, requests - x) for x in hits)
    return Fraction(favourable, ways)


def t_quantile(probability: float, freedom: int) -> float:
    """Return Student's t at a probability in [.5, 1); by bisection on the finite series."""
    assert 0.5 <= probability < 1
    assert freedom >= 1
    low, high = 0.0, 1.0
    while _t_cdf(high, freedom) < probability:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if _t_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def _t_cdf(t: float, freedom: int) -> float:
    """Return P(T <= t), t >= 0 (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    series = 0.0
    # Odd: cos + 2/3 cos^3 + ...; even: 1 + 1/2 cos^2 + ...; up to the power freedom - 2.
    for power in range(odd, freedom - 1, 2):
        series += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    both = 2 / math.pi * (angle + sine * series) if odd else sine * series
    return 0.5 + both / 2


def _falling_root(function: Callable[[Decimal], Decimal], target: Decimal) -> Decimal:
    """Return where a function that falls from 1 to 0 on [0, 1] meets the target, from above."""
    with localcontext(prec=_DIGITS):
        low, high = Decimal(0), Decimal(1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if function(middle) > target:
                low = middle
            else:
                high = middle
        return high
