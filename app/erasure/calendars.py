"""Which days are holidays, and when a day ends: what `deadlines` is told.

A calendar is a dated list with a name and a version, kept with each request, because lists change.
For the EU as a whole these are the days on which the euro's payment system rests: fewer than any
member state has, so a date is never later than the law of one would allow. A year that the list
does not know extends nothing: it has weekends only.
"""

from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib.metadata import version
from zoneinfo import ZoneInfo

import holidays

YEARS = range(2020, 2051)
EU = "EU"


@dataclass(frozen=True)
class Calendar:
    """One jurisdiction's holidays, in one zone."""

    name: str
    jurisdiction: str
    zone: ZoneInfo
    days: Container[date]

    def day_of(self, instant: datetime) -> date:
        """Return the local day on which something happened."""
        return instant.astimezone(self.zone).date()

    @staticmethod
    def knows(day: date) -> bool:
        """Return whether the list covers a day's year; where it does not, only weekends count."""
        return day.year in YEARS

    def end_of(self, day: date) -> datetime:
        """Return the first instant after a local day, in UTC."""
        return datetime.combine(day + timedelta(days=1), time(), self.zone).astimezone(UTC)


@cache
def load(jurisdiction: str, time_zone: str) -> Calendar:
    """Return the calendar of a jurisdiction: `EU`, a country (`DE`), or a part of one (`DE-BY`; ISO 3166)."""
    if jurisdiction == EU:
        listed = holidays.financial_holidays("XECB", years=YEARS)
        source = "target"
    else:
        country, _, part = jurisdiction.partition("-")
        listed = holidays.country_holidays(country, subdiv=part or None, years=YEARS, observed=False)
        source = jurisdiction.lower()
    release = version("holidays")
    return Calendar(f"{source}/holidays-{release}", jurisdiction, ZoneInfo(time_zone), frozenset(listed))
