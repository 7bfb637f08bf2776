"""The exact two-sample test against scipy and by hand, and the power of comparing few rows."""

import pytest
from scipy.stats import ks_2samp

from benchmarks import forget_quality
from benchmarks.forget_quality import critical, distance, p_value, power, quality, truth_ratio


def test_the_truth_ratio_by_hand() -> None:
    # exp(-(1 + 3) / 2) / exp(-.5)
    assert truth_ratio(0.5, [1.0, 3.0]) == pytest.approx(2.718281828**-1.5)


def test_three_against_three_by_hand() -> None:
    """D = 1: of the C(6, 3) = 20 orders, the two in which all of one come first."""
    assert distance([1, 2, 3], [4, 5, 6]) == 1
    assert p_value(1.0, 3, 3) == pytest.approx(2 / 20)
    # D >= 2/3: the orders whose path leaves |i - j| <= 1, which 2 * 2 * 2 of 20 do not.
    assert p_value(2 / 3, 3, 3) == pytest.approx(12 / 20)
    assert p_value(0.0, 3, 3) == 1


@pytest.mark.parametrize(("n", "m"), [(5, 5), (20, 20), (7, 12), (40, 25)])
def test_it_agrees_with_scipy(n: int, m: int) -> None:
    first = [(37 * i % 101) / 101 for i in range(n)]
    second = [(53 * i % 103) / 103 + 0.2 for i in range(m)]
    wanted = ks_2samp(first, second, method="exact")
    assert distance(first, second) == pytest.approx(wanted.statistic)
    assert p_value(distance(first, second), n, m) == pytest.approx(wanted.pvalue, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (20, 20), (12, 8), (200, 200)])
def test_the_critical_distance_is_the_first_that_speaks(n: int, m: int) -> None:
    at = critical(n, m)
    assert p_value(at, n, m) <= 0.05 < p_value(at - 1 / max(n, m), n, m)


def test_one_row_can_never_tell_anything() -> None:
    assert critical(1, 1) > 1
    assert power([0.0], [[1.0]], seed=1) == 0


def test_few_rows_pass_a_model_on_which_nothing_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shift: with 5 rows it is hardly ever told, with 80 nearly always."""
    monkeypatch.setattr(forget_quality, "DRAWS", 200)

    def ratios(count: int, shift: float) -> list[float]:
        return [(7 * i % count) / count + shift for i in range(count)]

    few = quality(ratios(5, 0.3), ratios(5, 0.3), [ratios(5, 0.0)], seed=1)
    assert few.p > 0.05
    assert few.power < 0.3
    many = quality(ratios(80, 0.3), ratios(80, 0.3), [ratios(80, 0.0)], seed=1)
    assert many.p < 0.05
    assert many.power > 0.9
    assert many.n == 80
    assert many.distance == pytest.approx(0.3, abs=0.02)
