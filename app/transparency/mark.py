"""The high-water mark: the newest checkpoint that was ever signed, kept outside the database.

Why so: a database that is restored from a backup has forgotten its last leaves. Whatever was signed
next would be a second history of the same sizes, and no signature can be taken back. So nothing signed
leaves this process before it is here, and nothing is signed that is not a continuation of it.

The file only moves forward: under a lock, to a larger size, written whole and synced before it counts.
"""

from pathlib import Path

from app.errors import Conflict
from app.storage import files
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import Note
from app.transparency.policies import Policy


class LogRolledBack(Conflict):
    """The database does not hold the log that was signed: it is behind, or another one."""

    code = "log-rolled-back"


class Overtaken(Conflict):
    """A larger checkpoint was signed meanwhile; this one is not needed any more."""

    code = "log-overtaken"


class Mark:
    """The mark in one file."""

    def __init__(self, path: Path) -> None:
        """Use `path`; it is made by the first signature."""
        self.path = path

    def read(self, policy: Policy) -> Checkpoint | None:
        """Return what was signed last; a mark that our own key did not sign is refused."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return policy.signed(data).checkpoint

    def advance(self, note: Note, policy: Policy) -> None:
        """Move to a checkpoint that was just signed, before anybody sees it.

        Raises:
            Overtaken: the mark is further on.
            LogRolledBack: the mark has another root at this size: two histories.
        """
        new = Checkpoint.parse(note.text)
        with files.locked(self.path):
            old = self.read(policy)
            if old is not None and old.origin == new.origin:
                if old.size > new.size:
                    raise Overtaken(f"size {old.size} was signed meanwhile, {new.size} is not needed")
                if old.size == new.size and old.root != new.root:
                    raise LogRolledBack(f"another root of size {new.size} was signed before")
            files.replace(self.path, note.encode())
