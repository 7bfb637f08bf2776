"""The one place that reads the time; everything else is told."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """Return the present instant, in UTC."""
    return datetime.now(UTC)


def boot_seconds() -> float:
    """Return seconds since boot, time asleep included: what a lease is watched by (R56).

    Where the system has no such clock, the monotonic one, which stands still while asleep.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
