"""How far a long run is: what has been done, how fast, and how long the rest will take.

    meter = Meter(write)
    meter.plan("train", 5 * 1200)           before anything begins: kinds of work, in units of their own
    meter.skip("train", 1200)               found done
    with meter.doing("train", 1200): ...    done now, and timed
        meter.reached(.25)                  a quarter of it is done
    meter("a line of progress")             with the time since the start, and what is left

A kind that has not been timed yet is taken to cost what it usually does beside the kinds that have.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

USUAL_SECONDS: Mapping[str, float] = {"train": 0.0035, "try": 15.0, "read": 12.0, "toy": 20.0}
"""Per unit, on one core: a record trained on once; a point of a grid; a model read off; a seed."""
SHARE_MIN = 0.1
"""A piece of work that has done less of itself says nothing of its pace."""


@dataclass
class _Running:
    kind: str
    units: float
    begun: float
    share: float = 0.0
    """Of it is done, as far as it has said."""


class Meter:
    """Counts work and time; a callable, so that it stands wherever lines of progress go."""

    def __init__(
        self, write: Callable[[str], None] = print, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self.started = clock()
        self._open: dict[str, float] = {}
        self._done: dict[str, tuple[float, float]] = {}
        """Kind to units and seconds."""
        self._running: _Running | None = None

    def __call__(self, text: str) -> None:
        """Say a line."""
        left = self.left()
        told = f", {_clocked(left)} left" if left else ""
        self._write(f"[{_clocked(self._clock() - self.started)}{told}] {text}")

    def plan(self, kind: str, units: float) -> None:
        """Add work that is to come."""
        self._open[kind] = self._open.get(kind, 0.0) + units

    def skip(self, kind: str, units: float) -> None:
        """Take off work that needs not be done."""
        self._open[kind] = max(self._open.get(kind, 0.0) - units, 0.0)

    @contextmanager
    def doing(self, kind: str, units: float) -> Iterator[None]:
        """Time a piece of the work while in the block."""
        begun = self._clock()
        self._running = _Running(kind, units, begun)
        try:
            yield
        finally:
            self._running = None
        self.skip(kind, units)
        before = self._done.get(kind, (0.0, 0.0))
        self._done[kind] = (before[0] + units, before[1] + self._clock() - begun)

    def reached(self, share: float) -> None:
        """Take how much of what is being done is done."""
        if self._running:
            self._running.share = share

    def left(self) -> float:
        """Return the seconds that what is open will take, by what has been seen so far."""
        left = sum(units * self._seconds_each(kind) for kind, units in self._open.items())
        if self._running:
            whole = self._running.units * self._seconds_each(self._running.kind)
            elapsed = self._clock() - self._running.begun
            left -= max(min(elapsed, whole), self._running.share * whole)
        return max(left, 0.0)

    def _seconds_each(self, kind: str) -> float:
        """Return what a unit takes: as seen, else as usual at the pace of what has been done."""
        units, seconds = self._done.get(kind, (0.0, 0.0))
        running = self._running
        if running and running.kind == kind and running.share >= SHARE_MIN:
            units += running.share * running.units
            seconds += self._clock() - running.begun
        if units:
            return seconds / units
        usual = sum(units * USUAL_SECONDS[other] for other, (units, _) in self._done.items())
        pace = sum(seconds for _, seconds in self._done.values()) / usual if usual else 1.0
        return USUAL_SECONDS[kind] * pace


def _clocked(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
