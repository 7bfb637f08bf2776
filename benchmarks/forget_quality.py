"""TOFU's truth ratio and forget quality (arXiv:2401.06121), and how little the latter can see.

    truth ratio      exp(-mean loss of wrong answers) / exp(-loss of the right answer in other words)
    forget quality   p of the two-sample Kolmogorov-Smirnov test between the truth ratios of a model
                     and those of one retrained without the rows: large means "not told apart"
    power            how often the test, with as many rows, tells the model on which *nothing* was done
                     from the retrained one: where that is small, a large p says nothing

Pure numbers; losses are nats per token and come from elsewhere.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from statistics import fmean, median

LEVEL = 0.05
DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Forget quality, with what it is worth."""

    p: float
    """Median over the retrained models."""
    distance: float
    n: int
    power: float
    smallest: float
    """The least distance at which the test speaks, with so many rows."""


def truth_ratio(right: float, wrong: Sequence[float]) -> float:
    """Return exp(-mean wrong) / exp(-right): 1 where the right answer is no likelier than the wrong ones."""
    assert wrong, "a ratio needs something wrong"
    return math.exp(right - fmean(wrong))


def quality(
    found: Sequence[float], untouched: Sequence[float], retrained: Sequence[Sequence[float]], *, seed: int
) -> Quality:
    """Compare a model's truth ratios with those of each retrained model, rows in the same order."""
    assert retrained, "there is nothing to compare with"
    each = [distance(found, other) for other in retrained]
    return Quality(
        p=median(
            p_value(apart, len(found), len(other)) for apart, other in zip(each, retrained, strict=True)
        ),
        distance=median(each),
        n=len(found),
        power=power(untouched, retrained, seed=seed),
        smallest=critical(len(found), len(retrained[0])),
    )


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return D = max |F1(x) - F2(x)| over the two empirical distributions."""
    a, b = sorted(first), sorted(second)
    return max(abs(bisect_right(a, x) / len(a) - bisect_right(b, x) / len(b)) for x in (*a, *b))


@cache
def p_value(apart: float, n: int, m: int) -> float:
    """Return P(D >= apart) if both samples, of n and m, come from one distribution without ties.

    Exact (Hodges 1958): of the C(n + m, n) equally likely orders of all values, count those whose path
    from (0, 0) to (n, m) stays where |i/n - j/m| < apart. With ties it is conservative.
    """
    assert n > 0
    assert m > 0
    limit = round(apart * n * m)  # |i m - j n| < limit is the same in whole numbers
    ways = [1 if j * n < limit else 0 for j in range(m + 1)]
    for j in range(1, m + 1):
        ways[j] = ways[j] and ways[j - 1]
    for i in range(1, n + 1):
        ways[0] = ways[0] if i * m < limit else 0
        for j in range(1, m + 1):
            ways[j] = ways[j] + ways[j - 1] if abs(i * m - j * n) < limit else 0
    total = math.comb(n + m, n)
    return (total - ways[m]) / total


@cache
def critical(n: int, m: int) -> float:
    """Return the least distance at which p is at most .05; above 1 where there is none."""
    step = math.gcd(n, m)
    low, high = 0, n * m // step + 1  # in units of step / (n m), in which every distance is whole
    while low + 1 < high:
        middle = (low + high) // 2
        if p_value(middle * step / (n * m), n, m) <= LEVEL:
            high = middle
        else:
            low = middle
    return high * step / (n * m)


def power(untouched: Sequence[float], retrained: Sequence[Sequence[float]], *, seed: int) -> float:
    """Return how often samples of these sizes, drawn again with replacement, are told apart at .05."""
    draw = Random(seed)  # noqa: S311  the same draws every time
    told = 0
    for number in range(DRAWS):
        other = retrained[number % len(retrained)]
        limit = critical(len(untouched), len(other))
        apart = distance(_again(draw, untouched), _again(draw, other))
        told += apart >= limit - 1e-12
    return told / DRAWS


def _again(draw: Random, values: Sequence[float]) -> list[float]:
    return [values[int(draw.random() * len(values))] for _ in values]
