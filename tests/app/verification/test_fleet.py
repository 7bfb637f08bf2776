"""The fleet's health: the page's envelope, evidence that is averaged, sentinels that came back."""

import random
from decimal import Decimal
from fractions import Fraction

import pytest

from app.verification import controls, fleet
from app.verification.fleet import Batch, Look, health, low_max, survival
from app.verification.measurements import earlier_batches, earlier_sentinels
from tests.app.verification import builders, files

RISK = Decimal("0.05")
COHORT = ["-0.010000", "0.000000", "0.010000"]


def looks(*counts: int, m: int = 199, model: str = "assistant", engine: str = "gradient") -> list[Look]:
    return [
        Look(model=model, engine=engine, release=f"job_{n // 5}", count=count, m=m)
        for n, count in enumerate(counts)
    ]


@pytest.mark.parametrize(("requests", "most"), [(20, 4), (40, 6), (100, 12)])
def test_the_envelope_of_the_page(requests: int, most: int) -> None:
    assert low_max(requests, rank=10, m=199) == most


def test_one_more_than_the_envelope_is_an_alarm() -> None:
    # .05 x 200 = 10: a count of 10 is low, one of 11 is not
    quiet = health(looks(*[10] * 4, *[11] * 16), ())
    [group] = quiet.groups
    assert (group.rank, group.low, group.low_max, group.alarm, quiet.alarms) == (10, 4, 4, False, ())
    assert group.bins == (20, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    loud = health(looks(*[10] * 5, *[200] * 15), ())
    assert (loud.groups[0].alarm, loud.groups[0].bins[9]) == (True, 15)
    [alarm] = loud.alarms
    assert alarm.startswith("5 of 20 requests that gradient erased from assistant look detected among 199")


def test_only_requests_ranked_among_equally_many_are_counted_together() -> None:
    found = health([*looks(1, m=199), *looks(1, m=99), *looks(1, engine="retrain"), *looks(1, model="b")], ())
    assert [(g.model, g.engine, g.m) for g in found.groups] == [
        ("assistant", "gradient", 99),
        ("assistant", "gradient", 199),
        ("assistant", "retrain", 199),
        ("b", "gradient", 199),
    ]


def test_too_few_people_to_count_is_no_alarm() -> None:
    [group] = health(looks(1, 1, 1, m=10), ()).groups
    assert (group.rank, group.low, group.low_max, group.alarm) == (0, 0, None, False)


def test_evidence_is_averaged_over_releases() -> None:
    # p = 1/4 and 1: 1 / (2 x .5) = 1 and .5; the mean is .75
    [found] = health(looks(50, 200), ()).evidence
    assert (found.e_value, found.looks, found.alarm) == (Decimal("0.750000"), 2, False)
    # p = 1/10000: 50
    [found] = health(looks(1, 1, m=9999), ()).evidence
    assert (found.e_value, found.alarm) == (Decimal(50), True)
    assert "is 50.000000; the limit is 20" in health(looks(1, m=9999), ()).alarms[-1]


def test_under_perfect_erasure_evidence_is_one_on_average() -> None:
    """The mean of 1 / (2 sqrt p) over p = 1/n ... n/n is at most 1: so it is an e-value."""
    n = 200
    assert sum((Fraction(fleet.e_value(looks(count))) for count in range(1, n + 1)), Fraction(0)) / n <= 1


def test_perfect_erasures_of_one_cohort_seldom_alarm() -> None:
    """They are not binomial: a binomial envelope would be broken more often than once in a hundred."""
    dice = random.Random(44)
    broken = 0
    for _ in range(300):
        cut = sorted(dice.random() for _ in range(199))[-10]  # the tenth highest of the cohort
        broken += sum(dice.random() >= cut for _ in range(40)) > low_max(40, rank=10, m=199)
    assert broken / 300 <= 0.03


def test_a_printed_p_value_names_its_rank() -> None:
    for m in (19, 225, 9999):
        for count in (1, 2, m // 2, m + 1):
            assert fleet.rank_of(f"{count / (m + 1):.6f}", m) == count


def batch(back: int, **more: int) -> Batch:
    return Batch(
        job="job_a", on="job_b", **{"sentinels": 20, "back": back, "others": 100, "others_failed": 0} | more
    )


@pytest.mark.parametrize(
    ("back", "more", "alarm"),
    [
        (0, {}, False),
        (1, {}, False),  # 1 of 120: below .05 at 95 %, as 1 of 93 is
        (2, {}, True),  # 2 of 120: 124 were needed
        (1, {"others": 0}, True),
        (0, {"others": 0}, False),  # 0 of 20 carries no bound, but nobody is back
        (1, {"others_failed": 1}, True),
    ],
)
def test_a_bound_that_breaks_is_an_alarm(back: int, more: dict[str, int], *, alarm: bool) -> None:
    found = survival(batch(back, **more), risk=RISK)
    assert found.alarm is alarm
    assert (health((), [found]).alarms != ()) is alarm


def test_the_bound_is_over_the_whole_record() -> None:
    # 2 of 120, Clopper-Pearson 95 %
    assert survival(batch(2), risk=RISK).upper == Decimal("0.051534")


def test_earlier_sentinels_are_read_against_their_own_baseline() -> None:
    def planted(score: str, name: str, kind: str) -> dict[str, object]:
        return files.examinee(name, kind, **files.reading(score, COHORT))

    before = [planted("2.000000", f"sentinel/{n}", "sentinel") for n in range(3)]
    scores = ("0.000000", "0.390000", "0.410000")
    after = [planted(score, f"earlier/job/{n}", "earlier") for n, score in enumerate(scores)]
    old, new = ([files.loaded(files.file(builders.FORM, each))] for each in (before, after))
    assert earlier_batches(new) == ("job",)
    found = earlier_sentinels("job", old, new)
    # delta .2 of a gap of 2 is .4
    assert controls.resurfaced(found, Decimal("0.2")) == {"earlier/job/2"}
    assert controls.resurfaced({}, Decimal("0.2")) == frozenset()
