"""When an answer is due: GDPR Art. 12(3), counted as in Regulation 1182/71, Art. 3.

Pure: dates in, dates out. Knows no clock and no time zone; the caller says on which local day the
request was received and which days are holidays there.
"""

import calendar
from collections.abc import Container
from datetime import date, timedelta

RULE = "eu-1182-71/1"
MONTHS = 1
MONTHS_EXTENDED = 3
SATURDAY = 5


def due(received_on: date, holidays: Container[date], *, months: int = MONTHS, paused_days: int = 0) -> date:
    """Return the last day on which the answer is in time.

    An extension counts three months from receipt, never two from the first due date: a day lost to
    a short month would be lost for good.
    """
    assert months > 0
    assert paused_days >= 0
    return roll(add_months(received_on, months) + timedelta(days=paused_days), holidays)


def add_months(day: date, months: int) -> date:
    """Return the same day so many months later, or that month's last day if it is shorter."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def roll(day: date, holidays: Container[date]) -> date:
    """Return the first day from `day` on that is no Saturday, Sunday or holiday."""
    while day.weekday() >= SATURDAY or day in holidays:
        day += timedelta(days=1)
    return day
