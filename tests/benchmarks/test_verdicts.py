"""What chance alone would do to the judge: the band against a simulation, and by hand."""

from fractions import Fraction
from random import Random

import pytest

from app.verification.binomial import beta_binomial_tail
from benchmarks.verdicts import band, binomial, chance, counts


def test_false_alarms_of_one_seed_are_beta_binomial() -> None:
    found = chance(20, rank=10, m=199, seeds=1)
    assert sum(found) == 1
    for x in (0, 4, 20):
        assert sum(found[x + 1 :]) == beta_binomial_tail(x, 20, rank=10, m=199)


def test_seeds_are_added_up() -> None:
    found = chance(1, rank=1, m=1, seeds=2)
    assert found == [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4)]
    assert binomial(2, Fraction(1, 2)) == found
    assert sum(chance(30, rank=5, m=99, seeds=3)) == 1


def test_the_band_leaves_one_in_forty_on_either_side() -> None:
    assert band(binomial(100, Fraction(1, 20))) == (1, 10)  # P(X <= 0) = .006, P(X > 10) = .011
    assert band([Fraction(1)]) == (0, 0)


def test_people_like_the_cohort_fall_into_the_band_as_often_as_they_should() -> None:
    draw, low_high = Random(5), band(chance(25, rank=5, m=99, seeds=2))
    outside = 0
    for _ in range(300):
        alarms = 0
        for _seed in range(2):
            limit = sorted((draw.random() for _ in range(99)), reverse=True)[4]
            alarms += sum(draw.random() > limit for _ in range(25))
        outside += not low_high[0] <= alarms <= low_high[1]
    assert outside <= 0.05 * 300 + 12  # three standard deviations of a rate of .05


@pytest.mark.parametrize(("score", "found"), [("9.000000", 2), ("0.500000", 0)])
def test_everybody_is_counted_by_each_test_and_by_all(score: str, found: int) -> None:
    cohort = [f"{i / 100:.6f}" for i in range(99)]
    file = {
        "examinees": [
            {"id": f"trained/4/{n}", "score": {"ref_loss": score}, "cohort": {"ref_loss": cohort}}
            for n in (0, 1)
        ]
    }
    table = {(each.test, each.alpha): each for each in counts([file], m=99)}
    assert table.keys() == {(test, alpha) for test in ("ref_loss", "all") for alpha in ("0.05", "0.01")}
    assert {(each.found, each.of) for each in table.values()} == {(found, 2)}
