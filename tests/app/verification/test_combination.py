"""Several attacks in one p-value; several requests in one list."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from app.verification.combination import benjamini_hochberg, max_rank, mid_ranks


def decimals(*values: object) -> list[Decimal]:
    return [Decimal(str(value)) for value in values]


def test_ties_share_the_mean_of_their_ranks() -> None:
    assert mid_ranks(decimals(5, 5, 1, 5)) == decimals(3, 3, 1, 3)
    assert mid_ranks(decimals(7, 7, 9)) == decimals(1.5, 1.5, 3)


def test_the_worked_example() -> None:
    # A: 1 2 3 and 2.5 rank 1 2 4 and 3.  B: 5 5 1 and 5 rank 3 3 1 and 3.  T: 3 3 4 and 3.
    found = max_rank(
        {"a": Decimal("2.5"), "b": Decimal(5)},
        {"a": decimals(1, 2, 3), "b": decimals(5, 5, 1)},
        ["a", "b"],
    )
    assert (found.p, found.strict) == (Fraction(4, 4), Fraction(2, 4))


VECTORS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(-99, 99)), min_size=2, max_size=40
)


@settings(max_examples=50)
@given(VECTORS, st.sampled_from([Decimal("0.05"), Decimal("0.2"), Decimal("0.5")]))
def test_the_maximum_needs_no_correction(people: list[tuple[int, int, int]], alpha: Decimal) -> None:
    """Leave each one out in turn: at most the share alpha is detected, however the attacks depend."""
    attacks = ["a", "b", "c"]
    columns = dict(
        zip(attacks, ([Decimal(x) for x in each] for each in zip(*people, strict=True)), strict=True)
    )
    detected = 0
    for i in range(len(people)):
        found = max_rank(
            {attack: values[i] for attack, values in columns.items()},
            {attack: values[:i] + values[i + 1 :] for attack, values in columns.items()},
            attacks,
        )
        assert found.strict <= found.p
        detected += found.p <= Fraction(alpha)
    assert detected <= alpha * len(people)


@given(
    st.lists(st.integers(-9, 9).map(Decimal), min_size=1, max_size=30), st.integers(-9, 9), st.integers(0, 9)
)
def test_a_higher_score_never_has_a_higher_p_value(cohort: list[Decimal], score: int, more: int) -> None:
    other = list(reversed(cohort))
    low, high = (
        max_rank({"a": Decimal(s), "b": Decimal(0)}, {"a": cohort, "b": other}, ["a", "b"])
        for s in (score, score + more)
    )
    assert high.p <= low.p
    assert high.strict <= low.strict


def test_benjamini_and_hochbergs_step_up() -> None:
    p_values = [".001", ".008", ".039", ".041", ".042", ".06", ".074", ".205"]
    found = benjamini_hochberg({i: Fraction(p) for i, p in enumerate(p_values)}, Decimal("0.05"))
    assert found == {0, 1}
    assert benjamini_hochberg({}, Decimal("0.05")) == frozenset()


def test_one_unlucky_p_value_among_forty_is_not_selected() -> None:
    others = {f"request-{i}": Fraction(100 + i, 225) for i in range(39)}
    assert benjamini_hochberg(others | {"unlucky": Fraction(1, 225)}, Decimal("0.05")) == frozenset()
    assert benjamini_hochberg({"alone": Fraction(1, 225)}, Decimal("0.05")) == {"alone"}
