"""When an answer is due: the table of the design, each row, and what must hold for every day."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.erasure import calendars, deadlines

DAYS = st.dates(date(2021, 1, 1), date(2049, 1, 1))
NOWHERE: frozenset[date] = frozenset()


@pytest.mark.parametrize(
    ("received_on", "jurisdiction", "due", "extended"),
    [
        ("2026-01-31", "EU", "2026-03-02", "2026-04-30"),
        ("2026-11-21", "EU", "2026-12-21", "2027-02-22"),
        ("2027-02-26", "DE", "2027-03-30", "2027-05-26"),
        ("2028-01-31", "DE", "2028-02-29", "2028-05-02"),
        ("2026-02-01", "DE", "2026-03-02", "2026-05-04"),
    ],
)
def test_the_table(received_on: str, jurisdiction: str, due: str, extended: str) -> None:
    days = calendars.load(jurisdiction, "UTC").days
    day = date.fromisoformat(received_on)
    assert deadlines.due(day, days).isoformat() == due
    assert deadlines.due(day, days, months=deadlines.MONTHS_EXTENDED).isoformat() == extended


def test_the_day_of_receipt_is_the_controllers() -> None:
    berlin = calendars.load("DE", "Europe/Berlin")
    received_on = berlin.day_of(datetime(2026, 1, 31, 23, 30, tzinfo=UTC))
    assert received_on == date(2026, 2, 1)
    due_on = deadlines.due(received_on, berlin.days)
    assert due_on == date(2026, 3, 2)
    assert berlin.end_of(due_on) == datetime(2026, 3, 2, 23, tzinfo=UTC)


def test_the_end_of_a_day_on_which_the_clock_is_changed() -> None:
    berlin = calendars.load("DE", "Europe/Berlin")
    assert berlin.end_of(date(2026, 3, 29)) == datetime(2026, 3, 29, 22, tzinfo=UTC)


def test_a_pause_moves_the_date_by_its_days() -> None:
    assert deadlines.due(date(2026, 11, 2), NOWHERE, paused_days=3) == date(2026, 12, 7)


def test_a_calendar_says_where_it_comes_from() -> None:
    assert calendars.load("EU", "UTC").name.startswith("target/holidays-")
    assert calendars.load("DE", "UTC").name.startswith("de/holidays-")


@given(DAYS, st.sampled_from(["EU", "DE"]))
def test_every_due_date_is_a_working_day_soon_after_a_month(received_on: date, jurisdiction: str) -> None:
    days = calendars.load(jurisdiction, "UTC").days
    due = deadlines.due(received_on, days)
    assert due.weekday() < 5
    assert due not in days
    assert timedelta(days=28) <= due - received_on <= timedelta(days=31 + 6)


@given(DAYS, st.sampled_from(["EU", "DE"]))
def test_an_extension_is_never_shorter(received_on: date, jurisdiction: str) -> None:
    days = calendars.load(jurisdiction, "UTC").days
    assert deadlines.due(received_on, days, months=3) > deadlines.due(received_on, days)


@given(DAYS, st.integers(1, 24))
def test_months_are_counted_by_the_calendar(day: date, months: int) -> None:
    later = deadlines.add_months(day, months)
    assert (later.year * 12 + later.month) - (day.year * 12 + day.month) == months
    assert later.day == day.day or (later + timedelta(days=1)).day == 1


def test_a_year_without_a_list_extends_nothing() -> None:
    assert deadlines.roll(date(2099, 12, 25), calendars.load("EU", "UTC").days) == date(2099, 12, 25)
