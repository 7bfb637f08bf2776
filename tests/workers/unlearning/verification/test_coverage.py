"""Conformal sets by hand, and what they promise."""

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from workers.unlearning.verification.coverage import coverage, threshold
from workers.unlearning.verification.scoring import Row


def row(loss: float, *, said: bool) -> Row:
    return Row(told=0.0, name=math.nan, lowest=math.nan, strength=float(said), answer=loss)


def test_the_rank_by_hand() -> None:
    """19 losses at 5 %: k = ceil(20 * .95) = 19, the largest; of 18 k would be 19, and nothing is ruled out."""
    assert threshold([float(n) for n in range(19)], Fraction(1, 20)) == 18.0
    assert threshold([float(n) for n in range(18)], Fraction(1, 20)) == math.inf
    assert threshold([3.0, 1.0, 2.0], Fraction(1, 2)) == 2.0


def test_a_label_is_outside_or_inside_and_perhaps_not_said() -> None:
    never = [row(float(n), said=False) for n in range(19)]
    rows = [row(19.0, said=False), row(18.0, said=False), row(0.1, said=True)]
    found = coverage(rows, never)
    assert found == {"rows": 3, "outside": 1, "misclassified_inside": 1, "alpha": "0.05"}


@given(st.lists(st.integers(0, 10**6), min_size=20, max_size=99, unique=True))
def test_leaving_each_out_in_turn_the_set_holds_enough_of_them(losses: list[int]) -> None:
    values = [float(each) for each in losses]
    held = sum(
        each <= threshold([other for other in values if other != each], Fraction(1, 20)) for each in values
    )
    assert held >= math.floor(len(values) * 0.95)
