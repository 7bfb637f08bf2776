"""The keys under which data keys lie wrapped: one a week, each a file outside Postgres.

    keys/epochs/2026-11-16-0193f0c2....key      the week's Monday, the key's id; 32 bytes as hex

Why a week each: a data key in Postgres is in its backups and its WAL too, so deleting its row destroys
nothing. Its wrapping key is in neither, and is destroyed on a date: from then on no copy of the row
opens. So this directory belongs into no backup that outlives a few days, and is shared by whoever
receives requests and whoever keeps house. Why an id beside the week: a key that is made anew, for
whatever reason, never passes for the one that was destroyed. Knows no database; which key is in use,
and that nothing is wrapped by one that goes, is known by `app.erasure.forgetting`.
"""

import os
import re
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

from app.clock import Clock

KEY_BYTES = 32
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})-([0-9a-f]{32})\.key")


class EpochDestroyed(Exception):  # noqa: N818  it is named for what it says
    """The key of that week does not exist any more, and what was wrapped by it cannot be opened."""


@dataclass(frozen=True, order=True)
class Epoch:
    """One week's key, by name."""

    week: date
    """Its Monday."""
    id: UUID

    @property
    def file(self) -> str:
        """Return the name of its file."""
        return f"{self.week.isoformat()}-{self.id.hex}.key"


class EpochKeys:
    """The directory of the weekly keys, and the week it is."""

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        """Use a directory, which is made with the first key."""
        self.directory = directory
        self._clock = clock
        self.current: tuple[Epoch, bytes] | None = None
        """This week's, once it is known to be committed; older keys are read again each time they are needed,
        so that no process remembers one that was destroyed."""

    def week(self) -> date:
        """Return the Monday of this week."""
        return monday(self._clock().date())

    def make(self, epoch: Epoch) -> bytes:
        """Create a key: the file is whole and on the disk when this returns."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = secrets.token_bytes(KEY_BYTES)
        handle, name = tempfile.mkstemp(dir=self.directory)  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(key.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(name, self.directory / epoch.file)
        finally:
            Path(name).unlink()
        _sync(self.directory)
        return key

    def read(self, epoch: Epoch) -> bytes:
        """Return a key; `EpochDestroyed` if it is not there, or overwritten already."""
        try:
            key = bytes.fromhex((self.directory / epoch.file).read_text("ascii").strip())
        except (FileNotFoundError, ValueError):
            raise EpochDestroyed(f"the key of the week of {epoch.week} does not exist") from None
        if len(key) != KEY_BYTES or not any(key):
            raise EpochDestroyed(f"the key of the week of {epoch.week} does not exist")
        return key

    def held(self) -> list[Epoch]:
        """Return the keys that there are files of, oldest first."""
        names = [path.name for path in self.directory.iterdir()] if self.directory.is_dir() else []
        found = [match for match in map(_NAME.fullmatch, names) if match is not None]
        return sorted(Epoch(date.fromisoformat(match[1]), UUID(match[2])) for match in found)

    def destroy(self, epoch: Epoch) -> None:
        """Overwrite a key and remove it; killed at any line, another call finishes it.

        Overwriting is worth what the file system makes of it: one that copies on write, and most solid
        disks, keep the old block for a while. The directory belongs on an encrypted volume.
        """
        path = self.directory / epoch.file
        with suppress(FileNotFoundError):
            with path.open("r+b") as file:
                file.write(b"0" * (2 * KEY_BYTES) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        _sync(self.directory)


def monday(day: date) -> date:
    """Return the Monday of a day's week."""
    return day - timedelta(days=day.weekday())


def _sync(directory: Path) -> None:
    """Have the disk know which files a directory has."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
