"""When an answer is due: GDPR Art. 12(3), counted as in Regulation (EEC, Euratom) 1182/71, Art. 3.

    due(n) = roll(add_months(received_on, n) + paused_days)      n = 1; extended, n = 3 from receipt

- Art. 3(1): the day of receipt is not counted; Art. 3(2)(c): a period in months ends with the last
  hour of the day of the same date, or of the month's last day where there is no such date.
- Art. 3(4): a period that would end on a holiday, a Saturday or a Sunday ends with the next working day.
- GDPR Art. 12(6): while the person's identity is in doubt and was asked for, the clock stands still.

Pure: dates in, dates out. Knows no clock and no time zone; the caller says on which local day the
request was received and which days are holidays there.
"""

import calendar
from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import date, timedelta

RULE = "eu-1182-71/1"
MONTHS = 1
MONTHS_EXTENDED = 3
SATURDAY = 5
BREACH = 0
"""The warning that comes too late: the date has passed."""


@dataclass(frozen=True, kw_only=True)
class Dates:
    """What a request's clock comes to."""

    due_on: date
    due_without_pause: date
    """As if it had never stood still: what warnings run on, because authorities differ."""
    internal_target: date


def dates(
    received_on: date,
    holidays: Container[date],
    *,
    extended: bool = False,
    pauses: Iterable[tuple[date, date]] = (),
    target_days: int,
) -> Dates:
    """Return every date of a request; `pauses` are (asked on, answered on)."""
    months = MONTHS_EXTENDED if extended else MONTHS
    return Dates(
        due_on=due(received_on, holidays, months=months, paused_days=paused_days(pauses)),
        due_without_pause=due(received_on, holidays, months=months),
        internal_target=received_on + timedelta(days=target_days),
    )


def due(received_on: date, holidays: Container[date], *, months: int = MONTHS, paused_days: int = 0) -> date:
    """Return the last day on which the answer is in time.

    An extension counts three months from receipt, never two from the first due date: a day lost to
    a short month would be lost for good, and a day won at its end would be one too many.
    """
    assert months > 0
    assert paused_days >= 0
    return roll(add_months(received_on, months) + timedelta(days=paused_days), holidays)


def extendable_until(received_on: date, holidays: Container[date]) -> date:
    """Return the last day on which the subject can be told that it takes longer: inside the first month.

    Pauses do not count here: who relies on one may find that an authority does not.
    """
    return due(received_on, holidays)


def paused_days(pauses: Iterable[tuple[date, date]]) -> int:
    """Return on how many days the clock stood still, from asking to answer; overlaps count once."""
    total, until = 0, date.min
    for asked_on, answered_on in sorted(pauses):
        assert asked_on <= answered_on, "an answer follows its question"
        total += max(0, (answered_on - max(asked_on, until)).days)
        until = max(until, answered_on)
    return total


def warning(today: date, due_on: date, *, warn_days: Iterable[int]) -> int | None:
    """Return the nearest warning that is due: its days before the date, `BREACH` once that has passed."""
    left = (due_on - today).days
    if left < 0:
        return BREACH
    return min((days for days in warn_days if left <= days), default=None)


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
