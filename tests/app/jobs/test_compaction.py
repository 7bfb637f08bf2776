"""When a compaction is due: the numbers by hand, each reason alone, and what waits for what."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.jobs import escalation
from app.jobs.compaction import Limits, Outstanding, due, goes_first, latest, not_before, summed_rise

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIMITS = Limits(
    anchor_days=90,
    requests_largest=64,
    records_share_largest=Decimal("0.005"),
    retain_rise_nats_largest=Decimal("0.05"),
    retry_hours=6,
    retry_hours_longest=168,
)


def why(*, asked_for: bool = False, **of: object) -> str | None:
    between = {"requests": 1, "since": NOW - timedelta(days=1)} | of
    return due(Outstanding(**between), LIMITS, now=NOW, asked_for=asked_for)  # type: ignore[arg-type]


def test_nothing_outstanding_is_never_due() -> None:
    long_ago = NOW - timedelta(days=1000)
    everything = {"since": long_ago, "records": 900, "registered": 1000, "retain_rise": Decimal(9)}
    assert why(requests=0, asked_for=True, **everything) is None


def test_little_that_is_new_waits() -> None:
    assert why(records=4, registered=1000, retain_rise=Decimal("0.049")) is None


def test_each_reason_alone_is_enough_and_is_met_at_its_limit() -> None:
    assert why(asked_for=True) == "asked_for"
    assert why(since=NOW - timedelta(days=90)) == "age"
    assert why(since=NOW - timedelta(days=90, seconds=-1)) is None
    assert why(requests=64) == "requests"
    assert why(requests=63) is None
    assert why(records=5, registered=1000) == "records"
    assert why(records=5, registered=1001) is None
    assert why(retain_rise=Decimal("0.05")) == "drift"


def test_the_anchor_may_hold_the_erased_for_so_many_days() -> None:
    assert latest(Outstanding(requests=0), LIMITS) is None
    assert latest(Outstanding(requests=1, since=NOW), LIMITS) == datetime(2027, 2, 19, 12, tzinfo=UTC)


def test_what_nobody_has_measured_is_no_reason() -> None:
    assert why(records=10**9, registered=None) is None
    assert why(records=10**9, registered=0) is None
    assert why(retain_rise=None) is None
    assert why(since=None) is None


def test_the_rise_is_summed_over_the_deltas_that_were_measured() -> None:
    assert summed_rise([]) is None
    assert summed_rise([{}, {"delta_norm": "3.0"}]) is None
    assert summed_rise([{"retain_rise": "0.020000"}, {}, {"retain_rise": "0.031000"}]) == Decimal("0.051")
    assert summed_rise([{"retain_rise": 0}, {"retain_rise": "-0.010000"}]) == Decimal("-0.01")
    assert summed_rise([{"retain_rise": "nan"}, {"retain_rise": "a lot"}, {"retain_rise": None}]) is None


def test_after_a_failure_it_waits_and_after_another_twice_as_long() -> None:
    assert not_before(0, None, LIMITS) is None
    assert not_before(0, NOW, LIMITS) is None
    waits = [(not_before(n, NOW, LIMITS) or NOW) - NOW for n in range(1, 8)]
    assert [wait // timedelta(hours=1) for wait in waits] == [6, 12, 24, 48, 96, 168, 168]


@given(st.integers(1, 10**6))
def test_no_wait_is_longer_than_the_longest(failures: int) -> None:
    until = not_before(failures, NOW, LIMITS)
    assert until is not None
    assert timedelta(hours=6) <= until - NOW <= timedelta(hours=168)


@pytest.mark.parametrize(
    ("compacting", "batch", "first"),
    [
        (None, None, False),
        (None, "age", False),
        ("age", None, True),
        ("age", "size", True),
        ("age", "age", True),
        ("drift", "deadline", False),
        ("asked_for", "deadline", False),
        ("asked_for", "asked_for", False),
    ],
)
def test_a_compaction_waits_for_those_whose_time_runs_out_and_for_nobody_else(
    compacting: str | None, batch: str | None, *, first: bool
) -> None:
    assert goes_first(compacting, batch) is first


def test_the_default_policy_has_the_pages_numbers() -> None:
    assert escalation.load("default").compaction == LIMITS


@pytest.mark.parametrize("value", [0.05, "5e-2", "-0.1", "0", ""])
def test_a_limit_is_a_decimal_string_above_nothing(value: object) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(LIMITS.model_dump() | {"records_share_largest": value})


def test_the_limits_are_a_part_of_the_policys_digest() -> None:
    policy = escalation.load("default")
    other = policy.model_copy(update={"compaction": LIMITS.model_copy(update={"anchor_days": 91})})
    assert policy.digest != other.digest


def test_only_exact_engines_compact() -> None:
    policy = escalation.load("default")
    assert escalation.exact_only(policy).ladder == ("exact_replay", "retrain")
    recipe_alone = escalation.climbable(policy, recorded=False)
    assert escalation.exact_only(recipe_alone).ladder == ("retrain",)
