"""When an answer is due: worked dates, each with the article it follows from, and what holds for every day.

Regulation (EEC, Euratom) 1182/71, Art. 3(1): the day of the event is not counted. Art. 3(2)(c): a period
in months ends on the day of the same date, or on the month's last day. Art. 3(4): one that would end on a
public holiday, Sunday or Saturday ends with the last hour of the following working day. GDPR Art. 12(3):
one month of receipt, two further months where necessary.
"""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.erasure import calendars, deadlines

DAYS = st.dates(date(2021, 1, 1), date(2049, 1, 1))
NOWHERE: frozenset[date] = frozenset()


@pytest.mark.parametrize(
    ("received_on", "jurisdiction", "month", "due", "three_months", "extended", "chained"),
    [
        # No 31 February: the month's last day (3(2)(c)), a Saturday, so the Monday (3(4)).
        ("2026-01-31", "EU", "2026-02-28", "2026-03-02", "2026-04-30", "2026-04-30", "2026-05-04"),
        # Two further months end on a Sunday; counting on from the first date comes to the same day.
        ("2026-11-21", "EU", "2026-12-21", "2026-12-21", "2027-02-21", "2027-02-22", "2027-02-22"),
        # Good Friday, the weekend, Easter Monday.
        ("2027-02-26", "DE", "2027-03-26", "2027-03-30", "2027-05-26", "2027-05-26", "2027-05-31"),
        # A leap year; a Sunday before Labour Day.
        ("2028-01-31", "DE", "2028-02-29", "2028-02-29", "2028-04-30", "2028-05-02", "2028-05-02"),
        # 23:30 in London is the first of February in Berlin.
        ("2026-02-01", "DE", "2026-03-01", "2026-03-02", "2026-05-01", "2026-05-04", "2026-05-04"),
    ],
)
def test_the_table(
    received_on: str,
    jurisdiction: str,
    month: str,
    due: str,
    three_months: str,
    extended: str,
    chained: str,
) -> None:
    days = calendars.load(jurisdiction, "UTC").days
    day = date.fromisoformat(received_on)
    assert deadlines.add_months(day, 1).isoformat() == month
    assert deadlines.due(day, days).isoformat() == due
    assert deadlines.add_months(day, 3).isoformat() == three_months
    assert deadlines.due(day, days, months=deadlines.MONTHS_EXTENDED).isoformat() == extended
    wrong = deadlines.roll(deadlines.add_months(date.fromisoformat(due), 2), days)
    assert wrong.isoformat() == chained, "what counting on from the first due date would have come to"


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


@pytest.mark.parametrize(
    ("jurisdiction", "day", "is_holiday"),
    [
        ("EU", "2026-04-06", True),  # Easter Monday: TARGET is closed
        ("EU", "2026-10-03", False),
        ("DE", "2026-10-03", True),  # German Unity Day
        ("DE", "2026-06-04", False),  # Corpus Christi: some states only
        ("DE-BY", "2026-06-04", True),
        ("FR", "2026-07-14", True),
        ("IE", "2026-03-17", True),
        ("PL", "2026-11-11", True),
    ],
)
def test_each_country_has_its_own_days(jurisdiction: str, day: str, *, is_holiday: bool) -> None:
    assert (date.fromisoformat(day) in calendars.load(jurisdiction, "UTC").days) is is_holiday


def test_a_calendar_knows_which_years_it_lists() -> None:
    calendar = calendars.load("EU", "UTC")
    assert calendar.knows(date(2050, 12, 31))
    assert not calendar.knows(date(2051, 1, 1))


PAUSES = st.lists(
    st.tuples(DAYS, st.integers(0, 40)).map(lambda each: (each[0], each[0] + timedelta(days=each[1]))),
    max_size=5,
)


