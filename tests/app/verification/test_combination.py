"""Several attacks in one p-value; several requests in one list."""

from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from app.verification.combination import benjamini_hochberg, max_rank, max_standardised, mid_ranks


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


def test_the_worked_example_of_distances() -> None:
    """a: mean 2, variance 4; b: mean 1, variance 3. Signed squares 1/4 1 1/4 .. and 1/3 1/3 1/3 3."""
    scores = {"a": Decimal(2), "b": Decimal(4)}
    cohorts = {"a": decimals(0, 0, 5, 3), "b": decimals(0, 0, 1, 0)}
    # Whoever stands at 4 in b stands 1.95 deviations out; the one at 5 in a only 1.58.
    assert max_standardised(scores, cohorts, ["a", "b"]) == Fraction(1, 5)
    assert max_standardised(scores, cohorts, ["a"]) == Fraction(3, 5)
    tied = {"a": decimals(2, 2, 2, 2)}
    assert max_standardised({"a": Decimal(2)}, tied, ["a"]) == 1


def test_what_stands_out_in_one_of_many_readings_reaches_the_least_p() -> None:
    """Among ranks the top of every other reading ties with it."""
    names = [f"reading-{n}" for n in range(12)]
    cohorts = {name: decimals(*[(i * (n + 2)) % 101 for i in range(1, 101)]) for n, name in enumerate(names)}
    scores = dict.fromkeys(names, Decimal(50)) | {"reading-7": Decimal(1000)}
    assert max_standardised(scores, cohorts, names) == Fraction(1, 101)
    assert max_rank(scores, cohorts, names).p > Fraction(1, 20)


VECTORS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(-99, 99)), min_size=2, max_size=40
)


@settings(max_examples=50)
@given(VECTORS, st.sampled_from([Decimal("0.05"), Decimal("0.2"), Decimal("0.5")]))
def test_neither_maximum_needs_a_correction(people: list[tuple[int, int, int]], alpha: Decimal) -> None:
    """Leave each one out in turn: at most the share alpha is detected, however the attacks depend."""
    attacks = ["a", "b", "c"]
    columns = dict(
        zip(attacks, ([Decimal(x) for x in each] for each in zip(*people, strict=True)), strict=True)
    )
    detected = farther = 0
    for i in range(len(people)):
        own = {attack: values[i] for attack, values in columns.items()}
        others = {attack: values[:i] + values[i + 1 :] for attack, values in columns.items()}
        found = max_rank(own, others, attacks)
        assert found.strict <= found.p
        detected += found.p <= Fraction(alpha)
        farther += max_standardised(own, others, attacks) <= Fraction(alpha)
    assert max(detected, farther) <= alpha * len(people)


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
