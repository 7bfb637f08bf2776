"""What every event has."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Event:
    """What every event has: a kind, and what it is about (its first field)."""

    KIND: ClassVar[str]
