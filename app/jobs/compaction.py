"""When what was erased approximately is made exact, and the anchor moves (E5, E43).

An approximate erasure is a delta over the anchor, and the anchor still holds the erased: whoever has the
one and the other has them back. So deltas are not kept for ever. A compaction is due at the first of

    age         `anchor_days` since the first result over this anchor
    requests    so many requests erased approximately
    records     such a share of the records, still in the anchor
    drift       such a rise of the loss on retained records, summed over the deltas

It fails without harm, since what was certified stands, and is tried again after a while that doubles.
Pure: counts and dates in, words out. Knows no clock and no table.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt

URGENT = frozenset({"asked_for", "deadline"})
"""Reasons of a batch for which a compaction waits: people whose time runs out, or somebody who asked."""


_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")


def _written_out(value: object) -> object:
    """Refuse a float: it has no one spelling, and a policy is named by its digest."""
    if not isinstance(value, Decimal) and not (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        raise ValueError("write it as a decimal string")
    return value


Positive = Annotated[Decimal, BeforeValidator(_written_out), Field(gt=0)]


class Limits(BaseModel):
    """How far a line may go from its anchor; frozen, a part of the jobs' policy and of its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anchor_days: PositiveInt
    requests_largest: PositiveInt
    records_share_largest: Positive
    retain_rise_nats_largest: Positive
    retry_hours: PositiveInt
    retry_hours_longest: PositiveInt


@dataclass(frozen=True, kw_only=True)
class Outstanding:
    """What lies between a line's anchor and what it serves."""

    requests: int
    """Completed, and not by an exact engine."""
    since: datetime | None = None
    """When the first of them was concluded."""
    records: int = 0
    """Erased, and still in the anchor; sentinels included."""
    registered: int | None = None
    """Records of the dataset; None where nobody counted them."""
    retain_rise: Decimal | None = None
    """Nats per token, summed over the deltas; None where no engine has measured it."""

    @property
    def share(self) -> Decimal | None:
        """Return the share of the records that is outstanding."""
        return Decimal(self.records) / self.registered if self.registered else None


def due(outstanding: Outstanding, limits: Limits, *, now: datetime, asked_for: bool) -> str | None:
    """Return why a compaction should begin now, or None."""
    if not outstanding.requests:
        return None
    share, rise = outstanding.share, outstanding.retain_rise
    end = latest(outstanding, limits)
    reasons = {
        "asked_for": asked_for,
        "age": end is not None and end <= now,
        "requests": outstanding.requests >= limits.requests_largest,
        "records": share is not None and share >= limits.records_share_largest,
        "drift": rise is not None and rise >= limits.retain_rise_nats_largest,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def latest(outstanding: Outstanding, limits: Limits) -> datetime | None:
    """Return when a compaction is due by age, whatever else happens: so long the anchor holds the erased."""
    return None if outstanding.since is None else outstanding.since + timedelta(days=limits.anchor_days)


def not_before(failures: int, failed_at: datetime | None, limits: Limits) -> datetime | None:
    """Return until when nothing is tried again, after so many failures in a row; None after none.

    The wait doubles with each failure: the same data and the same code fail in the same way.
    """
    if not failures or failed_at is None:
        return None
    doubled = limits.retry_hours * 2 ** min(failures - 1, limits.retry_hours_longest.bit_length())
    return failed_at + timedelta(hours=min(doubled, limits.retry_hours_longest))


def goes_first(compaction: str | None, batch: str | None) -> bool:
    """Return whether a compaction that is due, and why, begins before a batch that is due, and why."""
    return compaction is not None and batch not in URGENT


def summed_rise(telemetry: Iterable[Mapping[str, object]]) -> Decimal | None:
    """Return the rise of the retain loss over all deltas, from what their engines measured."""
    measured = [rise for each in telemetry if (rise := _decimal(each.get("retain_rise"))) is not None]
    return sum(measured, Decimal(0)) if measured else None


def _decimal(value: object) -> Decimal | None:
    try:
        found = Decimal(value) if isinstance(value, str | int) else None
    except InvalidOperation:
        return None
    return found if found is not None and found.is_finite() else None
