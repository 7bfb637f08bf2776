"""LiRA and RMIA against arithmetic by hand, and what makes them fair: everybody is treated alike."""

import math
from collections.abc import Callable, Sequence
from random import Random

import pytest

from workers.unlearning.verification.shadow import Heard, Rows, lira, logit, rmia


def test_the_logit_is_that_of_a_probability_and_has_a_highest_value() -> None:
    assert logit(math.log(0.5)) == pytest.approx(0)
    assert logit(math.log(0.9)) == pytest.approx(math.log(9))
    assert logit(0.0) == logit(-1e-12) == pytest.approx(math.log(1e9), abs=1e-6)


def test_lira_by_hand_with_a_pooled_variance() -> None:
    """Two outs at +-1 of the logit scale about 0: variance 2. One row at log 9: z = 2.197 / sqrt(2 * 1.5)."""
    up, down = -math.log1p(math.exp(-1)), -math.log1p(math.exp(1))
    outs = (up, down)
    stranger, known = [Heard(math.log(0.5), outs)], [Heard(math.log(0.9), outs)]
    assert lira([stranger, known]) == pytest.approx([0.0, math.log(9) / math.sqrt(3)])


def test_with_eight_outs_a_rows_own_variance_counts() -> None:
    rows = [-math.log1p(math.exp(-x)) for x in (-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0)]
    [found] = lira([[Heard(math.log(0.9), tuple(rows))]])
    # sample variance of four -1 and four 1: 8/7
    assert found == pytest.approx(math.log(9) / math.sqrt(8 / 7 * (1 + 1 / 8)))


def test_rmia_by_hand() -> None:
    """Ratios to the outs: 8, 2 and 1. By twice or more, 8 beats both others, 2 beats the 1, 1 nobody."""
    people = [[Heard(math.log(p), (math.log(0.1),))] for p in (0.81, 0.21, 0.1)]
    assert rmia(people) == [1.0, 0.5, 0.0]


def test_rmia_takes_the_mean_of_probabilities_and_spares_ones_own_rows() -> None:
    two = [Heard(math.log(0.9), (math.log(0.1), math.log(0.5))), Heard(math.log(0.01), (math.log(0.3),))]
    other = [Heard(math.log(0.3), (math.log(0.3),))]
    # .9 / .3 = 3 beats 1; .01 / .3 beats nothing; of the other's 1, .033 is beaten and 3 is not
    assert rmia([two, other]) == [0.5, 0.5]


@pytest.mark.parametrize("attack", [lira, rmia])
def test_whoever_is_moved_to_another_place_keeps_the_score(
    attack: Callable[[Sequence[Rows]], list[float]],
) -> None:
    draw = Random(1)
    people = [[Heard(-draw.random(), (-draw.random(), -draw.random())) for _ in range(3)] for _ in range(20)]
    found = attack(people)
    assert attack(people[::-1]) == pytest.approx(found[::-1])
