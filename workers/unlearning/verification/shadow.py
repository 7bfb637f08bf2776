"""Membership as the two strongest published attacks test it, the judges standing in for shadow models.

    lira    z = (phi - mean_out) / (sd_out sqrt(1 + 1/n)),  phi = log p - log(1 - p)      (arXiv:2112.03570)
    rmia    how often p / p_out exceeds gamma times that of somebody never trained on     (arXiv:2312.03262)

Both offline: every judge is an *out* model, of which there are n. They train on a part of the data and
not on random halves of it, so this is the tests' form on a proxy, not at their full strength: with two
judges the mean of the outs is worth two draws. Below `OUTS_MIN` the variance of one record cannot be
told and is pooled over the cohort, which makes z the difference of phi up to a constant. No null of
either paper is used: subjects are ranked in the cohort like by any other score, which is exact at any
n; n decides the power alone, and the people who were kept show how large that is.

Pure: log-probabilities in, statistics out.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

OUTS_MIN = 8
"""References from which the variance of one record is taken from that record alone."""

GAMMA = 2.0

_LEAST = 1e-9
"""Nats below which a loss counts as none: log(1 - p) would not be a number."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One row: its log-probability per token under the model, and under each judge."""

    model: float
    outs: tuple[float, ...]


Rows = Sequence[Heard]
"""A subject's."""


def logit(log_p: float) -> float:
    """Return log p - log(1 - p), which is near to normal where log p is not."""
    bounded = min(log_p, -_LEAST)
    return bounded - math.log(-math.expm1(bounded))


def lira(subjects: Sequence[Rows]) -> list[float]:
    """Return the mean z of each subject's rows; all of them make the pool of variances."""
    pool = [row for rows in subjects for row in rows]
    n = min((len(row.outs) for row in pool), default=0)
    assert n, "nobody is out"
    spreads = [variance(map(logit, row.outs)) for row in pool if len(row.outs) > 1]
    pooled = fmean(spreads) if spreads else 1.0
    return [fmean(_z(row, pooled) for row in rows) for rows in subjects]


def rmia(subjects: Sequence[Rows]) -> list[float]:
    """Return, of each subject, how far its rows stand above those of all others in the pool."""
    ratios = [[_ratio(row) for row in rows] for rows in subjects]
    everybody = sorted(ratio for each in ratios for ratio in each)
    found = []
    for own in ratios:
        mine = sorted(own)
        others = len(everybody) - len(mine)
        beaten = [
            bisect_right(everybody, ratio - math.log(GAMMA)) - bisect_right(mine, ratio - math.log(GAMMA))
            for ratio in own
        ]
        found.append(fmean(beaten) / others if others else 0.0)
    return found


def _z(row: Heard, pooled: float) -> float:
    outs = [logit(each) for each in row.outs]
    spread = variance(outs) if len(outs) >= OUTS_MIN else pooled
    return (logit(row.model) - fmean(outs)) / math.sqrt(max(spread, _LEAST) * (1 + 1 / len(outs)))


def _ratio(row: Heard) -> float:
    """Return log p - log of the mean p of the outs."""
    highest = max(row.outs)
    return row.model - highest - math.log(fmean(math.exp(each - highest) for each in row.outs))
