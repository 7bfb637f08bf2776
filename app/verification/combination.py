"""Several attacks, one exact p-value; several requests, one list of whom to try again.

Max-rank: per attack take mid-ranks in the pool of cohort and subject; a subject's T is its highest
rank over the attacks; T is ranked in the cohort like any score. Because every member of the pool
is treated alike, the p-value is exact whatever the attacks' dependence, and needs no correction.
One request at a time in the pool, or requests would calibrate each other.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

from app.verification.conformal import p_high, p_strict

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """The max-rank p-value, and the same with ties broken against the subject."""

    p: Fraction
    strict: Fraction


def mid_ranks(values: Sequence[Decimal]) -> list[Decimal]:
    """Return each value's rank from 1, ties sharing the mean of their ranks (whole or half)."""
    ordered = sorted(values)
    first: dict[Decimal, int] = {}
    last: dict[Decimal, int] = {}
    for rank, value in enumerate(ordered, start=1):
        first.setdefault(value, rank)
        last[value] = rank
    return [Decimal(first[value] + last[value]) / 2 for value in values]


def max_rank(
    scores: Mapping[str, Decimal], cohorts: Mapping[str, Sequence[Decimal]], attacks: Sequence[str]
) -> Combined:
    """Return the combined p-values of one subject over the attacks named."""
    assert attacks, "at least one attack is needed"
    pools = [mid_ranks([*cohorts[attack], scores[attack]]) for attack in attacks]
    *others, subject = (max(ranks) for ranks in zip(*pools, strict=True))
    return Combined(p=p_high(subject, others), strict=p_strict(subject, others))


def max_standardised(
    scores: Mapping[str, Decimal], cohorts: Mapping[str, Sequence[Decimal]], readings: Sequence[str]
) -> Fraction:
    """Return the p-value of one subject over many readings, by how far it stands out in any of them.

    Max-T (Westfall and Young): each reading is taken in standard deviations of the pool of cohort and
    subject, and a subject's T is its largest. As exact as `max_rank`, and for the same reason; but among
    ranks the top person of every reading ties with the subject, so that of a dozen readings none alone
    could reach 1 / (m + 1), and here a subject far above all others in one reading does.
    """
    assert readings, "at least one reading is needed"
    pools = [_standardised([*cohorts[name], scores[name]]) for name in readings]
    *others, subject = (max(each) for each in zip(*pools, strict=True))
    return Fraction(1 + sum(other >= subject for other in others), len(others) + 1)


def _standardised(values: Sequence[Decimal]) -> list[Fraction]:
    """Return each value's squared distance from the mean in units of the variance, with its sign.

    Squares keep it rational, and order it as the distance itself does.
    """
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    variance = sum(((value - mean) ** 2 for value in exact), Fraction(0)) / len(exact)
    if not variance:
        return [Fraction(0)] * len(exact)
    return [(value - mean) * abs(value - mean) / variance for value in exact]


def benjamini_hochberg(p_values: Mapping[Key, Fraction], q: Decimal) -> frozenset[Key]:
    """Return whom the Benjamini-Hochberg step-up selects at false-discovery rate q.

    Valid for conformal p-values that share a cohort (arXiv:2104.08279). It steers retries only: a
    pass never rests on it.
    """
    ordered = sorted(p_values.values())
    count = len(ordered)
    cut = max((p for i, p in enumerate(ordered, start=1) if p <= Fraction(q) * i / count), default=None)
    return frozenset(key for key, p in p_values.items() if cut is not None and p <= cut)
