"""Learn-then-Test: the page's sample sizes, a test that nobody can time, what an admission covers and how it ends."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest

from app.verification import qualification
from app.verification.binomial import cdf_exact
from app.verification.qualification import (
    Admission,
    Configuration,
    Finding,
    Run,
    covers,
    examine,
    lapsed,
    least_sentinels,
)
from tests.app.verification import builders

POLICY = builders.policy()
START = datetime(2026, 11, 1, tzinfo=UTC)
MINE, OTHER = "aa" * 32, "bb" * 32

CONFIGURATION = Configuration(
    engine="gradient",
    version="2",
    code="c0" * 32,
    config={"beta": "0.1", "steps_max": 150},
    line="assistant",
    recipe="d1" * 32,
    forms=("float32/none", "int8/rtn"),
)


def runs(*losses: int, sentinels: int = 20, configuration: str = MINE, first: int = 0) -> list[Run]:
    """Return a run a day, a quarter of whose sentinels are repeated; each forgot some more rows."""
    return [
        Run(
            job=UUID(int=first + day + 1),
            at=START + timedelta(days=first + day),
            configuration=configuration,
            rows=30 + first + day,
            sentinels=sentinels,
            failures=lost,
            repeated=sentinels // 4,
            gate_failed=False,
        )
        for day, lost in enumerate(losses)
    ]


def held(found: Sequence[Run], *, after: datetime | None = None, refusals: int = 0) -> Finding:
    return examine(found, configuration=MINE, after=after, refusals=refusals, policy=POLICY)


@pytest.mark.parametrize(("tests", "least"), [(1, (59, 93, 124)), (4, (86, 125, 160)), (8, (99, 141, 177))])
def test_the_sample_sizes_of_the_page(tests: int, least: tuple[int, ...]) -> None:
    assert tuple(least_sentinels(tests, losses=losses) for losses in range(3)) == least


def test_ten_runs_without_a_loss_admit() -> None:
    found = held(runs(*[0] * 10))
    assert (found.state, found.sentinels, found.losses, found.tests) == ("admitted", 200, 0, 1)
    # 1 - .05^(1/200) = .0148670...
    assert found.upper == Decimal("0.014868")
    assert found.rows == (30, 39)


def test_it_waits_for_runs_and_for_sentinels_and_for_repeated_ones() -> None:
    assert held(runs(*[0] * 9)).missing == ("runs",)
    assert held(runs(*[0] * 10, sentinels=4)).missing == ("sentinels",)
    plain = [replace(run, repeated=4) for run in runs(*[0] * 10)]
    assert held(plain).missing == ("repeated_sentinels",)
    assert held([]).missing == ("runs", "sentinels")


def test_too_many_losses_refuse() -> None:
    # 200 sentinels: P(Bin(200, .05) <= 4) = .0264, <= 5: .0623
    assert held(runs(4, *[0] * 9)).state == "admitted"
    assert held(runs(5, *[0] * 9)).state == "refused"


def test_a_damaged_model_loses_all_its_sentinels() -> None:
    damaged = [replace(run, gate_failed=day == 3) for day, run in enumerate(runs(*[0] * 10))]
    found = held(damaged)
    assert (found.state, found.losses) == ("refused", 20)


def test_when_it_is_asked_changes_nothing() -> None:
    """The first ten runs decide: neither a lucky later one nor an unlucky one is looked at."""
    assert held(runs(5, *[0] * 9)).state == "refused"
    for more in ([0] * 20, [20] * 20):
        assert held(runs(5, *[0] * 9, *more)) == held(runs(5, *[0] * 9))


def test_after_a_refusal_only_later_runs_count_and_it_was_one_thing_more_that_was_tried() -> None:
    history = runs(20, *[0] * 9) + runs(*[0] * 10, first=10)
    found = held(history, after=START + timedelta(days=9), refusals=1)
    assert (found.state, found.losses, found.tests) == ("admitted", 0, 2)
    assert found.runs == tuple(history[10:])
    # 1 - .025^(1/200) = .0182753...
    assert found.upper == Decimal("0.018276")


def test_every_configuration_that_was_tried_makes_it_harder() -> None:
    tried = [run for n in range(3) for run in runs(0, configuration=f"{n:064}")]
    assert held([*runs(3, *[0] * 9), *tried]).tests == 4
    # .05 / 4 = .0125: P(Bin(200, .05) <= 3) = .0090, <= 4: .0264
    assert held([*runs(3, *[0] * 9), *tried]).state == "admitted"
    assert held([*runs(4, *[0] * 9), *tried]).state == "refused"
    many = [run for n in range(8) for run in runs(0, configuration=f"{n:064}")]
    assert held([*runs(*[0] * 10), *many]).missing == ("too_many_tried",)


@pytest.mark.parametrize("tried", [1, 2, 8])
def test_a_configuration_at_the_limit_is_seldom_admitted(tried: int) -> None:
    """At a true risk of just .05, over every number of losses there can be: at most .05 / tests."""
    others = [run for n in range(tried - 1) for run in runs(0, configuration=f"{n:064}")]
    most = max(lost for lost in range(21) if held([*runs(lost, *[0] * 9), *others]).state == "admitted")
    assert (
        cdf_exact(most, 200, Fraction(1, 20))
        <= Fraction(1, 20 * tried)
        < cdf_exact(most + 1, 200, Fraction(1, 20))
    )


def test_an_admission_lapses_with_time_and_with_its_record() -> None:
    def at(days: float, failures: int, sentinels: int) -> str | None:
        moment = START + timedelta(days=days)
        return lapsed(START, at=moment, failures=failures, sentinels=sentinels, policy=POLICY)

    assert at(89.9, 0, 59) is None
    assert at(90, 0, 59) == "expired"
    assert at(1, 1, 93) is None
    assert at(1, 1, 92) == "sentinels"
    assert at(1, 2, 93) == "sentinels"


def test_it_covers_what_was_tried_and_no_more() -> None:
    admission = Admission(
        id="q", configuration=MINE, sentinels=200, losses=0, tests=1, risk_upper=Decimal("0.02"),
        rows_min=30, rows_max=39,
    )  # fmt: skip
    assert [covers(admission, rows) for rows in (29, 30, 39, 40)] == [False, True, True, False]


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "other"}, {"version": "3"}, {"code": "c1" * 32}, {"config": {"beta": "0.2", "steps_max": 150}},
        {"line": "another"}, {"recipe": None}, {"forms": ("float32/none",)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_any_change_is_another_configuration(change: dict[str, object]) -> None:
    assert replace(CONFIGURATION, **change).digest != CONFIGURATION.digest  # type: ignore[arg-type]  # one field


def test_the_order_of_forms_is_no_change_and_real_numbers_can_be_named() -> None:
    assert replace(CONFIGURATION, forms=CONFIGURATION.forms[::-1]).digest == CONFIGURATION.digest
    statement = {"engine": "gradient", "version": "2", "code": "c0", "config": {}}
    first, same, third = (
        Configuration.of(statement, line="a", recipe={"rate": rate}, forms=["float32/none"]).digest
        for rate in (0.1, 0.1, 0.1000001)
    )
    assert first == same != third


def test_the_gate_of_the_page_is_what_is_counted() -> None:
    assert (qualification.RUNS_MIN, qualification.TRIED_MAX) == (10, 8)
    assert (POLICY.qualification_days, POLICY.sentinel_window_days) == (90, 180)
