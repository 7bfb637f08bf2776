"""Ranks of one score in a cohort of never-trained subjects, and what they bound.

    k(q)  = floor(q (m+1))                       C_(i) = i-th smallest of m cohort scores
    p     = (1 + #{c : C(c) >= s}) / (m + 1)     fired  <=>  p <= q  <=>  1 + # <= k(q)

Valid at every finite m, for any distribution, if the subject left no trace and so is exchangeable
with the cohort. Exact rationals and decimals throughout: in floats `0.29 * 100` is
28.999999999999996, and one lost rank flips a verdict. Knows no verdict, no policy and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

PLACES = 6
"""Decimals to which scores are rounded and results are printed."""


def threshold_rank(quantile: Decimal, m: int) -> int:
    """Return k(q) = floor(q (m + 1)); below 1 a test at q is impossible with m others."""
    return int(Fraction(quantile) * (m + 1))


def p_high(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    """Return how often someone never trained on would score at least this high; ties count."""
    return Fraction(1 + sum(other >= score for other in cohort), len(cohort) + 1)


def p_low(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    """Return how often someone never trained on would score at most this high; ties count."""
    return Fraction(1 + sum(other <= score for other in cohort), len(cohort) + 1)


def p_strict(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    """Return `p_high` without its ties.

    Counting ties as "at least as high" is valid but lenient to a pass, so a pass must also hold
    for this count, which is the harshest way in which ties could be broken.
    """
    return Fraction(1 + sum(other > score for other in cohort), len(cohort) + 1)


def p_two_sided(score: Decimal, cohort: Sequence[Decimal]) -> Fraction:
    """Return the two-sided rank: twice the smaller tail, at most 1."""
    return min(Fraction(1), 2 * min(p_high(score, cohort), p_low(score, cohort)))


def fires(p: Fraction, quantile: Decimal) -> bool:
    """Say whether a rank p-value is at most q; the same as 1 + # <= k(q), by integrality."""
    return p <= Fraction(quantile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residue:
    """What may remain of one score, and the gap there was at least.

    With L = C_(k(a)) under the candidate and U = C_(m+1-k(a)) under the baseline:

        excess_upper = S_after(R) - L        gap_lower = S_before(R) - U
        ratio_upper  = max(0, excess_upper) / gap_lower,   undefined unless gap_lower > 0

    Had R never been trained, its score S* would be exchangeable with the cohort, so P(S* < L) <= a
    after and P(S* > U) <= a before: with probability >= 1 - 2a the residue S_after(R) - S* is at
    most excess_upper and the original gap at least gap_lower.
    """

    excess_upper: Decimal
    gap_lower: Decimal

    @property
    def ratio_upper(self) -> Fraction | None:
        """Return the largest share of the original gap that may remain; None if it has no bound."""
        if self.gap_lower <= 0:
            return None
        return Fraction(max(Decimal(0), self.excess_upper)) / Fraction(self.gap_lower)


def residue(
    *,
    before: Decimal,
    cohort_before: Sequence[Decimal],
    after: Decimal,
    cohort_after: Sequence[Decimal],
    tail: Decimal,
) -> Residue | None:
    """Return the bound at tail probability a on each side; None where k(a) < 1 (no such rank)."""
    low = threshold_rank(tail, len(cohort_after))
    high = threshold_rank(tail, len(cohort_before))
    if low < 1 or high < 1:
        return None
    lower = sorted(cohort_after)[low - 1]
    upper = sorted(cohort_before)[len(cohort_before) - high]
    return Residue(excess_upper=after - lower, gap_lower=before - upper)


MISS = Decimal("0.2")
"""One less the power at which the detectable effect is stated."""


def detectable_shift(cohort: Sequence[Decimal], alpha: Decimal) -> Decimal | None:
    """Return the shift that the test at alpha catches with 80 % power, in the score's unit.

    C_(m+1-k(alpha)) - C_(k(0.2)): shifted by so much, four in five of the cohort would stand above
    the detection threshold. None where one of the two ranks does not exist.
    """
    m = len(cohort)
    detect, miss = threshold_rank(alpha, m), threshold_rank(MISS, m)
    if detect < 1 or miss < 1:
        return None
    ordered = sorted(cohort)
    return ordered[m - detect] - ordered[miss - 1]


def printed(value: Fraction | Decimal, *, up: bool = False) -> Decimal:
    """Return a number as it is printed: six decimals, half-even; upper bounds are rounded up."""
    exact = Fraction(value)
    with localcontext(prec=60) as context:
        context.rounding = ROUND_CEILING if up else ROUND_HALF_EVEN
        quotient = Decimal(exact.numerator) / Decimal(exact.denominator)
        return quotient.quantize(Decimal(1).scaleb(-PLACES))