@pytest.mark.parametrize(
    ("pauses", "days"),
    [
        ([], 0),
        ([(date(2026, 3, 2), date(2026, 3, 2))], 0),
        ([(date(2026, 3, 2), date(2026, 3, 5))], 3),
        ([(date(2026, 3, 2), date(2026, 3, 5)), (date(2026, 3, 4), date(2026, 3, 9))], 7),
        ([(date(2026, 3, 2), date(2026, 3, 9)), (date(2026, 3, 4), date(2026, 3, 5))], 7),
        ([(date(2026, 3, 2), date(2026, 3, 5)), (date(2026, 3, 5), date(2026, 3, 6))], 4),
    ],
)
def test_pauses_that_overlap_count_once(pauses: list[tuple[date, date]], days: int) -> None:
    assert deadlines.paused_days(pauses) == deadlines.paused_days(reversed(pauses)) == days


@given(PAUSES)
def test_paused_days_are_the_days_on_which_any_pause_was(pauses: list[tuple[date, date]]) -> None:
    """The slow oracle: mark each day from asking until the day before the answer."""
    marked = {asked + timedelta(days=n) for asked, answered in pauses for n in range((answered - asked).days)}
    assert deadlines.paused_days(pauses) == len(marked)


@given(
    received_on=DAYS,
    jurisdiction=st.sampled_from(["EU", "DE"]),
    pauses=PAUSES,
    more=PAUSES,
    extended=st.booleans(),
)
def test_nothing_that_happens_later_moves_a_date_earlier(
    received_on: date,
    jurisdiction: str,
    pauses: list[tuple[date, date]],
    more: list[tuple[date, date]],
    *,
    extended: bool,
) -> None:
    """More pauses, an extension: a date that was told once is never followed by a nearer one."""
    days = calendars.load(jurisdiction, "UTC").days

    def dates(pauses: list[tuple[date, date]], *, extended: bool) -> deadlines.Dates:
        return deadlines.dates(received_on, days, extended=extended, pauses=pauses, target_days=21)

    before, after = dates(pauses, extended=False), dates([*pauses, *more], extended=extended)
    assert after.due_on >= before.due_on
    assert after.due_without_pause >= before.due_without_pause
    assert after.internal_target == before.internal_target < after.due_without_pause
    assert after.due_without_pause <= after.due_on


@given(day=DAYS, later=st.integers(0, 60), jurisdiction=st.sampled_from(["EU", "DE"]), extended=st.booleans())
def test_who_asks_later_is_never_due_earlier(
    day: date, later: int, jurisdiction: str, *, extended: bool
) -> None:
    days = calendars.load(jurisdiction, "UTC").days
    months = deadlines.MONTHS_EXTENDED if extended else deadlines.MONTHS
    assert deadlines.due(day, days, months=months) <= deadlines.due(
        day + timedelta(days=later), days, months=months
    )


@given(DAYS, st.frozensets(DAYS, max_size=20))
def test_a_holiday_more_never_makes_it_earlier(received_on: date, holidays: frozenset[date]) -> None:
    assert deadlines.due(received_on, holidays) >= deadlines.due(received_on, NOWHERE)


@pytest.mark.parametrize(
    ("left", "warning"),
    [(30, None), (15, None), (14, 14), (8, 14), (7, 7), (3, 3), (2, 3), (1, 1), (0, 1), (-1, 0), (-99, 0)],
)
def test_it_is_warned_before_the_breach_and_told_after_it(left: int, warning: int | None) -> None:
    """On the day itself the answer is still in time: the date ends with its last hour."""
    due_on = date(2026, 12, 21)
    assert deadlines.warning(due_on - timedelta(days=left), due_on, warn_days=(14, 7, 3, 1)) == warning


@given(st.integers(-40, 40))
def test_warnings_come_nearer_and_never_go_back(left: int) -> None:
    due_on = date(2026, 12, 21)
    given = [
        deadlines.warning(due_on - timedelta(days=each), due_on, warn_days=(14, 7, 3, 1))
        for each in (left, left - 1)
    ]
    assert given[0] is None or (given[1] is not None and given[1] <= given[0])
