"""The logs of an embedded stack: a file a part and day, kept as long as `app.retention` says.

A part appends to one open file for as long as it runs; so a day's lines are copied away and the file is
emptied in place. What is written between the two is lost: the price of a log that no part has to know of.
"""

import shutil
from datetime import UTC, date, datetime
from pathlib import Path

from app import retention


def turn(folder: Path, today: date, *, resting: bool = False) -> None:
    """Put away what was logged until now, once a day, and remove what is too old.

    Of `resting` logs, those alone that nobody has written to today: what a start finds.
    """
    for log in sorted(folder.glob("*.log")):
        kept = log.with_suffix(f".{today.isoformat()}")
        written = datetime.fromtimestamp(log.stat().st_mtime, UTC).date()
        if log.stat().st_size and not kept.exists() and not (resting and written >= today):
            part = log.with_suffix(".part")
            shutil.copyfile(log, part)
            part.chmod(0o600)
            part.replace(kept)
            with log.open("r+b") as file:
                file.truncate(0)
    for old in folder.glob("*.????-??-??"):
        if date.fromisoformat(old.suffix[1:]) + retention.POLICY.logs <= today:
            old.unlink()
